"""
The MCP server, for a host that starts it.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ocp_stripe_balance.cli.approvals import whoami
from ocp_stripe_balance.cli.output import say
from ocp_stripe_balance.errors import ConfigurationError

_Tools = Annotated[str | None, typer.Option(metavar="NAMES", help="only these, with commas between them")]


async def mcp(
    *,
    tools: _Tools = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="only tools that change nothing")] = False,
    policy: Annotated[str | None, typer.Option(metavar="PATH", help="instead of OCP_STRIPE_POLICY")] = None,
) -> int:
    """
    Serve the tools over MCP, on standard input and output.
    """
    from ocp_stripe_balance.settings import Settings  # what --help does not need

    try:
        from ocp_stripe_balance.mcp.server import server_for  # of an extra
        from ocp_stripe_balance.mcp.stdio import serve  # as above
    except ImportError as error:
        hint = "Install it: pip install 'ocp-stripe-balance[mcp]'"
        raise ConfigurationError(f"The package of MCP is not there: {error}.", hint=hint) from error
    settings = Settings() if policy is None else Settings(policy=policy)
    names = None if tools is None else [name.strip() for name in tools.split(",") if name.strip()]
    server = server_for(whoami(), settings, names=names, is_read_only=read_only)
    if sys.stdin.isatty():
        say("This is an MCP server: a host starts it, and speaks JSON to it. Ctrl-C ends it.")
    await serve(server)
    return 0
