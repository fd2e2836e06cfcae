"""
The pace of requests: as many a second as Stripe takes, in turns that are fair between customers.

Stripe's limits are for an account as a whole and for each endpoint (https://docs.stripe.com/rate-limits). What is sent
beyond them is answered with 429.

A request waits three times: for the lock of its customer, which holds back all but one; in line, until it is called;
and until the limits let it go. Only the one that was called takes from the limits, so a cancelled one takes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import threading
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

from aiolimiter import AsyncLimiter

from ocp_stripe_balance.settings import mode_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ocp_stripe_balance._stripe.request import Request

MAX_WAITING = 1000
_OF_STRIPE = {"test": (25.0, 25.0), "live": (100.0, 25.0)}
"""Requests per second in all, and to each endpoint."""
_WRITES_PER_READ = 4
_STRETCH = 1.03  # a second is taken for longer, because a network lets requests catch up with those before them
_LIMIT_PER_SPARE = 40  # of so many, one may go at once with another: a busy event loop has to catch up
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
        self._limit_per_s = math.inf
        self._limiters: list[AsyncLimiter] = []
        self._share, self._lowered_at, self._taken_at = 1.0, -math.inf, -math.inf

    def narrow(self, limit_per_s: float, *, within_per_s: float = math.inf) -> None:
        """
        Keep to this too from now on; a limit that is as wide as the one it is within is kept by that one.
        """
        if limit_per_s < self._limit_per_s:
            self._limit_per_s = limit_per_s
            if limit_per_s < within_per_s:
                self._limiters.insert(0, _limiter(limit_per_s))

    def lower(self) -> None:
        """
        Slow down for a while; the answers to requests that were under way together count once.
        """
        if _now() >= self._lowered_at + _LOWER_AGAIN_S:
            share = self._share if self._is_lowered() else 1.0
            self._share, self._lowered_at = max(share * _LOWERED, _LEAST_SHARE), _now()
            self._brake = AsyncLimiter(1, _STRETCH / self.rate_per_s())

    def rate_per_s(self) -> float:
        """
        The limit, or less after Stripe said that it was too much.
        """
        return self._limit_per_s * (self._share if self._is_lowered() else 1.0)

    async def take(self) -> None:
        """
        Wait until one may go, and let it go.
        """
        for limiter in self._in_force():  # the slowest first: after it, the others need no wait
            await limiter.acquire()
        self._taken_at = _now()

    def wait_s(self, ahead: int = 0) -> float:
        """
        Seconds until one may go that so many others precede, at the least.
        """
        steps = ((each.time_period / each.max_rate, each.max_rate - 1) for each in self._in_force())
        return max(0.0, *(self._taken_at + (ahead + 1 - spare) * step_s - _now() for step_s, spare in steps), 0.0)

    def is_as_new(self) -> bool:
        """
        Whether nothing of the past matters any more.
        """
        return not self._is_lowered() and _now() > self._taken_at + 2 * max(1 / self._limit_per_s, 1)

    def _is_lowered(self) -> bool:
        return _now() < self._lowered_at + _RECOVERED_S

    def _in_force(self) -> list[AsyncLimiter]:
        return [self._brake, *self._limiters] if self._is_lowered() else self._limiters


class Pacer:
    """
    Turns for the requests of one Stripe account in one event loop.
    """

    def __init__(self) -> None:
        """
        Start without any request.
        """
        self._total, self._endpoints = _Limit(), dict[tuple[str, str], _Limit]()
        self._total_per_s = self._endpoint_per_s = math.inf
        self._lanes = WeakValueDictionary[tuple[str | None, bool], asyncio.Lock]()
        self._line: dict[asyncio.Future[None], _Limit] = {}  # who waits to be called, and for which endpoint
        self._is_called = False
        self._writes_in_row = 0
        self._waiting: Counter[tuple[str | None, _Limit]] = Counter()

    def narrow(self, total_per_s: float, endpoint_per_s: float) -> None:
        """
        Keep to these limits too from now on: the lowest of several settings holds.
        """
        self._total_per_s = min(self._total_per_s, total_per_s)
        self._endpoint_per_s = min(self._endpoint_per_s, endpoint_per_s)
        self._total.narrow(self._total_per_s)

    @contextlib.asynccontextmanager
    async def turn(self, request: Request, patience_s: float) -> AsyncIterator[None]:
        """
        Wait for the request's turn; the block is the attempt.

        Raises:
            NoTurnError: it has none within *patience_s* seconds, or too many wait.
        """
        endpoint, customer = self._endpoint(request), request.customer
        self._refuse_if_hopeless(endpoint, customer, patience_s)
        lane = self._lanes.setdefault((customer, endpoint.is_read), asyncio.Lock())
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(patience_s):
                    with self._counted(endpoint, customer):
                        await held.enter_async_context(lane)
                        await self._stand_in_line(endpoint)
            except TimeoutError:
                raise self._no_turn(endpoint) from None
            if endpoint.is_read or customer is None:  # else Stripe locks the customer, and turns other writes away
                await held.aclose()
            yield

    def slow_down(self, request: Request, reason: str | None) -> None:
        """
        Stripe said that it was too much; *reason* is its header Stripe-Rate-Limited-Reason.
        """
        if reason == "resource-specific":
            return  # the limit of one object, whose requests wait for each other
        scope = (reason or "").partition("-")[0]
        if scope != "endpoint":
            self._total.lower()
        if scope != "global":
            self._endpoint(request).lower()

    def is_as_new(self) -> bool:
        """
        Whether another pacer in its place would do the same.
        """
        return not self._lanes and all(each.is_as_new() for each in (self._total, *self._endpoints.values()))

    def _endpoint(self, request: Request) -> _Limit:
        name = request.method, request.template
        endpoint = self._endpoints.setdefault(name, _Limit(is_read=request.method == "GET"))
        endpoint.narrow(self._endpoint_per_s, within_per_s=self._total_per_s)
        return endpoint

    @contextlib.contextmanager
    def _counted(self, endpoint: _Limit, customer: str | None) -> Iterator[None]:
        self._waiting[customer, endpoint] += 1
        try:
            yield
        finally:
            self._waiting[customer, endpoint] -= 1
            if not self._waiting[customer, endpoint]:
                del self._waiting[customer, endpoint]

    def _refuse_if_hopeless(self, endpoint: _Limit, customer: str | None, patience_s: float) -> None:
        if self._waiting.total() >= MAX_WAITING:
            raise NoTurnError(f"{self._waiting.total()} requests wait for their turn already, {self._rate(endpoint)}")
        # Customers take turns: of each, at most one more goes before this request than of its own customer.
        most = self._waiting[customer, endpoint] + 1
        alike = [(at, min(each, most)) for (_, at), each in self._waiting.items() if at.is_read == endpoint.is_read]
        in_all, at_endpoint = sum(each for _, each in alike), sum(each for at, each in alike if at is endpoint)
        if max(self._total.wait_s(in_all), endpoint.wait_s(at_endpoint)) > patience_s:
            raise self._no_turn(endpoint)

    def _no_turn(self, endpoint: _Limit) -> NoTurnError:
        waiting = f"{self._waiting.total()} requests wait, {self._rate(endpoint)}"
        return NoTurnError(f"there was no turn before the call's deadline; {waiting}")

    def _rate(self, endpoint: _Limit) -> str:
        return f"at {min(self._total.rate_per_s(), endpoint.rate_per_s()):.3g} a second"

    async def _stand_in_line(self, endpoint: _Limit) -> None:
        called = asyncio.get_running_loop().create_future()
        self._line[called] = endpoint
        self._call_next()
        try:
            await called
            # The slower one first, so that the second needs no wait.
            for limit in sorted((endpoint, self._total), key=_Limit.wait_s, reverse=True):
                await limit.take()
        finally:
            if called not in self._line:
                self._is_called = False
            self._line.pop(called, None)
            self._call_next()

    def _call_next(self) -> None:
        if self._is_called:
            return
        # First whose endpoint has room, or will have it first. Then writes, and a read now and then: were both alike,
        # under load all turns would go to calls that read their customer, and whose writes never come.
        waits_s = {endpoint: endpoint.wait_s() for endpoint in set(self._line.values())}
        is_reads_turn = self._writes_in_row >= _WRITES_PER_READ
        waiting = (
            (waits_s[at], at.is_read != is_reads_turn, each) for each, at in self._line.items() if not each.done()
        )
        _, _, called = min(waiting, key=lambda each: each[:2], default=(0, 0, None))
        if called is not None:
            self._is_called = True
            self._writes_in_row = 0 if self._line.pop(called).is_read else self._writes_in_row + 1
            called.set_result(None)


class Pace:
    """
    The pacers of one registered API, which all agents of the process share.
    """

    def __init__(self, rate_limit: float | Literal["auto"], base_url: str) -> None:
        """
        Prepare; *rate_limit* is in requests per second, or ``auto`` for Stripe's own limits.
        """
        self._rate_limit: float | Literal["auto"] = rate_limit
        self._base_url = base_url

    def pacer_of(self, request: Request) -> Pacer:
        """
        The pacer of the account that the request acts on, in the running loop.
        """
        secret = request.api_key.get_secret_value() if request.api_key is not None else ""
        digest = hashlib.sha256(secret.encode()).digest()
        name = self._base_url, request.headers.get("Stripe-Account", ""), digest
        pacers = _pacers_of(asyncio.get_running_loop())
        if name not in pacers:
            # A platform has thousands of accounts: two are looked at for each new one.
            for other in list(islice(pacers, 2)):
                pacer = pacers.pop(other)
                if not pacer.is_as_new():
                    pacers[other] = pacer
            pacers[name] = Pacer()
        both = self._rate_limit
        pacers[name].narrow(*(_OF_STRIPE[mode_of(secret)] if both == "auto" else (both, both)))
        return pacers[name]


def pace_of(rate_limit: RateLimit, base_url: str) -> Pace | None:
    """
    The pace that the setting wants, None where it is off.
    """
    return None if rate_limit == "off" else Pace(rate_limit, base_url)


_Pacers = dict[tuple[str, str, bytes], Pacer]
_LOOPS: dict[asyncio.AbstractEventLoop, _Pacers] = {}
_LOOPS_LOCK = threading.Lock()


def _pacers_of(loop: asyncio.AbstractEventLoop) -> _Pacers:
    if loop not in _LOOPS:
        with _LOOPS_LOCK:  # loops run in threads
            for other in [each for each in _LOOPS if each.is_closed()]:
                del _LOOPS[other]
            _LOOPS[loop] = {}
    return _LOOPS[loop]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _limiter(limit_per_s: float) -> AsyncLimiter:
    """
    One that never lets more go in any second: those that go at once are among them.
    """
    whole = max(int(limit_per_s), 1)  # in a second, or in the seconds that one takes
    burst = 1 + whole // _LIMIT_PER_SPARE
    return AsyncLimiter(burst, burst * _STRETCH * max(1, 1 / limit_per_s) / (whole + 1 - burst))
