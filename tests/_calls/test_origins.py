"""
A key is what its origin says: whose name for a decision it is, kept beside it and never in its text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import STRIPES, TOOL, connect, decide, ledger, order, proposals, records, scripted, usual_journal

from ocp_stripe_balance import (
    ApprovalRequiredError,
    NotSentError,
    OutcomeUnknownError,
    RejectedError,
    ToolCall,
)
from ocp_stripe_balance._domain import Origin
from ocp_stripe_balance.errors import IdempotencyConflictError, RateLimitError
from ocp_stripe_balance.exports import run_tool_call

if TYPE_CHECKING:
    from ocp_stripe_balance.sandbox import Sandbox


@pytest.mark.promise("once.origin")
async def test_a_callers_key_may_look_like_a_reversals(stripe: Sandbox, customer: str) -> None:
    """An ordinary credit under the key rev-ticket-1 that was turned away is resumed like any other."""
    async with await connect(stripe, max_attempts=1) as agent:
        api = await agent.register_api("stripe")
        stripe.faults.add("rate_limit", path="balance")
        with pytest.raises(RateLimitError):
            await agent.call_tool(TOOL, order(customer), idempotency_key="rev-ticket-1")
        assert (await api.resume("rev-ticket-1")).ok
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.promise("once.origin")
async def test_a_callers_key_may_look_like_a_references() -> None:
    """Stripe's plain no to a key that was used for another amount is that no, not an open outcome."""
    error = {"type": "idempotency_error", "message": "Keys for idempotent requests can only be used with the same"}
    answers = [httpx.Response(400, json={"error": error}, headers=STRIPES)] * 2
    async with await scripted(lambda _: answers.pop(0)) as agent:
        with pytest.raises(RejectedError, match="400"):
            await agent.call_tool(TOOL, order(), idempotency_key="ref-2026-001")
        with pytest.raises(OutcomeUnknownError, match="another journal"):
            await agent.call_tool(TOOL, order(reference="ref-2026-001"))


ANOTHERS = "already belongs to another call|already belongs to a proposal"
QUEUED: dict[str, Any] = {"approval": {"above": {"usd": "20.00"}, "queue": True}, "duplicate_window": "off"}
REVERSE = "reverseCustomerBalanceTransaction"


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("more", [{}, {"reference": "ticket-2"}])
async def test_a_references_key_that_another_call_has_is_a_conflict(
    stripe: Sandbox, customer: str, more: dict[str, Any]
) -> None:
    """Nobody is told of another customer's payment, and nothing is sent."""
    other, wanted = stripe.create_customer(), order(customer, reference="ticket-1")
    async with await connect(stripe) as agent:
        key = (await agent.call_tool(TOOL, wanted, dry_run=True)).idempotency_key
        await agent.call_tool(TOOL, order(other, -900, **more), idempotency_key=key)
        with pytest.raises(IdempotencyConflictError, match=ANOTHERS):
            await agent.call_tool(TOOL, wanted)
    assert [] == await ledger(stripe, customer)


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("is_own", [False, True], ids=["of another customer", "of the same"])
async def test_a_reversals_key_that_another_call_has_reverses_nothing(
    stripe: Sandbox, customer: str, *, is_own: bool
) -> None:
    """The entry is neither told nor marked as reversed, and nothing is sent."""
    async with await connect(stripe) as agent:
        wanted = order(customer, reference="ticket-1")
        entry = (await agent.call_tool(TOOL, wanted)).data["id"]
        key = (await agent.call_tool(REVERSE, {"transaction": entry}, dry_run=True)).idempotency_key
        other = customer if is_own else stripe.create_customer()
        await agent.call_tool(TOOL, order(other, 500), idempotency_key=key)
        assert () == (await agent.call_tool(TOOL, wanted)).warnings
        with pytest.raises(IdempotencyConflictError, match=ANOTHERS):
            await agent.call_tool(REVERSE, {"transaction": entry})
    assert "ocp_reversed_by" not in (await ledger(stripe, customer))[-1]["metadata"]
    assert 1 + is_own == len(await ledger(stripe, customer))


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("is_approved", [False, True])
async def test_a_proposal_under_a_derived_key_is_not_taken_from_another(
    stripe: Sandbox, customer: str, *, is_approved: bool
) -> None:
    """A yes to one customer's credit is no yes to another's, and its words are no reversal."""
    other, wanted = stripe.create_customer(), order(customer, -2500, reference="ticket-1")
    async with await connect(stripe, policy=QUEUED) as agent:
        entry = (await agent.call_tool(TOOL, order(customer))).data["id"]
        for tool, asked in ((REVERSE, {"transaction": entry}), (TOOL, wanted)):
            key = (await agent.call_tool(tool, asked, dry_run=True)).idempotency_key
            with pytest.raises(ApprovalRequiredError):
                await agent.call_tool(TOOL, order(other, -5000), idempotency_key=key)
            async with usual_journal() as journal:
                if is_approved:
                    await decide(journal, (await proposals(journal))[-1].approve(by="Ana"))
            with pytest.raises(IdempotencyConflictError, match=ANOTHERS):
                await agent.call_tool(tool, asked)
    assert ([], 1) == (await ledger(stripe, other), len(await ledger(stripe, customer)))


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("is_model", [True, False])
async def test_a_key_that_is_repeated_stays_whose_it_was(stripe: Sandbox, customer: str, *, is_model: bool) -> None:
    """Whether a model or a program repeats it: the reference's next call is still answered from it."""
    wanted = order(customer, -2500, reference="ticket-1")
    async with await connect(stripe, policy=QUEUED) as agent:
        with pytest.raises(ApprovalRequiredError) as caught:
            await agent.call_tool(TOOL, wanted)
        async with usual_journal() as journal:
            await decide(journal, (await proposals(journal))[0].approve(by="Ana"))
        key = caught.value.idempotency_key
        named = {**wanted, "idempotency_key": key} if is_model else wanted
        done = await agent.call_tool(TOOL, named, idempotency_key=None if is_model else key)
        assert (await agent.call_tool(TOOL, wanted)).data == done.data
    async with usual_journal() as journal:
        assert [Origin.REFERENCE] == [record.intent.key.origin for record in await records(journal)]


