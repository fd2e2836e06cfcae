"""
The default way to Stripe: aiohttp, one session per event loop.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import select
import socket
import threading
import weakref
from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
import certifi
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ocp_stripe_balance._stripe.wire import (
    CUT_OFF,
    MAX_BODY_BYTES,
    MAX_CONNECT_S,
    Headers,
    LostError,
    Received,
    UnsentError,
    UnusableError,
    WireError,
    as_headers,
    describe,
    lost,
)
from ocp_stripe_balance.settings import is_loopback

if TYPE_CHECKING:
    import ssl

    from ocp_stripe_balance._stripe.network import Network
    from ocp_stripe_balance._stripe.request import Request

_MAX_CONNECTIONS = 256
_MAX_IDLE_S = 15.0  # servers close idle connections, and the request that meets that is lost
# Only these prove that nothing was sent. The first is a ClientOSError, which otherwise proves nothing.
_UNSENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)
codecs.lookup("idna")  # imported now, not by whoever looks a host up: no fork may cut that in two
# Sessions that a parent process opened: a child uses none, and closes none, which the parent would notice.
_OF_A_PARENT: list[object] = []


class AiohttpWire:
    """
    Exchanges over connections that are kept open between calls.
    """

    def __init__(self, network: Network, *, max_connections: int = _MAX_CONNECTIONS) -> None:
        """
        Open nothing yet.

        Args:
            network: what stands between here and Stripe.
            max_connections: how many may be in use at once in one event loop.
        """
        self._network = network
        self._max_connections = max_connections
        self._pid = os.getpid()
        # Connections belong to the loop that made them, and an agent may be used from several.
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}
        self._ssl_context: ssl.SSLContext | None = None
        weakref.finalize(self, _abandon, self._sessions)

    async def exchange(self, request: Request, remaining_s: float) -> Received:
        """
        The response.
        """
        deadline = asyncio.get_running_loop().time() + remaining_s
        headers, url = as_headers(request), URL(request.url, encoded=True)
        tls = self._tls() if url.scheme == "https" else None
        proxy = self._network.proxy_for(request.origin)
        current = _Exchange(deadline)
        _current.set(current)
        session = self._session()
        error: BaseException
        response, body = None, bytearray()
        try:
            async with asyncio.timeout_at(deadline):
                response = await session.request(
                    request.method,
                    url,
                    data=request.body if request.body or request.method == "POST" else None,
                    headers=headers,
                    allow_redirects=False,
                    proxy=proxy,
                    ssl=tls or True,
                    timeout=aiohttp.ClientTimeout(total=None, connect=min(remaining_s / 2, MAX_CONNECT_S)),
                )
                why = await _read(response, body)
        except WireError:
            raise
        except _UNSENT as caught:
            error = _unsent(caught)
        except TimeoutError as caught:
            if response is not None:  # the status stands, whatever became of the body
                return Received(response.status, Headers(response.raw_headers), bytes(body), lost(caught))
            if current.is_connected:
                raise
            error = UnsentError("ConnectTimeout: no connection in time")
        except Exception as caught:  # noqa: BLE001  whatever it raises, the request may have arrived
            error = LostError(_words(caught))
        else:
            if session.closed and why is None:  # what ends with its connection may have gone on
                why = lost(ConnectionAbortedError("closed by this side"))
            return Received(response.status, Headers(response.raw_headers), bytes(body), why)
        raise error  # out here, where no frame below holds the headers

    async def aclose(self) -> None:
        """
        Close all connections. What was not sent yet is not sent any more.
        """
        sessions = dict(self._sessions)
        self._sessions.clear()
        for loop, session in sessions.items():
            if loop is asyncio.get_running_loop():
                await session.close()
                await asyncio.sleep(0)  # sockets are closed in the loop's next turn, which may be its last
            else:
                _close_elsewhere(loop, session)

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            _OF_A_PARENT.extend(self._sessions.values())
            self._sessions.clear()
            self._pid = os.getpid()
        session = self._sessions.get(loop)
        if session is None:
            for other in [other for other in self._sessions if other.is_closed()]:
                _close_elsewhere(other, self._sessions.pop(other))
            session = self._sessions[loop] = aiohttp.ClientSession(
                connector=_Connector(limit=self._max_connections, keepalive_timeout=_MAX_IDLE_S, resolver=_Resolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        return session

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = self._network.ssl_context(certifi.where())
        return self._ssl_context


class _Exchange:
    """
    What the connector must know of the exchange that it connects for.
    """

    __slots__ = ("deadline", "is_connected")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.is_connected = False


_current: ContextVar[_Exchange] = ContextVar("exchange")


class _Connector(aiohttp.TCPConnector):
    """
    Connects, and says of whatever goes wrong with that, that nothing was sent.
    """

    async def connect(self, *request: Any, **named: Any) -> Any:
        """
        A connection that is ready before the call's deadline, and that was silent while nobody asked.

        One for each exchange: the library would send a GET again by itself.
        """
        exchange = _current.get()
        if exchange.is_connected:
            raise LostError("ServerDisconnectedError: the server closed the connection")
        try:
            connection = await self._silent_connection(*request, **named)
        except (UnsentError, TimeoutError):
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self.closed and task is not None and not task.cancelling():  # nobody cancelled the call itself
                raise UnsentError("ConnectError: the connections were closed") from error
            raise
        except Exception as error:  # such as no thread for DNS: whatever it is, nothing was sent
            raise _unsent(error) from error
        if asyncio.get_running_loop().time() >= exchange.deadline:  # the process was stopped: others may have the call
            connection.close()
            raise UnsentError("ConnectTimeout: the call's deadline had passed before it could be sent")
        exchange.is_connected = True
        return connection

    async def _silent_connection(self, *request: Any, **named: Any) -> Any:
        """
        A connection on which nothing was said before it was asked: that would be read as the answer.
        """
        while True:
            connection = await super().connect(*request, **named)
            is_new = connection.protocol not in _USED
            if not _has_spoken(connection, is_new=is_new):
                break
            connection.close()
            if is_new:
                raise UnsentError("ConnectError: the server spoke before it was asked")
        if is_new:
            _USED.add(connection.protocol)
        return connection

    def __del__(self, _warnings: Any = None) -> None:
        """
        Say nothing of connections that a wire left open which nobody closed: they are closed with it.
        """


class _Resolver(AbstractResolver):
    """
    The system's resolver, in threads that nobody waits for.

    It may hang for half a minute and cannot be stopped. The threads of an event loop are few, the application's too,
    and are waited for when the loop closes and when the program ends.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """
        The addresses of a host.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()
        flags = 0 if is_loopback(host) else socket.AI_ADDRCONFIG  # by which a machine without network has no localhost

        def tell(infos: list[Any], error: Exception | None) -> None:
            if found.done():
                return
            if error is None:
                found.set_result(infos)
            else:
                found.set_exception(error)

        def look_up() -> None:
            infos, error = [], None
            try:
                infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)
            except (OSError, ValueError, OverflowError) as caught:  # among them what is no name at all
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, infos, error)

        threading.Thread(target=look_up, name="ocp-stripe-balance-dns", daemon=True).start()
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address[0], port=address[1], family=kind, proto=proto, flags=numeric)
            for kind, _, proto, _, address in await found
        ]

    async def close(self) -> None:
        """
        Nothing is open.
        """


_USED: weakref.WeakSet[Any] = weakref.WeakSet()


def _has_spoken(connection: Any, *, is_new: bool) -> bool:
    """
    Whether a connection has something to say; of one that was used before, also where the loop has not read it yet.
    """
    if connection.protocol.should_close:
        return True
    if is_new:
        return False
    sock = connection.transport.get_extra_info("socket")
    if sock is None:
        return False
    if not hasattr(select, "poll"):  # on Windows, where select takes any socket
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


async def _read(response: aiohttp.ClientResponse, body: bytearray) -> str | None:
    """
    Read the body up to 1 MB, and say why it is not whole.
    """
    why = None
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                del body[MAX_BODY_BYTES:]
                why = CUT_OFF
                break
    except Exception as error:  # noqa: BLE001  as above
        why = lost(LostError(_words(error)))
    except BaseException:
        response.close()
        raise
    if why is not None:
        response.close()
    return why


def _unsent(error: Exception) -> UnsentError:
    """
    What is said of a connection that was not made, and whether another attempt could make it.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UnusableError(f"{_words(error)}; OCP_STRIPE_CA_FILE names other certificates to trust")
    is_known = getattr(error, "status", None) != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
    return (UnsentError if is_known else UnusableError)(_words(error))


