"""
The way of a call, from what the agent asks for to the outcome on record.
"""
