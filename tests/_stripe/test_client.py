"""
Attempts, waits and verdicts: what the caller is told after every kind of failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TOOL, connect, ledger, order, transaction
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ocp_stripe_balance import NotSentError, OutcomeUnknownError, RejectedError, ToolError
from ocp_stripe_balance._stripe.attempts import OUTCOMES, Reply, Seen, classify
from ocp_stripe_balance._stripe.body import Body
from ocp_stripe_balance._stripe.client import StripeClient, SystemClock
from ocp_stripe_balance._stripe.request import Request
from ocp_stripe_balance._stripe.wire import Headers
from ocp_stripe_balance.errors import RateLimitError
from ocp_stripe_balance.sandbox import FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocp_stripe_balance import OCPAgent
    from ocp_stripe_balance.sandbox import Sandbox

REQUEST = Request(method="POST", url="https://stripe.test/v1/x", body=b"a=b", headers={"Idempotency-Key": "k"})
READ = Request(method="GET", url="https://stripe.test/v1/x", body=b"", headers={})

Step = httpx.Response | Exception


class FakeClock:
    """
    Time that passes only by sleeping.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Script:
    """
    A transport that answers each attempt with the next step.
    """

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps[min(len(self.requests), len(self.steps)) - 1]
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step.status_code, headers=step.headers, content=step.content)


def stripe_error(
    status: int, message: str = "No.", headers: dict[str, str] | None = None, **fields: str
) -> httpx.Response:
    body = {"error": {"type": "invalid_request_error", "message": message, **fields}}
    return httpx.Response(status, json=body, headers={"Request-Id": "req_1", **(headers or {})})


OK = httpx.Response(200, json=transaction(), headers={"Request-Id": "req_ok"})
IN_USE = stripe_error(409, code="idempotency_key_in_use")


async def run(
    script: Script,
    request: Request = REQUEST,
    *,
    clock: FakeClock | None = None,
    timeout_s: float = 60,
    jitter: Callable[[], float] = lambda: 1.0,
) -> Reply:
    executor = StripeClient(
        timeout_s=timeout_s,
        max_attempts=4,
        transport=httpx.MockTransport(script),
        clock=clock or FakeClock(),
        jitter=jitter,
    )
    try:
        return await executor.execute(request, tool="t", idempotency_key="k")
    finally:
        await executor.aclose()


async def outcome(*steps: Step, request: Request = REQUEST) -> str:
    try:
        await run(Script(*steps), request)
    except ToolError as error:
        return error.outcome
    return "succeeded"


# One step per thing an attempt can show. The header makes each the last attempt, so that it decides.
LAST = {"Stripe-Should-Retry": "false"}
SHOWS: dict[Seen, list[Step]] = {
    Seen.SUCCEEDED: [OK, httpx.Response(201, content=b"nonsense")],
    Seen.REFUSED: [stripe_error(400), stripe_error(402), stripe_error(404, code="resource_missing")],
    Seen.TURNED_AWAY: [
        stripe_error(401),
        stripe_error(403),
        stripe_error(409, headers=LAST),
        stripe_error(429, headers=LAST),
        httpx.Response(403, html="<h1>the proxy says no</h1>"),
        httpx.Response(404, html="<h1>not found</h1>"),
        httpx.Response(404, json={"error": {"code": 404, "message": "a gateway's own"}}),
        httpx.Response(404, json={"error": {}}),
        httpx.Response(404, json={"error": {"type": "route_not_found_error"}}),
        httpx.Response(400, json={"error": {"type": "invalid_request_error"}}, headers={"Request-Id": "7f3a"}),
    ],
    Seen.UNSURE: [
        stripe_error(500, headers=LAST),
        httpx.Response(503, headers=LAST),
        httpx.Response(302, headers={"Location": "https://elsewhere.test/"}),
        stripe_error(408, headers=LAST),
        stripe_error(424),
        stripe_error(409, code="idempotency_key_in_use", headers=LAST),
        RuntimeError("a transport of the user's own fails"),
        httpx.Response(409, html="who knows why", headers=LAST),
        httpx.Response(499, html="the client is gone"),
        httpx.Response(402, html="a gateway's own"),
        httpx.Response(422, json={"error": {"type": "validation_error"}}),
        httpx.Response(403, html="a filter's own", headers={"Request-Id": "req_1"}),
    ],
    Seen.UNSENT: [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("busy")],
}


