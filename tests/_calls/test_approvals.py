"""
A person decides: in code, at a terminal, and over the queue; for exactly what was proposed, once, in time.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, client, decide, ledger, order, proposals, run
from helpers import decisions as recorded_decisions
from places import Place, age, look
from terminal import at_terminal, in_pipe

from ocp_stripe_balance import ApprovalRequiredError, NotSentError, OCPAgent, PolicyRefusedError, Proposal, Settings
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance.errors import IdempotencyConflictError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ocp_stripe_balance.models import Answer
    from ocp_stripe_balance.sandbox import Sandbox

ASK = {"approval": {"above": {"usd": "3.00"}}, "duplicate_window": "off"}
QUEUE = {"approval": {"above": {"usd": "3.00"}, "queue": True, "expires": "1h"}, "duplicate_window": "off"}


async def asking(
    stripe: Sandbox,
    place: Place,
    approver: Callable[[Proposal], Awaitable[Any]] | None,
    policy: Any = None,
    opened: Journal | None = None,
    **more: Any,
) -> OCPAgent:
    """
    An agent whose calls of more than 3.00 usd need a person.
    """
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "journal": str(place), "policy": policy or ASK}
    agent = OCPAgent("support", "ann", settings=Settings(**values, **more), approver=approver, journal=opened)
    await agent.register_api("stripe")
    return agent


async def decisions(place: Place) -> list[tuple[str, str, str]]:
    journal = Journal(place)
    try:
        return [(each.decision, each.rule, each.who) for each in await recorded_decisions(journal)]
    finally:
        await journal.aclose()


async def approve(place: Place, key: str, *, is_yes: bool = True, reason: str = "") -> Proposal:
    journal = Journal(place)
    try:
        proposal = next(each for each in await proposals(journal) if each.key == key and each.state == "waiting")
        answer = proposal.approve if is_yes else proposal.deny
        return await decide(journal, answer(by="Ana", reason=reason))
    finally:
        await journal.aclose()


async def test_an_approver_sees_what_it_decides_and_its_yes_sends(stripe: Sandbox, place: Place) -> None:
    """What, for whom, why, and the balance before and after, as they are now; small calls are not put to it."""
    seen: list[Proposal] = []

    async def approver(proposal: Proposal) -> Answer:
        seen.append(proposal)
        return proposal.approve(by="Ana", reason="fine")

    customer = stripe.create_customer(name="Ada")
    async with await asking(stripe, place, approver) as agent:
        await agent.call_tool(TOOL, order(customer, -300), idempotency_key="small")
        assert [] == seen
        result = await agent.call_tool(TOOL, order(customer, -301, description="sorry"), idempotency_key="large")
    (proposal,) = seen
    assert -601 == result.data["ending_balance"]
    assert (customer, "Ada", -300, -601) == (
        proposal.customer,
        proposal.customer_name,
        proposal.balance_before,
        proposal.balance_after,
    )
    assert ("approval.above.usd", "3.01 usd is above the 3.00 usd that go without approval") == (
        proposal.rule,
        proposal.why,
    )
    assert ("ann", "support", "test", "credit 3.01 usd") == (
        proposal.user,
        proposal.agent_type,
        proposal.mode,
        proposal.effect,
    )
    text = proposal.describe()
    for words in (
        "credit 3.01 usd",
        "(Ada)",
        "in credit 3.00 usd when asked, in credit 6.01 usd after this call",
        "sorry",
        "ann",
        "large",
    ):
        assert words in text
    assert [
        ("allowed", "every rule", "policy"),
        ("asked", "approval.above.usd", "policy"),
        ("approved", "approval.above.usd", "Ana"),
        ("allowed", "approval.above.usd", "Ana"),
    ] == await decisions(place)


async def test_a_no_is_told_with_its_reason(stripe: Sandbox, place: Place) -> None:
    """Nothing is sent, and the audit says who said no."""

    async def approver(proposal: Proposal) -> Answer:
        return proposal.deny(by="Ana", reason="wrong customer")

    customer = stripe.create_customer()
    async with await asking(stripe, place, approver) as agent:
        with pytest.raises(PolicyRefusedError, match="Ana denied it: wrong customer") as caught:
            await agent.call_tool(TOOL, order(customer))
    assert ("approval", "not_sent", False) == (caught.value.rule, caught.value.outcome, caught.value.retryable)
    assert [] == await ledger(stripe, customer)
    assert ("denied", "approval.above.usd", "Ana") == (await decisions(place))[-1]


async def yes_to_another(proposal: Proposal) -> Any:
    return Proposal(**{**{name: getattr(proposal, name) for name in proposal.__slots__}, "id": "ap_other"}).approve(
        by="A"
    )


async def broken(_: Proposal) -> Any:
    raise RuntimeError("no network")


async def answer_true(_: Proposal) -> Any:
    return True


async def answer_yes(_: Proposal) -> Any:
    return {"is_approved": True, "by": "Ana"}


async def answer_nothing(_: Proposal) -> Any:
    return None


async def truthy(proposal: Proposal) -> Any:
    answer = proposal.deny(by="Ana")
    object.__setattr__(answer, "is_approved", "no")
    return answer


@pytest.mark.parametrize("approver", [yes_to_another, broken, answer_true, answer_yes, answer_nothing, truthy])
async def test_whatever_is_no_yes_is_a_no(
    stripe: Sandbox, place: Place, approver: Callable[[Proposal], Awaitable[Any]]
) -> None:
    """An approver that fails, or answers with anything but the yes of this very proposal, has not approved."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, approver) as agent:
        with pytest.raises(PolicyRefusedError):
            await agent.call_tool(TOOL, order(customer))
    assert [] == await ledger(stripe, customer)


