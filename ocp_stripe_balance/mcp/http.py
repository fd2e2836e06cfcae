"""
The server over HTTP: one for each caller, who is whom a bearer token names; on loopback without tokens, the user.

A browser can be made to send a request here under any name of ours. So the Host and the Origin of a request must be
names that this server was given, and no answer allows a page of elsewhere to read it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from anyio import create_task_group, sleep_forever
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from ocp_stripe_balance.serving.gate import CHALLENGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from anyio.abc import TaskGroup, TaskStatus
    from starlette.types import Receive, Scope, Send

    from ocp_stripe_balance.mcp.server import BalanceServer
    from ocp_stripe_balance.serving.desk import Desk
    from ocp_stripe_balance.serving.gate import Gate
    from ocp_stripe_balance.serving.tokens import Token

PATH = "/mcp"
_MAX_BODY = 1024 * 1024  # a call has a hundredth of it
_MAX_SESSIONS = 1000  # of one caller
_PATIENCE_S = 2.0  # for calls under way where the server is ended


class Callers:
    """
    The servers of the callers, each begun when its caller first comes.
    """

    def __init__(
        self, server_of: Callable[[Token], Awaitable[BalanceServer]], *, names: Sequence[str], gate: Gate
    ) -> None:
        """
        Begin none.

        Args:
            server_of: makes the server of a caller.
            names: the hosts that requests may be sent to.
            gate: who may come in.
        """
        self._server_of, self._gate = server_of, gate
        self._security = TransportSecuritySettings(
            allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
            allowed_origins=[
                f"{scheme}://{name}{port}" for name in names for scheme in ("http", "https") for port in ("", ":*")
            ],
        )
        # A token that was made anew is another caller; the server of the one before ends with all others.
        self._managers: dict[Token, StreamableHTTPSessionManager] = {}
        self._desks: list[Desk] = []
        self._is_closed = False
        self._turn = asyncio.Lock()
        self._group: TaskGroup

    @contextlib.asynccontextmanager
    async def run(self, _: object) -> AsyncIterator[None]:
        """
        Take requests; at the end, calls under way are finished as the servers do it.
        """
        async with create_task_group() as self._group:
            yield
            self._group.cancel_scope.cancel()

    async def close(self) -> None:
        """
        Take no more calls; each that is under way is answered with what is known of it.
        """
        self._is_closed = True
        await asyncio.gather(*(desk.close(_PATIENCE_S) for desk in self._desks))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer a request, in the name of its caller.
        """
        caller = self._gate.caller(scope["headers"])
        if caller is None:
            said = {"error": "invalid_token", "error_description": "Authentication required"}
            await JSONResponse(said, 401, {"WWW-Authenticate": CHALLENGE})(scope, receive, send)
            return
        async with self._turn:
            if caller not in self._managers:
                self._managers[caller] = await self._group.start(self._keep, caller)
        await self._managers[caller].handle_request(scope, receive, send)

    async def _keep(self, caller: Token, *, task_status: TaskStatus[StreamableHTTPSessionManager]) -> None:
        server = await self._server_of(caller)
        self._desks.append(server.desk)
        server.desk.is_closed |= self._is_closed  # by now
        manager = StreamableHTTPSessionManager(
            server,
            security_settings=self._security,
            max_request_body_size=_MAX_BODY,
            max_sessions=_MAX_SESSIONS,
        )
        async with manager.run():
            task_status.started(manager)
            await sleep_forever()


def application(
    server_of: Callable[[Token], Awaitable[BalanceServer]], *, names: Sequence[str], gate: Gate
) -> Starlette:
    """
    The server as an ASGI application.

    Args:
        server_of: makes the server of a caller.
        names: the hosts that requests may be sent to.
        gate: who may come in.
    """
    callers = Callers(server_of, names=names, gate=gate)
    app = Starlette(routes=[Route(PATH, endpoint=callers)], lifespan=callers.run)
    app.state.close = callers.close
    return app
