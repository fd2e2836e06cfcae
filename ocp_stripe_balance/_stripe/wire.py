"""
One HTTP exchange, whatever makes it: what goes in is a `WireRequest`, what comes out is `Received`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ocp_stripe_balance._stripe.request import WireRequest

MAX_BODY_BYTES = 1024 * 1024
CUT_OFF = "the response was larger than 1 MB and was cut off"
MAX_CONNECT_S = 20.0


class Headers(Mapping[str, str]):
    """
    Headers of a response, looked up without regard to case; of one that comes twice, both values (RFC 9110, 5.3).

    httpx's class takes ten times as long to make, which is a tenth of a call.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """
        Those of *pairs* as they came.
        """
        values: dict[str, str] = {}
        for name, value in pairs:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            values[key] = f"{values[key]}, {text}" if key in values else text
        self._values = values

    def without(self, secret: str) -> Headers:
        """
        The same with *secret* masked.
        """
        if secret not in "\n".join(self._values.values()):
            return self
        masked = [(name, value.replace(secret, "[api key]")) for name, value in self._values.items()]
        return Headers((name.encode("latin-1"), value.encode("latin-1")) for name, value in masked)

    def __getitem__(self, name: str) -> str:
        """
        The value of that name, in any case.
        """
        return self._values[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        """
        The value of that name, in any case, or *default*.
        """
        return self._values.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        """
        The names in lower case.
        """
        return iter(self._values)

    def __len__(self) -> int:
        """
        How many names there are.
        """
        return len(self._values)

    def __repr__(self) -> str:
        """
        Names and values.
        """
        return f"Headers({self._values!r})"


class Received(NamedTuple):
    """
    One response, its body read.
    """

    status: int
    headers: Headers
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
