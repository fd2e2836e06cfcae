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
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from anyio.abc import TaskGroup, TaskStatus
    from starlette.types import Receive, Scope, Send

    from ocp_stripe_balance.mcp.server import BalanceServer
    from ocp_stripe_balance.serving.desk import Desk
    from ocp_stripe_balance.serving.tokens import Tokens

PATH = "/mcp"
_MAX_BODY = 1024 * 1024  # a call has a hundredth of it
_MAX_SESSIONS = 1000  # of one caller
_PATIENCE_S = 2.0  # for calls under way where the server is ended


class Callers:
    """
    The servers of the callers, each begun when its caller first comes.
    """

    def __init__(
        self, server_of: Callable[[str], BalanceServer], security: TransportSecuritySettings, user: str
    ) -> None:
        """
        Begin none.

        Args:
            server_of: makes the server of a caller.
            security: the names that requests may be sent to and come from.
            user: the caller where no token names one.
        """
        self._server_of, self._security, self._user = server_of, security, user
        self._managers: dict[str, StreamableHTTPSessionManager] = {}
        self._desks: list[Desk] = []
        self._turn = asyncio.Lock()
        self._group: TaskGroup

    @contextlib.asynccontextmanager
    async def run(self, _: Starlette) -> AsyncIterator[None]:
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
        await asyncio.gather(*(desk.close(_PATIENCE_S) for desk in self._desks))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer a request, in the name of its caller.
        """
        caller = scope["user"].username if "user" in scope else self._user
        async with self._turn:
            if caller not in self._managers:
                self._managers[caller] = await self._group.start(self._keep, caller)
        await self._managers[caller].handle_request(scope, receive, send)

    async def _keep(self, caller: str, *, task_status: TaskStatus[StreamableHTTPSessionManager]) -> None:
        server = self._server_of(caller)
        self._desks.append(server.desk)
        manager = StreamableHTTPSessionManager(
            server,
            security_settings=self._security,
            max_request_body_size=_MAX_BODY,
            max_sessions=_MAX_SESSIONS,
        )
        async with manager.run():
            task_status.started(manager)
            await sleep_forever()


class _Verifier:
    """
    Whom a token names, in the words of the package `mcp`; without the token itself, which would stand in its repr.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def verify_token(self, token: str) -> AccessToken | None:
        caller = self._tokens.caller_of(token)
        return None if caller is None else AccessToken(token="", client_id=caller, scopes=[])


class _Gate:
    """
    Lets in everybody, until a token was made; from then on only who has one, also where that folder is taken away.
    """

    def __init__(self, callers: Callers, tokens: Tokens) -> None:
        self._tokens, self._open = tokens, callers
        self._guarded = AuthenticationMiddleware(
            RequireAuthMiddleware(callers, []), BearerAuthBackend(_Verifier(tokens))
        )
        self._is_closed = tokens.is_used

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._is_closed = self._is_closed or self._tokens.is_used
        await (self._guarded if self._is_closed else self._open)(scope, receive, send)


def application(
    server_of: Callable[[str], BalanceServer], *, names: Sequence[str], tokens: Tokens | None, user: str
) -> Starlette:
    """
    The server as an ASGI application.

    Args:
        server_of: makes the server of a caller.
        names: the hosts that requests may be sent to.
        tokens: of which each request must have one, once there is any; None where none can be kept.
        user: the caller where no token names one.
    """
    security = TransportSecuritySettings(
        allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
        allowed_origins=[
            f"{scheme}://{name}{port}" for name in names for scheme in ("http", "https") for port in ("", ":*")
        ],
    )
    callers = Callers(server_of, security, user)
    endpoint = callers if tokens is None else _Gate(callers, tokens)
    app = Starlette(routes=[Route(PATH, endpoint=endpoint)], lifespan=callers.run)
    app.state.close = callers.close
    return app
