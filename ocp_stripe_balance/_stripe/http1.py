"""
The default way to Stripe: HTTP/1.1 over asyncio's connections (`_dial.py`), read by httptools (`_response.py`).

One small request, one small answer, and nothing in between is all this needs, and it takes a third of aiohttp's time
for it, and a thirtieth of httpx's over its own transport; docs/performance.md has the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx

from ocp_stripe_balance._stripe.dial import dial
from ocp_stripe_balance._stripe.response import ResponseReader
from ocp_stripe_balance._stripe.wire import MAX_CONNECT_S, Received

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ocp_stripe_balance._stripe.request import WireRequest

_MAX_IDLE_S = 15.0  # servers close idle connections, and the request that meets that is lost
# Request line and headers: no CR, LF, NUL or other control character, and nothing but ASCII (RFC 9112, section 3).
_is_head = re.compile(r"[A-Z]+ /[!-~]* HTTP/1\.1(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~]*)*").fullmatch


class Http1Exchange:
    """
    A pool of connections that are kept open between calls.

    No cookies, no redirects, no proxy or .netrc from the environment, no compression, and no retry.
    """

    def __init__(self, *, max_connections: int = 256) -> None:
        """
        Open no connection yet; at most *max_connections* will be in use at once.
        """
        self._max_connections = max_connections
        # Connections belong to the loop that made them, and an agent may be used from several.
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
        self._ssl_context: ssl.SSLContext | None = None

    async def exchange(self, request: WireRequest, remaining_s: float) -> Received:
        """
        The response.

        Raises:
            httpx.ConnectError: there was no connection, and nothing was sent; so too ConnectTimeout, PoolTimeout and
                UnsupportedProtocol.
            httpx.ReadError: the connection was lost, and the request may have arrived; so too RemoteProtocolError.
            TimeoutError: *remaining_s* seconds went by.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + remaining_s
        origin = _origin(request.url)
        data = _serialized(request, origin)
        pool = self._pools.get(loop) or self._new_pool(loop)
        connect_s = min(remaining_s / 2, MAX_CONNECT_S)
        await pool.take_slot(connect_s)
        try:
            connection = pool.reusable(origin) or await pool.connect(origin, self._tls, connect_s)
            if loop.time() >= deadline:  # the process was stopped: others may have the call by now
                connection.abort()
                raise httpx.ConnectTimeout("the call's deadline had passed before it could be sent")
            received = await connection.send(data, deadline)
            pool.keep(origin, connection)
            return received
        finally:
            pool.slots.release()

    def _new_pool(self, loop: asyncio.AbstractEventLoop) -> _Pool:
        for other in [*self._pools]:
            if other.is_closed():  # and its connections cannot be closed any more
                self._pools.pop(other, None)
        pool = self._pools[loop] = _Pool(self._max_connections)
        return pool

    def _tls(self, origin: _Origin) -> ssl.SSLContext | None:
        if not origin.is_tls:
            return None
        if self._ssl_context is None:
            self._ssl_context = httpx.create_ssl_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    async def aclose(self) -> None:
        """
        Close all connections. What was not sent yet is not sent any more.
        """
        pools, self._pools = self._pools, {}
        for loop, pool in pools.items():
            if loop is asyncio.get_running_loop():
                pool.close()
            else:
                with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                    loop.call_soon_threadsafe(pool.close)
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn, which may be its last


class _Origin(NamedTuple):
    """
    Where connections go.
    """

    is_tls: bool
    host: str
    port: int
    name: str
    """As the Host header has it."""


