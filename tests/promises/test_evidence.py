"""
An answer is evidence: what proves that the entry was made, and what only looks like an answer.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import STRIPES, TEST_KEY, TOOL, answered, entry_of, ledger_page, order, scripted, transaction

from ocp_stripe_balance import NotSentError, OutcomeUnknownError, PolicyRefusedError, RejectedError, Settings, ToolError
from ocp_stripe_balance.backoffice import BackOffice, facts_of_call, facts_of_finding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ocp_stripe_balance import OCPAgent

    Answer = Callable[[dict[str, Any]], httpx.Response]

ENTRY = f"{TOOL}Transaction"
READ = "getCustomersCustomerBalanceTransactionsTransaction"
REVERSE = "reverseCustomerBalanceTransaction"
WRITES = ("create", "update", "reverse")
ALL = (*WRITES, "read", "reconcile")


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


def headed(headers: dict[str, str], **fields: Any) -> Answer:
    return lambda right: httpx.Response(200, json={**right, **fields}, headers=headers)


def begun(before: bytes, headers: dict[str, str] | None = None, *, is_lost: bool = False) -> Answer:
    """
    The right entry up to *before*, where the answer ends, or its connection breaks.
    """

    def answer(right: dict[str, Any]) -> httpx.Response:
        sent = json.dumps(right).encode().partition(before)[0]
        return httpx.Response(200, headers=headers, **({"stream": Lost(sent)} if is_lost else {"content": sent}))

    return answer


def whole_text(before: str, after: str) -> Answer:
    """
    The right entry with one text in place of another.
    """
    return of(lambda right: json.dumps({**right, "ending_balance": -500}).replace(before, after).encode())


PAGE = b"<html>Service is under maintenance, try again later</html>"
ERROR = b'{"error": {"type": "api_error", "message": "An unknown error occurred"}}'

# What an answer proves, by the calls for which it is the one that was asked for.
ANSWERS: dict[str, tuple[Answer, tuple[str, ...]]] = {
    "the entry": (whole(), ALL),
    "201": (whole(201), ALL),
    "299": (whole(299), ALL),
    "a new field": (whole(colour={"a": [1]}), ALL),
    "a field error that is null": (whole(error=None), ALL),
    "a new type": (whole(type="of_next_year"), ALL),
    "types of another kind": (whole(type=7, ending_balance="many"), ALL),
    "another description": (whole(description="as it was before"), ("create", "reverse", "read", "reconcile")),
    "no description": (whole(without="description"), ("create", "reverse", "read", "reconcile")),
    "no mode": (whole(without="livemode"), ALL),
    "the other mode": (whole(livemode=True), ()),
    "a number that is none": (whole_text('"created": 1680216086', '"created": NaN'), WRITES),
    "a number that is too large": (whole_text('"ending_balance": -500', '"ending_balance": -1e999'), WRITES),
    "a time that no calendar has": (whole(created=10**30), ALL),
    "an expanded customer": (whole(customer={"id": "cus_1", "object": "customer", "more": 1}), ALL),
    "a field left out": (whole(without="ending_balance"), ALL),
    "the amount with a point": (
        lambda right: httpx.Response(200, json={**right, "amount": float(right["amount"])}),
        ALL,
    ),
    "the currency in upper case": (whole(currency="USD"), (*WRITES, "read")),
    "as a page": (headed({"Content-Type": "text/html"}), ALL),
    "UTF-16": (of(lambda right: json.dumps(right).encode("utf-16")), ALL),
    "UTF-32": (of(lambda right: json.dumps(right).encode("utf-32-le")), ALL),
    "a byte order mark": (of(lambda right: b"\xef\xbb\xbf" + json.dumps(right).encode()), ALL),
    "a byte that is no UTF-8": (of(lambda right: json.dumps({**right, "x": "?"}).encode().replace(b"?", b"\xff")), ALL),
    "no metadata": (whole(metadata=None), (*WRITES, "read")),
    "metadata that is none": (whole(metadata=["a"]), (*WRITES, "read")),
    "no amount, but the mark": (whole(without="amount"), (*WRITES, "read")),
    "no currency, but the mark": (whole(currency=None), (*WRITES, "read")),
    "junk behind it": (of(lambda right: json.dumps(right).encode() + b"\n<!-- served by 7 -->"), WRITES),
    "cut in the middle": (lost(0.5), WRITES),
    "cut after its type": (begun(b'"amount"'), WRITES),
    "cut before the last brace": (of(lambda right: json.dumps(right).encode()[:-1]), WRITES),
    "cut within its type, with Stripe's headers": (begun(b"action", STRIPES, is_lost=True), WRITES),
    "lost at once, with Stripe's headers": (lost(0, STRIPES), WRITES),
    "cut within its type": (begun(b"action"), ()),
    "cut after its type, without its ID": (body(b'{"object": "customer_balance_transaction", "amount": -500, "cu'), ()),
    "lost after its type, without its ID": (lost(0, None, b'{"object": "customer_balance_transaction", "am'), ()),
    "the same with Stripe's headers": (lost(0, STRIPES, b'{"object": "customer_balance_transaction", "am'), WRITES),
    "of the other mode, and cut": (
        of(lambda right: json.dumps({**right, "livemode": True}).encode()[:-1], STRIPES),
        (),
    ),
    "cut within its type, and not lost": (begun(b"action", STRIPES), ()),
    "cut at once, with Stripe's headers": (body(b"{", headers=STRIPES), ()),
    "lost at once, with another's ID": (lost(0, {**STRIPES, "Request-Id": "7"}), ()),
    "lost at once, as a page": (lost(0, {**STRIPES, "Content-Type": "text/html"}), ()),
    "lost at once": (lost(0), ()),
    "a page that is cut, with Stripe's headers": (lost(0, STRIPES, PAGE), ()),
    "a list that is cut, with Stripe's headers": (lost(0, STRIPES, b'[{"id": "x"'), ()),
    "another object that is cut": (lost(0, STRIPES, b'{"id": "x", "object": "customer", "ba'), ()),
    "an error that is cut": (lost(0, STRIPES, b'{"error": {"type": "api_error", "mess'), ()),
    "another customer's that is cut": (
        of(lambda right: json.dumps({**right, "customer": "cus_2"}).encode()[:-1], STRIPES),
        (),
    ),
    "a twin that is cut": (
        of(lambda right: json.dumps({**right, "x": 1}).encode()[:-1] + b', "x": 2, "y', STRIPES),
        (),
    ),
    "a page": (body(PAGE, headers={"Content-Type": "text/html"}), ()),
    "a page with Stripe's headers": (body(PAGE, headers=STRIPES), ()),
    "a page that says JSON": (body(PAGE, headers={"Content-Type": "application/json"}), ()),
    "an error under 200": (body(ERROR, headers=STRIPES), ()),
    "an error beside it": (whole(error={"type": "api_error"}), ()),
    "an error behind it": (of(lambda right: json.dumps(right).encode() + ERROR), ()),
    "two of it": (of(lambda right: json.dumps(right).encode() * 2), ()),
    "202 and an empty object": (body(b"{}", 202, STRIPES), ()),
    "204": (body(b"", 204, STRIPES), ()),
    "nothing": (body(b""), ()),
    "nothing, with Stripe's headers": (body(b"", headers=STRIPES), ()),
    "null": (body(b"null", headers=STRIPES), ()),
    "a list": (body(b"[]", headers=STRIPES), ()),
    "a list with it": (of(lambda right: json.dumps([right]).encode()), ()),
    "a text": (body(b'"OK"'), ()),
    "a number": (body(b"1"), ()),
    "nonsense": (body(b"\xff\xfe"), ()),
    "too deep": (body(b"[" * 100_000), ()),
    "backslashes": (body(b"\\" * 10_000), ()),
    "compressed": (of(lambda right: gzip.compress(json.dumps(right).encode())), ()),
    "twins": (of(lambda right: json.dumps({"x": 1, **right}).encode().replace(b'"x"', b'"id": "x", "id"')), ()),
    "twins deep down": (of(lambda right: json.dumps({**right, "x": 1}).encode()[:-2] + b'{"a": 1, "a": 1}}'), ()),
    "a customer": (whole(object="customer"), ()),
    "a type in upper case": (whole(object="Customer_Balance_Transaction"), ()),
    "no type": (whole(without="object"), ()),
    "no ID": (whole(without="id"), ()),
    "an empty ID": (whole(id=""), ()),
    "an ID with a line break": (whole(id="cbtxn_1\nsucceeded"), ()),
    "an ID with a path": (whole(id="cbtxn_1/.."), ()),
    "a number as ID": (whole(id=1), ()),
    "a list of it": (lambda right: httpx.Response(200, json={"object": "list", "data": [right]}), ()),
    "an event about it": (lambda right: httpx.Response(200, json={"object": "event", "data": {"object": right}}), ()),
    "another customer's": (whole(customer="cus_2"), ()),
    "of a customer that looks alike": (whole(customer="CUS_1"), ()),
    "nobody's": (whole(customer=None, metadata={}), ()),
    "another expanded customer's": (whole(customer={"id": "cus_2"}), ()),
    "another amount": (whole(amount=-499), ("update", "read")),
    "the amount as text": (whole(amount="-500"), ("update", "read")),
    "an amount that is true": (whole(amount=True), ("update", "read")),
    "another currency": (whole(currency="eur"), ("update", "read")),
    "a currency that looks alike": (whole(currency="\u212arw"), ("update", "read")),
    "another call's mark": (whole(metadata={"ocp_call": "another"}), ("update", "read")),
    "a mark that is none": (whole(metadata={"ocp_call": {"a": 1}}), ("update", "read")),
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
        return httpx.Response(200, json=ledger_page())
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
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_proves_what_it_says(name: str) -> None:
    """What is this very entry is a success; of anything else nobody knows what became of a write."""
    answer, proved = ANSWERS[name]
    told: dict[str, str] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        return handled(answer, MATTERS[list(CALLS)[len(told)]], request)

    async with await scripted(handler, max_attempts=1, journal="off") as agent:
        for call in CALLS:
            told[call] = await outcome_of(agent, call)
    doubted = dict.fromkeys(CALLS, "unknown") | {"read": "not_sent"}
    assert {call: "succeeded" if call in proved else doubted[call] for call in CALLS} == told


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
        if not hasattr(item, "_content"):
            return item
        page = b'{"object": "list", "has_more": false, "url": "/v1/customers/cus_1/balance_transactions", "data": [%b]}'
        text = item.content.decode(json.detect_encoding(item.content), "replace").encode()
        return httpx.Response(200, content=page % text)

    async with await scripted(handler, max_attempts=1, journal="off") as agent:
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order())
        (found,) = await agent.reconcile()
    assert ("succeeded" if "reconcile" in proved else "unknown") == found.outcome


# Pages of a ledger that prove nothing, for a reversal that looks whether it was made, and for a call that is open.
LISTS: dict[str, dict[str, Any]] = {
    "another customer's, and empty": {"url": "/v1/customers/cus_2/balance_transactions"},
    "of a customer that looks alike": {"url": "/v1/customers/CUS_1/balance_transactions"},
    "of customers": {"url": "/v1/customers"},
    "of a stub": {"url": "/"},
    "of nothing": {"url": ""},
    "of a mirror": {"url": "https://mirror.example/api/list"},
    "of another version": {"url": "/v2/customers/cus_1/balance_transactions"},
    "of another version, and another customer's": {"url": "/v2/customers/cus_2/balance_transactions"},
    "below another path": {"url": "/cache/v1/customers/cus_1/balance_transactions"},
    "of a query": {"url": "/v1/customers/cus_1/balance_transactions?limit=0"},
    "with an entry of the other mode": {"data": [transaction(livemode=True)]},
    "that says not whose": {"url": None},
    "that says not whether there is more": {"has_more": None},
    "that says it in words": {"has_more": "false"},
    "that has more, and nothing": {"has_more": True},
    "with an error beside": {"error": {"type": "api_error"}},
    "of a search": {"object": "search_result"},
    "without data": {"data": None},
    "with a table for data": {"data": {}},
    "with another customer's entry": {"data": [transaction(customer="cus_2")]},
    "with an entry among others": {"data": [transaction(id="cbtxn_7"), None]},
    "with an ID alone": {"data": ["cbtxn_7"]},
    "with a customer": {"data": [transaction(object="customer", id="cus_1")]},
}


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize("name", LISTS)
async def test_only_the_whole_ledger_of_this_customer_proves_absence(name: str) -> None:
    """A reversal is not made a second time, and an open call not called unsent, because of a list of something else."""
    posted, later = [], [0.0]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posted.append(request)
            return httpx.Response(500)
        if request.url.path.endswith("/cbtxn_1"):
            return httpx.Response(200, json=transaction(id="cbtxn_1"))
        return httpx.Response(200, json={**ledger_page(), **LISTS[name]})

    seams = {"clock": lambda: time.time() + later[0]}
    async with await scripted(handler, max_attempts=1, journal="off", seams=seams) as agent:
        with pytest.raises(NotSentError) as caught:
            await agent.call_tool(REVERSE, AT)
        assert ([], True) == (posted, caught.value.retryable)
        with pytest.raises(NotSentError):
            await agent.call_tool("getCustomersCustomerBalanceTransactions", {"customer": "cus_1"})
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order())
        later[0] = 25 * 3600.0
        (found,) = await agent.reconcile()
        assert "unknown" == found.outcome


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize("way", ["again", "resume", "reconcile"])
async def test_what_proved_nothing_is_settled_later(way: str) -> None:
    """A gateway's page under 200 burns no reference: the call is sent again under its key, or found in the ledger."""
    is_up = [False]
    made: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=ledger_page(*made))
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