def _words(error: BaseException) -> str:
    """
    A failure in the words of what lies behind it.
    """
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "ConnectTimeout: no connection in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        why = getattr(error, "os_error", None) or getattr(error, "certificate_error", error)
        return f"ConnectError: {why}"
    if isinstance(error, aiohttp.ClientHttpProxyError):  # whose own words have the proxy's password
        return f"ProxyError: the proxy answered with HTTP {error.status}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{type(error).__name__}: {error.message}"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return f"{type(error).__name__}: the server closed the connection"
    return describe(error)


def _abandon(sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession]) -> None:
    """
    Close what a wire left open that nobody closed.
    """
    for loop, session in sessions.items():
        _close_elsewhere(loop, session)


def _close_elsewhere(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """
    Close a session of another loop than the running one, which may be closed.
    """
    connector = session.connector
    session.detach()
    if connector is None:
        return
    try:
        loop.call_soon_threadsafe(_close_now, connector)
    except RuntimeError:  # it is closed
        _close_now(connector)


def _close_now(connector: aiohttp.BaseConnector) -> None:
    """
    Close the connections without waiting until they are.
    """
    closing = connector.close().__await__()
    with contextlib.suppress(RuntimeError, StopIteration):  # its loop is closed, or it is done
        closing.send(None)
    if hasattr(closing, "close"):
        closing.close()
