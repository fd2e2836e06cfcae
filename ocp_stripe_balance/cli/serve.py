"""
The gateway and the console, until Ctrl-C.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ocp_stripe_balance.errors import ConfigurationError

_HOST, _PORT = "127.0.0.1", 8766


async def serve(
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="address to listen on")] = _HOST,
    port: Annotated[int, typer.Option(metavar="N", help="port to listen on; 0 is any free one")] = _PORT,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="another name that clients know this server by")
    ] = None,
) -> int:
    """
    Serve the HTTP API for agents and the console for people, until Ctrl-C.
    """
    from ocp_stripe_balance.settings import Settings  # what --help does not need

    try:
        from ocp_stripe_balance.serving.http import listening, names_of  # of an extra
        from ocp_stripe_balance.serving.http import serve as serve_on
        from ocp_stripe_balance.web.gateway import Gateway
        from ocp_stripe_balance.web.server import application
    except ImportError as error:
        hint = "Install the extra: pip install '.[web]' in a copy of the repository."
        raise ConfigurationError(f"The packages of the server are not there: {error}.", hint=hint) from error
    gateway = Gateway(Settings())
    names_of(host, allow_host or [], has_tokens=gateway.tokens.is_used)
    listener, url = listening(host, port)
    print(url, flush=True)
    await serve_on(application(gateway), listener)
    return 0