def refusal(status: int, kind: str = "invalid_request_error", headers: dict[str, str] | None = None) -> Answer:
    return lambda _: httpx.Response(status, json={"error": {"type": kind, "message": "no"}}, headers=headers)


def at(status: int, make: Callable[[dict[str, Any]], Any], headers: dict[str, str] | None = None) -> Answer:
    return lambda right: httpx.Response(status, json=make(right), headers=headers)


# What a 4xx says of a first attempt, and of one after an attempt whose reply was lost.
REFUSALS: dict[str, tuple[Answer, str, str]] = {
    "Stripe's": (refusal(400, headers=STRIPES), "rejected", "rejected"),
    "of next year's type": (refusal(404, "of_next_year", STRIPES), "rejected", "rejected"),
    "without a type, under Stripe's Request-Id": (refusal(400, "", STRIPES), "unknown", "unknown"),
    "of the key": (refusal(401), "rejected", "unknown"),
    "without Request-Id": (refusal(400), "rejected", "unknown"),
    "with another's Request-Id": (refusal(404, headers={"Request-Id": "7f3a"}), "rejected", "unknown"),
    "a gateway's": (refusal(404, "route_not_found_error"), "rejected", "unknown"),
    "a gateway's own 410": (refusal(410, "api_error"), "unknown", "unknown"),
    "a gateway's own 422": (refusal(422, "validation_error"), "unknown", "unknown"),
    "a page": (body(PAGE, 403), "rejected", "unknown"),
    "a gateway's own limit": (body(PAGE, 429), "rejected", "unknown"),
    "a page under Stripe's Request-Id": (body(PAGE, 403, STRIPES), "unknown", "unknown"),
    "nothing under Stripe's Request-Id": (body(b"", 413, STRIPES), "unknown", "unknown"),
    "the entry": (whole(404), "unknown", "unknown"),
    "the entry under Stripe's Request-Id": (at(406, lambda right: right, STRIPES), "unknown", "unknown"),
    "another entry": (at(404, lambda _: transaction(id="cbtxn_2", customer="cus_2")), "unknown", "unknown"),
    "its mark": (at(403, lambda right: {"metadata": right["metadata"]}), "unknown", "unknown"),
    "an error beside the entry": (
        at(400, lambda right: {**right, "error": {"type": "card_error"}}, STRIPES),
        "unknown",
        "unknown",
    ),
    "an error around the entry": (
        at(400, lambda right: {"error": {"type": "card_error", "of": [{"it": right}]}}, STRIPES),
        "unknown",
        "unknown",
    ),
    "the entry, cut": (lambda right: httpx.Response(404, content=json.dumps(right)[:-9]), "unknown", "unknown"),
    "the entry, twice": (lambda right: httpx.Response(404, content=json.dumps(right) * 2), "unknown", "unknown"),
}


