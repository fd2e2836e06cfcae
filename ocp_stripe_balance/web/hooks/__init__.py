"""
Word gets out: what people should know is sent to the endpoints that they named, signed, until it has arrived.
"""