async def test_an_approver_that_takes_too_long_is_a_no(stripe: Sandbox, place: Place) -> None:
    """The proposal expires, and the audit says so."""
    policy = {"approval": {"always": True, "expires": "1s"}}

    async def approver(_: Proposal) -> Any:
        await asyncio.sleep(30)

    customer = stripe.create_customer()
    async with await asking(stripe, place, approver, policy) as agent:
        with pytest.raises(PolicyRefusedError, match="nobody answered in time"):
            await agent.call_tool(TOOL, order(customer))
    assert ("expired", "approval.always", "policy") in await decisions(place)
    assert [] == await ledger(stripe, customer)


async def test_a_persons_time_is_not_the_calls(stripe: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline of the call starts again when it is approved."""
    loop, thought_s = asyncio.get_running_loop(), [0.0]
    time_of = loop.time
    monkeypatch.setattr(loop, "time", lambda: time_of() + thought_s[0])

    async def approver(proposal: Proposal) -> Answer:
        thought_s[0] = 100
        return proposal.approve(by="Ana")

    async with await asking(stripe, place, approver, timeout=60) as agent:
        assert (await agent.call_tool(TOOL, order(stripe.create_customer()))).ok


async def test_a_cancelled_question_sends_nothing(stripe: Sandbox, place: Place) -> None:
    """While a person thinks, the call can be cancelled like any other."""
    asked = asyncio.Event()

    async def approver(_: Proposal) -> Any:
        asked.set()
        await asyncio.sleep(30)

    customer = stripe.create_customer()
    async with await asking(stripe, place, approver) as agent:
        task = asyncio.ensure_future(agent.call_tool(TOOL, order(customer)))
        async with asyncio.timeout(20):
            await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [] == await ledger(stripe, customer)


async def test_the_budget_is_looked_at_again_after_the_yes(stripe: Sandbox, place: Place) -> None:
    """What others spent while a person thought is counted."""
    policy = {**ASK, "budgets": [{"per": "all", "window": "1h", "credit": {"usd": "6.00"}}]}
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, policy) as other:

        async def approver(proposal: Proposal) -> Answer:
            await other.call_tool(TOOL, order(customer, -200))
            return proposal.approve(by="Ana")

        async with await asking(stripe, place, approver, policy) as agent:
            with pytest.raises(PolicyRefusedError, match="room for"):
                await agent.call_tool(TOOL, order(customer, -500))
    assert [-200] == [entry["amount"] for entry in await ledger(stripe, customer)]


async def blocks(proposal: Proposal) -> Any:
    time.sleep(1.2)  # noqa: ASYNC251  as an approver that asks at a terminal does
    return proposal.approve(by="late")


async def takes_no_cancellation(proposal: Proposal) -> Any:
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        return proposal.approve(by="late")


@pytest.mark.parametrize("approver", [blocks, takes_no_cancellation])
async def test_a_yes_that_comes_late_is_a_no(
    stripe: Sandbox, place: Place, approver: Callable[[Proposal], Awaitable[Any]]
) -> None:
    """Also from an approver that cannot be interrupted."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, approver, {"approval": {"always": True, "expires": "1s"}}) as agent:
        with pytest.raises(PolicyRefusedError, match="nobody answered in time"):
            await agent.call_tool(TOOL, order(customer))
    assert [] == await ledger(stripe, customer)


@pytest.mark.promise("closed.unasked-is-refused")
async def test_a_yes_is_not_used_after_its_time(stripe: Sandbox, place: Place) -> None:
    """Where something held the call up after the yes, the person is asked again."""
    asked: list[Proposal] = []
    customer = stripe.create_customer()

    def clock() -> float:
        return time.time() + 2 * is_late[0]

    async def approver(proposal: Proposal) -> Answer:
        asked.append(proposal)
        return proposal.approve(by="Ana")

    class Late(Journal):
        """
        Two seconds go by between the first decision and the call that was waiting for it.
        """

        async def finish(self, work: Any, *rest: Any) -> Any:
            is_late[0] = len(asked) == 1
            try:
                return await super().finish(work, *rest)
            finally:
                is_late[0] = False

    is_late = [False]
    opened, policy = Late(place, clock=clock), {"approval": {"always": True, "expires": "1s"}}
    async with await asking(stripe, place, approver, policy, opened=opened) as agent:
        assert (await agent.call_tool(TOOL, order(customer))).ok
    assert 2 == len(asked)


@pytest.mark.promise("closed.unasked-is-refused")
async def test_a_no_that_cannot_be_recorded_is_no_answer(stripe: Sandbox, place: Place) -> None:
    """Who decided is a text, or nobody decided: a no must outlive the moment."""

    async def nobody(proposal: Proposal) -> Answer:
        by: Any = None  # what a careless approver passes
        return proposal.deny(by=by)

    customer = stripe.create_customer()
    async with await asking(stripe, place, nobody) as agent:
        with pytest.raises(PolicyRefusedError, match=r"the approver failed \(ValueError\)"):
            await agent.call_tool(TOOL, order(customer))
    assert [] == await ledger(stripe, customer)


async def test_a_no_does_not_deny_what_another_yes_has_sent(stripe: Sandbox, place: Place) -> None:
    """Two callers of one key, one person says yes and one no: both are told that it was paid."""
    asked: list[Proposal] = []
    customer = stripe.create_customer()

    async def approver(proposal: Proposal) -> Answer:
        asked.append(proposal)
        if len(asked) == 1:
            return proposal.approve(by="Ana")
        while not await ledger(stripe, customer):
            await asyncio.sleep(0.01)
        return proposal.deny(by="Bob")

    async with await asking(stripe, place, approver) as agent:
        calls = [agent.call_tool(TOOL, order(customer), idempotency_key="k") for _ in range(2)]
        one, two = await asyncio.gather(*calls)
    assert one.data["id"] == two.data["id"]
    assert 1 == len(await ledger(stripe, customer))


async def test_a_customer_who_is_deleted_while_known_is_not_proposed(stripe: Sandbox, place: Place) -> None:
    """The person is not asked, for nothing could come of it."""
    asked: list[Proposal] = []

    async def approver(proposal: Proposal) -> Answer:
        asked.append(proposal)
        return proposal.approve(by="Ana")

    customer = stripe.create_customer()
    async with await asking(stripe, place, approver) as agent:
        await agent.call_tool(TOOL, order(customer, -100))
        await agent.call_tool(TOOL, order(customer, -200))
        async with client(stripe) as http:
            await http.delete(f"/v1/customers/{customer}")
        with pytest.raises(PolicyRefusedError, match="was deleted"):
            await agent.call_tool(TOOL, order(customer))
    assert [] == asked


async def test_who_takes_a_command_back_may_give_it_again(stripe: Sandbox, place: Place) -> None:
    """The terminal's own question is no decision about the call: the next time it is asked again."""
    answers = [False, True]

    async def approver(proposal: Proposal) -> Answer:
        return proposal.approve(by="Ana") if answers.pop(0) else proposal.deny(by="Ana")

    customer = stripe.create_customer()
    settings = Settings(api_key=stripe.api_key, api_base=stripe.url, journal=str(place))
    async with OCPAgent(settings=settings, approver=approver, asks_always=True) as agent:
        await agent.register_api("stripe")
        with pytest.raises(PolicyRefusedError, match="Ana did not send it") as caught:
            await agent.call_tool(TOOL, order(customer, reference="t"))
        assert "asks again" in caught.value.hint
        assert (await agent.call_tool(TOOL, order(customer, reference="t"))).ok
    assert "denied" not in {decision for decision, _, _ in await decisions(place)}


async def test_who_said_no_is_not_asked_again_under_the_same_key(stripe: Sandbox, place: Place) -> None:
    """A model cannot ask until somebody tires; an approver that failed has not said no."""
    answers: list[Any] = []

    async def approver(proposal: Proposal) -> Any:
        answer = answers.pop(0)
        if answer is None:
            raise RuntimeError("no network")
        return proposal.approve(by="Ana") if answer else proposal.deny(by="Ana")

    customer = stripe.create_customer()
    async with await asking(stripe, place, approver) as agent:
        answers[:] = [None, False]
        for match in ("the approver failed", "Ana denied it", "Ana denied it"):
            with pytest.raises(PolicyRefusedError, match=match):
                await agent.call_tool(TOOL, order(customer), idempotency_key="K")
        assert [] == answers == await ledger(stripe, customer)


async def test_a_customer_who_got_a_currency_while_a_person_thought_is_seen(stripe: Sandbox, place: Place) -> None:
    """What was read before the question may be old by the answer."""
    policy = {"approval": {"above": {"eur": "1.00"}}, "duplicate_window": "off"}
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, policy) as other:

        async def approver(proposal: Proposal) -> Answer:
            await other.call_tool(TOOL, order(customer, -500))
            age(place, 1000)
            return proposal.approve(by="Ana")

        async with await asking(stripe, place, approver, policy) as agent:
            with pytest.raises(PolicyRefusedError, match="is billed in usd"):
                await agent.call_tool(TOOL, order(customer, -1000, "eur"))
    assert ["usd"] == [entry["currency"] for entry in await ledger(stripe, customer)]