@pytest.mark.promise("answers.evidence")
@pytest.mark.promise("outcomes.taint")
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_counts_where_it_is_evidently_stripes(name: str) -> None:
    """Anybody's says nothing of an earlier attempt; one with the entry in it, or put over Stripe's answer, is none."""
    answer, first, later = REFUSALS[name]
    told = []
    for is_tainted in (False, True):
        sent: list[httpx.Request] = []

        def handler(
            request: httpx.Request, sent: list[httpx.Request] = sent, is_tainted: bool = is_tainted
        ) -> httpx.Response:
            sent.append(request)
            if is_tainted and len(sent) == 1:
                message = "lost"
                raise httpx.ReadError(message)
            return answer(entry_of(request.url.raw_path, request.content))

        async with await scripted(handler, max_attempts=1, journal="off") as agent:
            for _ in range(1 + is_tainted):
                with pytest.raises(ToolError) as caught:
                    await agent.call_tool(TOOL, order(), idempotency_key="k")
        told.append(caught.value.outcome)
    assert [first, later] == told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Stripe's", ("mend_and_call_again", "Mend what Stripe names")),
        ("a gateway's", ("stop_and_tell", "Something before Stripe")),
        ("a page", ("stop_and_tell", "A person must allow the API key")),
        ("a gateway's own limit", ("call_again", "Wait, then call again")),
    ],
)
async def test_who_said_no_is_who_is_to_be_asked(name: str, told: tuple[str, str]) -> None:
    """Of a no that is not Stripe's own, it named nothing that could be mended."""
    answer, _, _ = REFUSALS[name]
    async with await scripted(lambda _: answer({}), max_attempts=1, journal="off") as agent:
        with pytest.raises(RejectedError) as caught:
            await agent.call_tool(TOOL, order())
    assert told == (caught.value.next, caught.value.hint[: len(told[1])])


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize(
    "answer",
    [
        refusal(403),
        refusal(403, "rate_quota_error"),
        refusal(404, "route_not_found_error"),
        refusal(404, headers={"Request-Id": "7f3a"}),
        body(PAGE, 403, STRIPES),
        body(PAGE, 401),
        body(PAGE, 502),
        refusal(302),
    ],
)
async def test_what_is_read_is_refused_by_stripe_alone(answer: Answer) -> None:
    """Anybody else's no is no answer: nothing is sent unchecked, and nobody is told that there is no such customer."""
    posted = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posted.append(request)
        return answer({})

    async with await scripted(handler, customer_check="on", max_attempts=1, journal="off") as agent:
        with pytest.raises(NotSentError, match="could not be read") as caught:
            await agent.call_tool(TOOL, order())
        assert caught.value.retryable
        for tool in (READ, REVERSE, "getCustomersCustomer"):
            with pytest.raises(NotSentError, match="not what was asked for"):
                await agent.call_tool(tool, {"customer": "cus_1"} if tool == "getCustomersCustomer" else AT)
    assert [] == posted


