"""
The server as one ASGI application: the agents' side, who comes in, the console, and whether it is well.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.web.access import routes as access
from ocp_stripe_balance.web.api import routes as api
from ocp_stripe_balance.web.console import routes as console

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from ocp_stripe_balance.web.gateway import Gateway


def application(gateway: Gateway) -> Starlette:
    """
    The server of a gateway; it is opened when the server starts, and closed when it stops.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway:
            yield

    app = Starlette(
        routes=[
            Route("/health", _health),
            Route("/ready", _ready),
            *api.routes(gateway),
            *access.routes(gateway),
            *console.routes(gateway),
        ],
        lifespan=lifespan,
    )
    app.state.gateway, app.state.close = gateway, gateway.close
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
        await request.app.state.gateway.office.check()
    except NotSentError as error:
        return JSONResponse({"status": "unavailable", "detail": error.why}, status_code=503)
    return JSONResponse({"status": "ok"})
