"""
Turns, fair between customers and one at a time for each.

A customer's requests wait in a lane, first come first served. A lane whose head may go stands in the ring of that
request's endpoint, with a ticket; the oldest ticket whose endpoint has a turn goes next, writes before reads, and its
lane gets a new ticket. So each step costs the same however many wait.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from ocp_stripe_balance._stripe.pace.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance._stripe.request import Request

MAX_WAITING = 1000
_WRITES_PER_READ = 4
_INSTANT_S = 1e-6  # what is lost in sums of floats

RateLimit = float | Literal["auto", "off"]


class Limits(NamedTuple):
    """
    Requests per second.
    """

    total_per_s: float
    endpoint_per_s: float


class NoTurnError(Exception):
    """
    The request was not sent, because too many wait; the text says how many, and at which rate they go.
    """


class Timer(Protocol):
    """
    Something that will be called.
    """

    def cancel(self) -> None:
        """
        It will not.
        """


class Clock(Protocol):
    """
    Time and timers, as an event loop has them; swapped in tests.
    """

    def time(self) -> float:
        """
        Seconds that only grow.
        """

    def call_later(self, delay: float, callback: Callable[..., Any], /, *args: Any) -> Timer:
        """
        Call after so many seconds.
        """


class _Endpoint:
    __slots__ = ("bucket", "is_read", "ring", "waiting")

    def __init__(self, limit_per_s: float, *, is_read: bool) -> None:
        self.is_read = is_read
        self.bucket = Bucket(limit_per_s)
        self.ring: OrderedDict[_Lane, None] = OrderedDict()
        """Lanes whose head goes to this endpoint, the oldest ticket first."""
        self.waiting = 0


class _Waiter:
    __slots__ = ("endpoint", "future", "is_write", "lane", "taken_at")

    def __init__(self, endpoint: _Endpoint, lane: _Lane, *, is_write: bool) -> None:
        self.endpoint = endpoint
        self.lane = lane
        self.is_write = is_write
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it has a turn."""
        self.taken_at: float | None = None


class _Lane:
    __slots__ = ("customer", "endpoint", "ticket", "waiters")

    def __init__(self, customer: str | None) -> None:
        self.customer = customer
        self.waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self.endpoint: _Endpoint | None = None
        """In whose ring it stands; None where its head waits for the customer."""
        self.ticket = 0