# What an update asks for, what the entry then shows, and whether that is it.
UPDATES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "a key of many": ({"metadata": {"a": "1"}}, {"metadata": {"a": "1", "b": "2"}}, True),
    "a key that is not there": ({"metadata": {"a": "1"}}, {"metadata": {"b": "2"}}, False),
    "a key of another value": ({"metadata": {"a": "1"}}, {"metadata": {"a": "2"}}, False),
    "a key without metadata": ({"metadata": {"a": "1"}}, {"metadata": None}, False),
    "a key that is unset": ({"metadata": {"a": "", "b": "2"}}, {"metadata": {"b": "2"}}, True),
    "a key that is not unset": ({"metadata": {"a": ""}}, {"metadata": {"a": "1"}}, False),
    "a key that is unset, of none": ({"metadata": {"a": ""}}, {"metadata": None}, True),
    "one of two": ({"description": "d", "metadata": {"a": "1"}}, {"description": "d", "metadata": {}}, False),
    "both": ({"description": "d", "metadata": {"a": "1"}}, {"description": "d", "metadata": {"a": "1"}}, True),
    "another case": ({"description": "Paid"}, {"description": "paid"}, False),
}


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize("name", UPDATES)
async def test_an_update_is_done_where_the_entry_shows_it(name: str) -> None:
    """An entry as it was before, such as a cache has, leaves the update open, and a repeat settles it."""
    asked, shown, is_done = UPDATES[name]
    answers = [shown]

    def handler(request: httpx.Request) -> httpx.Response:
        return answered(request, **(answers.pop() if answers else {}))

    async with await scripted(handler, max_attempts=1) as agent:
        if is_done:
            assert (await agent.call_tool(ENTRY, {**AT, **asked}, idempotency_key="k")).ok
            return
        with pytest.raises(OutcomeUnknownError, match="is another"):
            await agent.call_tool(ENTRY, {**AT, **asked}, idempotency_key="k")
        assert (await agent.call_tool(ENTRY, {**AT, **asked}, idempotency_key="k")).ok


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize("key", [f"{kind}_planted0key" for kind in ("sk_test", "rk_test", "sk_live", "rk_live")])
async def test_an_entry_of_the_other_mode_is_none(key: str) -> None:
    """Test keys make no live entries, and live keys no others."""
    is_live = "_live_" in key

    def handler(request: httpx.Request) -> httpx.Response:
        return answered(request, livemode=is_live != (request.headers["Idempotency-Key"] == "wrong"))

    async with await scripted(handler, api_key=key, allow_live=True, max_attempts=1, journal="off") as agent:
        with pytest.raises(OutcomeUnknownError, match="mode"):
            await agent.call_tool(TOOL, order(), idempotency_key="wrong")
        assert (await agent.call_tool(TOOL, order(), idempotency_key="right")).ok


