"""
Text for people and models: amounts of money, other people's text, and no secrets.
"""