class _Pool:
    """
    The connections of one event loop.
    """

    def __init__(self, max_connections: int) -> None:
        self.slots = asyncio.Semaphore(max_connections)
        self._is_closed = False
        self._idle: dict[_Origin, list[_Connection]] = {}
        self._connections: set[_Connection] = set()

    async def take_slot(self, patience_s: float) -> None:
        if not self.slots.locked():
            await self.slots.acquire()
            return
        try:
            async with asyncio.timeout(patience_s):
                await self.slots.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("all connections are in use") from None

    def reusable(self, origin: _Origin) -> _Connection | None:
        """
        The connection that was used last, if it is still open and was silent since.
        """
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_reusable():
                return connection
            connection.abort()
        return None

    async def connect(
        self, origin: _Origin, tls: Callable[[_Origin], ssl.SSLContext | None], patience_s: float
    ) -> _Connection:
        try:
            async with asyncio.timeout(patience_s):
                connection = await dial(lambda: _Connection(self._connections), origin.host, origin.port, tls(origin))
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error) or "no connection in time") from None
        except OSError as error:  # DNS, refused, TLS
            raise httpx.ConnectError(str(error)) from None
        except ValueError as error:  # no name DNS could know
            raise httpx.UnsupportedProtocol(str(error)) from None
        except Exception as error:  # noqa: BLE001  such as no thread for DNS: whatever it is, nothing was sent
            raise httpx.ConnectError(f"{type(error).__name__}: {error}") from None
        if self._is_closed:
            connection.abort()
            raise httpx.ConnectError("the connections were closed before this one was used")
        return connection

    def keep(self, origin: _Origin, connection: _Connection) -> None:
        """
        Put a connection aside for the next exchange, if it can have one.
        """
        if connection.is_open and not self._is_closed:
            self._idle.setdefault(origin, []).append(connection)

    def close(self) -> None:
        self._is_closed = True
        for connection in [*self._connections]:
            connection.abort()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """
    One connection: one exchange at a time, and whatever comes outside of one ends it.
    """

    def __init__(self, connections: set[_Connection]) -> None:
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._answer: ResponseReader | None = None
        self._used_at = time.monotonic()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def is_reusable(self) -> bool:
        """
        Whether it was silent while idle: bytes that came late would be read as the answer to the next call.
        """
        return self.is_open and time.monotonic() - self._used_at < _MAX_IDLE_S and not self._is_readable()

    async def send(self, data: bytes, deadline: float) -> Received:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise httpx.ConnectError("the connection was closed before it was used")
        loop = asyncio.get_running_loop()
        answer = self._answer = ResponseReader(loop.create_future())
        timer = loop.call_at(deadline, answer.expire)
        try:
            transport.write(data)
            received = await answer.future
        except BaseException:
            answer.drop()
            self._answer = None
            self.abort()  # what comes later belongs to no one
            raise
        finally:
            timer.cancel()
            answer.parser = None  # which holds the answer: a circle the garbage collector would have to find
            is_usable = answer.leaves_connection_usable
            self._answer = None
            del answer  # which holds the error that holds this frame: another circle
        self._used_at = time.monotonic()
        if not is_usable:
            self.abort()
        return received

    def abort(self) -> None:
        if self._answer is not None:
            self._answer.end(ConnectionAbortedError("closed by this side"))
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # what create_connection makes is a Transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.abort()
        else:
            self._answer.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        if self._answer is not None:
            self._answer.end(exc)

    def _is_readable(self) -> bool:
        sock = self._transport.get_extra_info("socket") if self._transport else None
        if sock is None:
            return False
        if not hasattr(select, "poll"):  # on Windows, where select takes any socket
            return bool(select.select([sock], [], [], 0)[0])
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(sock, select.POLLIN)
        return bool(self._poll.poll(0))


@lru_cache(maxsize=64)
def _origin_of(base: str) -> _Origin:
    parts = urlsplit(base)
    is_tls = parts.scheme == "https"
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise httpx.UnsupportedProtocol("the URL has no scheme of HTTP, or no host")
    port = parts.port if parts.port is not None else 443 if is_tls else 80
    return _Origin(is_tls, parts.hostname, port, parts.netloc)


def _origin(url: str) -> _Origin:
    start = url.find("://") + 3
    end = url.find("/", start)
    try:
        return _origin_of(url if end < 0 else url[:end])
    except ValueError as error:
        raise httpx.UnsupportedProtocol(str(error)) from None


def _serialized(request: WireRequest, origin: _Origin) -> bytes:
    """
    The request as RFC 9112 writes it.

    Raises:
        httpx.UnsupportedProtocol: a header or the path has what would be read as something else.
    """
    url = request.url
    start = url.find("/", url.find("://") + 3)
    target = "/" if start < 0 else url[start:]
    lines = [f"{request.method} {target} HTTP/1.1", f"Host: {origin.name}"]
    lines += [f"{name}: {value}" for name, value in request.all_headers().items()]
    if request.body or request.method == "POST":
        lines.append(f"Content-Length: {len(request.body)}")
    head = "\r\n".join(lines)
    if not _is_head(head) or head.count("\n") >= len(lines):
        raise httpx.UnsupportedProtocol("the path or a header has a character that cannot be sent")
    return f"{head}\r\n\r\n".encode("ascii") + request.body