@pytest.mark.promise("answers.surprising-success")
@pytest.mark.parametrize(
    ("before", "after", "warning"),
    [
        ("1680216086", "NaN", "not finite"),
        ("1680216086", "-Infinity", "not finite"),
        ("1680216086", "1e999", "not finite"),
        ("-500", "-500.0", "at amount"),
        ("1680216086", "1e300", "at created"),
    ],
)
async def test_a_number_of_another_kind_is_warned_of_and_is_json(before: str, after: str, warning: str) -> None:
    """What a result carries on is JSON, now and from the journal."""

    def handler(request: httpx.Request) -> httpx.Response:
        text = json.dumps(entry_of(request.url.raw_path, request.content))
        return httpx.Response(200, content=text.replace(before, after, 1), headers=STRIPES)

    async with await scripted(handler, max_attempts=1) as agent:
        for _ in range(2):
            result = await agent.call_tool(TOOL, order(), idempotency_key="k")
            assert any(warning in each for each in result.warnings)
            json.dumps([result.to_dict(), result.json()], allow_nan=False)
    async with BackOffice(Settings(api_key=TEST_KEY)) as office:
        json.dumps([facts_of_call(call) for call in await office.calls()], allow_nan=False)


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


@pytest.mark.promise("answers.evidence")
@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "CUS_1"},
        {"currency": "usd\nok"},
        {"currency": 7},
        {"currency": ""},
        {"currency": ...},  # left out
        {"livemode": True},
        {"error": {"type": "api_error"}},
        {"object": "Customer"},
    ],
)
async def test_a_customer_that_cannot_be_the_one_stops_the_call(wrong: dict[str, Any]) -> None:
    """A currency that is none is not the same as none yet; an ID that looks alike is another's."""
    posted = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posted.append(request)
        right = {"id": "cus_1", "object": "customer", "currency": "usd", "balance": 0}
        return httpx.Response(200, json={name: said for name, said in {**right, **wrong}.items() if said is not ...})

    async with await scripted(handler, customer_check="on", max_attempts=1, journal="off") as agent:
        with pytest.raises(NotSentError, match="could not be read"):
            await agent.call_tool(TOOL, order())
    assert [] == posted


