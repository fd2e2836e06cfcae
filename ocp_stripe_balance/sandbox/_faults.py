"""
Faults on demand: what networks and servers do on bad days.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class FaultKind(StrEnum):
    """
    What goes wrong with a request.
    """

    REFUSE = "refuse"
    """At once and for ``seconds``, all connections are dropped and new ones refused."""
    RESET = "reset"
    """The connection is reset instead of an answer."""
    CUT_BODY = "cut_body"
    """The connection is lost in the middle of the response body."""
    STALL = "stall"
    """Nothing happens for a while."""
    DRIP = "drip"
    """The response arrives byte by byte."""
    RATE_LIMIT = "rate_limit"
    """429, code rate_limit, before the request is looked at."""
    LOCK_TIMEOUT = "lock_timeout"
    """429, code lock_timeout, with Stripe-Should-Retry: true."""
    KEY_IN_USE = "key_in_use"
    """409, code idempotency_key_in_use."""
    SERVER_ERROR = "server_error"
    """500 that no key remembers."""
    SERVER_ERROR_STORED = "server_error_stored"
    """500 that the key remembers and repeats."""
    BAD_GATEWAY = "bad_gateway"
    """502 as HTML."""
    BROKEN_JSON = "broken_json"
    """200 with a body that is not JSON."""
    DUPLICATE = "duplicate"
    """The request is delivered twice; the second answer is sent."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """
    One fault, and which requests it meets.
    """

    kind: FaultKind
    times: int | None
    executed: bool
    path: re.Pattern[str]
    probability: float
    seconds: float
    headers: dict[str, str]


def _count(text: str) -> int | None:
    return None if text == "all" else int(text)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "times": _count,
    "executed": lambda text: text.lower() in {"true", "1", "yes", "on"},
    "path": str,
    "probability": float,
    "seconds": float,
}


class Faults:
    """
    The faults that wait for requests; each request meets at most one.
    """

    def __init__(self, seed: int, refuse: Callable[[float], None]) -> None:
        """
        Start with none.

        Args:
            seed: fixes the draws of those with a probability.
            refuse: stops the listening for so many seconds.
        """
        self._refuse = refuse
        self._random = random.Random(seed)  # noqa: S311  faults, not secrets
        self._waiting: list[Fault] = []
        self.met: Counter[str] = Counter()
        """How many requests have met each kind."""

    def add(  # noqa: PLR0913  the ways to say which requests
        self,
        kind: FaultKind | str,
        *,
        times: int | None = 1,
        executed: bool = False,
        path: str = "",
        probability: float = 1.0,
        seconds: float = 30.0,
        headers: dict[str, str] | None = None,
    ) -> None:
        """
        Let *kind* happen.

        Args:
            kind: what goes wrong.
            times: to how many requests, None for all.
            executed: whether the request is executed all the same (for those whose answer is lost or replaced).
            path: a regular expression the path must contain.
            probability: of meeting a request that fits.
            seconds: how long a stall or a drip takes.
            headers: sent with an error reply.
        """
        if kind not in list(FaultKind):
            message = f"{kind!r} is not a fault; the faults are {', '.join(FaultKind)}"
            raise ValueError(message)
        kind = FaultKind(kind)
        if kind is FaultKind.REFUSE:
            self.met[kind] += 1
            self._refuse(seconds)
            return
        fault = Fault(
            kind=kind,
            times=times,
            executed=executed,
            path=re.compile(path),
            probability=probability,
            seconds=seconds,
            headers=headers or {},
        )
        self._waiting.append(fault)

    def add_text(self, text: str) -> None:
        """
        Let a fault happen that is written as on the command line: ``reset:times=2,executed=true``.

        Raises:
            ValueError: there is no such kind, option or value.
        """
        kind, _, rest = text.partition(":")
        options: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            if name not in _OPTIONS or not equals:
                message = f"{part!r} is not an option of a fault; the options are {', '.join(_OPTIONS)}"
                raise ValueError(message)
            options[name] = _OPTIONS[name](value)
        self.add(kind, **options)

    def waiting(self) -> list[dict[str, Any]]:
        """
        Those that no request has met so far, as JSON.
        """
        return [
            {"kind": each.kind, "times": each.times or "all", "executed": each.executed, "path": each.path.pattern}
            for each in self._waiting
        ]

    def clear(self) -> None:
        """
        No more faults.
        """
        self._waiting.clear()

    def draw(self, path: str) -> Fault | None:
        """
        The fault this request meets, if any.
        """
        for fault in self._waiting:
            if fault.path.search(path) and self._random.random() < fault.probability:
                if fault.times is not None:
                    fault.times -= 1
                    if not fault.times:
                        self._waiting.remove(fault)
                self.met[fault.kind] += 1
                return fault
        return None
