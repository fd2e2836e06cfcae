"""
The pace of requests: as many a second as Stripe takes, in turns that are fair between customers.

Stripe's limits are for an account as a whole and for each endpoint (https://docs.stripe.com/rate-limits). What is sent
beyond them is answered with 429.

A request waits three times: for a lock, so that each customer has one write and one read in line; in line, until it is
called; and until the limits let it go. Only who was called takes from the limits, so who is cancelled takes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple
from weakref import WeakValueDictionary

from aiolimiter import AsyncLimiter

from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance.settings import mode_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ocp_stripe_balance._stripe.request import Request

MAX_WAITING = 1000
_OF_STRIPE = {"test": (25.0, 25.0), "live": (100.0, 25.0)}  # requests per second in all, and to each endpoint
_WRITES_PER_READ = 4
SHARE = 0.8
"""Of the limits, for requests that give way to others: what people wait for goes first."""
_WINDOW_S = 1.025  # for a second, because a network lets requests catch up with those before them
_CATCH_UP_S = 0.02  # what a busy event loop is late is made up for
_LOWERED, _LEAST_SHARE, _LOWER_AGAIN_S, _RECOVERED_S = 0.8, 0.2, 0.5, 5.0

RateLimit = float | Literal["auto", "off"]


class NoTurnError(Exception):
    """
    The request was not sent, because too many wait; the text says how many, and at which rate they go.
    """


class _Limit:
    """
    One of Stripe's limits: that of an account, or that of an endpoint.
    """

    def __init__(self, *, is_read: bool = False) -> None:
        self.is_read = is_read
        self.limit_per_s = math.inf
        self._part = 1.0
        self._limiters: list[AsyncLimiter] = []
        self._brake: list[AsyncLimiter] = []
        self._lowered_to, self._lowered_at, self.taken_at = 1.0, -math.inf, -math.inf

    def narrow(self, limit_per_s: float, *, within_per_s: float = math.inf) -> None:
        """
        Keep to this too from now on; a limit as wide as the one that it is within is kept by that one.
        """
        if limit_per_s < self.limit_per_s:
            self.limit_per_s = limit_per_s
            self._limiters[:0] = [_limiter(limit_per_s * self._part)] if limit_per_s < within_per_s else []

    def divide(self, part: float) -> None:
        """
        Keep to that part of it from now on: other processes keep to the rest.
        """
        if part != self._part:
            self._part = part
            self._limiters = [_limiter(self.limit_per_s * part)] if self._limiters else []

    def lower(self) -> None:
        """
        Slow down for a while; the answers to requests that were under way together count once.
        """
        if _now() >= self._lowered_at + _LOWER_AGAIN_S:
            self._lowered_to, self._lowered_at = max(self._share() * _LOWERED, _LEAST_SHARE), _now()
            self._brake = [AsyncLimiter(1, _WINDOW_S / self.rate_per_s())]

    def rate_per_s(self) -> float:
        return self.limit_per_s * self._part * self._share()

    async def take(self) -> None:
        for limiter in self._in_force():  # the slowest first: after it, the others need no wait
            await limiter.acquire()

    def wait_s(self, ahead: int = 0) -> float:
        """
        Seconds until one may go that so many others precede, at the least.
        """
        steps_s = ((ahead + 2 - each.max_rate) * each.time_period / each.max_rate for each in self._in_force())
        return max(self.taken_at + max(steps_s, default=0.0) - _now(), 0.0)

    def is_as_new(self) -> bool:
        return self._share() == 1 and _now() > self.taken_at + 2 * max(1 / self.limit_per_s, 1)

    def _share(self) -> float:
        return self._lowered_to if _now() < self._lowered_at + _RECOVERED_S else 1.0

    def _in_force(self) -> list[AsyncLimiter]:
        return [*self._brake, *self._limiters] if self._share() < 1 else self._limiters


class Pacer:
    """
    Turns for the requests of one Stripe account in one event loop.
    """

    def __init__(self) -> None:
        """
        Start without any request.
        """
        self._total, self._endpoints = _Limit(), dict[tuple[str, str], _Limit]()
        self._endpoint_per_s, self._part = math.inf, 1.0
        self._lanes = WeakValueDictionary[tuple[str | None, bool], asyncio.Lock]()
        self._waiting: list[tuple[str | None, _Limit]] = []
        # Who was not called yet: for which endpoint, and whether it gives way to others.
        self._line: dict[asyncio.Future[None], tuple[_Limit, bool]] = {}
        self._shares = dict[_Limit, _Limit]()
        self._is_called = False
        self._writes_in_row = 0

    def narrow(self, total_per_s: float, endpoint_per_s: float) -> None:
        """
        Keep to these limits too from now on: the lowest of several settings holds.
        """
        self._total.narrow(total_per_s)
        self._endpoint_per_s = min(self._endpoint_per_s, endpoint_per_s)

    def divide(self, part: float) -> None:
        """
        Keep to that part of the limits from now on: other processes keep to the rest.
        """
        self._part = part
        for each in (self._total, *self._endpoints.values()):
            each.divide(part)

    @contextlib.asynccontextmanager
    async def turn(self, request: Request, patience_s: float, *, gives_way: bool = False) -> AsyncIterator[None]:
        """
        Wait for the request's turn; the block is the attempt.

        One that *gives_way* is behind all that do not, and takes no more than a share of the limits.

        Raises:
            NoTurnError: it has none within *patience_s* seconds, or too many wait.
        """
        endpoint, customer = self._endpoint(request), request.customer
        self._refuse_if_hopeless(endpoint, customer, patience_s)
        lane = self._lanes.setdefault((customer, endpoint.is_read), asyncio.Lock())
        async with contextlib.AsyncExitStack() as held:
            patience = asyncio.timeout(patience_s)
            self._waiting.append((customer, endpoint))
            try:
                with contextlib.suppress(TimeoutError):
                    async with patience:
                        for limit in (endpoint, self._total) if gives_way else ():
                            await self._share(limit).take()
                        await held.enter_async_context(lane)
                        await self._stand_in_line(endpoint, gives_way=gives_way)
            finally:
                self._waiting.remove((customer, endpoint))
            if patience.expired():
                raise self._no_turn(endpoint)
            if endpoint.is_read or customer is None:  # else Stripe locks the customer, and turns other writes away
                await held.aclose()
            yield

    def slow_down(self, request: Request, reason: str | None) -> None:
        """
        Stripe said that it was too much; *reason* is its header Stripe-Rate-Limited-Reason.
        """
        scope = (reason or "").partition("-")[0]
        if scope not in {"endpoint", "resource"}:
            self._total.lower()
        if scope not in {"global", "resource"}:  # an object's own limit is kept by the customer's lock
            self._endpoint(request).lower()

    def is_as_new(self) -> bool:
        """
        Whether another pacer in its place would do the same.
        """
        return not self._lanes and all(each.is_as_new() for each in (self._total, *self._endpoints.values()))

    def _endpoint(self, request: Request) -> _Limit:
        name = request.method, request.template
        endpoint = self._endpoints.setdefault(name, _Limit(is_read=request.method == "GET"))
        endpoint.narrow(min(self._endpoint_per_s, self._total.limit_per_s), within_per_s=self._total.limit_per_s)
        endpoint.divide(self._part)
        return endpoint

    def _refuse_if_hopeless(self, endpoint: _Limit, customer: str | None, patience_s: float) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise NoTurnError(f"{len(self._waiting)} requests wait for their turn already, {self._rate(endpoint)}")
        # Customers take turns: of each, at most one more goes before this request than of its own customer.
        waiting = Counter(who for who, where in self._waiting if where is endpoint)
        ahead = sum(min(number, waiting[customer] + 1) for number in waiting.values())
        if max(self._total.wait_s(ahead), endpoint.wait_s(ahead)) > patience_s:
            raise self._no_turn(endpoint)

    def _no_turn(self, endpoint: _Limit) -> NoTurnError:
        waiting = f"{len(self._waiting)} requests wait, {self._rate(endpoint)}"
        return NoTurnError(f"there was no turn before the call's deadline; {waiting}")

    def _rate(self, endpoint: _Limit) -> str:
        return f"at {min(self._total.rate_per_s(), endpoint.rate_per_s()):.3g} a second"

    def _share(self, limit: _Limit) -> _Limit:
        share = self._shares.setdefault(limit, _Limit())
        share.narrow(SHARE * limit.limit_per_s)
        share.divide(self._part)
        return share

    async def _stand_in_line(self, endpoint: _Limit, *, gives_way: bool) -> None:
        called = asyncio.get_running_loop().create_future()
        self._line[called] = (endpoint, gives_way)
        self._call_next()
        try:
            await called
            for limit in sorted((endpoint, self._total), key=_Limit.wait_s, reverse=True):  # the second needs no wait
                await limit.take()
            endpoint.taken_at = self._total.taken_at = _now()
        finally:
            if self._line.pop(called, None) is None:
                self._is_called = False
                self._call_next()

    def _call_next(self) -> None:
        if self._is_called:
            return
        # First who gives way to nobody, then who can go soonest. Then writes, and a read now and then: were both alike,
        # under load all turns would go to calls that read their customer, and whose writes never come.
        wait_s = {endpoint: max(endpoint.wait_s(), self._total.wait_s()) for endpoint, _ in set(self._line.values())}
        is_reads_turn = self._writes_in_row >= _WRITES_PER_READ
        ranks = {
            each: (gives_way, wait_s[at], at.is_read != is_reads_turn)
            for each, (at, gives_way) in self._line.items()
            if not each.done()
        }
        if ranks:
            called = min(ranks, key=ranks.__getitem__)
            self._writes_in_row = 0 if self._line.pop(called)[0].is_read else self._writes_in_row + 1
            self._is_called = True
            called.set_result(None)


_PACERS: dict[tuple[asyncio.AbstractEventLoop, str, str, bytes], Pacer] = {}


class Pace(NamedTuple):
    """
    The pacers of one registered API, which all agents of the process share.
    """

    base_url: str
    limits_per_s: tuple[float, float] | None
    """In all and for each endpoint, None for Stripe's own."""
    part_of: Callable[[str], float] = lambda _: 1.0
    """Which part of them is this process's, at the pace of that name."""
    gives_way: bool = False
    """Whether its requests let those of others go first."""

    def pacer_of(self, request: Request) -> Pacer:
        """
        The pacer of the account that the request acts on, in the running loop.
        """
        loop, account = asyncio.get_running_loop(), request.headers.get("Stripe-Account", "")
        secret = request.api_key.get_secret_value() if request.api_key is not None else ""
        name = loop, self.base_url, account, hashlib.sha256(secret.encode()).digest()
        with no_fork:  # loops run in threads
            if name not in _PACERS:
                for other in list(islice(_PACERS, 2)):  # a platform has thousands of accounts: two may go for each new
                    pacer = _PACERS.pop(other)
                    if not other[0].is_closed() and (other[0] is not loop or not pacer.is_as_new()):
                        _PACERS[other] = pacer
                _PACERS[name] = Pacer()
            pacer = _PACERS[name]
        mode = mode_of(secret)
        pacer.narrow(*(self.limits_per_s or _OF_STRIPE[mode]))
        pacer.divide(self.part_of(f"{self.base_url} {mode} {account}"))
        return pacer


def limits_of(rate_limit: RateLimit, mode: str) -> tuple[float, float] | None:
    """
    How many requests a second go in all and to each endpoint, in that mode; None for as many as there are.
    """
    if rate_limit == "off":
        return None
    return _OF_STRIPE[mode] if rate_limit == "auto" else (rate_limit, rate_limit)


def pace_of(
    rate_limit: RateLimit, base_url: str, part_of: Callable[[str], float], *, gives_way: bool = False
) -> Pace | None:
    """
    The pace that the setting wants, None where it is off; *part_of* says which part of it is this process's.
    """
    if rate_limit == "off":
        return None
    return Pace(base_url, None if rate_limit == "auto" else (rate_limit, rate_limit), part_of, gives_way)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _limiter(limit_per_s: float) -> AsyncLimiter:
    """
    One that lets no more go in any second, those included that go at once after a while without any.
    """
    seconds = max(1, 1 / limit_per_s)
    rate_per_s = max(int(limit_per_s), 1) / (_WINDOW_S * seconds + _CATCH_UP_S)
    burst = 1 + rate_per_s * _CATCH_UP_S
    return AsyncLimiter(burst, burst / rate_per_s)