async def test_racing_calls_of_one_key_are_told_the_truth(stripe: Sandbox, place: Place) -> None:
    """One waits; the others, with other parameters, are conflicts and not said to wait."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE) as agent:
        calls = [agent.call_tool(TOOL, order(customer, -500 - n), idempotency_key="k") for n in range(4)]
        done = await asyncio.gather(*calls, return_exceptions=True)
    assert 1 == len([each for each in done if isinstance(each, ApprovalRequiredError)])
    assert 3 == len([each for each in done if isinstance(each, IdempotencyConflictError)])


async def test_the_words_of_a_proposal_cannot_forge_its_lines(stripe: Sandbox, place: Place) -> None:
    """Line breaks and escapes in reference, description and customer's name are shown, not obeyed."""
    forged = "r\neffect       credit 0.01 usd\x1b[2J"
    customer = stripe.create_customer(name=forged)
    seen: list[str] = []

    async def approver(proposal: Proposal) -> Answer:
        seen.append(proposal.describe())
        return proposal.deny(by="Ana")

    async with await asking(stripe, place, approver) as agent:
        with pytest.raises(PolicyRefusedError):
            await agent.call_tool(TOOL, order(customer, reference=forged, description=forged, metadata={"a": forged}))
    (text,) = seen
    assert "\x1b" not in text
    assert 1 == len([line for line in text.splitlines() if line.startswith("effect")])


