"""
One HTTP exchange, whatever makes it: what goes in is a `WireRequest`, what comes out is `Received`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from multidict import CIMultiDict

    from ocp_stripe_balance._request import WireRequest

MAX_BODY_BYTES = 1024 * 1024
CUT_OFF = "the response was larger than 1 MB and was cut off"
MAX_CONNECT_S = 20.0


class Received(NamedTuple):
    """
    One response, its body read.
    """

    status: int
    headers: CIMultiDict[str]
    body: bytes
    lost_body: str | None = None
    """Why the body is not whole; that it is not takes nothing from the status."""


class Exchange(Protocol):
    """
    Sends requests and reads the responses.
    """

    async def exchange(self, request: WireRequest, remaining_s: float) -> Received:
        """
        The response, the body up to 1 MB. A redirect is returned, never followed.

        Raises:
            httpx.TransportError: ConnectError, ConnectTimeout, PoolTimeout and UnsupportedProtocol where nothing was
                sent, others where it may have been.
            TimeoutError: *remaining_s* seconds went by.
        """

    async def aclose(self) -> None:
        """
        Close all connections.
        """


def lost(error: BaseException) -> str:
    """
    Why a body is not whole, for the warnings of the result.
    """
    return f"the connection was lost while the response arrived ({describe(error)})"


def describe(error: BaseException | None) -> str:
    """
    A failure in a few words.
    """
    if isinstance(error, TimeoutError):
        return "the call's deadline"
    try:
        words = str(error)
    except Exception:  # noqa: BLE001  not even its name can be trusted to print
        words = ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
