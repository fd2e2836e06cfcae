"""
The MCP server.
"""