async def test_without_anybody_to_ask_it_is_refused(stripe: Sandbox, place: Place) -> None:
    """No approver and no queue."""
    async with await asking(stripe, place, None) as agent:
        with pytest.raises(PolicyRefusedError, match="nobody can be asked") as caught:
            await agent.call_tool(TOOL, order(stripe.create_customer()))
    assert "approval.above.usd" == caught.value.rule
    assert not isinstance(caught.value, ApprovalRequiredError)


async def wait_in_queue(agent: OCPAgent, parameters: dict[str, Any], key: str | None = None) -> ApprovalRequiredError:
    with pytest.raises(ApprovalRequiredError) as caught:
        await agent.call_tool(TOOL, parameters, idempotency_key=key)
    return caught.value


async def test_a_queued_call_runs_once_it_is_approved(stripe: Sandbox, place: Place) -> None:
    """The agent is told the key; the same call with it runs once, in another process too, and then is replayed."""
    customer = stripe.create_customer(name="Ada")
    async with await asking(stripe, place, None, QUEUE) as agent:
        error = await wait_in_queue(agent, order(customer))
        key = error.idempotency_key
        assert key is not None
        told = error.to_dict()
        assert ("approval_required", "not_sent", "call_again_once_approved", key) == tuple(
            told[name] for name in ("error", "outcome", "next", "idempotency_key")
        )
        assert error.proposal_id == (await wait_in_queue(agent, order(customer), key)).proposal_id
    await approve(place, key)
    for _ in range(2):
        async with await asking(stripe, place, None, QUEUE) as agent:
            result = await agent.call_tool(TOOL, order(customer), idempotency_key=key)
    assert result.replayed
    assert 1 == len(await ledger(stripe, customer))
    assert [
        ("asked", "approval.above.usd", "policy"),
        ("approved", "approval.above.usd", "Ana"),
        ("allowed", "approval.above.usd", "Ana"),
    ] == await decisions(place)


