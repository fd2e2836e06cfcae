"""
The gateway and the console, until Ctrl-C.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ocp_stripe_balance.cli.approvals import whoami
from ocp_stripe_balance.cli.output import say
from ocp_stripe_balance.cli.tokens import UNGUARDED
from ocp_stripe_balance.errors import ConfigurationError

_HOST, _PORT = "127.0.0.1", 8766
_File = Annotated[str | None, typer.Option(metavar="PATH", help="with the other one: speak TLS, with this PEM file")]


async def serve(
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="address to listen on")] = _HOST,
    port: Annotated[int, typer.Option(metavar="N", help="port to listen on; 0 is any free one")] = _PORT,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="another name that clients know this server by")
    ] = None,
    tls_cert: _File = None,
    tls_key: _File = None,
    proxy: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="of a proxy with TLS, which says who asks; nobody else may")
    ] = None,
) -> int:
    """
    Serve agents over HTTP, and people in a console, until Ctrl-C.
    """
    from ocp_stripe_balance.settings import Settings  # what --help does not need

    try:
        from ocp_stripe_balance.serving.http import check_reach, listening, names_of  # of an extra
        from ocp_stripe_balance.serving.http import serve as serve_on
        from ocp_stripe_balance.web.gateway import Gateway
        from ocp_stripe_balance.web.server import application
    except ImportError as error:
        hint = "Install the extra: pip install '.[web]' in a copy of the repository."
        raise ConfigurationError(f"The packages of the server are not there: {error}.", hint=hint) from error
    if (tls_cert is None) is not (tls_key is None):
        raise ConfigurationError("--tls-cert and --tls-key are given together.")
    certificate = (tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
    gateway = Gateway(Settings(), whoami())
    check_reach(host, allow_host or [], is_tls=certificate is not None, proxy=proxy)
    names = names_of(host, allow_host or [], has_tokens=gateway.gate.is_closed)
    listener, url = listening(host, port, scheme="https" if certificate else "http")
    print(url, flush=True)
    say("Each call needs one of the tokens." if gateway.gate.is_closed else UNGUARDED)
    if gateway.settings.api_key is None:
        say("There is no API key, so every call is refused: set STRIPE_SECRET_KEY, and start it again.")
    await serve_on(application(gateway, names), listener, certificate=certificate, proxy=proxy)
    return 0
