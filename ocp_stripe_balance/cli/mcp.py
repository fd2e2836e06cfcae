"""
The MCP server, for a host that starts it or reaches it over HTTP.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocp_stripe_balance.cli import tokens
from ocp_stripe_balance.cli.approvals import whoami
from ocp_stripe_balance.cli.given import as_full
from ocp_stripe_balance.cli.output import say
from ocp_stripe_balance.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocp_stripe_balance.mcp.server import BalanceServer
    from ocp_stripe_balance.serving.tokens import Token
    from ocp_stripe_balance.settings import Settings

app = typer.Typer(invoke_without_command=True)
app.add_typer(tokens.app, name="tokens", hidden=True)  # what it was called before

_HOST, _PORT = "127.0.0.1", 8765
_Tools = Annotated[str | None, typer.Option(metavar="NAMES", help="only these, with commas between them")]
_Host = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help=f"with --http: address to listen on, by default {_HOST}")
]
_Port = Annotated[
    int | None,
    typer.Option(metavar="N", help=f"with --http: port to listen on, by default {_PORT}; 0 is any free one"),
]
_AllowHost = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="with --http: another name that clients know this server by")
]


@app.callback()
def mcp(
    ctx: typer.Context,
    *,
    tools: _Tools = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="only tools that change nothing")] = False,
    policy: Annotated[str | None, typer.Option(metavar="PATH", help="instead of OCP_STRIPE_POLICY")] = None,
    http: Annotated[bool, typer.Option("--http", help="over HTTP instead, until Ctrl-C")] = False,
    host: _Host = None,
    port: _Port = None,
    allow_host: _AllowHost = None,
) -> Any:
    """
    Serve the tools over MCP, on standard input and output.
    """
    if ctx.invoked_subcommand is not None:
        return None
    names = None if tools is None else [name.strip() for name in tools.split(",") if name.strip()]
    for option, value in {"--host": host, "--port": port, "--allow-host": allow_host or None}.items():
        if value is not None and not http:
            raise typer.BadParameter("the server listens with --http alone.", ctx, param_hint=option)
    where = (host or _HOST, _PORT if port is None else port, allow_host or []) if http else None
    return _served(where, policy, names=names, is_read_only=read_only)


async def _served(where: tuple[str, int, list[str]] | None, policy: str | None, **chosen: Any) -> int:
    from ocp_stripe_balance.settings import Settings  # what --help does not need

    settings = Settings() if policy is None else Settings(policy=as_full(policy))
    try:
        from ocp_stripe_balance.mcp.server import server_for  # of an extra
    except ImportError as error:
        hint = "Install the extra: pip install '.[mcp]' in a copy of the repository."
        raise ConfigurationError(f"The package of MCP is not there: {error}.", hint=hint) from error

    async def server_of(caller: Token) -> BalanceServer:
        return server_for(caller.name, settings, limits=caller, **chosen)

    server = server_for(whoami(), settings, **chosen)  # what it would not take is said before anybody comes
    if where is None:
        await _on_stdio(server)
    else:
        await _over_http(server_of, settings, *where)
    return 0


async def _on_stdio(server: BalanceServer) -> None:
    from ocp_stripe_balance.mcp.stdio import serve  # as above

    if sys.stdin.isatty():
        say("This is an MCP server: a host starts it, and speaks JSON to it. Ctrl-C ends it.")
    await serve(server)


async def _over_http(
    server_of: Callable[[Token], Awaitable[BalanceServer]], settings: Settings, host: str, port: int, others: list[str]
) -> None:
    from ocp_stripe_balance.mcp.http import PATH, application  # as above
    from ocp_stripe_balance.serving.gate import Gate  # as above
    from ocp_stripe_balance.serving.http import listening, names_of, serve  # as above
    from ocp_stripe_balance.serving.tokens import Tokens  # as above

    gate = Gate(None if settings.journal == "off" else Tokens(settings), whoami())
    names = names_of(host, others, has_tokens=gate.is_closed)
    listener, url = listening(host, port)
    print(url + PATH, flush=True)
    if gate.is_closed:
        say("Each request needs one of the tokens.")
    else:
        say(tokens.UNGUARDED)
    await serve(application(server_of, names=names, gate=gate), listener)