async def test_a_reference_finds_its_proposal(stripe: Sandbox, place: Place) -> None:
    """Without a key, the business reason is the name of the decision."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE) as agent:
        error = await wait_in_queue(agent, order(customer, reference="ticket-1"))
        await approve(place, error.idempotency_key or "")
        assert (await agent.call_tool(TOOL, order(customer, reference="ticket-1"))).ok


@pytest.mark.parametrize(
    "change",
    [
        {"amount": -501},
        {"amount": 500},
        {"customer": "cus_other"},
        {"description": "another story"},
        {"metadata": {"a": "b"}},
        {"reference": "ticket-2"},
        {"currency": "eur"},
    ],
)
async def test_an_approval_is_for_exactly_what_was_proposed(
    stripe: Sandbox, place: Place, change: dict[str, Any]
) -> None:
    """Any other parameter under the approved key is a conflict, and the approval is still there for the first."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE, customer_check="off") as agent:
        await wait_in_queue(agent, order(customer), "k")
        await approve(place, "k")
        with pytest.raises(IdempotencyConflictError, match="exactly what was proposed"):
            await agent.call_tool(TOOL, order(customer) | change, idempotency_key="k")
        assert [] == await ledger(stripe, customer)
        assert (await agent.call_tool(TOOL, order(customer), idempotency_key="k")).ok
    assert 1 == len(await ledger(stripe, customer))


async def test_an_approval_is_for_its_own_key(stripe: Sandbox, place: Place) -> None:
    """The same parameters under another key of a program's are another proposal."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE) as agent:
        await wait_in_queue(agent, order(customer), "k")
        await approve(place, "k")
        await wait_in_queue(agent, order(customer), "k2")
    assert [] == await ledger(stripe, customer)


@pytest.mark.promise("closed.unasked-is-refused")
async def test_an_approval_is_used_once(stripe: Sandbox, place: Place) -> None:
    """Even where the record of the call it let through is gone."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE) as agent:
        await wait_in_queue(agent, order(customer), "k")
        await approve(place, "k")
        await agent.call_tool(TOOL, order(customer), idempotency_key="k")
        age(place, 700)
        journal = Journal(place)
        now = journal.now()
        assert 1 == await journal.run(lambda book: book.prune(9e9, now, with_references=False, keep_s=0))
        await journal.aclose()
        await wait_in_queue(agent, order(customer), "k")
    assert 1 == len(await ledger(stripe, customer))


