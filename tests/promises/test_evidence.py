"""
An answer is evidence: what proves that the entry was made, and what only looks like an answer.
"""

from __future__ import annotations

import gzip
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TOOL, entry_of, order, scripted, transaction

from ocp_stripe_balance import NotSentError, OutcomeUnknownError, ToolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ocp_stripe_balance import OCPAgent

    Answer = Callable[[dict[str, Any]], httpx.Response]

ENTRY = f"{TOOL}Transaction"
READ = "getCustomersCustomerBalanceTransactionsTransaction"
REVERSE = "reverseCustomerBalanceTransaction"
WRITES = ("create", "update", "reverse")
ALL = (*WRITES, "read", "reconcile")
STRIPES = {"Request-Id": "req_1", "Content-Type": "application/json"}


def whole(status: int = 200, *, without: str = "", **fields: Any) -> Answer:
    """
    The right entry, but for *fields*.
    """
    return lambda right: httpx.Response(
        status, json={name: value for name, value in {**right, **fields}.items() if name != without}
    )


def body(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return lambda _: httpx.Response(status, content=content, headers=headers)


def of(make: Callable[[dict[str, Any]], bytes], headers: dict[str, str] | None = None) -> Answer:
    return lambda right: httpx.Response(200, content=make(right), headers=headers)


class Lost(httpx.AsyncByteStream):
    """
    A body whose connection breaks.
    """

    def __init__(self, begun: bytes) -> None:
        self.begun = begun

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.begun
        raise httpx.ReadError("lost")


def lost(share: float, headers: dict[str, str] | None = None, begun: bytes | None = None) -> Answer:
    """
    The first part of the right entry, and no more.
    """

    def answer(right: dict[str, Any]) -> httpx.Response:
        sent = json.dumps(right).encode()
        stream = Lost(sent[: int(len(sent) * share)] if begun is None else begun)
        return httpx.Response(200, stream=stream, headers=headers)

    return answer


PAGE = b"<html>Service is under maintenance, try again later</html>"
ERROR = b'{"error": {"type": "api_error", "message": "An unknown error occurred"}}'

# What an answer proves, by the calls for which it is the one that was asked for.
ANSWERS: dict[str, tuple[Answer, tuple[str, ...]]] = {
    "the entry": (whole(), ALL),
    "201": (whole(201), ALL),
    "a new field": (whole(colour={"a": [1]}), ALL),
    "a new type": (whole(type="of_next_year"), ALL),
    "a type of another kind": (whole(description=7, ending_balance="many"), ALL),
    "an expanded customer": (whole(customer={"id": "cus_1", "object": "customer", "more": 1}), ALL),
    "a field left out": (whole(without="ending_balance"), ALL),
    "the opposite amount, with a point": (whole(amount=500.0), ("update", "read", "reverse")),
    "UTF-16": (of(lambda right: json.dumps(right).encode("utf-16")), ALL),
    "no metadata": (whole(metadata=None), (*WRITES, "read")),
    "no amount, but the mark": (whole(without="amount"), (*WRITES, "read")),
    "cut in the middle": (lost(0.5), WRITES),
    "cut after its type": (of(lambda right: json.dumps(right).encode().partition(b'", "amount')[0]), WRITES),
    "cut within its type": (of(lambda right: json.dumps(right).encode().partition(b"action")[0]), WRITES),
    "cut before the last brace": (of(lambda right: json.dumps(right).encode()[:-1]), WRITES),
    "lost at once, with Stripe's headers": (lost(0, STRIPES), WRITES),
    "cut at once, with Stripe's headers": (body(b"{", headers=STRIPES), WRITES),
    "lost at once": (lost(0), ()),
    "a page that is cut, with Stripe's headers": (lost(0, STRIPES, PAGE), ()),
    "another entry that is cut": (lost(0, None, b'{"id": "x", "object": "customer", "ba'), ()),
    "another customer's that is cut": (
        of(lambda right: json.dumps({**right, "customer": "cus_2"}).encode()[:-1], STRIPES),
        (),
    ),
    "a page": (body(PAGE, headers={"Content-Type": "text/html"}), ()),
    "a page with Stripe's headers": (body(PAGE, headers=STRIPES), ()),
    "an error under 200": (body(ERROR, headers=STRIPES), ()),
    "202 and an empty object": (body(b"{}", 202, STRIPES), ()),
    "204": (body(b"", 204, STRIPES), ()),
    "nothing": (body(b""), ()),
    "null": (body(b"null", headers=STRIPES), ()),
    "a list": (body(b"[]", headers=STRIPES), ()),
    "a text": (body(b'"OK"'), ()),
    "nonsense": (body(b"\xff\xfe"), ()),
    "too deep": (body(b"[" * 100_000), ()),
    "compressed": (of(lambda right: gzip.compress(json.dumps(right).encode())), ()),
    "a customer": (whole(object="customer"), ()),
    "no type": (whole(without="object"), ()),
    "no id": (whole(without="id"), ()),
    "an empty id": (whole(id=""), ()),
    "a list of it": (lambda right: httpx.Response(200, json={"object": "list", "data": [right]}), ()),
    "an event about it": (lambda right: httpx.Response(200, json={"object": "event", "data": {"object": right}}), ()),
    "another customer's": (whole(customer="cus_2"), ()),
    "nobody's": (whole(customer=None, metadata={}), ()),
    "another expanded customer's": (whole(customer={"id": "cus_2"}), ()),
    "another amount": (whole(amount=-499), ("update", "read")),
    "the amount as text": (whole(amount="-500"), ("update", "read")),
    "another currency": (whole(currency="eur"), ("update", "read")),
    "another call's mark": (whole(metadata={"ocp_call": "another"}), ("update", "read")),
    "another entry": (whole(id="cbtxn_2"), ("create", "reverse", "reconcile")),
    "deleted": (lambda right: httpx.Response(200, json={"id": right["id"], "object": right["object"]}), ()),
}


def handled(answer: Answer, answered_first: Callable[[httpx.Request], bool], request: httpx.Request) -> httpx.Response:
    """
    *answer* to the request that matters, the right one to every other.
    """
    right = entry_of(request.url.raw_path.partition(b"?")[0], request.content)
    if answered_first(request):
        return answer(right)
    if request.url.path.endswith("/balance_transactions") and request.method == "GET":
        return httpx.Response(200, json={"object": "list", "data": [], "has_more": False, "url": "/"})
    return httpx.Response(200, json=right)


def is_entry(request: httpx.Request) -> bool:
    return request.url.path.endswith("/cbtxn_1")


MATTERS: dict[str, Callable[[httpx.Request], bool]] = {
    "create": lambda request: request.method == "POST",
    "update": is_entry,
    "read": is_entry,
    "reverse": lambda request: request.method == "POST" and not is_entry(request),
}
AT = {"customer": "cus_1", "transaction": "cbtxn_1"}
CALLS = {
    "create": (TOOL, order()),
    "update": (ENTRY, {**AT, "description": "d"}),
    "read": (READ, AT),
    "reverse": (REVERSE, AT),
}


async def outcome_of(agent: OCPAgent, call: str) -> str:
    tool, parameters = CALLS[call]
    try:
        return (await agent.call_tool(tool, parameters)).outcome
    except ToolError as error:
        return error.outcome


@pytest.mark.promise("answers.evidence")
@pytest.mark.promise("answers.surprising-success")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_proves_what_it_says(name: str, call: str) -> None:
    """What is this very entry is a success; of anything else nobody knows what became of a write."""
    answer, proved = ANSWERS[name]
    async with await scripted(partial(handled, answer, MATTERS[call]), max_attempts=1) as agent:
        told = await outcome_of(agent, call)
    doubted = "not_sent" if call == "read" else "unknown"
    assert ("succeeded" if call in proved else doubted) == told


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_ledger_settles_a_call_only_by_its_entry(name: str) -> None:
    """A page with anything else on it, or that is none, leaves the call open."""
    answer, proved = ANSWERS[name]
    keys = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            keys.append(request.headers["Idempotency-Key"])
            return httpx.Response(500)
        item = answer(transaction(metadata={"ocp_call": keys[0]}))
        try:
            page = {"object": "list", "data": [json.loads(item.content)], "has_more": False, "url": "/"}
        except (ValueError, RecursionError, httpx.StreamError):
            return item
        return httpx.Response(200, json=page)

    async with await scripted(handler, max_attempts=1) as agent:
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order())
        (found,) = await agent.reconcile()
    assert ("succeeded" if "reconcile" in proved else "unknown") == found.outcome


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize("way", ["again", "resume", "reconcile"])
async def test_what_proved_nothing_is_settled_later(way: str) -> None:
    """A gateway's page under 200 burns no reference: the call is sent again under its key, or found in the ledger."""
    is_up = [False]
    made: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"object": "list", "data": made, "has_more": False, "url": "/"})
        if not is_up[0]:
            return httpx.Response(200, content=PAGE)
        made.append(entry_of(request.url.raw_path, request.content))
        return httpx.Response(200, json=made[-1])

    async with await scripted(handler, max_attempts=2) as agent:
        call = order(reference="ticket-1")
        with pytest.raises(OutcomeUnknownError, match="does not prove") as caught:
            await agent.call_tool(TOOL, call)
        assert (2, 200, True) == (caught.value.attempts, caught.value.status, caught.value.retryable)
        is_up[0] = True
        if way == "reconcile":
            made.append(transaction(metadata={"ocp_call": caught.value.idempotency_key}))
            assert ["succeeded"] == [found.outcome for found in await agent.reconcile()]
        elif way == "resume":
            api: Any = await agent.register_api("stripe")
            assert (await api.resume(caught.value.idempotency_key)).ok
        result = await agent.call_tool(TOOL, call)
    assert (1, way != "again") == (len(made), result.replayed)


