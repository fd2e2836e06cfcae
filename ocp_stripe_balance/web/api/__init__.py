"""
The agents' side.
"""