class Pacer:
    """
    Turns for the requests of one Stripe account in one event loop.
    """

    def __init__(self, limits: Limits, clock: Clock | None = None) -> None:
        """
        Start without any request.

        Args:
            limits: as the account has them.
            clock: time and timers, for tests; else those of the running loop, to which the pacer holds no reference.
        """
        self.rate_limits: set[RateLimit] = set()
        """The settings of those who use it; the lowest holds."""
        self.waiting = 0
        self._limits = limits
        self._clock = clock
        self._total = Bucket(limits.total_per_s)
        self._endpoints: dict[tuple[str, str], _Endpoint] = {}
        self._lanes: dict[str | None, _Lane] = {}
        self._depths: list[int] = []  # in place n: how many lanes have more than n waiting
        self._writing: set[str] = set()
        self._in_rings = 0
        self._writes_in_row = 0
        self._tickets = count()
        self._timer: Timer | None = None
        self._timer_at = 0.0

    async def enter(self, request: Request, remaining_s: float) -> None:
        """
        Wait for the request's turn; every turn ends with `leave`.

        Raises:
            NoTurnError: it has none within *remaining_s* seconds, or too many wait.
            asyncio.CancelledError: cancelled; the turn, if there was one, is the next one's.
        """
        clock = self._clock or asyncio.get_running_loop()
        now, customer = clock.time(), request.customer
        endpoint, is_write = self._endpoint(request), _is_write(request)
        if not self._in_rings and customer not in self._lanes and not (is_write and customer in self._writing):
            latest = now + _INSTANT_S
            if self._total.free_at <= latest and endpoint.bucket.free_at <= latest:
                self._take(endpoint, customer if is_write else None, now)
                return
        self._refuse_if_hopeless(endpoint, customer, remaining_s, now)
        await self._wait(endpoint, customer, remaining_s, clock, is_write=is_write)

    def leave(self, request: Request) -> None:
        """
        The attempt is over.
        """
        if _is_write(request):
            self._release(request.customer)

    def slow_down(self, request: Request, reason: str | None) -> None:
        """
        Stripe said that it was too much; *reason* is its header Stripe-Rate-Limited-Reason.
        """
        if reason == "resource-specific":
            return  # the limit of one object, whose requests wait for each other
        now = (self._clock or asyncio.get_running_loop()).time()
        scope = (reason or "").partition("-")[0]
        if scope != "endpoint":
            self._total.lower(now)
        if scope != "global":
            self._endpoint(request).bucket.lower(now)

    def narrow(self, limits: Limits) -> None:
        """
        Keep to lower limits from now on.
        """
        self._limits = Limits(*map(min, self._limits, limits))
        self._total.narrow(limits.total_per_s)
        for endpoint in self._endpoints.values():
            endpoint.bucket.narrow(limits.endpoint_per_s)

    def is_as_new(self, now: float) -> bool:
        """
        Whether another pacer in its place would do the same.
        """
        # Each request of an endpoint is one of the total, but an endpoint may have been slowed down alone.
        is_idle = not self._lanes and not self._writing and self._total.is_as_new(now)
        return is_idle and all(endpoint.bucket.is_as_new(now) for endpoint in self._endpoints.values())

    def _endpoint(self, request: Request) -> _Endpoint:
        name = request.method, request.template
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            endpoint = self._endpoints[name] = _Endpoint(self._limits.endpoint_per_s, is_read=request.method == "GET")
        return endpoint

    def _take(self, endpoint: _Endpoint, written: str | None, now: float) -> None:
        self._total.take(now)
        endpoint.bucket.take(now)
        if written is not None:
            self._writing.add(written)

    def _refuse_if_hopeless(self, endpoint: _Endpoint, customer: str | None, remaining_s: float, now: float) -> None:
        rate_per_s = min(self._total.rate_per_s(now), endpoint.bucket.rate_per_s(now))
        if self.waiting >= MAX_WAITING:
            raise NoTurnError(f"{self.waiting} requests wait for their turn already, at {rate_per_s:.3g} a second")
        lane = self._lanes.get(customer)
        # In turns: of every lane those up to the depth where this one would stand.
        ahead = sum(self._depths[: (len(lane.waiters) if lane else 0) + 1])
        of_endpoint = ahead * endpoint.waiting / max(self.waiting, 1)
        if not endpoint.is_read:  # those that only read are not ahead, but for a few
            writes = sum(each.waiting for each in self._endpoints.values() if not each.is_read)
            ahead = min(ahead, math.ceil(writes * (1 + 1 / _WRITES_PER_READ)))
        wait_s = max(self._total.wait_s(ahead, now), endpoint.bucket.wait_s(of_endpoint, now))
        if wait_s > remaining_s:
            raise self._no_turn(rate_per_s)

    def _no_turn(self, rate_per_s: float) -> NoTurnError:
        return NoTurnError(
            f"there was no turn before the call's deadline; {self.waiting} requests wait, at {rate_per_s:.3g} a second"
        )

    async def _wait(
        self, endpoint: _Endpoint, customer: str | None, remaining_s: float, clock: Clock, *, is_write: bool
    ) -> None:
        lane = self._lanes.get(customer)
        if lane is None:
            lane = self._lanes[customer] = _Lane(customer)
        waiter = _Waiter(endpoint, lane, is_write=is_write)
        self._join(waiter)
        self._serve(clock)
        timer = clock.call_later(remaining_s, self._expire, waiter, clock)
        try:
            has_turn = await waiter.future
        except BaseException:
            self._withdraw(waiter, clock)
            raise
        finally:
            timer.cancel()
        if not has_turn:
            now = clock.time()
            raise self._no_turn(min(self._total.rate_per_s(now), endpoint.bucket.rate_per_s(now)))

    def _join(self, waiter: _Waiter) -> None:
        lane, depth = waiter.lane, len(waiter.lane.waiters)
        if depth == len(self._depths):
            self._depths.append(0)
        self._depths[depth] += 1
        lane.waiters[waiter] = None
        waiter.endpoint.waiting += 1
        self.waiting += 1
        if depth == 0:
            self._place(lane)

    def _drop(self, waiter: _Waiter) -> None:
        """
        Take it out of its lane, wherever it stands there.
        """
        lane = waiter.lane
        del lane.waiters[waiter]
        depth = len(lane.waiters)
        self._depths[depth] -= 1
        if not self._depths[-1]:
            self._depths.pop()
        waiter.endpoint.waiting -= 1
        self.waiting -= 1
        self._place(lane)
        if not lane.waiters:
            del self._lanes[lane.customer]

    def _place(self, lane: _Lane) -> None:
        """
        Let the lane stand where its head can be served, or in no ring; where that is so already, it keeps its ticket.
        """
        head = next(iter(lane.waiters), None)
        is_free = head is not None and not (head.is_write and lane.customer in self._writing)
        target = head.endpoint if head is not None and is_free else None
        if lane.endpoint is target:
            return
        if lane.endpoint is not None:
            del lane.endpoint.ring[lane]
            self._in_rings -= 1
        lane.endpoint = target
        if target is not None:
            target.ring[lane] = None
            lane.ticket = next(self._tickets)
            self._in_rings += 1

    def _serve(self, clock: Clock) -> None:
        """
        Give all turns there are now, and come again for the next.
        """
        now = clock.time()
        while self._in_rings:
            endpoint = self._next(now + _INSTANT_S)
            if endpoint is None:
                break
            self._grant(endpoint, now)
        self._set_timer(clock, now)

    def _next(self, latest: float) -> _Endpoint | None:
        if self._total.free_at > latest:
            return None
        free = [each for each in self._endpoints.values() if each.ring and each.bucket.free_at <= latest]
        # A call reads its customer, then writes. Were both kinds in one line, under load all turns would go to reads
        # whose writes never come; so writes go first, and a read now and then, because there are calls that only read.
        writes = [each for each in free if not each.is_read]
        reads = [each for each in free if each.is_read]
        chosen = reads if reads and (not writes or self._writes_in_row >= _WRITES_PER_READ) else writes
        if chosen:
            self._writes_in_row = 0 if chosen is reads else self._writes_in_row + 1
        return min(chosen, key=lambda endpoint: next(iter(endpoint.ring)).ticket, default=None)

    def _grant(self, endpoint: _Endpoint, now: float) -> None:
        lane = next(iter(endpoint.ring))
        waiter = next(iter(lane.waiters))
        if not waiter.future.done():  # else it was cancelled a moment ago
            self._take(endpoint, lane.customer if waiter.is_write else None, now)
            waiter.taken_at = now
            waiter.future.set_result(True)
            del endpoint.ring[lane]  # to the end of a ring
            self._in_rings -= 1
            lane.endpoint = None
        self._drop(waiter)

    def _set_timer(self, clock: Clock, now: float) -> None:
        if not self._in_rings:
            self._stop_timer()
            return
        soonest = min(endpoint.bucket.free_at for endpoint in self._endpoints.values() if endpoint.ring)
        at = max(self._total.free_at, soonest)
        if self._timer is None or self._timer_at > at:
            self._stop_timer()
            self._timer, self._timer_at = clock.call_later(max(at - now, 0.0), self._on_timer, clock), at

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self, clock: Clock) -> None:
        self._timer = None
        self._serve(clock)

    def _expire(self, waiter: _Waiter, clock: Clock) -> None:
        if not waiter.future.done():
            waiter.future.set_result(False)
            self._drop(waiter)
            self._serve(clock)

    def _withdraw(self, waiter: _Waiter, clock: Clock) -> None:
        """
        It was cancelled while it waited, or at the very moment it got its turn, which is the next one's then.
        """
        if waiter.taken_at is not None:
            self._total.give_back(waiter.taken_at)
            waiter.endpoint.bucket.give_back(waiter.taken_at)
            if waiter.is_write:
                self._release(waiter.lane.customer)
        elif waiter in waiter.lane.waiters:
            self._drop(waiter)
        self._serve(clock)

    def _release(self, customer: str | None) -> None:
        if customer is not None:
            self._writing.discard(customer)
        lane = self._lanes.get(customer)
        if lane is not None:
            self._place(lane)
            self._serve(self._clock or asyncio.get_running_loop())


def _is_write(request: Request) -> bool:
    # Stripe locks the customer for it, and answers another one with lock_timeout.
    return request.method != "GET" and request.customer is not None
