"""
The customer is read before the first call for it: is it there, and is it billed in this currency?
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TOOL, client, connect, ledger, order, scripted, transaction

from ocp_stripe_balance import NotSentError, PolicyRefusedError, RejectedError
from ocp_stripe_balance.errors import AuthenticationError, ResourceMissingError

if TYPE_CHECKING:
    from ocp_stripe_balance.sandbox import Sandbox

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
        api: Any = agent._apis["stripe"]
        (decision,) = await api._calls._journal.decisions()
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
            return httpx.Response(403, json={"error": error})
        posted.append(request)
        return httpx.Response(200, json=transaction())

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
        api: Any = agent._apis["stripe"]
        assert [] == await api._calls._journal.select()
    assert [] == posted


async def test_one_cancelled_caller_does_not_cancel_the_read_of_others(stripe: Sandbox, customer: str) -> None:
    """The read is shared, its cancellation is not."""
    stripe.faults.add("stall", seconds=0.3, path=f"{customer}$")
    async with await connect(stripe, **CHECK) as agent:
        tasks = [asyncio.ensure_future(agent.call_tool(TOOL, order(customer, -1 - i))) for i in range(3)]
        async with asyncio.timeout(5):
            while not reads(stripe):
                await asyncio.sleep(0.005)
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert [-2, -3] == sorted((entry["amount"] for entry in await ledger(stripe, customer)), reverse=True)
    assert 1 == len(reads(stripe))


async def test_the_read_and_the_call_share_one_deadline(stripe: Sandbox, customer: str) -> None:
    """What the read took is gone for the call."""
    stripe.faults.add("stall", seconds=0.7, path=f"{customer}$")
    stripe.faults.add("stall", seconds=30, path="balance")
    loop = asyncio.get_running_loop()
    async with await connect(stripe, timeout=1, **CHECK) as agent:
        begun = loop.time()
        with pytest.raises(Exception, match="unknown"):
            await agent.call_tool(TOOL, order(customer))
        assert loop.time() - begun < 1.6


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
    assert ["/v1/customers/a%26b%3Dc%3Bd"] == reads(stripe)