@pytest.mark.parametrize(("is_tainted", "seen"), list(itertools.product([False, True], Seen)))
@pytest.mark.promise("outcomes.taint")
async def test_every_cell_of_the_outcome_table(is_tainted: bool, seen: Seen) -> None:
    """Whether an earlier attempt may have been executed, times what the last one showed, gives the outcome."""
    doubt: list[Step] = [httpx.ReadTimeout("lost")] if is_tainted else []
    for step in SHOWS[seen]:
        assert OUTCOMES[is_tainted, seen] == await outcome(*doubt, step)


def test_the_outcome_table_is_complete_and_taint_never_helps() -> None:
    """Doubt turns a no into unknown and never the other way; only Stripe's own verdict lifts it."""
    assert set(itertools.product([False, True], Seen)) == set(OUTCOMES)
    for seen in Seen:
        assert OUTCOMES[True, seen] in {OUTCOMES[False, seen], "unknown"}


@given(
    st.integers(100, 599),
    st.none() | st.fixed_dictionaries({"type": st.text(), "code": st.none() | st.text()}),
    st.sampled_from([[], [(b"Request-Id", b"req_1")]]),
)
def test_only_a_4xx_is_ever_a_no(status: int, error: dict[str, Any] | None, headers: list[tuple[bytes, bytes]]) -> None:
    """No 1xx, 3xx or 5xx is taken for a refusal, and no 2xx for anything but a success."""
    seen = classify(Reply(status, Headers(headers), Body({"error": error}, None, ""), None, 1))
    assert (seen is Seen.SUCCEEDED) is (200 <= status < 300)
    if seen in {Seen.REFUSED, Seen.TURNED_AWAY}:
        assert 400 <= status < 500


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.PoolTimeout("busy"),
        httpx.ReadTimeout("lost"),
        httpx.ReadError("reset"),
        httpx.WriteError("broken pipe"),
        httpx.RemoteProtocolError("disconnected"),
        stripe_error(409),
        IN_USE,
        stripe_error(429),
        stripe_error(500),
        httpx.Response(502, html="<h1>Bad Gateway</h1>"),
        httpx.Response(503),
        stripe_error(504),
        stripe_error(400, headers={"Stripe-Should-Retry": "true"}),
    ],
)
async def test_what_may_pass_is_tried_again_with_the_same_bytes(failure: Step) -> None:
    """Connection failures, 409, 429, 5xx and what Stripe marks are retried under one idempotency key."""
    script = Script(failure, OK)
    reply = await run(script)
    assert 2 == reply.attempts
    first, second = script.requests
    assert (first.method, first.url, first.headers, first.content) == (
        second.method,
        second.url,
        second.headers,
        second.content,
    )
    assert "k" == second.headers["Idempotency-Key"]


@pytest.mark.parametrize(
    "answer",
    [
        stripe_error(400),
        stripe_error(401),
        stripe_error(402),
        stripe_error(403),
        stripe_error(404),
        stripe_error(424),
        httpx.Response(302, headers={"Location": "https://elsewhere.test/"}),
        stripe_error(500, headers={"Stripe-Should-Retry": "false"}),
        stripe_error(429, headers={"Stripe-Should-Retry": "false"}),
        stripe_error(500, headers={"Idempotent-Replayed": "true"}),
    ],
)
async def test_what_will_not_change_is_not_tried_again(answer: httpx.Response) -> None:
    """A verdict, a redirect, and what Stripe marks or has stored, ends the call."""
    script = Script(answer, OK)
    with pytest.raises(ToolError):
        await run(script)
    assert 1 == len(script.requests)


