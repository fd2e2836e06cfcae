"""
The server as one ASGI application: the agents' side, who comes in, the console, and whether it is well.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from ocp_stripe_balance._journal import READING
from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.mcp.http import PATH, Callers
from ocp_stripe_balance.mcp.server import server_at
from ocp_stripe_balance.serving.http import LOOPBACK
from ocp_stripe_balance.web.access import routes as access
from ocp_stripe_balance.web.access.pages import unavailable
from ocp_stripe_balance.web.api import routes as api
from ocp_stripe_balance.web.console import routes as console
from ocp_stripe_balance.web.protection import Protection, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.requests import Request

    from ocp_stripe_balance.mcp.server import BalanceServer
    from ocp_stripe_balance.serving.tokens import Token
    from ocp_stripe_balance.web.gateway import Gateway


def application(gateway: Gateway, names: Sequence[str] = LOOPBACK) -> Starlette:
    """
    The server of a gateway, under some names; it is opened when the server starts, and closed when it stops.
    """

    async def over_mcp(caller: Token) -> BalanceServer:
        return server_at(await gateway.desk_of(caller))

    callers = Callers(over_mcp, names=names, gate=gateway.gate)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway, callers.run(app):
            yield

    app = Starlette(
        routes=[
            *api.routes(gateway),
            Route("/health", _health),
            Route("/ready", _ready),
            Route(PATH, callers),
            *access.routes(gateway),
            *console.routes(gateway),
        ],
        middleware=[Middleware(Protection, names=names)],
        exception_handlers={HTTPException: refused, NotSentError: unavailable},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect of a POST is a second request
    app.state.gateway, app.state.close = gateway, gateway.close  # whose desks are those of MCP, too
    return app


async def _health(_: Request) -> JSONResponse:
    """
    That the process answers.
    """
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> JSONResponse:
    """
    That calls can be taken: the journal can be used.
    """
    try:
        await request.app.state.gateway.journal.run(lambda book: book.check(), reach=READING)
    except NotSentError:  # whose text names paths, and anybody may ask
        return JSONResponse({"status": "unavailable"}, status_code=503)
    return JSONResponse({"status": "ok"})
