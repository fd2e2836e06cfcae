"""
Exchanges over a transport of httpx that is plugged in, such as a test's or a company's own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx

from ocp_stripe_balance._stripe.wire import (
    CUT_OFF,
    MAX_BODY_BYTES,
    MAX_CONNECT_S,
    Headers,
    LostError,
    Received,
    UnsentError,
    as_headers,
    describe,
    lost,
)

if TYPE_CHECKING:
    from ocp_stripe_balance._stripe.request import Request


# Only these prove that nothing was sent; any other failure may have come after the request arrived.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class HttpxWire:
    """
    Hands requests straight to the transport: no cookies, no redirects, no proxy or .netrc from the environment.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        """
        Over *transport*, which is closed with this.
        """
        self._transport = transport

    async def exchange(self, request: Request, remaining_s: float) -> Received:
        """
        The response.
        """
        connect_s = min(remaining_s / 2, MAX_CONNECT_S)
        timeout = {"connect": connect_s, "pool": connect_s, "read": remaining_s, "write": remaining_s}
        wire = _request(request, timeout)
        # A reply that drips in would outlast the read timeout.
        deadline = asyncio.get_running_loop().time() + remaining_s
        error: BaseException
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._transport.handle_async_request(wire)
        except _UNSENT as caught:
            error = UnsentError(describe(caught))
        except httpx.TransportError as caught:
            error = LostError(describe(caught))
        else:
            try:
                body, lost_body = await _read(response, deadline)
            finally:
                await response.aclose()
            return Received(response.status_code, Headers(response.headers.raw), body, lost_body)
        raise error  # out here, where no frame below holds the headers

    async def aclose(self) -> None:
        """
        Close the transport.
        """
        await self._transport.aclose()


def _request(request: Request, timeout: dict[str, float]) -> httpx.Request:
    """
    The request as httpx has it, with the API key.

    Raises:
        UnsentError: it cannot be sent at all.
    """
    headers = as_headers(request)
    try:
        return httpx.Request(
            request.method, request.url, headers=headers, content=request.body, extensions={"timeout": timeout}
        )
    except (httpx.InvalidURL, ValueError) as error:
        why = str(error)
    raise UnsentError(why)  # out here, where no frame below holds the headers


async def _read(response: httpx.Response, deadline: float) -> tuple[bytes, str | None]:
    """
    The body up to 1 MB, and why it is not whole.
    """
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            # Raw: we ask for no encoding, and a small body can unpack to gigabytes.
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return bytes(body[:MAX_BODY_BYTES]), CUT_OFF
    except httpx.StreamConsumed:  # a transport that hands over a response it has read
        body += response.content[: MAX_BODY_BYTES + 1]
        if len(body) > MAX_BODY_BYTES:
            return bytes(body[:MAX_BODY_BYTES]), CUT_OFF
    except Exception as error:  # noqa: BLE001  whatever a transport raises
        return bytes(body), lost(error)
    return bytes(body), None
