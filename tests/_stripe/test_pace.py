"""
Turns: never too many a second, fair between customers, one write at a time on each, and none is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import itertools
import random
import weakref
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TOOL, connect, order
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from test_client import OK, FakeClock, Script, stripe_error

from ocp_stripe_balance import ConfigurationError, NotSentError, OutcomeUnknownError, Settings, ToolError
from ocp_stripe_balance._stripe import pace
from ocp_stripe_balance._stripe.client import StripeClient
from ocp_stripe_balance._stripe.pace import Limits, NoTurnError, Pace, Pacer, pace_of
from ocp_stripe_balance._stripe.pace.bucket import LEAST_BURST as BURST
from ocp_stripe_balance._stripe.pace.pacer import MAX_WAITING
from ocp_stripe_balance._stripe.request import Request
from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TEST_LIMITS, LIVE_LIMITS = Limits(25, 25), Limits(100, 25)


def to_stripe(method: str = "GET", customer: str | None = "cus_1", template: str = "/t", **more: Any) -> Request:
    facts = {"url": "https://stripe.test/v1/x", "body": b"", "headers": {}, **more}
    return Request(method=method, template=template, customer=customer, **facts)


class Timer:
    """
    A call that a fake clock will make.
    """

    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock:
    """
    Time that passes when it is told to.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, int, Timer]] = []
        self.numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., Any], /, *args: Any) -> Timer:
        timer = Timer(lambda: callback(*args))
        heapq.heappush(self.timers, (self.now + delay, next(self.numbers), timer))
        return timer

    @property
    def pending(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self.timers)

    async def run(self, seconds: float = 1e9) -> None:
        """
        Let time pass, or only as long as something is to happen.
        """
        end = self.now + seconds
        await settle()
        while self.timers and self.timers[0][0] <= end:
            at, _, timer = heapq.heappop(self.timers)
            if timer.callback is not None:
                self.now = max(self.now, at)
                timer.callback()
                await settle()
        if seconds < 1e9:
            self.now = end


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


class Traffic:
    """
    Requests through a pacer, and what became of them.
    """

    def __init__(self, limits: Limits) -> None:
        self.clock = Clock()
        self.pacer = Pacer(limits, self.clock)
        self.sent: list[tuple[float, Request]] = []
        self.writing: Counter[str | None] = Counter()
        self.most_writing = 0
        self.tasks: list[asyncio.Task[None]] = []

    def offer(self, *requests: Request, remaining_s: float = 1e6, takes_s: float = 0.0) -> list[asyncio.Task[None]]:
        tasks = [asyncio.ensure_future(self._send(request, remaining_s, takes_s)) for request in requests]
        self.tasks += tasks
        return tasks

    async def _send(self, request: Request, remaining_s: float, takes_s: float) -> None:
        await self.pacer.enter(request, remaining_s)
        try:
            self.sent.append((self.clock.now, request))
            if request.method != "GET" and request.customer is not None:
                self.writing[request.customer] += 1
                self.most_writing = max(self.most_writing, *self.writing.values())
            if takes_s:
                done = asyncio.get_running_loop().create_future()
                self.clock.call_later(takes_s, done.cancel)
                with contextlib.suppress(asyncio.CancelledError):
                    await done
        finally:
            self.writing[request.customer] -= 1
            self.pacer.leave(request)

    def times(self, method: str = "", template: str = "") -> list[float]:
        return [at for at, each in self.sent if method in {"", each.method} and template in {"", each.template}]


def most_in_a_second(times: Sequence[float]) -> int:
    """
    The most in any second, however it is laid.
    """
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


REQUESTS = st.builds(
    to_stripe,
    method=st.sampled_from(["GET", "POST"]),
    customer=st.sampled_from(["cus_1", "cus_2", "cus_3", None]),
    template=st.sampled_from(["/t", "/u"]),
)
ARRIVALS = st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 12), REQUESTS, st.floats(0, 0.4)), max_size=25)


def finish(what: Any) -> None:
    asyncio.run(what)


