"""
Listening over HTTP: under which names, on which socket, and until when.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from ocp_stripe_balance.errors import ConfigurationError
from ocp_stripe_balance.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette

_GRACE_S = 4  # for the answers of what was under way
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def names_of(host: str, others: Sequence[str], *, has_tokens: bool) -> tuple[str, ...]:
    """
    The names that requests to *host* may be sent to.

    Raises:
        ConfigurationError: others than this machine can reach it and it has no tokens, or nothing says its names.
    """
    if not has_tokens and (others or not is_loopback(host)):
        where = f"as {others[0]}" if others else f"on {host}"
        message = f"Other machines can reach this server {where}, and there is no token that would say who may."
        raise ConfigurationError(message, hint="Make one: ocp-stripe-balance mcp tokens create NAME")
    is_every_address = not host.strip("0.:")
    own = () if is_every_address else (f"[{host}]" if ":" in host else host,)
    names = (*(_LOOPBACK if is_loopback(host) else ()), *own, *others)
    if not names:
        message = f"{host} is every address of this machine, and nothing says under which names clients know it."
        raise ConfigurationError(message, hint="Add --allow-host NAME, once for each.")
    return names


def listening(host: str, port: int) -> tuple[socket.socket, str]:
    """
    A socket that listens, and the address of the server on it, without a path.

    Raises:
        ConfigurationError: nobody can listen there.
    """
    is_v6 = ":" in host
    try:
        family = socket.AF_INET6 if is_v6 else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        hint = "Choose another --host or --port."
        raise ConfigurationError(f"Nobody can listen on {host}, port {port}: {error}.", hint=hint) from error
    return listener, f"http://{f'[{host}]' if is_v6 else host}:{listener.getsockname()[1]}"


async def serve(app: Starlette, listener: socket.socket) -> None:
    """
    Serve until the task is cancelled: then ``app.state.close`` is awaited, so that what is under way can end.

    Raises:
        asyncio.CancelledError: it was.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await app.state.close()
        await serving  # which the next cancellation ends
        raise


class _Server(uvicorn.Server):
    """
    Without handlers of signals: those are the command line's.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
