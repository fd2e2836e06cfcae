"""
The customer is read before the first call for it: is it there, and is it billed in this currency?
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import (
    STRIPES,
    TOOL,
    admit,
    answered,
    client,
    connect,
    decisions,
    draft,
    ledger,
    order,
    records,
    scripted,
    settle,
    transaction,
    usual_journal,
)
from places import Place, look

from ocp_stripe_balance import NotSentError, OCPAgent, PolicyRefusedError, RejectedError, Settings
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._stripe.aiohttp_wire import AiohttpWire
from ocp_stripe_balance.errors import AuthenticationError, ResourceMissingError, ToolError
from ocp_stripe_balance.exports import run_tool_call

if TYPE_CHECKING:
    from ocp_stripe_balance._stripe.request import Request
    from ocp_stripe_balance._stripe.wire import Received
    from ocp_stripe_balance.sandbox import Sandbox

LIST = "getCustomersCustomerBalanceTransactions"
NO_DUPLICATES = {"duplicate_window": "off"}
CHECK: dict[str, Any] = {"customer_check": "on", "policy": NO_DUPLICATES}


def reads(stripe: Sandbox) -> list[str]:
    return [
        request.target for request in stripe.requests if request.method == "GET" and "balance" not in request.target
    ]


async def test_another_currency_than_the_customers_is_refused(stripe: Sandbox) -> None:
    """It would land in a balance that no invoice uses; the refusal names both currencies."""
    customer = stripe.create_customer()
    async with await connect(stripe, **CHECK) as agent:
        await agent.call_tool(TOOL, order(customer, currency="eur"))
        with pytest.raises(PolicyRefusedError, match="is billed in eur, and an entry in usd") as caught:
            await agent.call_tool(TOOL, order(customer))
        assert ("customer_check", "not_sent") == (caught.value.rule, caught.value.outcome)
        assert "call with that currency" in caught.value.hint
        assert (await agent.call_tool(TOOL, order(customer, currency="EUR"))).ok
    assert {"eur"} == {entry["currency"] for entry in await ledger(stripe, customer)}


async def test_a_customer_is_read_once_for_all(stripe: Sandbox) -> None:
    """One read for calls at the same moment, and none for later ones; another customer is another read."""
    customer, other = stripe.create_customer(), stripe.create_customer()
    async with await connect(stripe, **CHECK) as agent:
        await agent.call_tool(TOOL, order(customer))  # gives it a currency
    async with await connect(stripe, **CHECK) as agent:
        stripe.requests.clear()
        await asyncio.gather(*(agent.call_tool(TOOL, order(customer)) for _ in range(20)))
        await agent.call_tool(TOOL, order(customer))
        assert [f"/v1/customers/{customer}"] == reads(stripe)
        await agent.call_tool(TOOL, order(other))
        assert [f"/v1/customers/{customer}", f"/v1/customers/{other}"] == reads(stripe)


async def test_the_first_two_currencies_of_a_customer_do_not_race(stripe: Sandbox) -> None:
    """Of calls at the same moment in two currencies, one fixes the currency and the others are refused."""
    for _ in range(5):
        customer = stripe.create_customer()
        async with await connect(stripe, **CHECK) as one, await connect(stripe, **CHECK) as two:
            calls = [
                agent.call_tool(TOOL, order(customer, currency=currency))
                for agent, currency in ((one, "usd"), (two, "eur"), (one, "eur"), (two, "usd"))
            ]
            done = await asyncio.gather(*calls, return_exceptions=True)
        assert 1 == len({entry["currency"] for entry in await ledger(stripe, customer)})
        refused = [each for each in done if isinstance(each, BaseException)]
        assert 2 == len(refused)
        assert {"customer_check"} == {getattr(each, "rule", None) for each in refused}


async def test_an_unknown_customer_is_caught_before_the_post(stripe: Sandbox) -> None:
    """Stripe's own answer to the read; nothing is posted, and the audit has it."""
    async with await connect(stripe, **CHECK) as agent:
        with pytest.raises(ResourceMissingError, match="No such customer") as caught:
            await agent.call_tool(TOOL, order("cus_none"), idempotency_key="k")
        assert ("k", TOOL) == (caught.value.idempotency_key, caught.value.tool)
        async with usual_journal() as journal:
            (decision,) = await decisions(journal)
    assert ("refused", "customer_check") == (decision.decision, decision.rule)
    assert {"GET"} == {request.method for request in stripe.requests}


