"""
Putting a proposal to an approver: somebody who decides at once, as a function of the agent's own program.

It only decides: the call is then made again with the yes in hand, which is recorded in the transaction that reserves
the call. So a yes is for this call alone, and a no always counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from ocp_stripe_balance._calls import voting
from ocp_stripe_balance._calls.call import Approval
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
    from ocp_stripe_balance._policy import Policy
    from ocp_stripe_balance.models import Proposal

    Approver = Callable[[Proposal], Awaitable[Answer | None]]

_TAKEN_BACK = "Given again, the command asks again."
_UNDECIDED = "nobody decided"
_ASKS_AGAIN = "The question is over; the same call asks it again."
_NOT_ASKED = "A person must see to the approver; then the same call may be made again."


async def ask(approver: Approver, waiting: Waiting, journal: Journal, policy: Policy) -> Approval | Ending | None:
    """
    A yes to this very call, or why there is none; None where something became of it meanwhile: it is made again.

    Where nobody decided, or somebody who may not, it goes on waiting if there is a queue.

    Raises:
        asyncio.CancelledError: the question was cancelled, and nothing was sent.
    """
    proposal, has_queue = waiting.proposal, policy.approval.queue
    try:
        answer, why = await _answer(approver, waiting, journal)
        if answer is not None and answer.is_approved is True:
            stop = voting.objection(policy, proposal, answer, waiting.finding.rule)
            yes = Approval(proposal, answer)
            return yes if stop is None else await _uncounted(waiting, journal, stop, has_queue=has_queue)
        if answer is None and why == _UNDECIDED and has_queue:
            return waiting if await _still_waits(waiting, journal) else None
        if answer is None:
            rule, hint = "approval", _ASKS_AGAIN if why == _UNDECIDED else _NOT_ASKED
        elif proposal.rule == "ask_always":
            # Whoever gave the command took it back; that says nothing about the same command later.
            rule, why, hint = proposal.rule, f"{answer.by} did not send it", _TAKEN_BACK
        else:
            is_sent = await journal.run(lambda book: _deny(book, proposal, answer, journal.now()))
            return None if is_sent else Refused(intent_of(proposal), denied(answer.by, answer.reason))
        if await take_back(waiting, journal, rule, why):
            return None
    except NotSentError as error:
        return Failed(error.told_of(proposal.tool, proposal.key), error.__cause__)

    def words() -> Words:
        return waiting.finding.words()._replace(message=why, hint=hint)

    return Refused(intent_of(proposal), Finding("refused", rule, words))


async def _uncounted(waiting: Waiting, journal: Journal, stop: Finding, *, has_queue: bool) -> Ending | None:
    """
    What becomes of a call where somebody said yes who may not: where there is a queue, it waits for one who may.
    """
    why = stop.words().message
    if has_queue:
        return replace(waiting, notes=(*waiting.notes, why)) if await _still_waits(waiting, journal) else None
    is_sent = await take_back(waiting, journal, stop.rule, why)
    return None if is_sent else Refused(intent_of(waiting.proposal), stop)


async def take_back(waiting: Waiting, journal: Journal, rule: str, reason: str, ruling: Ruling = "refused") -> bool:
    """
    Record that nobody decided, and end the question where this call put it; whether the call was sent meanwhile.

    Nobody decided also where that cannot be recorded.
    """
    proposal, now = waiting.proposal, journal.now()

    def work(book: Book) -> bool:
        if waiting.is_new:
            book.withdraw(proposal, ruling, now, rule=rule, reason=reason)
        else:
            book.note(intent_of(proposal), ruling, now, rule=rule, reason=reason)
        return _is_sent(book, proposal)

    with contextlib.suppress(NotSentError, asyncio.CancelledError):
        return await journal.run(work)
    return False


async def _still_waits(waiting: Waiting, journal: Journal) -> bool:
    """
    Whether nobody else has decided, or sent the call, either.
    """
    proposal, now = waiting.proposal, journal.now()

    def work(book: Book) -> bool:
        found = book.standing_proposal(proposal.key, intent_of(proposal).scope, now)
        return found is not None and found.state == "waiting" and not _is_sent(book, proposal)

    return await journal.run(work)


def _deny(book: Book, proposal: Proposal, answer: Answer, now: float) -> bool:
    """
    Record a no, and whether the call was sent before it: then the no comes too late.
    """
    book.close_proposal(proposal, answer, now)
    return _is_sent(book, proposal)


def _is_sent(book: Book, proposal: Proposal) -> bool:
    record = book.find(intent_of(proposal))
    return record is not None and record.state.may_have_moved


async def _answer(approver: Approver, waiting: Waiting, journal: Journal) -> tuple[Answer | None, str]:
    """
    What the approver answered to this proposal, in time; None and why where that is no answer.
    """
    proposal = waiting.proposal
    try:
        async with asyncio.timeout(proposal.expires_at - journal.now()) as patience:
            answer: object = await approver(proposal)
    except Exception as error:  # noqa: BLE001  an approver that fails has not approved
        if not patience.expired():
            return None, f"the approver failed ({type(error).__name__})"
        answer = None
    except BaseException:  # cancelled, interrupted, or worse: it goes on its way
        await take_back(waiting, journal, "approval", "the question was cancelled")
        raise
    # An answer may come late all the same, from an approver that blocks or takes no cancellation.
    if patience.expired() or journal.now() >= proposal.expires_at:
        await take_back(waiting, journal, proposal.rule, "nobody answered in time", "expired")
        return None, "nobody answered in time"
    if answer is None:
        return None, _UNDECIDED
    if isinstance(answer, Answer) and answer.proposal_id == proposal.id:
        return replace(answer, how=answer.how or "program"), ""
    return None, "the approver's answer is not proposal.approve() or proposal.deny() of this very proposal"
