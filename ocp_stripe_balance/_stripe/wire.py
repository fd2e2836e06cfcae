"""
One HTTP exchange, whatever makes it: what goes in is a `Request`, what comes out is `Received`, or one of our errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from ocp_stripe_balance._text.plain import escaped
from ocp_stripe_balance._text.secrets import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ocp_stripe_balance._stripe.request import Request

MAX_BODY_BYTES = 1024 * 1024
CUT_OFF = "the response was larger than 1 MB and was cut off"
MAX_CONNECT_S = 20.0


class Headers(Mapping[str, str]):
    """
    Headers of a response, looked up without regard to case; of one that comes twice, both values (RFC 9110, 5.3).

    The classes of HTTP libraries take ten times as long to make, which is a tenth of a call.
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
        said = "\n".join(self._values.values())
        if masked(said, secret) == said:
            return self
        pairs = [(name, masked(value, secret)) for name, value in self._values.items()]
        return Headers((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs)

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


class WireError(Exception):
    """
    There is no response. What a library raised is its cause, and its text says it in that library's words.
    """


class UnsentError(WireError):
    """
    Nothing of the request left this process: there was no connection, or it cannot be sent at all.
    """


class UnusableError(UnsentError):
    """
    What stands before Stripe (a proxy, certificates) cannot be used as it is set up, so a repeat would end alike.
    """


class LostError(WireError):
    """
    The request may have arrived, and the connection broke before there was a response.
    """


class Wire(Protocol):
    """
    Sends requests and reads the responses: no cookies, no redirects, no compression, and no request sent twice.
    """

    async def exchange(self, request: Request, remaining_s: float) -> Received:
        """
        The response, the body up to 1 MB. A redirect is returned, never followed.

        Raises:
            UnsentError: nothing was sent.
            LostError: the request may have arrived; whatever else a wire raises means the same.
            TimeoutError: *remaining_s* seconds went by, and the request may have arrived.
        """

    async def aclose(self) -> None:
        """
        Close all connections.
        """


def as_headers(request: Request) -> Mapping[str, str]:
    """
    All headers of a request, the API key included.

    Raises:
        UnsentError: a header or the address has what would be read as something else (RFC 9112, section 3).
    """
    headers, origin = request.all_headers(), request.origin
    target = request.url[len(origin) :] or "/"
    if (
        not _is_http(origin)
        or not _is_target(target)
        or "" in headers
        or not _are_names("".join(headers))
        or not _are_values("".join(headers.values()))
    ):
        raise UnsentError("the address, the path or a header has a character that cannot be sent")
    return headers


@lru_cache(maxsize=64)  # hardly ever more than one
def _is_http(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def lost(error: BaseException) -> str:
    """
    Why a body is not whole, for the warnings of the result.
    """
    return f"the connection was lost while the response arrived ({describe(error)})"


def describe(error: BaseException | None) -> str:
    """
    A failure in a few words.
    """
    if isinstance(error, WireError):
        return escaped(str(error))
    if isinstance(error, TimeoutError):
        return "the call's deadline"
    try:
        words = str(error)
    except Exception:  # noqa: BLE001  not even its name can be trusted to print
        words = ""
    return escaped(f"{type(error).__name__}: {words}" if words else type(error).__name__)


# No CR, LF, NUL or other control character, and nothing but ASCII.
_is_target = re.compile(r"/[!-~]*").fullmatch
_are_names = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*").fullmatch
_are_values = re.compile(r"[\t -~]*").fullmatch
