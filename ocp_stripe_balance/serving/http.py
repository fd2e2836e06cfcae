"""
Listening over HTTP: under which names, on which socket, for whom, for how long, and until when.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ocp_stripe_balance._text.plain import shown
from ocp_stripe_balance.errors import ConfigurationError
from ocp_stripe_balance.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette

_GRACE_S = 4  # for the answers of what was under way
_RECEIVE_S = 20.0  # for a whole request, from its first byte; and for the next part of an answer to be taken
_HANDSHAKE_S = 5.0  # for that of TLS, before which a connection is not counted
_IDLE_S = 15  # between two requests of a connection
MAX_HEAD = 64 * 1024  # request line and headers; an agent of OCP sends its whole history in one
_MAX_CONNECTIONS = 2000
_MAX_FILES = 8192  # the journal and the way to Stripe need some, too
_NOT_WHOLE = {h11.IDLE, h11.SEND_BODY}
"""How a request is that is not there yet, or not all of it."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def names_of(host: str, others: Sequence[str], *, has_tokens: bool) -> tuple[str, ...]:
    """
    The names that requests to *host* may be sent to.

    Raises:
        ConfigurationError: others than this machine can reach it and it has no tokens, or nothing says its names.
    """
    if not has_tokens and (others or not is_loopback(host)):
        where = f"as {others[0]}" if others else f"on {host}"
        message = f"Other machines can reach this server {where}, and there is no token that would say who may."
        raise ConfigurationError(message, hint="Make one: ocp-stripe-balance tokens create NAME")
    is_every_address = not host.strip("0.:")
    own = () if is_every_address else (f"[{host}]" if ":" in host else host,)
    names = (*(LOOPBACK if is_loopback(host) else ()), *own, *others)
    if not names:
        message = f"{host} is every address of this machine, and nothing says under which names clients know it."
        raise ConfigurationError(message, hint="Add --allow-host NAME, once for each.")
    return names


def check_reach(host: str, others: Sequence[str], *, is_tls: bool, proxy: str | None) -> None:
    """
    Let only this machine come in without TLS.

    Raises:
        ConfigurationError: other machines can reach the server, and nothing keeps what they say from being read.
    """
    if proxy is not None and not _is_address(proxy):
        message = f"--proxy {shown(proxy)} is no address such as 10.0.0.5: what a name stands for can change."
        raise ConfigurationError(message)
    if is_tls or proxy is not None or (is_loopback(host) and not others):
        return
    where = f"as {others[0]}" if others else f"on {host}"
    message = f"Other machines can reach this server {where}, and what they say can be read on the way."
    hint = "Give it a certificate (--tls-cert, --tls-key), or name the proxy before it that has one (--proxy ADDRESS)."
    raise ConfigurationError(message, hint=hint)


def listening(host: str, port: int, *, scheme: str = "http") -> tuple[socket.socket, str]:
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
    # For its connections, too. The body of an answer would wait 40 ms until the client has acknowledged the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener, f"{scheme}://{f'[{host}]' if is_v6 else host}:{listener.getsockname()[1]}"


def _is_address(text: str) -> bool:
    """
    Whether it is an IP address.
    """
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


async def serve(
    app: Starlette,
    listener: socket.socket,
    *,
    certificate: tuple[str, str] | None = None,
    proxy: str | None = None,
) -> None:
    """
    Serve until the task is cancelled: then ``app.state.close`` is awaited, so that what is under way can end.

    Args:
        app: the application.
        listener: the socket that listens.
        certificate: the files of a certificate and of its key, for TLS.
        proxy: the address of the only one that may connect from elsewhere, and whose word on who asks counts.

    Raises:
        ConfigurationError: the certificate or its key cannot be used.
        asyncio.CancelledError: it was.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        http=_protocol(None if certificate else proxy),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=proxy is not None,
        forwarded_allow_ips=proxy,
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=certificate and certificate[0],
        ssl_keyfile=certificate and certificate[1],
    )
    try:
        config.load()
    except OSError as error:  # among them ssl.SSLError
        listener.close()
        raise ConfigurationError(f"The certificate or its key cannot be used: {error.strerror or error}.") from error
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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """
        Listen. Who says nothing of TLS is cut off as anybody who sends slowly; asyncio would wait for a minute.
        """
        loop: Any = asyncio.get_running_loop()
        if self.config.ssl is not None:  # uvicorn has no setting for it
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=_HANDSHAKE_S)
        try:
            await super().startup(sockets)
        finally:
            vars(loop).pop("create_server", None)


class _Patience(H11Protocol):
    """
    A connection that may not be kept open by sending or taking little or nothing, and of which there are not too many.
    """

    proxy: str | None = None
    most: int = _MAX_CONNECTIONS
    since = 0.0
    """When it began to wait for a request."""
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.since = self.loop.time()
        transport.set_write_buffer_limits(high=1)  # so that it is known when somebody does not take what little is left
        peer = self.client[0] if self.client else ""
        if self.proxy is not None and peer != self.proxy and not is_loopback(peer):
            transport.abort()
        elif len(self.connections) > self.most:
            self._longest_idle().abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.since = self.loop.time()
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:  # the next request is there, in part
            self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(_RECEIVE_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()
        if self._unread is not None:
            self._unread.cancel()

    def _longest_idle(self) -> asyncio.Transport:
        """
        Of those that wait for a request, the one that does so longest: they keep nobody out. Else this one.
        """
        waiting = (
            each
            for each in self.connections
            if isinstance(each, _Patience) and each.conn.their_state in _NOT_WHOLE and not each.transport.is_closing()
        )
        return min(waiting, key=lambda each: each.since, default=self).transport

    def _watch(self) -> None:
        """
        Let the time run while a request is not there as a whole, from its first byte.
        """
        if self.conn.their_state not in _NOT_WHOLE:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(_RECEIVE_S, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _protocol(proxy: str | None) -> type[_Patience]:
    return type("_Connection", (_Patience,), {"proxy": proxy, "most": min(_MAX_CONNECTIONS, _files() // 2)})


def _files() -> int:
    """
    How many files this process may have open, of which each connection is one. Often it may have more, if it asks.
    """
    try:
        import resource  # which Windows has not
    except ImportError:
        return _MAX_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(_MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return _MAX_FILES if soft == resource.RLIM_INFINITY else soft