async def test_waits_grow_with_full_jitter_up_to_four_attempts() -> None:
    """The ceilings double from half a second, and the wait is anything below them."""
    clock = FakeClock()
    with pytest.raises(OutcomeUnknownError) as caught:
        await run(Script(stripe_error(500)), clock=clock)
    assert [0.5, 1.0, 2.0] == clock.slept
    assert 4 == caught.value.attempts
    clock = FakeClock()
    with pytest.raises(OutcomeUnknownError):
        await run(Script(stripe_error(500)), clock=clock, jitter=lambda: 0.25)
    assert [0.125, 0.25, 0.5] == clock.slept


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7.0),
        ("0.75", 0.75),
        ("0", 0.5),
        ("-3", 0.5),
        ("soon", 0.5),
        ("1_0", 0.5),
        ("Mon, 01 Jan 2030 00:00:00 +99999999999999999", 0.5),
        ("Jan 999999999999 0001 12.30.45 EST", 0.5),
        ("nan", 0.5),
    ],
)
async def test_retry_after_in_seconds_is_obeyed(value: str, wait_s: float) -> None:
    """Retry-After is the least wait; nonsense in it is ignored."""
    clock = FakeClock()
    await run(Script(stripe_error(429, headers={"Retry-After": value}), OK), clock=clock)
    assert [wait_s] == clock.slept


async def test_retry_after_as_a_date_is_obeyed() -> None:
    """Retry-After may be an HTTP date."""
    clock = FakeClock()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    await run(Script(stripe_error(429, headers={"Retry-After": date}), OK), clock=clock)
    assert 18 < clock.slept[0] <= 20


async def test_a_process_that_was_stopped_does_not_send_again() -> None:
    """It wakes up hours later: its lease is over, and Stripe may have forgotten the key."""

    class Stopped(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds + 90_000)

    script = Script(stripe_error(500), OK)
    with pytest.raises(OutcomeUnknownError) as caught:
        await run(script, clock=Stopped())
    assert 1 == caught.value.attempts == len(script.requests)


async def test_a_wait_past_the_deadline_is_not_begun() -> None:
    """Asked to wait longer than the call may take, the call ends at once and says how long."""
    clock = FakeClock()
    with pytest.raises(RateLimitError) as caught:
        await run(Script(stripe_error(429, headers={"Retry-After": "90"})), clock=clock)
    assert [] == clock.slept
    assert 90 == caught.value.retry_after_s
    assert caught.value.retryable


async def test_a_refused_connection_is_not_sent() -> None:
    """Nothing listened, so nothing moved, and the same call may be made again."""
    with pytest.raises(NotSentError, match=r"stripe\.test cannot be reached .* after 4 attempts") as caught:
        await run(Script(httpx.ConnectError("refused")))
    assert caught.value.retryable


async def test_an_idempotency_key_in_use_is_unknown() -> None:
    """Someone runs a request with our key: it may be ours, and it may yet succeed."""
    with pytest.raises(OutcomeUnknownError) as caught:
        await run(Script(IN_USE))
    assert 409 == caught.value.status


async def test_a_replayed_500_is_unknown_and_says_where_to_look() -> None:
    """Stripe repeats a stored 500 for a day; a new key could pay twice, so the ledger must tell."""
    with pytest.raises(OutcomeUnknownError, match="balance transactions") as caught:
        await run(Script(stripe_error(500, headers={"Idempotent-Replayed": "true"})))
    assert not caught.value.retryable


async def test_reading_is_never_unknown() -> None:
    """A GET moves nothing, so its failures say so."""
    assert "not_sent" == await outcome(httpx.ReadTimeout("lost"), request=READ)
    assert "rejected" == await outcome(stripe_error(500), request=READ)


async def test_nothing_follows_a_redirect() -> None:
    """The request with its key goes to no other host."""
    script = Script(httpx.Response(307, headers={"Location": "https://elsewhere.test/"}), OK)
    with pytest.raises(OutcomeUnknownError, match="HTTP 307"):
        await run(script)
    assert ["stripe.test"] == [request.url.host for request in script.requests]


