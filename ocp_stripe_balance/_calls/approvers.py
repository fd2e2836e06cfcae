"""
Putting a proposal to an approver: somebody who decides at once, as a function of the agent's own program.

It only decides: the decision is a row like any other, and the call that waits for it is then made again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ocp_stripe_balance._calls.endings import Failed, Refused
from ocp_stripe_balance._journal import intent_of
from ocp_stripe_balance._policy import Finding, Words, denied
from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.models import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocp_stripe_balance._calls.endings import Ending, Waiting
    from ocp_stripe_balance._domain import Ruling
    from ocp_stripe_balance._journal import Book, Journal
    from ocp_stripe_balance.models import Proposal

    Approver = Callable[[Proposal], Awaitable[Answer]]

_TAKEN_BACK = "Given again, the command asks again."
_NOT_DECIDED = "Nobody decided. A person must see to the approver; then the same call may be made again."


async def ask(approver: Approver, waiting: Waiting, journal: Journal) -> Ending | None:
    """
    None where somebody decided, so that the call is to be made again; else why nobody did.

    Raises:
        asyncio.CancelledError: the question was cancelled, and nothing was sent.
    """
    proposal = waiting.proposal
    try:
        answer, why = await _answer(approver, proposal, journal)
        if answer is None:
            return await _take_back(waiting, journal, "approval", why, _NOT_DECIDED)
        if answer.is_approved is not True and proposal.rule == "ask_always":
            # Whoever gave the command took it back; that says nothing about the same command later.
            return await _take_back(waiting, journal, proposal.rule, f"{answer.by} did not send it", _TAKEN_BACK)
        is_no = await journal.run(lambda book: _decide(book, proposal, answer, journal.now()))
    except NotSentError as error:
        return Failed(error.told_of(proposal.tool, proposal.key), error.__cause__)
    return Refused(intent_of(proposal), denied(answer.by, answer.reason)) if is_no else None


def _decide(book: Book, proposal: Proposal, answer: Answer, now: float) -> bool:
    """
    Record the decision, and whether it is a no; that does not hold for a call which another caller sent meanwhile.
    """
    decided = book.decide(answer, now)
    record = book.find(intent_of(proposal))
    is_sent = record is not None and record.state.may_have_moved
    return decided is not None and decided.state == "denied" and answer.is_approved is not True and not is_sent


async def _answer(approver: Approver, proposal: Proposal, journal: Journal) -> tuple[Answer | None, str]:
    """
    What the approver answered to this proposal, in time; None and why where that is no answer.
    """
    try:
        async with asyncio.timeout(proposal.expires_at - journal.now()) as patience:
            answer: object = await approver(proposal)
    except asyncio.CancelledError:
        await _withdraw(proposal, journal, "refused", "approval", "the question was cancelled")
        raise
    except Exception as error:  # noqa: BLE001  an approver that fails has not approved
        if not patience.expired():
            return None, f"the approver failed ({type(error).__name__})"
        answer = None
    # An answer may come late all the same, from an approver that blocks or takes no cancellation.
    if patience.expired() or journal.now() >= proposal.expires_at:
        await _withdraw(proposal, journal, "expired", proposal.rule, "nobody answered in time")
        return None, "nobody answered in time"
    if isinstance(answer, Answer) and answer.proposal_id == proposal.id:
        return answer, ""
    return None, "the approver's answer is not proposal.approve() or proposal.deny() of this very proposal"


async def _take_back(waiting: Waiting, journal: Journal, rule: str, why: str, hint: str) -> Refused:
    await _withdraw(waiting.proposal, journal, "refused", rule, why)

    def words() -> Words:
        return waiting.finding.words()._replace(message=why, hint=hint)

    return Refused(intent_of(waiting.proposal), Finding("refused", rule, words))


async def _withdraw(proposal: Proposal, journal: Journal, ruling: Ruling, rule: str, reason: str) -> None:
    """
    Take the question back; nobody decided also where that cannot be recorded.
    """
    now = journal.now()
    with contextlib.suppress(NotSentError):
        await journal.run(lambda book: book.withdraw(proposal, ruling, now, rule=rule, reason=reason))