@given(st.sampled_from([Limits(3, 3), Limits(10, 4), TEST_LIMITS, LIVE_LIMITS, Limits(2.5, 2.5)]), ARRIVALS)
def test_never_too_many_and_never_two_writes_at_once(limits: Limits, arrivals: list[Any]) -> None:
    """However requests come: the limits in any second, one write per customer, in order, all of them."""

    async def run() -> None:
        traffic = Traffic(limits)
        offered: list[Request] = []
        for gap_s, number, request, takes_s in arrivals:
            await traffic.clock.run(gap_s)
            requests = [replace(request, body=str(len(offered) + each).encode()) for each in range(number)]
            offered += requests
            traffic.offer(*requests, takes_s=takes_s)
            await settle()
        await traffic.clock.run()
        await asyncio.gather(*traffic.tasks)
        assert most_in_a_second(traffic.times()) <= -(-limits.total_per_s // 1)
        for endpoint in itertools.product(["GET", "POST"], ["/t", "/u"]):
            assert most_in_a_second(traffic.times(*endpoint)) <= -(-limits.endpoint_per_s // 1)
        assert traffic.most_writing <= 1
        for customer in ("cus_1", "cus_2", "cus_3", None):
            assert [each for each in offered if each.customer == customer] == [
                each for _, each in traffic.sent if each.customer == customer
            ]
        assert (0, 0) == (traffic.pacer.waiting, traffic.clock.pending)

    finish(run())


@given(st.lists(st.tuples(REQUESTS, st.integers(0, 40), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_the_cancelled_leave_no_trace(offers: list[Any], chance: Any) -> None:
    """Before their turn, at its very moment, or under way: everyone else is served, and the next comer too."""

    async def run() -> None:
        traffic = Traffic(Limits(5, 5))
        cancelled = set()
        for request, steps, is_cancelled in offers:
            (task,) = traffic.offer(request, takes_s=chance.choice([0.0, 0.5]))
            if is_cancelled:
                cancelled.add(task)
            for _ in range(steps % 3):
                await asyncio.sleep(0)
            if traffic.clock.timers and steps % 5 == 0:  # a turn is granted, and nobody has run since
                at, _, timer = heapq.heappop(traffic.clock.timers)
                traffic.clock.now = max(traffic.clock.now, at)
                if timer.callback is not None:
                    timer.callback()
            if steps > 20:
                for each in cancelled:
                    each.cancel()
        await settle()
        for each in cancelled:
            each.cancel()
        await traffic.clock.run()
        results = await asyncio.gather(*traffic.tasks, return_exceptions=True)
        assert all(result is None for task, result in zip(traffic.tasks, results, strict=True) if task not in cancelled)
        assert (0, 0, set(), {}) == (
            traffic.pacer.waiting,
            traffic.clock.pending,
            traffic.pacer._writing,
            traffic.pacer._lanes,
        )
        last = traffic.offer(*(to_stripe("POST", f"cus_{each}") for each in range(1, 4)))
        await traffic.clock.run()
        assert [None] * 3 == await asyncio.gather(*last)

    finish(run())


async def test_a_turn_granted_to_the_cancelled_is_the_next_ones() -> None:
    """At the same moment, with the customer's lock, and without a turn lost."""
    traffic = Traffic(Limits(1, 1))
    traffic.offer(to_stripe())
    first, second = traffic.offer(to_stripe("POST"), to_stripe("POST"))
    await settle()
    traffic.clock.now += 2
    traffic.pacer._on_timer(traffic.clock)
    first.cancel()  # it has its turn, and does not know it yet
    await settle()
    assert (True, True) == (first.cancelled(), second.done())
    assert [1000.0, 1002.0] == traffic.times()


async def test_waiters_that_vanish_leave_no_timer() -> None:
    """Nothing keeps a loop awake that has nothing to do."""
    traffic = Traffic(Limits(1, 1))
    tasks = traffic.offer(*[to_stripe()] * 10)
    await settle()
    assert (9, 10) == (traffic.pacer.waiting, traffic.clock.pending)
    for task in tasks:
        task.cancel()
    await settle()
    assert (0, 0) == (traffic.pacer.waiting, traffic.clock.pending)


async def test_a_few_go_at_once_and_the_rest_evenly() -> None:
    """After a quiet second: five, then one after the other, and no second burst under load."""
    traffic = Traffic(TEST_LIMITS)
    traffic.offer(*[to_stripe()] * 100)
    await traffic.clock.run()
    times = traffic.times()
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert BURST == times.count(times[0])
    assert min(gaps[BURST:]) >= 1 / 25
    assert pytest.approx(24.25, rel=0.01) == 70 / (times[-1] - times[-71])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit_per_s", [25, 100])
async def test_the_limit_is_used_and_kept_although_the_network_jitters(limit_per_s: float, seed: int) -> None:
    """By a server that counts every last second, and delays of up to 20 ms that differ."""
    chance = random.Random(seed)
    traffic = Traffic(Limits(limit_per_s, limit_per_s))
    for _ in range(100):
        traffic.offer(*[to_stripe(customer=f"cus_{chance.randrange(40)}") for _ in range(int(limit_per_s / 5))])
        await traffic.clock.run(0.1)
        if traffic.pacer.waiting > 500:
            break
    await traffic.clock.run()
    passed: list[float] = []
    refused = 0
    for at in sorted(at + chance.uniform(0, 0.02) for at in traffic.times()):
        is_full = len(passed) >= limit_per_s and passed[-int(limit_per_s)] > at - 1
        refused += is_full
        passed += [] if is_full else [at]
    assert len(passed) >= 0.95 * limit_per_s * (passed[-1] - passed[0])
    assert 0 == refused


async def test_a_customer_with_many_calls_delays_others_by_a_turn() -> None:
    """Five hundred of one, then ten others: each of the ten is served among the next turns."""
    traffic = Traffic(TEST_LIMITS)
    traffic.offer(*[to_stripe()] * 500)
    await settle()
    before = len(traffic.sent)
    traffic.offer(*[to_stripe(customer=f"cus_{number}") for number in range(2, 12)], to_stripe(customer=None))
    await settle()
    await traffic.clock.run(1)
    next_ones = [request.customer for _, request in traffic.sent[before : before + 13]]
    assert {f"cus_{number}" for number in range(1, 12)} | {None} == set(next_ones)
    assert next_ones.count("cus_1") <= 2
    await traffic.clock.run()


async def test_an_endpoint_at_its_limit_does_not_stop_the_others() -> None:
    """Live mode has 100 in all and 25 for each; who waits for one lets others pass."""
    traffic = Traffic(LIVE_LIMITS)
    traffic.offer(*[to_stripe("POST", f"cus_{number}", "/t") for number in range(100)])
    traffic.offer(*[to_stripe("GET", f"cus_{number}", "/u") for number in range(200, 220)])
    await settle()
    await traffic.clock.run(0.99)
    assert (25, 20) == (len(traffic.times("POST")), len(traffic.times("GET")))
    await traffic.clock.run()


async def test_reading_does_not_wait_for_a_write_under_way() -> None:
    """Stripe locks the customer for writes only; the next write waits for the end of the first."""
    traffic = Traffic(LIVE_LIMITS)
    traffic.offer(to_stripe("POST"), takes_s=1)
    traffic.offer(to_stripe("GET"))
    traffic.offer(to_stripe("POST"), to_stripe("POST", "cus_2"))
    await settle()
    assert ["POST", "GET", "POST"] == [request.method for _, request in traffic.sent]
    assert "cus_2" == traffic.sent[-1][1].customer
    await traffic.clock.run()
    assert 1001.0 == traffic.times()[-1]


async def test_429s_together_lower_the_rate_once_and_it_comes_back() -> None:
    """By a little, however many; never to nothing; and after quiet up to the limit and no further."""
    pacer = Pacer(TEST_LIMITS, clock := Clock())
    for _ in range(10):
        pacer.slow_down(to_stripe(), "global-rate")
    assert 23.75 == pacer._total.rate_per_s(clock.now)
    clock.now += 0.9
    assert 23.75 == pacer._total.rate_per_s(clock.now)
    rates = []
    for _ in range(20):
        clock.now += 0.5
        rates.append(pacer._total.rate_per_s(clock.now))
        pacer._total.take(clock.now)
    assert sorted(rates) == rates
    assert 25 == rates[-1] == max(rates)
    pacer.slow_down(to_stripe(), "global-rate")
    assert 23.75 == pacer._total.rate_per_s(clock.now)
    clock.now += 1
    pacer.slow_down(to_stripe(), "global-rate")
    assert 23.75 * 0.9 == pacer._total.rate_per_s(clock.now)
    for _ in range(100):
        clock.now += 1
        pacer.slow_down(to_stripe(), "global-rate")
    assert 1.25 == pacer._total.rate_per_s(clock.now)


@pytest.mark.parametrize(
    ("reason", "total_per_s", "endpoint_per_s"),
    [
        ("global-rate", 95, 25),
        ("global-concurrency", 95, 25),
        ("endpoint-rate", 100, 23.75),
        ("endpoint-concurrency", 100, 23.75),
        (None, 95, 23.75),
        ("something-new", 95, 23.75),
        ("resource-specific", 100, 25),
    ],
)
def test_the_reason_says_which_rate_is_lowered(reason: str | None, total_per_s: float, endpoint_per_s: float) -> None:
    """That of the account, that of the endpoint, or both where it is not said."""
    pacer = Pacer(LIVE_LIMITS, clock := Clock())
    request = to_stripe()
    pacer.slow_down(request, reason)
    other = pacer._endpoint(to_stripe(template="/other")).bucket
    rates = [bucket.rate_per_s(clock.now) for bucket in (pacer._total, pacer._endpoint(request).bucket, other)]
    assert [total_per_s, endpoint_per_s, 25] == rates


async def test_a_lowered_rate_is_kept_to() -> None:
    """From then on fewer go, not only later."""
    traffic = Traffic(TEST_LIMITS)
    traffic.offer(*[to_stripe()] * 100)
    await traffic.clock.run(1.1)
    traffic.pacer.slow_down(to_stripe(), None)
    before = len(traffic.sent)
    await traffic.clock.run(1)
    assert 25 > len(traffic.sent) - before > 15
    await traffic.clock.run()


async def test_a_full_queue_refuses() -> None:
    """A thousand wait; the next is told so at once, and how fast they go."""
    traffic = Traffic(TEST_LIMITS)
    traffic.offer(*[to_stripe()] * (MAX_WAITING + BURST))
    await settle()
    with pytest.raises(NoTurnError, match="1000 requests wait for their turn already, at 25 a second"):
        await traffic.pacer.enter(to_stripe(customer="cus_2"), 1e6)
    assert MAX_WAITING == traffic.pacer.waiting
    await traffic.clock.run()


async def test_who_cannot_have_a_turn_in_time_is_told_at_once() -> None:
    """By the rate and the turns before it: soon for a customer of its own, too late behind many of the same."""
    traffic = Traffic(TEST_LIMITS)
    traffic.offer(*[to_stripe()] * 105)
    await settle()
    with pytest.raises(NoTurnError, match="before the call's deadline; 100 requests wait, at 25 a second"):
        await traffic.pacer.enter(to_stripe(), 3)
    (soon,) = traffic.offer(to_stripe(customer="cus_2"), remaining_s=0.2)
    await traffic.clock.run(0.2)
    assert (True, None) == (soon.done(), soon.exception())
    await traffic.clock.run()


async def test_waiting_ends_at_the_deadline() -> None:
    """For a customer whose write does not end, nothing can be foreseen."""
    traffic = Traffic(TEST_LIMITS)
    traffic.offer(to_stripe("POST"), takes_s=10)
    late, patient = traffic.offer(to_stripe("POST"), remaining_s=2), traffic.offer(to_stripe("POST"))
    await settle()
    await traffic.clock.run(2.1)
    assert isinstance(late[0].exception(), NoTurnError)
    await traffic.clock.run()
    assert patient[0].done()


# In the executor.


def executor(script: Script, pace: Pace, clock: FakeClock) -> StripeClient:
    transport = httpx.MockTransport(script)
    return StripeClient(timeout_s=60, max_attempts=4, transport=transport, pace=pace, clock=clock, jitter=lambda: 1.0)


POST = to_stripe("POST", headers={"Idempotency-Key": "k"}, api_key=SecretStr("sk_test_planted0key"))


async def sent_after(*steps: Any, is_resumed: bool = False) -> tuple[ToolError, Script, int]:
    """
    The error of a call whose last attempt gets no turn, which *steps* precede; what was sent; what was slept.
    """
    script, clock = Script(*steps), FakeClock()
    sends = executor(script, pace := Pace(0.01, f"https://{id(script)}.test"), clock)
    if not steps:
        await pace.pacer_of(POST).enter(to_stripe("GET"), 1)  # the only turn for a while
    with pytest.raises(ToolError) as caught:
        await sends.execute(POST, tool="t", idempotency_key="k", is_resumed=is_resumed)
    await sends.aclose()
    return caught.value, script, len(clock.slept)


async def test_a_call_without_a_turn_is_not_sent() -> None:
    """Nothing leaves, it is not tried again by itself, and the caller is told to come back."""
    error, script, sleeps = await sent_after()
    assert isinstance(error, NotSentError)
    assert (0, 0, 0, True) == (len(script.requests), sleeps, error.attempts, error.retryable)
    said = "was not sent, because there was no turn before the call's deadline; 0 requests wait, at 0.01 a second"
    assert said in str(error)
    assert "Call again later, with the same parameters and idempotency key." in str(error)


async def test_a_call_that_stripe_turned_away_and_has_no_further_turn_is_not_sent() -> None:
    """A 429 was not executed."""
    error, script, _ = await sent_after(stripe_error(429, code="lock_timeout"))
    assert isinstance(error, NotSentError)
    assert (1, 1) == (len(script.requests), error.attempts)
    assert "after 1 attempt that Stripe turned away" in str(error)


@pytest.mark.parametrize(("steps", "is_resumed"), [([httpx.ReadTimeout("lost")], False), ([], True)])
async def test_a_call_that_may_have_been_executed_stays_unknown_without_a_turn(
    steps: list[Any], is_resumed: bool
) -> None:
    """An attempt whose reply was lost, or the one of a process before."""
    error, script, _ = await sent_after(*steps, is_resumed=is_resumed)
    assert isinstance(error, OutcomeUnknownError)
    assert (len(steps), "It was not sent again") == (len(script.requests), error.args[0].partition(". ")[2][:21])


@pytest.mark.parametrize(("code", "rate_per_s"), [("rate_limit", 23.75), ("lock_timeout", 25)])
async def test_only_a_rate_limit_slows_down(code: str, rate_per_s: float) -> None:
    """Who meets a lock was not too fast."""
    script, pace = Script(stripe_error(429, code=code), OK), Pace("auto", "https://slow.test")
    sends = executor(script, pace, FakeClock())
    assert 2 == (await sends.execute(POST, tool="t", idempotency_key="k")).attempts
    pacer = pace.pacer_of(POST)
    assert rate_per_s == pacer._total.rate_per_s(asyncio.get_running_loop().time())
    await sends.aclose()


async def test_the_customer_is_free_while_a_call_waits_to_try_again() -> None:
    """The lock is held during an attempt, not over the waits between."""
    pace, during = Pace(100, "https://free.test"), []

    class Watching(FakeClock):
        async def sleep(self, seconds: float) -> None:
            during.append(len(pace.pacer_of(POST)._writing))
            await super().sleep(seconds)

    sends = executor(Script(stripe_error(429, code="lock_timeout"), OK), pace, Watching())
    await sends.execute(POST, tool="t", idempotency_key="k")
    assert [0] == during
    await sends.aclose()


async def test_a_process_that_was_stopped_while_it_waited_does_not_send() -> None:
    """Others may have the call by then; the loop's clock may not have noticed."""
    script, clock, pace = Script(OK), FakeClock(), Pace(100, "https://stopped.test")
    sends = executor(script, pace, clock)
    first = to_stripe("POST")
    await pace.pacer_of(POST).enter(first, 1)
    call = asyncio.ensure_future(sends.execute(POST, tool="t", idempotency_key="k"))
    await settle()
    clock.now += 3600
    pace.pacer_of(POST).leave(first)
    with pytest.raises(NotSentError, match="deadline had passed when its turn came"):
        await call
    assert (0, set()) == (len(script.requests), pace.pacer_of(POST)._writing)
    await sends.aclose()


async def test_cancelling_a_call_that_waits_sends_nothing() -> None:
    """A plain cancellation, and the customer stays free."""
    script, pace = Script(OK), Pace(100, "https://cancelled.test")
    sends = executor(script, pace, FakeClock())
    await pace.pacer_of(POST).enter(to_stripe("POST"), 1)
    call = asyncio.ensure_future(sends.execute(POST, tool="t", idempotency_key="k"))
    await settle()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (0, 0) == (len(script.requests), pace.pacer_of(POST).waiting)
    await sends.aclose()


# Who shares a pacer.


def pacer_of(rate_limit: Any = "auto", base_url: str = "https://a.test", key: str = "sk_test_1", **more: Any) -> Pacer:
    return Pace(rate_limit, base_url).pacer_of(to_stripe(api_key=SecretStr(key), **more))


async def test_who_acts_on_the_same_account_shares_a_pacer() -> None:
    """Base URL, key and account; the lowest of several settings holds for all."""
    assert pacer_of() is pacer_of()
    others = [pacer_of(base_url="https://b.test"), pacer_of(key="sk_test_2"), pacer_of(key="sk_live_1")]
    others.append(pacer_of(headers={"Stripe-Account": "acct_1"}))
    assert 5 == len({id(each) for each in [pacer_of(), *others]})
    assert [TEST_LIMITS, LIVE_LIMITS] == [pacer_of()._limits, pacer_of(key="sk_live_1")._limits]
    assert Limits(7, 7) == pacer_of(7.0)._limits == pacer_of(500.0)._limits == pacer_of()._limits


def test_nothing_outlives_its_loop_and_no_key_is_kept() -> None:
    """Pacers go with their loop, and know the key's hash only."""
    pacers = []

    async def use() -> None:
        pacer = pacer_of(1.0, key="sk_test_planted0key")
        pacers.append(weakref.ref(pacer))
        first = asyncio.ensure_future(pacer.enter(to_stripe(), 60))
        for _ in range(3):
            asyncio.ensure_future(pacer.enter(to_stripe(), 60))  # noqa: RUF006  the loop ends with those waiting
        await first
        assert "planted" not in repr(pace._LOOPS[asyncio.get_running_loop()])

    for _ in range(2):
        asyncio.run(use())
    gc.collect()
    assert [None, None] == [pacer() for pacer in pacers]


async def test_pacers_of_many_accounts_are_forgotten_when_idle() -> None:
    """A platform has thousands; those in use stay."""
    busy = pacer_of(0.01, headers={"Stripe-Account": "acct_busy"})
    await busy.enter(to_stripe(), 1)
    for number in range(1000):
        pacer_of(headers={"Stripe-Account": f"acct_{number}"})
    assert len(pace._LOOPS[asyncio.get_running_loop()]) <= 64
    assert busy is pacer_of(0.01, headers={"Stripe-Account": "acct_busy"})


def test_off_is_no_pace_at_all() -> None:
    """Nothing is asked, nothing is waited for."""
    assert pace_of("off", "https://a.test") is None


@pytest.mark.parametrize(("given_value", "kept"), [("auto", "auto"), ("off", "off"), ("50", 50.0), (12.5, 12.5)])
def test_the_setting_is_auto_off_or_a_number(given_value: Any, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an argument and as a variable."""
    assert kept == Settings(rate_limit=given_value).rate_limit
    monkeypatch.setenv("OCP_STRIPE_RATE_LIMIT", str(given_value))
    assert kept == Settings().rate_limit


@pytest.mark.parametrize("value", ["fast", "0", "-1", "nan", "inf", "1e9", True, [], None])
def test_an_impossible_rate_is_named(value: Any) -> None:
    """Once, with what is possible."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(rate_limit=value)
    said = "OCP_STRIPE_RATE_LIMIT: it is auto, off, or a number of requests per second from 0.01 to 10000."
    assert said == caught.value.args[0]


# Against the sandbox.


async def offer_twice(limit_per_s: float, seconds: float, customers: Iterable[str], stripe: Sandbox) -> None:
    """
    Twice the limit for a while, then no more.
    """
    names = itertools.cycle(customers)
    async with await connect(stripe, rate_limit=limit_per_s, journal="off", timeout=seconds) as agent:

        async def call(number: int) -> None:
            await asyncio.sleep(number / (2 * limit_per_s))
            with contextlib.suppress(ToolError):  # those past the deadline
                await agent.call_tool(TOOL, order(next(names), reference=f"r-{number}"))

        async def until_the_end() -> None:
            await asyncio.gather(*(call(number) for number in range(int(2 * limit_per_s * seconds))))

        with contextlib.suppress(TimeoutError, ToolError):
            await asyncio.wait_for(until_the_end(), seconds)


async def test_what_is_offered_beyond_the_limit_waits_here() -> None:
    """
    Twice as much as the sandbox takes is offered, and hardly any 429 is seen.

    Of three tries one must do: a machine that stops for 100 ms lets requests arrive together.
    """
    limit_per_s, found = 100, []
    for _ in range(3):
        async with Sandbox(rate_limit=limit_per_s) as stripe:
            customers = [stripe.create_customer() for _ in range(40)]
            await offer_twice(limit_per_s, 4, customers, stripe)
            share_through = stripe.limits.admitted / limit_per_s / stripe.limits.counts()["seconds"]
            share_refused = stripe.limits.refused.total() / len(stripe.requests)
        found.append((share_through, share_refused))
        if share_through >= 0.9 and share_refused < 0.01:
            return
    assert [] == found


async def test_writes_on_one_customer_meet_no_lock() -> None:
    """Without turns, nearly all of them do."""
    refused = []
    for rate_limit in ("off", 1000):
        async with Sandbox(lock_s=0.02) as stripe, await connect(stripe, rate_limit=rate_limit, timeout=5) as agent:
            customer = stripe.create_customer()
            calls = [agent.call_tool(TOOL, order(customer, reference=f"r-{number}")) for number in range(8)]
            await asyncio.gather(*calls, return_exceptions=True)
            refused.append(stripe.limits.refused["lock_timeout"])
    assert (True, 0) == (refused[0] >= 7, refused[1])


async def test_the_write_of_a_call_does_not_wait_behind_the_reads_of_others() -> None:
    """Two hundred new customers are to be read; one that was read is written next, however little time it has."""
    traffic = Traffic(TEST_LIMITS)
    traffic.offer(*[to_stripe(customer=f"cus_{number}") for number in range(200)])
    await traffic.clock.run(1)
    before = len(traffic.sent)
    traffic.offer(to_stripe("POST", "cus_0"), remaining_s=0.5)
    await traffic.clock.run(1)
    assert "POST" in [request.method for _, request in traffic.sent[before : before + 2]]
    await traffic.clock.run()


async def test_reads_have_a_turn_among_many_writes() -> None:
    """One in five, while both wait."""
    traffic = Traffic(TEST_LIMITS)
    traffic.offer(*[to_stripe("POST", f"cus_{number}") for number in range(100)])
    traffic.offer(*[to_stripe("GET", f"other_{number}") for number in range(100)])
    await traffic.clock.run(2)
    kinds = [request.method for _, request in traffic.sent][10:40]
    assert 6 == kinds.count("GET")
    await traffic.clock.run()


async def test_a_turn_at_the_last_moment_is_none() -> None:
    """What could hardly be answered in time any more is not sent: a tenth of the time, at most a second, is left."""
    asked: list[float] = []

    class Late:
        async def enter(self, _: Request, remaining_s: float) -> None:
            asked.append(remaining_s)
            raise NoTurnError("none")

        def pacer_of(self, _: Request) -> Late:
            return self

    for timeout_s in (2.0, 60.0):
        pace: Any = Late()
        executor = StripeClient(timeout_s=timeout_s, max_attempts=4, pace=pace)
        with pytest.raises(NotSentError):
            await executor.execute(to_stripe("POST"), tool="t", idempotency_key="k")
    assert pytest.approx([1.8, 59.0], abs=0.1) == asked