async def test_a_large_response_is_cut_off() -> None:
    """No server fills our memory; the 200 counts all the same."""
    reply = await run(Script(httpx.Response(200, content=b"x" * 3_000_000)))
    assert reply.data is None
    assert "larger than 1 MB" in (reply.lost_body or "")
    assert 1 == reply.attempts


class OddError(BaseException):
    """
    What no transport should raise, and cannot be printed.
    """

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.promise("outcomes.no-fifth")
async def test_nothing_a_transport_raises_escapes_bare() -> None:
    """Not even a BaseException whose own words fail."""

    def handler(_: httpx.Request) -> httpx.Response:
        raise OddError

    executor = StripeClient(timeout_s=5, max_attempts=1, transport=httpx.MockTransport(handler))
    with pytest.raises(OutcomeUnknownError, match="OddError"):
        await executor.execute(REQUEST, tool="t", idempotency_key="k")
    await executor.aclose()


async def test_an_impossible_address_is_not_sent() -> None:
    """What cannot be an HTTP request never leaves."""
    request = Request(method="POST", url="https://xn--a/v1", body=b"", headers={})
    executor = StripeClient(timeout_s=5, max_attempts=1, transport=httpx.MockTransport(Script(OK)))
    with pytest.raises(NotSentError):
        await executor.execute(request, tool="t", idempotency_key="k")
    await executor.aclose()


async def test_encoded_bodies_are_not_unpacked() -> None:
    """We ask for no encoding, and a small body could unpack to gigabytes: it is taken as it is, a success."""
    packed = gzip.compress(b"0" * 10_000_000)
    with raw_server(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    ) as url:
        executor = StripeClient(timeout_s=5, max_attempts=1)
        reply = await executor.execute(REQUEST._replace(url=url), tool="t", idempotency_key="k")
        await executor.aclose()
    assert (200, None, {}) == (reply.status, reply.data, reply.told)


def read_request(connection: socket.socket) -> bytes:
    """
    One whole request, or nothing where the client is gone.
    """
    received = b""
    while not received.endswith(b"\r\n\r\n" + REQUEST.body):
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        received += chunk
    return received


@contextlib.contextmanager
def raw_server(answer: bytes, stray: bytes = b"") -> Iterator[str]:
    """
    A server in a thread that answers every request alike, and sends stray bytes after the first answer.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve() -> None:
        strays = [stray] if stray else []
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connections.append(listener.accept()[0])
                with contextlib.suppress(ConnectionError):
                    while read_request(connections[-1]):
                        connections[-1].sendall(answer)
                        if strays:
                            time.sleep(0.05)
                            connections[-1].sendall(strays.pop())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.promise("answers.own")
async def test_stray_bytes_are_not_the_next_answer(is_busy: bool) -> None:
    """A late reply on an idle connection is dropped with the connection, also where the loop had no time to read it."""
    body = b'{"error":{"type":"invalid_request_error"}}'
    stray = b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with raw_server(ok, stray) as url:
        executor = StripeClient(timeout_s=5, max_attempts=1)
        request = REQUEST._replace(url=url)
        await executor.execute(request, tool="t", idempotency_key="a")
        if is_busy:
            time.sleep(0.3)  # noqa: ASYNC251  the loop is busy
        else:
            await asyncio.sleep(0.3)
        assert 200 == (await executor.execute(request, tool="t", idempotency_key="b")).status
        await executor.aclose()


async def test_errors_lead_to_no_object_with_the_key() -> None:
    """Neither an error nor anything it was caused by holds the request's headers."""
    with raw_server(b"garbage\r\n\r\n") as url:
        executor = StripeClient(timeout_s=5, max_attempts=1)
        request = REQUEST._replace(url=url, api_key=SecretStr("sk_test_planted0key"))
        with pytest.raises(OutcomeUnknownError) as caught:
            await executor.execute(request, tool="t", idempotency_key="k")
        await executor.aclose()
    error: BaseException | None = caught.value
    while error is not None:
        assert "planted" not in repr(error) + repr(vars(error)) + repr(error.args)
        error = error.__cause__ or error.__context__