@pytest.mark.promise("answers.evidence")
async def test_an_answer_that_proves_nothing_is_asked_for_again() -> None:
    """Stripe's own answer may come through on the next attempt, under the same key."""
    sent: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Idempotency-Key"])
        if len(sent) == 1:
            return httpx.Response(200, content=PAGE)
        return httpx.Response(200, json=entry_of(request.url.raw_path, request.content))

    async with await scripted(handler) as agent:
        result = await agent.call_tool(TOOL, order(), idempotency_key="k")
    assert (["k", "k"], 2) == (sent, result.attempts)


@pytest.mark.promise("answers.evidence")
async def test_a_customer_that_is_another_is_not_shown_and_not_kept() -> None:
    """Neither an approver nor a rule sees the name, the balance or the currency of somebody else."""
    right = {"id": "cus_1", "object": "customer", "name": "Ada", "currency": "usd", "balance": 0}
    answers = [{**right, "id": "cus_2", "name": "Eve"}, {**right, "object": "account"}, {}, right]
    shown = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=answers.pop(0))
        return httpx.Response(200, json=entry_of(request.url.raw_path, request.content))

    async def approve(proposal: Any) -> Any:
        shown.append(proposal.customer_name)
        return proposal.approve(by="ana")

    policy = {"approval": {"always": True}}
    seams = {"approver": approve}
    async with await scripted(handler, customer_check="on", policy=policy, seams=seams, max_attempts=1) as agent:
        for _ in range(3):
            with pytest.raises(NotSentError, match="could not be read") as caught:
                await agent.call_tool(TOOL, order())
            assert caught.value.retryable
        assert (await agent.call_tool(TOOL, order())).ok
    assert ["Ada"] == shown


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize("wrong", [{"id": "cbtxn_2"}, {"customer": "cus_2"}, {"object": "charge"}, {"currency": None}])
async def test_only_the_entry_that_was_named_is_reversed(wrong: dict[str, Any]) -> None:
    """Another customer's amount is not debited from this one."""
    posted = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posted.append(request)
        return httpx.Response(200, json={**transaction(id="cbtxn_1"), **wrong})

    async with await scripted(handler, max_attempts=1) as agent:
        with pytest.raises(NotSentError) as caught:
            await agent.call_tool(REVERSE, AT)
    assert ([], True) == (posted, caught.value.retryable)
