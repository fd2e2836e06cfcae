"""
Whether a call that would be sent for the first time may be: the policy's rules, and what a person decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._journal.rows import Call, Claim, State, Verdict
from ocp_stripe_balance._policy import Finding, History

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance._journal.book import Book
    from ocp_stripe_balance.models import Answer, Proposal

    Rule = Callable[[History], Finding | None]


class Admission(NamedTuple):
    """
    What a claim asks before it records a call.
    """

    rule: Rule
    """The policy's finding on sending the call for the first time; None allows it."""
    resume_rule: Rule
    """The same for sending it again after its place in a budget has been given away."""
    window_s: float = 0.0
    """How far back the rules count, so that nothing they count is pruned."""
    wants_customer: bool = False
    """Whether the customer has to be read before the call may be sent."""
    answer: Answer | None = None
    """What a person answered in this very call."""
    answer_until: float = 0.0
    """Until when that answer is good."""


def admit(book: Book, draft: Call, existing: Call | None, now: float, admission: Admission) -> Claim | None:
    """
    Why the call may not be sent, or None where it may. Every decision is recorded.

    Args:
        book: in the unit of work that would record the call.
        draft: the call as it would be sent.
        existing: the row of the same key, of which nothing moved.
        now: seconds since the Unix epoch.
        admission: the rules, and an answer given just now.
    """
    book.keep(admission.window_s)
    proposal = book.standing_proposal(draft, now)
    if proposal is not None and (proposal.tool, proposal.arguments) != (draft.tool, draft.arguments):
        return Claim(verdict=Verdict.PROPOSAL_TAKEN, call=draft, proposal=proposal)
    history = book.surroundings(draft, now)
    denied = history.denied_itself()
    finding = denial(denied.who, denied.reason) if denied is not None else admission.rule(history)
    if finding is not None and finding.verdict == "refused":
        book.note(draft, "refused", now, rule=finding.rule, who="policy", reason=finding.message)
        return Claim(verdict=Verdict.REFUSED, call=draft, finding=finding, proposal=proposal)
    if admission.wants_customer:
        return Claim(verdict=Verdict.UNREAD, call=draft)
    who, rule = "policy", "every rule"
    if finding is not None:
        answer = admission.answer if now < admission.answer_until else None
        approver = _approver(book, existing, now, answer, proposal)
        if approver is None:
            return Claim(verdict=Verdict.ASK, call=draft, finding=finding, proposal=proposal)
        who, rule = approver, finding.rule
    book.note(draft, "allowed", now, rule=rule, who=who, reason="")
    return None


def denial(who: str, reason: str) -> Finding:
    """
    The refusal that a person's no stands for.
    """
    return Finding(
        verdict="refused",
        rule="approval",
        message=f"{who} denied it" + (f": {reason}" if reason else ""),
        hint="Accept the decision: do not ask again with other words or another key. A person can take it up.",
    )


def _approver(
    book: Book, existing: Call | None, now: float, answer: Answer | None, proposal: Proposal | None
) -> str | None:
    """
    Who approved this very call; an approval is used up by it.
    """
    if answer is not None:
        return answer.by
    # Used by this very key, of which the journal knows that nothing moved: the decision still stands.
    is_used_in_vain = existing is not None and existing.state in {State.NOT_SENT, State.REJECTED}
    if proposal is None or not (proposal.state == "approved" or (proposal.state == "used" and is_used_in_vain)):
        return None
    if now >= proposal.expires_at:
        return None
    book.use_up(proposal)
    return proposal.decided_by