async def test_a_deleted_customer_is_refused(stripe: Sandbox) -> None:
    """Stripe still answers to the read, and says that it is deleted."""
    customer = stripe.create_customer()
    async with client(stripe) as http:
        await http.delete(f"/v1/customers/{customer}")
    async with await connect(stripe, **CHECK) as agent:
        with pytest.raises(PolicyRefusedError, match="was deleted"):
            await agent.call_tool(TOOL, order(customer))
    assert not [request for request in stripe.requests if request.method == "POST"]


def may_not_read(posted: list[httpx.Request]) -> Any:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            error = {"type": "invalid_request_error", "message": "lacks rak_customer_read"}
            return httpx.Response(403, json={"error": error}, headers=STRIPES)
        posted.append(request)
        return answered(request)

    return handler


async def test_a_key_that_may_not_read_is_warned_of_once() -> None:
    """The first result carries the warning; the call is made."""
    posted: list[httpx.Request] = []
    async with await scripted(may_not_read(posted), **CHECK) as agent:
        first = await agent.call_tool(TOOL, order())
        second = await agent.call_tool(TOOL, order())
    assert ["The customer's currency could not be checked: the API key may not read customers."] == list(first.warnings)
    assert () == second.warnings
    assert 2 == len(posted)


async def test_what_one_key_may_not_read_another_may(stripe: Sandbox, customer: str) -> None:
    """The check goes on for the key that may; a proxy's 403 says nothing about the key."""
    stripe.faults.clear()
    async with await connect(stripe, **CHECK) as agent:
        await agent.call_tool(TOOL, order(customer, currency="eur"))
    posted: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and "rk_" in request.headers["Authorization"]:
            error = {"type": "invalid_request_error", "message": "lacks rak_customer_read"}
            return httpx.Response(403, json={"error": error}, headers=STRIPES)
        if request.method == "GET":
            return httpx.Response(403, content=b"<html>blocked by a proxy</html>")
        posted.append(request)
        return answered(request)

    async with await scripted(handler, **CHECK) as agent:
        headers = {"Authorization": "Bearer rk_test_restricted"}
        assert (await agent.call_tool(TOOL, order(), headers=headers)).ok
        for _ in range(2):
            with pytest.raises(NotSentError, match="could not be read"):
                await agent.call_tool(TOOL, order())
    assert 1 == len(posted)


async def test_each_of_many_is_told_its_own_key() -> None:
    """The read is shared, its failure is told to each with the key of that very call."""
    async with await scripted(lambda _: httpx.Response(500), max_attempts=1, **CHECK) as agent:
        calls = [agent.call_tool(TOOL, order(amount=-1 - n), idempotency_key=f"k{n}") for n in range(3)]
        done = await asyncio.gather(*calls, return_exceptions=True)
    assert ["k0", "k1", "k2"] == [getattr(each, "idempotency_key", None) for each in done]
    assert 3 == len({id(each) for each in done})