async def test_a_key_of_any_shape_is_masked_in_what_is_told() -> None:
    """The key itself is known, so it is masked also where it looks like no key."""
    secret = "sk_test_abc-def.SECRET"
    request = REQUEST._replace(api_key=SecretStr(secret))
    for step in (
        httpx.ReadError(f"lost {secret}"),
        httpx.ConnectError(secret),
        stripe_error(400, secret, param=secret, code=secret),
    ):
        with pytest.raises(ToolError) as caught:
            await run(Script(step), request)
        assert "SECRET" not in str(caught.value) + repr(caught.value.to_dict()) + repr(vars(caught.value))


async def test_cookies_are_not_even_parsed(recwarn: pytest.WarningsRecorder) -> None:
    """An odd cookie on a 200 changes nothing."""
    odd = httpx.Response(200, json={}, headers={"Set-Cookie": "c=d; expires=Thu, 99 Foo 9999 99:99:99 GMT"})
    assert 200 == (await run(Script(odd))).status
    assert not recwarn.list


class Torn(httpx.AsyncByteStream):
    """
    A body that breaks off.
    """

    async def __aiter__(self) -> Any:
        yield b'{"id":'
        raise httpx.ReadError("reset")


async def test_a_200_without_its_body_stays_a_success_when_retries_fail() -> None:
    """The money moved when the 200 arrived, whatever comes after."""
    answers = [httpx.Response(200, stream=Torn()), stripe_error(401)]
    seen = []

    async def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answers[len(seen) - 1]

    executor = StripeClient(timeout_s=60, max_attempts=4, transport=httpx.MockTransport(handler), clock=FakeClock())
    reply = await executor.execute(REQUEST, tool="t", idempotency_key="k")
    await executor.aclose()
    assert 200 == reply.status
    assert "connection was lost" in (reply.lost_body or "")
    assert 2 == len(seen)


# Over real sockets, against the sandbox.


async def entries_after(agent: OCPAgent, stripe: Sandbox, customer: str, **more: Any) -> tuple[str, int]:
    try:
        result = await agent.call_tool(TOOL, order(customer), **more)
    except ToolError as error:
        return error.outcome, len(await ledger(stripe, customer))
    return result.outcome, len(await ledger(stripe, customer))


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        "reset",
        "rate_limit",
        "lock_timeout",
        "key_in_use",
        "server_error",
        "bad_gateway",
        "cut_body",
        "broken_json",
        "duplicate",
    ],
)
@pytest.mark.promise("once.key-before-bytes")
async def test_one_fault_still_makes_one_entry(
    stripe: Sandbox,
    agent: OCPAgent,
    customer: str,
    kind: str,
    executed: bool,
) -> None:
    """Whatever happens once, before or after the entry was made, the retry ends in exactly one entry."""
    stripe.faults.add(kind, executed=executed)
    assert ("succeeded", 1) == await entries_after(agent, stripe, customer)