async def test_an_approved_call_that_moved_nothing_may_run_again(stripe: Sandbox, place: Place) -> None:
    """Stripe could not be reached: the decision stands for the same key."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE, max_attempts=1) as agent:
        await wait_in_queue(agent, order(customer), "k")
        await approve(place, "k")
        stripe.faults.add("rate_limit", path="balance")
        with pytest.raises(Exception, match="429"):
            await agent.call_tool(TOOL, order(customer), idempotency_key="k")
        assert (await agent.call_tool(TOOL, order(customer), idempotency_key="k")).ok
    assert 1 == len(await ledger(stripe, customer))


async def test_a_denied_call_stays_denied(stripe: Sandbox, place: Place) -> None:
    """For its key, whatever the policy says later."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE) as agent:
        await wait_in_queue(agent, order(customer), "k")
        await approve(place, "k", is_yes=False, reason="not ours")
    for policy in (QUEUE, {}):
        async with await asking(stripe, place, None, policy) as agent:
            with pytest.raises(PolicyRefusedError, match="Ana denied it: not ours"):
                await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    assert [] == await ledger(stripe, customer)


async def test_what_was_denied_comes_back_to_a_person(stripe: Sandbox, place: Place) -> None:
    """The same reason for less, under another key, or the same amount again: somebody is asked, and told of the no."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE) as agent:
        await wait_in_queue(agent, order(customer, -2500, reference="ticket-9"), "k")
        await approve(place, "k", is_yes=False, reason="not our fault")
        smaller = await wait_in_queue(agent, order(customer, -100, reference="ticket-9"))
        assert "denied before" == smaller.rule
        assert "Ana denied credit 25.00 usd for this customer" in str(smaller)
        journal = Journal(place)
        assert "not our fault" in (await proposals(journal))[-1].describe()
        await journal.aclose()
        assert (await agent.call_tool(TOOL, order(customer, -100, reference="another"))).ok
        await approve(place, smaller.idempotency_key or "")
        assert (await agent.call_tool(TOOL, order(customer, -100, reference="ticket-9"))).ok
        larger = await wait_in_queue(agent, order(customer, -2500, reference="ticket-10"))
        assert "above the 3.00 usd" in str(larger), "whoever is asked for another reason too"
        assert "Ana denied credit 25.00 usd for this customer" in str(larger)
    async with await asking(stripe, place, None, {**QUEUE, "approval": {}}) as agent:
        with pytest.raises(PolicyRefusedError, match="nobody can be asked"):
            await agent.call_tool(TOOL, order(customer, -2500))


async def test_proposals_and_approvals_expire(stripe: Sandbox, place: Place) -> None:
    """After its time a proposal cannot be approved, an approval not used; the call is proposed anew."""
    customer = stripe.create_customer()
    now = [time.time()]
    journal = Journal(place, clock=lambda: now[0])
    async with await asking(stripe, place, None, QUEUE, opened=journal) as agent:
        first = await wait_in_queue(agent, order(customer), "k")
        (proposal,) = await proposals(journal)
        now[0] = proposal.expires_at
        assert "expired" == (await decide(journal, proposal.approve(by="Ana"))).state
        now[0] = proposal.asked_at
        second = await wait_in_queue(agent, order(customer), "k")
        assert first.proposal_id != second.proposal_id
        await approve(place, "k")
        now[0] = (await proposals(journal))[-1].expires_at
        third = await wait_in_queue(agent, order(customer), "k")
        assert 3 == len({first.proposal_id, second.proposal_id, third.proposal_id})
    assert 2 == [decision for decision, _, _ in await decisions(place)].count("expired")
    assert [] == await ledger(stripe, customer)


@pytest.mark.parametrize("state", ["used", "expired"])
async def test_what_was_read_before_others_ended_it_does_not_expire_again(
    stripe: Sandbox, place: Place, state: str
) -> None:
    """On a server, others may use a proposal, or see that it expired, while somebody lists it."""
    now = [time.time()]
    journal = Journal(place, clock=lambda: now[0])
    async with await asking(stripe, place, None, QUEUE, opened=journal) as agent:
        await wait_in_queue(agent, order(stripe.create_customer()), "k")
        await approve(place, "k")
        (read,) = await proposals(journal)
        now[0] = read.expires_at
        if state == "used":
            await journal.run(lambda book: book.use_up(read))
        else:
            await proposals(journal)
        await journal.run(lambda book: book.unless_expired(read, now[0]))
        assert [state] == [each.state for each in await proposals(journal)]
    assert (state == "expired") == [decision for decision, _, _ in await decisions(place)].count("expired")


async def test_two_who_decide_at_once_get_one_decision(stripe: Sandbox, place: Place) -> None:
    """The second is told what stands."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE) as agent:
        await wait_in_queue(agent, order(customer), "k")
    first, second = Journal(place), Journal(place)
    (proposal,) = await proposals(first)
    states = await asyncio.gather(decide(first, proposal.approve(by="Ana")), decide(second, proposal.deny(by="Ben")))
    assert 1 == len({state.state for state in states})
    assert 1 == len({state.decided_by for state in states})
    for journal in (first, second):
        await journal.aclose()


