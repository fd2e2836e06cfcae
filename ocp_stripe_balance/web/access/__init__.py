"""
Who comes in.
"""
