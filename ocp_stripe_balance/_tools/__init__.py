"""
The published tools: their data, their schemas, and the dialects that models are told them in.
"""