async def test_refused_connections_are_not_sent_or_waited_out(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the port is closed nothing is sent; a call with attempts left outlasts it."""

    async def until_it_is_open(_: float) -> None:
        await stripe._listen()

    monkeypatch.setattr(SystemClock, "sleep", staticmethod(until_it_is_open))
    async with await connect(stripe, max_attempts=1) as hasty, await connect(stripe, max_attempts=2) as patient:
        stripe.faults.add("refuse", seconds=300)
        assert stripe._refusing
        await stripe._refusing
        assert "not_sent" == await told(hasty, customer)
        assert "succeeded" == await told(patient, customer)
    assert 1 == len(await ledger(stripe, customer))


async def told(agent: OCPAgent, customer: str) -> str:
    try:
        return (await agent.call_tool(TOOL, order(customer))).outcome
    except ToolError as error:
        return error.outcome


@pytest.mark.parametrize(
    ("kind", "outcome"), [("rate_limit", "rejected"), ("lock_timeout", "rejected"), ("key_in_use", "unknown")]
)
@pytest.mark.parametrize(
    "headers", [{}, {"Stripe-Should-Retry": "true"}, {"Stripe-Should-Retry": "false"}, {"Retry-After": "0"}]
)
async def test_persistent_refusals_are_told_with_and_without_headers(
    stripe: Sandbox, customer: str, kind: str, outcome: str, headers: dict[str, str]
) -> None:
    """429 moved nothing; a key in use may be ours. The headers decide how often it is tried, not what is told."""
    stripe.faults.add(kind, times=None, path="balance", headers=headers)
    async with await connect(stripe, max_attempts=2) as agent:
        with pytest.raises(ToolError) as caught:
            await agent.call_tool(TOOL, order(customer))
    assert outcome == caught.value.outcome
    assert (1 if headers.get("Stripe-Should-Retry") == "false" else 2) == caught.value.attempts


def test_every_fault_has_a_test_of_what_is_told() -> None:
    """The kinds named in this file are the kinds there are."""
    text = Path(__file__).read_text("utf-8")
    assert not [kind for kind in FaultKind if f'"{kind}"' not in text]


@pytest.mark.parametrize(("executed", "entries"), [(False, 0), (True, 1)])
@pytest.mark.promise("outcomes.taint")
async def test_a_stored_500_is_unknown_either_way(
    stripe: Sandbox,
    agent: OCPAgent,
    customer: str,
    executed: bool,
    entries: int,
) -> None:
    """The answer is the same whether money moved or not, so we do not claim to know."""
    stripe.faults.add("server_error_stored", executed=executed)
    assert ("unknown", entries) == await entries_after(agent, stripe, customer)


@pytest.mark.parametrize(("executed", "entries"), [(False, 0), (True, 1)])
async def test_lost_replies_to_the_last_are_unknown(
    stripe: Sandbox,
    agent: OCPAgent,
    customer: str,
    executed: bool,
    entries: int,
) -> None:
    """Resets on every attempt leave the outcome open, and the same key finds out later."""
    stripe.faults.add("reset", executed=executed, times=4)
    with pytest.raises(OutcomeUnknownError) as caught:
        await agent.call_tool(TOOL, order(customer))
    assert entries == len(await ledger(stripe, customer))
    result = await agent.call_tool(TOOL, order(customer), idempotency_key=caught.value.idempotency_key)
    assert result.replayed is executed
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("kind", ["stall", "drip"])
async def test_the_deadline_holds_against_slow_servers(
    stripe: Sandbox,
    customer: str,
    kind: str,
    executed: bool,
) -> None:
    """A server that stalls or drips cannot hold a call past its deadline; a 200 that began to arrive counts."""
    stripe.faults.add(kind, times=None, path="balance_transactions", executed=executed, seconds=30)
    async with await connect(stripe, timeout=0.5, max_attempts=1) as agent:
        async with asyncio.timeout(20):
            if kind == "drip":
                result = await agent.call_tool(TOOL, order(customer))
                assert any("connection was lost" in warning for warning in result.warnings)
            else:
                with pytest.raises(OutcomeUnknownError, match="deadline"):
                    await agent.call_tool(TOOL, order(customer))


async def test_a_refused_port_is_not_sent(stripe: Sandbox) -> None:
    """Over real sockets too: no listener, nothing sent."""
    async with await connect(stripe, api_base="http://127.0.0.1:1", max_attempts=2) as agent:
        with pytest.raises(NotSentError, match="ConnectError"):
            await agent.call_tool(TOOL, order())


async def test_an_unknown_host_is_not_sent(stripe: Sandbox) -> None:
    """No address, nothing sent."""
    async with await connect(stripe, api_base="https://stripe.invalid", max_attempts=1) as agent:
        with pytest.raises(NotSentError, match="cannot be reached"):
            await agent.call_tool(TOOL, order())


async def test_a_server_without_tls_is_not_sent(stripe: Sandbox) -> None:
    """A failed TLS handshake proves that no request left."""
    async with await connect(stripe, api_base=stripe.url.replace("http", "https"), max_attempts=1) as agent:
        with pytest.raises(NotSentError, match="cannot be reached"):
            await agent.call_tool(TOOL, order())
    assert not [request for request in stripe.requests if request.method == "POST" and "balance" in request.target]


async def until_it_runs(stripe: Sandbox) -> None:
    async with asyncio.timeout(20):
        while not any("balance_transactions" in request.target for request in stripe.requests):
            await asyncio.sleep(0.001)


async def test_cancelling_a_call_under_way_is_unknown(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """The cancelled caller learns that money may have moved, and under which key."""
    stripe.faults.add("stall", seconds=30)
    task = asyncio.create_task(agent.call_tool(TOOL, order(customer), idempotency_key="call_7"))
    await until_it_runs(stripe)
    task.cancel()
    with pytest.raises(OutcomeUnknownError, match="cancelled") as caught:
        await task
    assert "call_7" == caught.value.idempotency_key


async def test_a_timeout_around_a_call_is_unknown(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """A host's own asyncio.timeout cannot turn a call under way into a plain TimeoutError."""
    stripe.faults.add("stall", path="balance_transactions", seconds=30)
    with pytest.raises(OutcomeUnknownError):
        async with asyncio.timeout(0.3):
            await agent.call_tool(TOOL, order(customer))


async def test_cancelling_while_waiting_to_retry_depends_on_what_was_sent() -> None:
    """Between attempts, a call nothing was sent of is simply cancelled; one that may have moved money is unknown."""
    for step, expected in (
        (httpx.ConnectError("refused"), asyncio.CancelledError),
        (httpx.ReadError("reset"), OutcomeUnknownError),
    ):
        script = Script(step)
        executor = StripeClient(timeout_s=60, max_attempts=4, transport=httpx.MockTransport(script), jitter=lambda: 1.0)
        task = asyncio.create_task(executor.execute(REQUEST, tool="t", idempotency_key="k"))
        async with asyncio.timeout(20):
            while not script.requests:
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(expected):
            await task
        await executor.aclose()


async def test_many_calls_share_one_client(agent: OCPAgent, customer: str) -> None:
    """A hundred calls at once, one entry each, no key twice."""
    results = await asyncio.gather(*(agent.call_tool(TOOL, order(customer, amount=-1)) for _ in range(100)))
    assert 100 == len({result.idempotency_key for result in results})
    assert sorted(-balance for balance in range(1, 101)) == sorted(result.data["ending_balance"] for result in results)


def test_one_agent_serves_several_loops(stripe_thread: Sandbox) -> None:
    """An agent made outside a loop works in one loop after another."""
    agent = asyncio.run(connect(stripe_thread))

    async def call() -> int:
        try:
            return (await agent.call_tool(TOOL, order("cus_none"))).status_code
        except RejectedError as error:
            return error.status
        finally:
            await agent.aclose()

    assert [404, 404] == [asyncio.run(call()), asyncio.run(call())]


async def test_errors_carry_stripes_facts(agent: OCPAgent) -> None:
    """Code, parameter, request ID and documentation reach the caller as fields and as JSON."""
    with pytest.raises(RejectedError) as caught:
        await agent.call_tool(TOOL, order("cus_none"), idempotency_key="k")
    error = caught.value
    assert (404, "resource_missing", "customer", "invalid_request_error") == (
        error.status,
        error.code,
        error.param,
        error.type,
    )
    assert (error.request_id or "").startswith("req_")
    told = json.loads(json.dumps(error.to_dict()))
    assert {"error": "resource_missing", "outcome": "rejected", "idempotency_key": "k"}.items() <= told.items()
    assert "https://stripe.com/docs/error-codes/resource-missing" == told["doc_url"]
