"""
What a server has, whatever it speaks: its callers and their tokens, the tools of each, and the way it listens.
"""