async def test_many_callers_of_one_key_make_one_proposal(stripe: Sandbox, place: Place) -> None:
    """And one entry, once it is approved."""
    customer = stripe.create_customer()
    async with await asking(stripe, place, None, QUEUE) as agent:
        errors = await asyncio.gather(*(wait_in_queue(agent, order(customer), "k") for _ in range(20)))
        assert 1 == len({error.proposal_id for error in errors})
        await approve(place, "k")
        results = await asyncio.gather(
            *(agent.call_tool(TOOL, order(customer), idempotency_key="k") for _ in range(20))
        )
        assert 1 == len({result.data["id"] for result in results})
    assert 1 == len(await ledger(stripe, customer))


def queued(stripe: Sandbox, place: Place, *keys: str) -> str:
    """
    A customer for whom calls of those keys wait.
    """
    customer = stripe.create_customer(name="Ada\x1b[2J")

    async def main() -> None:
        async with await asking(stripe, place, None, QUEUE) as agent:
            for number, key in enumerate(keys):
                await wait_in_queue(agent, order(customer, -500 - number, description="\x1b[31mApproved\x1b[0m"), key)

    asyncio.run(main())
    return customer


def test_the_queue_is_decided_on_the_command_line(
    stripe_thread: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """List, show, approve and deny; what is decided stays so, and escapes in the model's words are shown."""
    customer = queued(stripe_thread, place, "a", "b")
    monkeypatch.setenv("OCP_STRIPE_JOURNAL", str(place))
    listed = in_pipe("approvals", "list").out
    assert 2 == len(listed.splitlines())
    assert customer in listed
    assert "credit 5.01 usd" in listed
    shown = in_pipe("approvals", "show", "a").out
    for words in ("Ada", "0.00 usd when asked, in credit 5.00", r"\x1b[31mApproved", "above the 3.00 usd", "ann"):
        assert words in shown
    assert "\x1b" not in shown + listed
    done = in_pipe("approvals", "approve", "a", "--by", "Ana")
    assert (2, "") == (done.code, done.out), "without a terminal and --yes nothing is decided"
    assert "0.00 usd when asked" in done.err
    done = in_pipe("approvals", "approve", "a", "--by", "Ana", "--yes")
    assert (0, f"approved: credit 5.00 usd for {customer}, by Ana\n") == (done.code, done.out)
    proposal_id = json.loads(in_pipe("approvals", "list", "--json").out)["proposals"][0]["id"]
    done = in_pipe("approvals", "deny", proposal_id, "--reason", "no", "--yes")
    assert (0, True) == (done.code, f"denied: credit 5.01 usd for {customer}" in done.out)
    done = in_pipe("approvals", "approve", "b", "--yes")
    assert (2, True) == (done.code, "is denied by " in done.err)
    assert "Nothing waits" in in_pipe("approvals", "list").err
    proposals = json.loads(in_pipe("approvals", "list", "--all", "--json").out)["proposals"]
    assert ["approved", "denied"] == [each["state"] for each in proposals]
    assert ", approved by Ana at 20" in in_pipe("approvals", "show", "a").out
    assert (2, True) == ((done := in_pipe("approvals", "show", "c")).code, "has no proposal c" in done.err)
    assert "--reason" in in_pipe("approvals", "deny", "a").err
    exported = [json.loads(line) for line in in_pipe("journal", "export").out.splitlines()]
    assert ["asked", "asked", "approved", "denied"] == [each["decision"] for each in exported]


def test_a_key_of_two_modes_is_named_by_its_id(
    stripe_thread: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them is meant is not guessed."""
    queued(stripe_thread, place, "a")

    async def in_another_account() -> None:
        values = {"api_key": stripe_thread.api_key, "api_base": stripe_thread.url, "journal": str(place)}
        settings = Settings(**values, policy=QUEUE, account="acct_2", customer_check="off")
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            await wait_in_queue(agent, order("cus_x"), "a")

    asyncio.run(in_another_account())
    monkeypatch.setenv("OCP_STRIPE_JOURNAL", str(place))
    done = run("approvals", "approve", "a", "--yes")
    assert (2, True) == (done.returncode, "several proposals of key a" in done.stderr)


def test_an_id_names_its_proposal_whatever_keys_a_model_chooses(
    stripe_thread: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is another proposal's ID does not stand in for it, and a key with two proposals is not guessed."""
    customer = stripe_thread.create_customer()

    async def propose(amount: int, key: str | None) -> str:
        async with await asking(stripe_thread, place, None, QUEUE) as agent:
            return (await wait_in_queue(agent, order(customer, amount), key)).proposal_id

    small = asyncio.run(propose(-500, None))
    asyncio.run(propose(-90000, small))
    monkeypatch.setenv("OCP_STRIPE_JOURNAL", str(place))
    assert "approved: credit 5.00 usd" in run("approvals", "approve", small, "--yes").stdout
    first = asyncio.run(propose(-600, "k"))
    with look(place) as db:
        db.execute("UPDATE proposals SET expires_at = 1 WHERE id = ?", (first,))
    second = asyncio.run(propose(-90000, "k"))
    done = run("approvals", "approve", "k", "--yes")
    assert (2, True) == (done.returncode, "several proposals of key k" in done.stderr)
    assert "expired" in json.loads(run("journal", "decisions", "--json").stdout)[-2]["decision"]
    assert "credit 900.00 usd" in run("approvals", "approve", second, "--yes").stdout


@pytest.mark.parametrize(("answer", "code", "state"), [("y\n", 0, "approved"), ("n\n", 2, "waiting")])
def test_who_decides_at_a_terminal_is_shown_what(
    stripe_thread: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, state: str
) -> None:
    """The proposal is printed, and a yes is needed."""
    customer = queued(stripe_thread, place, "a")
    monkeypatch.setenv("OCP_STRIPE_JOURNAL", str(place))
    done = at_terminal("approvals", "approve", "a", answer=answer)
    assert code == done.code
    assert customer in done.out
    assert "Approve it? [y/N]" in done.out
    assert state == json.loads(run("approvals", "list", "--all", "--json").stdout)["proposals"][0]["state"]


@pytest.mark.file_only("a folder")
async def test_where_the_journal_fails_nothing_is_approved(stripe: Sandbox, tmp_path: Path) -> None:
    """A question that cannot be recorded is not asked."""
    asked: list[Proposal] = []

    async def approver(proposal: Proposal) -> Answer:
        asked.append(proposal)
        return proposal.approve(by="Ana")

    folder = tmp_path / "folder"
    folder.write_text("a file where the folder should be")
    async with await asking(stripe, folder / "journal", approver) as agent:
        with pytest.raises(NotSentError, match="journal"):
            await agent.call_tool(TOOL, order(stripe.create_customer()))
    assert [] == asked