async def test_who_waited_for_another_reads_before_it_sends(stripe: Sandbox, customer: str, place: Place) -> None:
    """The call it waited for was not sent after all, so this one is the first for the customer."""
    stripe.faults.add("stall", seconds=0.4, path=f"{customer}$")
    async with await connect(stripe, journal=str(place), **CHECK) as one:
        first = asyncio.ensure_future(one.call_tool(TOOL, order(customer), idempotency_key="k"))
        async with await connect(stripe, journal=str(place), **CHECK) as two:
            second = asyncio.ensure_future(two.call_tool(TOOL, order(customer), idempotency_key="k"))
            assert (await first).data["id"] == (await second).data["id"]
    assert 1 == len(await ledger(stripe, customer))
    journal = Journal(place)
    arguments = order(customer, currency="eur")
    first_call = draft("k2", -500, customer=customer, base_url=stripe.url, currency="eur")
    admitted = await admit(journal, first_call)
    with look(place) as db:
        db.execute("UPDATE calls SET arguments = ? WHERE key = 'k2'", (json.dumps(arguments, sort_keys=True),))
    async with await connect(stripe, journal=str(place), **CHECK) as agent:
        waiting = asyncio.ensure_future(agent.call_tool(TOOL, arguments, idempotency_key="k2"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await settle(journal, admitted.record, State.NOT_SENT)
        with pytest.raises(PolicyRefusedError, match="is billed in usd"):
            await waiting
    await journal.aclose()


def test_a_read_of_a_loop_that_ended_is_not_waited_for() -> None:
    """Another loop reads for itself."""

    async def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and not patience:
            patience.append(1)
            await asyncio.sleep(30)
        body = {"object": "customer", "id": "cus_1", "currency": "usd"} if request.method == "GET" else transaction()
        return httpx.Response(200, json=body)

    patience: list[int] = []
    values = {"api_key": "sk_test_1", "journal": "off", "customer_check": "on", "policy": NO_DUPLICATES}
    agent = OCPAgent(settings=Settings(**values), transport=httpx.MockTransport(handler))

    async def first() -> None:
        await agent.register_api("stripe")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.call_tool(TOOL, order()), 0.2)

    async def second() -> bool:
        return (await agent.call_tool(TOOL, order())).ok

    asyncio.run(first())
    assert asyncio.run(second())


async def test_a_policy_can_refuse_customers_it_cannot_read() -> None:
    """Every time, and nothing is posted."""
    posted: list[httpx.Request] = []
    policy = {**NO_DUPLICATES, "unreadable_customers": "refuse"}
    async with await scripted(may_not_read(posted), customer_check="on", policy=policy) as agent:
        for _ in range(2):
            with pytest.raises(PolicyRefusedError, match="may not read customer cus_1") as caught:
                await agent.call_tool(TOOL, order())
            assert "unreadable_customers" == caught.value.rule
    assert [] == posted


async def test_what_may_not_be_read_says_nothing_of_other_customers() -> None:
    """One 403 neither switches the check off for others nor blocks them."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return answered(request)
        if request.url.path.endswith("cus_b"):
            return httpx.Response(
                403, json={"error": {"type": "invalid_request_error", "message": "no"}}, headers=STRIPES
            )
        customer = request.url.path.rpartition("/")[2]
        return httpx.Response(200, json={"object": "customer", "id": customer, "currency": "eur"})

    policy = {**NO_DUPLICATES, "unreadable_customers": "refuse"}
    async with await scripted(handler, customer_check="on", policy=policy) as agent:
        assert (await agent.call_tool(TOOL, order("cus_a", currency="eur"))).ok
        with pytest.raises(PolicyRefusedError, match="may not read customer cus_b"):
            await agent.call_tool(TOOL, order("cus_b"))
        assert (await agent.call_tool(TOOL, order("cus_a", currency="eur"))).ok
        with pytest.raises(PolicyRefusedError, match="cus_c is billed in eur"):
            await agent.call_tool(TOOL, order("cus_c"))


async def test_a_dry_run_leaves_the_warning_to_the_call() -> None:
    """Which carries it, once."""
    async with await scripted(may_not_read([]), **CHECK) as agent:
        assert 1 == len((await agent.call_tool(TOOL, order(), dry_run=True)).warnings)
        assert 1 == len((await agent.call_tool(TOOL, order())).warnings)


async def test_the_check_can_be_switched_off(stripe: Sandbox) -> None:
    """Then nothing is read."""
    customer = stripe.create_customer()
    async with await connect(stripe, customer_check="off") as agent:
        await agent.call_tool(TOOL, order(customer, currency="eur"))
        assert (await agent.call_tool(TOOL, order(customer))).ok
    assert [] == reads(stripe)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(500), NotSentError),
        (httpx.Response(429, json={"error": {"type": "invalid_request_error", "message": "slow"}}), NotSentError),
        (httpx.Response(200, json={"object": "list", "data": []}), NotSentError),
        (httpx.Response(200, content=b"<html>"), NotSentError),
        (httpx.Response(302, headers={"Location": "https://evil.example"}), NotSentError),
        (httpx.Response(401, json={"error": {"type": "invalid_request_error", "message": "no"}}), AuthenticationError),
    ],
)
async def test_a_read_that_fails_moves_nothing(answer: httpx.Response, error: type[Exception]) -> None:
    """The call is not sent, and may be made again; a key Stripe does not know is said to be that."""
    posted: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        posted.extend([request] if request.method == "POST" else [])
        return answer

    async with await scripted(handler, max_attempts=1, **CHECK) as agent:
        with pytest.raises(error) as caught:
            await agent.call_tool(TOOL, order())
        assert "unknown" != getattr(caught.value, "outcome", None)
        assert isinstance(caught.value, RejectedError) or getattr(caught.value, "retryable", False)
        async with usual_journal() as journal:
            assert [] == await records(journal)
    assert [] == posted


async def test_one_cancelled_caller_does_not_cancel_the_read_of_others(stripe: Sandbox, customer: str) -> None:
    """The read is shared, its cancellation is not."""
    stripe.faults.add("stall", seconds=0.3, path=f"{customer}$")
    async with await connect(stripe, **CHECK) as agent:
        tasks = [asyncio.ensure_future(agent.call_tool(TOOL, order(customer, -1 - i))) for i in range(3)]
        async with asyncio.timeout(20):
            while not reads(stripe):
                await asyncio.sleep(0.005)
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert [-2, -3] == sorted((entry["amount"] for entry in await ledger(stripe, customer)), reverse=True)
    assert 1 == len(reads(stripe))


async def test_the_read_and_the_call_share_one_deadline(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the read took is gone for the call."""
    remaining_s: list[float] = []
    exchange = AiohttpWire.exchange

    async def noted(wire: AiohttpWire, request: Request, left_s: float) -> Received:
        remaining_s.append(left_s)
        return await exchange(wire, request, left_s)

    monkeypatch.setattr(AiohttpWire, "exchange", noted)
    stripe.faults.add("stall", seconds=0.2, path=f"{customer}$")
    async with await connect(stripe, timeout=30, **CHECK) as agent:
        await agent.call_tool(TOOL, order(customer))
    read_s, call_s = remaining_s
    assert call_s < read_s - 0.19


async def test_a_replay_reads_nothing(stripe: Sandbox, customer: str) -> None:
    """A finished call is answered from the journal, without the network."""
    async with await connect(stripe, **CHECK) as agent:
        await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    async with await connect(stripe, **CHECK) as agent:
        stripe.requests.clear()
        assert (await agent.call_tool(TOOL, order(customer), idempotency_key="k")).replayed
    assert [] == list(stripe.requests)


async def test_what_another_rule_refuses_is_not_read(stripe: Sandbox, customer: str) -> None:
    """The cheap rules come first."""
    async with await connect(stripe, customer_check="on", policy={"directions": ["debit"]}) as agent:
        with pytest.raises(PolicyRefusedError, match="debits only"):
            await agent.call_tool(TOOL, order(customer))
    assert [] == list(stripe.requests)


async def test_the_customer_of_a_call_cannot_bend_the_read(stripe: Sandbox) -> None:
    """Its ID stays one segment of the path, as in the call itself."""
    async with await connect(stripe, **CHECK) as agent:
        with pytest.raises(ResourceMissingError):
            await agent.call_tool(TOOL, order("a&b=c;d"))
    assert {"/v1/customers/a%26b%3Dc%3Bd"} == set(reads(stripe))


def given(customer: str, transaction: str) -> list[tuple[str, dict[str, Any]]]:
    """
    A call of each tool that is about one customer.
    """
    at = {"customer": customer, "transaction": transaction}
    return [
        (TOOL, order(customer)),
        ("reverseCustomerBalanceTransaction", {"transaction": transaction}),
        ("postCustomersCustomerBalanceTransactionsTransaction", {**at, "description": "x"}),
        ("getCustomersCustomerBalanceTransactionsTransaction", at),
        (LIST, {"customer": customer}),
    ]


@pytest.mark.parametrize("check", ["on", "off"])
async def test_a_deleted_customer_is_called_that_by_every_tool(stripe: Sandbox, check: str) -> None:
    """Stripe itself says "No such customer" to all but the read of the customer; and what to do next is said."""
    customer = stripe.create_customer()
    async with await connect(stripe, customer_check=check) as agent:
        made = await agent.call_tool(TOOL, order(customer, -700))
        async with client(stripe) as http:
            await http.delete(f"/v1/customers/{customer}")
        for tool, parameters in given(customer, made.data["id"]) * 2:
            call = {"id": "c", "name": tool, "arguments": parameters}
            told = (await run_tool_call("json-schema", agent, call))["result"]
            assert f"customer {customer} was deleted" in told["message"], tool
            assert ("stop_and_tell", True) == (told["next"], "do not use another customer" in told["hint"])
        for _ in range(2):  # the second is answered from the journal, where customers are not checked
            with pytest.raises(ToolError, match="was deleted"):
                await agent.call_tool(TOOL, order(customer), idempotency_key="k")
        with pytest.raises(ResourceMissingError, match="was deleted"):
            [entry async for entry in agent.iterate_tool(LIST, {"customer": customer})]
        read = await agent.call_tool("getCustomersCustomer", {"customer": customer})
        assert (f"{customer} was deleted", True) == (read.describe(), "do not use another" in read.warnings[0])


async def test_a_customer_without_currency_is_told_what_the_first_entry_does(stripe: Sandbox) -> None:
    """The read says that the first entry fixes it and that it has to be asked for; the entry that did so warns."""
    customer = stripe.create_customer()
    async with await connect(stripe, **CHECK) as agent:
        read = await agent.call_tool("getCustomersCustomer", {"customer": customer})
        assert ["ask whoever wants the entry which one it is to be."] == [each[-50:] for each in read.warnings]
        assert "the first entry or invoice fixes it for good" in read.warnings[0]
        first = await agent.call_tool(TOOL, order(customer, currency="eur"))
        assert (f"{customer} had no currency, and this entry made it eur for good",) == first.warnings
        second = await agent.call_tool(TOOL, order(customer, -7, "eur"))
        read = await agent.call_tool("getCustomersCustomer", {"customer": customer})
        assert ((), ()) == (second.warnings, read.warnings)


async def test_a_policys_default_currency_is_for_customers_without_one(stripe: Sandbox) -> None:
    """The read names it, and a first entry in another is refused; a customer who has a currency keeps it."""
    customer, other = stripe.create_customer(), stripe.create_customer()
    async with await connect(stripe) as agent:
        await agent.call_tool(TOOL, order(other, -1))
    async with await connect(stripe, customer_check="on", policy={"default_currency": "EUR"}) as agent:
        read = await agent.call_tool("getCustomersCustomer", {"customer": customer})
        assert read.warnings[0].endswith("use eur, which the policy names for such customers.")
        with pytest.raises(PolicyRefusedError, match="gives such customers eur, not usd") as caught:
            await agent.call_tool(TOOL, order(customer))
        assert ("default_currency", "stop_and_tell") == (caught.value.rule, caught.value.next)
        assert (await agent.call_tool(TOOL, order(customer, currency="eur"))).ok
        assert (await agent.call_tool(TOOL, order(other))).ok
