"""
Reading one HTTP response as its bytes arrive, with httptools (llhttp, as in Node.js).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools
import httpx

from ocp_stripe_balance._stripe.wire import CUT_OFF, MAX_BODY_BYTES, Headers, Received, lost

if TYPE_CHECKING:
    import asyncio

_MAX_HEAD_BYTES = 64 * 1024
_FIRST_STATUS = 100
_SWITCHING_PROTOCOLS = 101
_FIRST_FINAL = 200
_WITHOUT_BODY = frozenset({204, 304})


class ResponseReader:
    """
    One response on its way.
    """

    def __init__(self, future: asyncio.Future[Received]) -> None:
        self.future = future
        self.leaves_connection_usable = False
        self.parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._bodiless_bytes = 0  # of the head, and of trailers
        self._status = 0  # once the head has come
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._is_complete = False

    def feed(self, data: bytes) -> None:
        if self.parser is None:
            return
        body_bytes = self._body_bytes
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.leaves_connection_usable = False
            self._fail(httpx.RemoteProtocolError(str(error) or "no HTTP"))
            return
        if self._body_bytes == body_bytes:
            self._bodiless_bytes += len(data)
        if self._bodiless_bytes > _MAX_HEAD_BYTES:
            self._fail(httpx.RemoteProtocolError("the head of the response is larger than 64 kB"))
        elif self._body_bytes > MAX_BODY_BYTES:
            self._finish(CUT_OFF)

    def drop(self) -> None:
        """
        Nobody waits any more: no complaint about an error that nobody saw.
        """
        if self.future.done() and not self.future.cancelled():
            self.future.exception()

    def expire(self) -> None:
        self._fail(TimeoutError())

    def end(self, error: Exception | None) -> None:
        """
        The connection is closed; where the head gives no length, that is how a body ends (RFC 9112, section 6.3).
        """
        self.leaves_connection_usable = False
        has_length = any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in self._headers)
        if self._status and error is None and not has_length:
            self._finish(None)
        elif error is None:
            self._fail(httpx.RemoteProtocolError("the server closed the connection"))
        else:
            self._fail(httpx.ReadError(str(error) or type(error).__name__))

    def on_message_begin(self) -> None:
        """
        More after the end of the response.
        """
        if self._is_complete:
            self.leaves_connection_usable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status:  # trailers are no headers (RFC 9110, section 6.5.1)
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.parser is None or self._is_complete:
            return
        status = self.parser.get_status_code()
        if status < _FIRST_STATUS or status == _SWITCHING_PROTOCOLS:
            self._fail(httpx.RemoteProtocolError(f"HTTP {status} is no answer to what was asked"))
        elif status >= _FIRST_FINAL:
            self._status = status
        if status in _WITHOUT_BODY:  # whatever length they tell; older versions of httptools wait for it
            self._is_complete = True
            self._finish(None)

    def on_body(self, body: bytes) -> None:
        if not self._is_complete:
            self._body.append(body)
            self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        if self.parser is None or self._is_complete:
            return
        if not self._status:  # 100 Continue, 103 Early Hints: the response is still to come
            self._headers.clear()
            return
        self._is_complete = True
        self.leaves_connection_usable = self.parser.should_keep_alive()
        self._finish(CUT_OFF if self._body_bytes > MAX_BODY_BYTES else None)

    def _fail(self, error: Exception) -> None:
        """
        Where the head has come, the status stands, and only the body is lost.
        """
        if self._status:
            self._finish(lost(error))
        elif not self.future.done():
            self.future.set_exception(error)

    def _finish(self, lost_body: str | None) -> None:
        if not self.future.done():
            body = b"".join(self._body)[:MAX_BODY_BYTES]
            self.future.set_result(Received(self._status, Headers(self._headers), body, lost_body))
