"""
What a host of agents and the APIs it registers know of each other.
"""
