"""
The people's side.
"""