@pytest.mark.promise("answers.evidence")
async def test_an_entry_of_another_call_is_none_of_a_call_without_a_mark() -> None:
    """Where entries are not tagged, one that is tagged was made by another."""
    marks: list[dict[str, str]] = [{"ocp_call": "another"}, {}]

    def handler(request: httpx.Request) -> httpx.Response:
        return answered(request, metadata=marks.pop(0))

    async with await scripted(handler, tag_calls=False, max_attempts=1, journal="off") as agent:
        with pytest.raises(OutcomeUnknownError, match="another call's"):
            await agent.call_tool(TOOL, order(), idempotency_key="k")
        assert (await agent.call_tool(TOOL, order(), idempotency_key="k")).ok


@pytest.mark.promise("answers.surprising-success")
async def test_what_arrived_of_a_success_is_kept() -> None:
    """The entry's ID and what else is whole, now and from the journal; a value that is cut is not taken for one."""

    def handler(request: httpx.Request) -> httpx.Response:
        whole_entry = json.dumps(entry_of(request.url.raw_path, request.content))
        return httpx.Response(200, stream=Lost(whole_entry.partition('0, "created')[0].encode()))

    async with await scripted(handler, max_attempts=1) as agent:
        results = [await agent.call_tool(TOOL, order(), idempotency_key="k") for _ in range(2)]
    begun = {name: transaction()[name] for name in ("id", "object")}
    assert [begun] * 2 == [result.data for result in results]
    assert [False, True] == [result.replayed for result in results]
    assert "connection was lost" in results[0].warnings[0]


