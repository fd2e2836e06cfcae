"""
Approvers that share a proposal: a yes is for one call alone, a no always counts, and nobody is told what is not so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, decide, decisions, ledger, order, proposals, usual_journal

from ocp_stripe_balance import ApprovalRequiredError, OCPAgent, PolicyRefusedError, Settings, ToolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocp_stripe_balance import Proposal
    from ocp_stripe_balance.sandbox import Sandbox

    Approver = Callable[[Proposal], Awaitable[Any]]

ASK = {"approval": {"above": {"usd": "3.00"}}, "duplicate_window": "off"}


async def asking(stripe: Sandbox, approver: Approver | None, policy: Any = None, **more: Any) -> OCPAgent:
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "policy": policy or ASK, "customer_check": "off"}
    agent = OCPAgent(settings=Settings(**values), approver=approver, **more)
    await agent.register_api("stripe")
    return agent


async def told(call: Awaitable[Any]) -> str:
    try:
        await call
    except asyncio.CancelledError:
        return "cancelled"
    except ToolError as error:
        return error.outcome
    return "succeeded"


async def audit() -> list[tuple[str, str]]:
    async with usual_journal() as journal:
        return [(each.decision, each.who) for each in await decisions(journal)]


@pytest.mark.promise("closed.unasked-is-refused")
async def test_a_yes_to_a_call_that_was_cancelled_is_nobody_elses(stripe: Sandbox, customer: str) -> None:
    """Two callers of one key: the one with the yes is cancelled, the other is denied, and the no is on record."""
    asked: list[Proposal] = []

    async def approver(proposal: Proposal) -> Any:
        asked.append(proposal)
        if len(asked) == 1:
            await asyncio.sleep(0.05)
            asyncio.get_running_loop().call_soon(tasks[0].cancel)
            return proposal.approve(by="Ana")
        await asyncio.sleep(0.2)
        return proposal.deny(by="Bob", reason="never")

    async with await asking(stripe, approver) as agent:
        calls = [agent.call_tool(TOOL, order(customer), idempotency_key="k") for _ in range(2)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        outcomes = [await told(task) for task in tasks]
    entries = await ledger(stripe, customer)
    assert (outcomes[1] == "not_sent") == (entries == []), "a call that was sent before the no stays sent"
    assert ("denied", "Bob") in await audit()


@pytest.mark.promise("closed.unasked-is-refused")
async def test_a_yes_is_for_one_call_alone(stripe: Sandbox, customer: str) -> None:
    """Where it moved nothing, the next call of the same key asks again."""
    asked: list[Proposal] = []

    async def approver(proposal: Proposal) -> Any:
        asked.append(proposal)
        return proposal.approve(by="Ana")

    async with await asking(stripe, approver, {"duplicate_window": "off"}, asks_always=True) as agent:
        for number in range(3):
            if number < 2:
                stripe.faults.add("rate_limit", times=4, path="balance_transactions")
            await told(agent.call_tool(TOOL, order(customer), idempotency_key="k"))
    assert 3 == len(asked)
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("how", ["raises", "no answer", "takes back"])
async def test_who_did_not_decide_is_told_what_another_sent(stripe: Sandbox, customer: str, how: str) -> None:
    """A second caller of one key, whose approver fails after the first was paid, is told that it was paid."""
    asked: list[Proposal] = []

    async def approver(proposal: Proposal) -> Any:
        asked.append(proposal)
        if len(asked) == 1:
            return proposal.approve(by="Ana")
        while not await ledger(stripe, customer):
            await asyncio.sleep(0.01)
        if how == "raises":
            raise RuntimeError
        return proposal.deny(by="Bob") if how == "takes back" else None

    policy, more = (None, {}) if how != "takes back" else ({"duplicate_window": "off"}, {"asks_always": True})
    async with await asking(stripe, approver, policy, **more) as agent:
        calls = [told(agent.call_tool(TOOL, order(customer), idempotency_key="k")) for _ in range(2)]
        assert ["succeeded"] * 2 == await asyncio.gather(*calls)
    assert 1 == len(await ledger(stripe, customer))


async def test_a_no_counts_also_where_another_approver_failed(stripe: Sandbox, customer: str) -> None:
    """And the question is not put again."""
    asked: list[Proposal] = []

    async def approver(proposal: Proposal) -> Any:
        asked.append(proposal)
        if len(asked) == 1:
            await asyncio.sleep(0.05)
            raise RuntimeError
        await asyncio.sleep(0.3)
        return proposal.deny(by="Bob")

    async with await asking(stripe, approver) as agent:
        calls = [told(agent.call_tool(TOOL, order(customer), idempotency_key="k")) for _ in range(2)]
        assert ["not_sent"] * 2 == await asyncio.gather(*calls)
    assert ([], 2) == (await ledger(stripe, customer), len(asked))
    assert ("denied", "Bob") in await audit()


async def test_a_failing_approver_leaves_the_queue_alone(stripe: Sandbox, customer: str) -> None:
    """What another agent put there still waits."""
    policy = {**ASK, "approval": {**ASK["approval"], "queue": True}}  # type: ignore[dict-item]  # a table

    async def down(_: Proposal) -> Any:
        raise RuntimeError

    async with await asking(stripe, None, policy) as first, await asking(stripe, down, policy) as second:
        for agent in (first, second):
            with pytest.raises(PolicyRefusedError):
                await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    async with usual_journal() as journal:
        assert ["waiting"] == [each.state for each in await proposals(journal)]


async def test_a_question_that_was_cancelled_waits_for_nobody(stripe: Sandbox, customer: str) -> None:
    """However early the cancellation comes, and whatever else an approver raises."""
    asked: list[Proposal] = []

    class OddError(BaseException):
        pass

    async def approver(proposal: Proposal) -> Any:
        asked.append(proposal)
        if proposal.key == "odd":
            raise OddError
        await asyncio.sleep(5)

    async with await asking(stripe, approver) as agent:
        await agent.call_tool(TOOL, order(customer, -1))
        for number in range(20):
            call = agent.call_tool(TOOL, order(customer), idempotency_key=f"k{number}")
            task = asyncio.ensure_future(call)
            asyncio.get_running_loop().call_later(number * 0.0003, task.cancel)
            assert "cancelled" == await told(task)
        with pytest.raises(OddError):
            await agent.call_tool(TOOL, order(customer), idempotency_key="odd")
    async with usual_journal() as journal:
        assert {"waiting"} & {each.state for each in await proposals(journal)} == set()


@pytest.mark.parametrize(("meanwhile", "error"), [("nothing", ApprovalRequiredError), ("denied", PolicyRefusedError)])
async def test_what_an_approver_leaves_open_stays_in_the_queue(
    stripe: Sandbox, customer: str, meanwhile: str, error: type[ToolError]
) -> None:
    """Where the policy has one; who denied it there meanwhile is heard."""

    async def approver(proposal: Proposal) -> None:
        if meanwhile == "denied":
            async with usual_journal() as journal:
                await decide(journal, proposal.deny(by="Bob"))

    policy = {"approval": {"above": {"usd": "3.00"}, "queue": True}}
    async with await asking(stripe, approver, policy) as agent:
        with pytest.raises(error) as caught:
            await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    async with usual_journal() as journal:
        (proposal,) = await proposals(journal)
    assert (error, "denied" if meanwhile == "denied" else "waiting") == (type(caught.value), proposal.state)
    assert [] == await ledger(stripe, customer)