async def test_each_key_is_on_record_with_its_origin(stripe: Sandbox, customer: str) -> None:
    """A program's, a header's, a host's, a reference's, a reversal's, and one drawn, also for a model."""
    call = {"id": "call_1f2e3d4c5b6a79881726354453627180", "name": TOOL, "arguments": order(customer, -4)}
    async with await connect(stripe) as agent:
        await agent.call_tool(TOOL, order(customer, -1), idempotency_key="a")
        await agent.call_tool(TOOL, order(customer, -2), headers={"Idempotency-Key": "b"})
        await agent.call_tool(TOOL, order(customer, -3, idempotency_key="c"))
        await run_tool_call("json-schema", agent, call)
        await agent.call_tool(TOOL, order(customer, -5), idempotency_key=ToolCall("d", "conversation"))
        await agent.call_tool(TOOL, order(customer, -6, reference="ticket-1"))
        made = await agent.call_tool(TOOL, order(customer, -7))
        await agent.call_tool("reverseCustomerBalanceTransaction", {"transaction": made.data["id"]})
    async with usual_journal() as journal:
        origins = [record.intent.key.origin for record in await records(journal)]
    assert origins == [
        Origin.CALLER,
        Origin.CALLER,
        Origin.DRAWN,
        Origin.TOOL_CALL,
        Origin.TOOL_CALL,
        Origin.REFERENCE,
        Origin.DRAWN,
        Origin.REVERSAL,
    ]


@pytest.mark.promise("outcomes.no-fifth")
@pytest.mark.parametrize("answer", [httpx.ConnectError("no"), httpx.ReadError("lost"), TimeoutError()])
async def test_whatever_a_transport_raises_is_one_of_four(answer: BaseException) -> None:
    """No connection is not sent; anything else may have arrived."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise answer

    told: list[Any] = []
    async with await scripted(fail, max_attempts=1) as agent:
        try:
            await agent.call_tool(TOOL, order())
        except (NotSentError, OutcomeUnknownError) as error:
            told.append(error.outcome)
    assert ["not_sent" if isinstance(answer, httpx.ConnectError) else "unknown"] == told
