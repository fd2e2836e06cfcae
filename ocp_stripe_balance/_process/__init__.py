"""
What holds for the whole process, such as what a fork must not cut in two.
"""
