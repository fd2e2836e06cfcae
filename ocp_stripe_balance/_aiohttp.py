"""
The default way to Stripe: aiohttp, which keeps its speed with hundreds of calls in flight.

httpx-aiohttp reports a reply lost after the request was sent as a ConnectTimeout, which would make an unknown
outcome look like an unsent call, and lets aiohttp rewrite the URL; httpx's own objects take longer than aiohttp does.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import yarl
from multidict import CIMultiDict

from ocp_stripe_balance._exchange import CUT_OFF, MAX_BODY_BYTES, MAX_CONNECT_S, Received, lost

if TYPE_CHECKING:
    import ssl

    from ocp_stripe_balance._request import WireRequest

_CHUNK_BYTES = 16 * 1024
_MAX_HEADER_BYTES = 64 * 1024
# Of the selectors that take any file number, the one that is made without a system call.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)
# The first match counts; what is not in the table may have reached the server.
_TRANSLATION: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ClientConnectorError, httpx.ConnectError),  # DNS, refused, TLS
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),  # waiting for a connection
    (aiohttp.SocketTimeoutError, httpx.ReadTimeout),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.ClientError, httpx.ReadError),
)


class AiohttpExchange:
    """
    Sends requests through one aiohttp session, byte for byte as they are.

    No cookies, no redirects, no proxy or .netrc from the environment, no retry of its own (aiohttp
    repeats only idempotent methods, and POST is none).
    """

    def __init__(self, *, max_connections: int = 256) -> None:
        """
        Open no connection yet; at most *max_connections* will be open at once.
        """
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ssl_context: ssl.SSLContext | None = None

    async def exchange(self, request: WireRequest, remaining_s: float) -> Received:
        """
        The response.
        """
        failure: Exception | None = None
        try:
            response = await self._open_session().request(
                request.method,
                yarl.URL(request.url, encoded=True),
                headers=request.all_headers(),
                data=request.body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=remaining_s,
                    connect=min(remaining_s / 2, MAX_CONNECT_S),
                    ceil_threshold=remaining_s,  # to the second is not exact enough: others may take the call then
                ),
                ssl=self._tls() if request.url.startswith("https:") else True,
            )
        except Exception as error:  # noqa: BLE001  translated
            failure = _translate(error)
        if failure is not None:
            raise failure  # without its cause: aiohttp's errors carry the request's headers
        body, lost_body = await _read(response)
        return Received(response.status, CIMultiDict(response.headers), body, lost_body)

    def _open_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            # Connections belong to the loop that made them; those of a loop that is gone cannot be closed any more.
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self._max_connections),
                max_line_size=_MAX_HEADER_BYTES,
                max_field_size=_MAX_HEADER_BYTES,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = httpx.create_ssl_context()
        return self._ssl_context

    async def aclose(self) -> None:
        """
        Close all connections.
        """
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()


class _Connector(aiohttp.TCPConnector):
    """
    Reuses only connections that were silent while idle.

    Bytes that arrive between two calls (a late or second reply) would be read as the answer to the next call.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close and not _is_readable(protocol.transport):
                return connection
            connection.close()
        return None


def _is_readable(transport: asyncio.Transport | None) -> bool:
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None:
        return False
    with _Selector() as selector:
        selector.register(sock.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes, str | None]:
    """
    The body up to 1 MB, and why it is not whole.
    """
    body = bytearray()
    try:
        if 0 <= (response.content_length or -1) <= MAX_BODY_BYTES:
            return await response.read(), None
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return bytes(body[:MAX_BODY_BYTES]), CUT_OFF
    except Exception as error:  # noqa: BLE001  translated
        return bytes(body), lost(_translate(error))
    finally:
        # Gives a finished connection back to the pool and closes one whose body was not read to its end.
        if response.content.at_eof():
            response.release()
        else:
            response.close()
    return bytes(body), None


def _translate(error: Exception) -> Exception:
    if isinstance(error, OSError) and not isinstance(error, TimeoutError | aiohttp.ClientError):
        return httpx.ReadError(str(error))
    for foreign, ours in _TRANSLATION:
        if isinstance(error, foreign):
            # aiohttp's own words on a failed connection include the address of an object.
            return ours(str(getattr(error, "os_error", error)) or type(error).__name__)
    return error