@pytest.mark.promise("answers.evidence")
async def test_a_doubt_tells_nothing_of_what_stands_there() -> None:
    """What answered may be somebody else's entry: why it proves nothing is told in our own words."""
    other = transaction(customer="cus_secret", description="SECRET", metadata={"ocp_call": "SECRET"}, id="SECRET\n")
    async with await scripted(lambda _: httpx.Response(200, json=other), max_attempts=1) as agent:
        for call in ("create", "read", "reverse"):
            tool, parameters = CALLS[call]
            with pytest.raises(ToolError) as caught:
                await agent.call_tool(tool, parameters)
            assert "secret" not in f"{caught.value} {caught.value.to_dict()}".lower()


# What a policy of today may say to a call of which nothing was sent yesterday.
RULES: dict[str, tuple[dict[str, Any], str]] = {
    "stated effect": ({"require": {"stated_effect": True}}, "require.stated_effect"),
    "reference": ({"require": {"reference": True}}, "require.reference"),
    "description": ({"require": {"description": True}}, "require.description"),
    "metadata": ({"require": {"metadata": ["ticket"]}}, "require.metadata.ticket"),
    "direction": ({"directions": ["debit"]}, "directions"),
    "currency": ({"currencies": ["eur"]}, "currencies"),
    "limit": ({"limits": {"credit": {"usd": "4.99"}}}, "limits.credit.usd"),
    "budget": ({"budgets": [{"per": "all", "window": "1d", "credit": {"usd": "4.99"}}]}, "budgets[0].credit.usd"),
    "customer": ({"customers": {"deny": ["cus_*"]}}, "customers.deny"),
    "expand": ({"expand": ["invoice"]}, "expand"),
    "approval": ({"approval": {"above": {"usd": "1"}}}, "approval.above.usd"),
}


