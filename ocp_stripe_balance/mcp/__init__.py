"""
An MCP server (https://modelcontextprotocol.io) over the tools, for hosts that run agents.

Needs the extra ``mcp``. `server.server_for` makes a server for one caller; `stdio.serve` lets it speak over the
process's own streams.
"""