@pytest.mark.promise("closed.unasked-is-refused")
@pytest.mark.parametrize("name", RULES)
async def test_a_first_sending_is_held_to_every_rule_of_today(name: str) -> None:
    """Whoever resumes a call that never moved sends it for the first time."""
    policy, rule = RULES[name]
    posted = []

    def handler(request: httpx.Request) -> httpx.Response:
        posted.append(request)
        return httpx.Response(429, json={"error": {"type": "invalid_request_error", "message": "x"}}, headers=STRIPES)

    async with await scripted(handler, max_attempts=1) as agent:
        with pytest.raises(ToolError) as caught:
            await agent.call_tool(TOOL, order(expand=["customer"]), idempotency_key="k")
        assert "rejected" == caught.value.outcome
    async with await scripted(handler, max_attempts=1, policy=policy) as agent:
        api: Any = await agent.register_api("stripe")
        with pytest.raises(PolicyRefusedError) as refused:
            await api.resume("k")
    assert (1, rule) == (len(posted), refused.value.rule)


async def test_what_was_said_the_first_time_counts_when_it_is_resumed() -> None:
    """A call that stated its effect has stated it, whoever sends it."""
    answers = [httpx.Response(429, json={"error": {"type": "invalid_request_error", "message": "x"}}, headers=STRIPES)]

    def handler(request: httpx.Request) -> httpx.Response:
        return answers.pop() if answers else answered(request)

    for policy in ({}, {"require": {"stated_effect": True}}):
        async with await scripted(handler, max_attempts=1, policy=policy) as agent:
            api: Any = await agent.register_api("stripe")
            if policy:
                assert (await api.resume("k")).ok
                continue
            with pytest.raises(ToolError):
                await agent.call_tool(TOOL, order(stated_effect="credit 5.00 USD"), idempotency_key="k")


@pytest.mark.promise("answers.known-only")
async def test_the_journals_commands_show_what_the_schema_knows() -> None:
    """Of what Stripe sent, as everywhere: not the address of an expanded customer, nor a field of next year."""
    customer = {"id": "cus_1", "object": "customer", "phone": "SECRET", "address": {"line1": "SECRET"}}
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            keys.append(request.headers["Idempotency-Key"])
            return httpx.Response(500) if len(keys) == 1 else answered(request, customer=customer, tomorrow="SECRET")
        entry = transaction(customer=customer, tomorrow="SECRET", metadata={"ocp_call": keys[0]})
        return httpx.Response(200, json=ledger_page(entry))

    async with await scripted(handler, max_attempts=1) as agent:
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order(), idempotency_key="a")
        assert (await agent.call_tool(TOOL, order(), idempotency_key="b")).ok
        shown = [facts_of_finding(found) for found in await agent.reconcile()]
    async with BackOffice(Settings(api_key=TEST_KEY)) as office:
        shown += [facts_of_call(call) for call in await office.calls()]
    assert ["cbtxn_1MrU9qLkdIwHu7ixhdjxGBgI"] * 3 == [
        (each["transaction"] if "transaction" in each else each["answer"])["id"] for each in shown
    ]
    assert "SECRET" not in json.dumps(shown)
