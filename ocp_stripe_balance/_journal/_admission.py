"""
Whether a call that would be sent for the first time may be: the policy's rules, and what a person decided.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ocp_stripe_balance._journal._history import JournalHistory
from ocp_stripe_balance._journal._rows import (
    DECISION_COLUMNS,
    PROPOSAL_COLUMNS,
    Call,
    Claim,
    Decision,
    State,
    Verdict,
    decision_on,
)
from ocp_stripe_balance._policy import Finding
from ocp_stripe_balance.models import Proposal

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from ocp_stripe_balance.models import Answer

    Rule = Callable[[JournalHistory], Finding | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
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


def admit(db: sqlite3.Connection, draft: Call, existing: Call | None, now: float, admission: Admission) -> Claim | None:
    """
    Why the call may not be sent, or None where it may. Every decision is recorded.

    Args:
        db: in the transaction that would record the call.
        draft: the call as it would be sent.
        existing: the row of the same key, of which nothing moved.
        now: seconds since the Unix epoch.
        admission: the rules, and an answer given just now.
    """
    db.execute(
        "INSERT INTO windows SELECT ? WHERE NOT EXISTS (SELECT 1 FROM windows WHERE longest_s >= ?)",
        (admission.window_s, admission.window_s),
    )
    proposal = _standing(db, draft, now)
    if proposal is not None and (proposal.tool, proposal.arguments) != (draft.tool, draft.arguments):
        return Claim(verdict=Verdict.PROPOSAL_TAKEN, call=draft, proposal=proposal)
    history = JournalHistory(db, draft, now)
    denied = history.denied_itself()
    finding = denial(denied.who, denied.reason) if denied is not None else admission.rule(history)
    if finding is not None and finding.verdict == "refused":
        note(db, decision_on(draft, "refused", now, rule=finding.rule, who="policy", reason=finding.message))
        return Claim(verdict=Verdict.REFUSED, call=draft, finding=finding, proposal=proposal)
    if admission.wants_customer:
        return Claim(verdict=Verdict.UNREAD, call=draft)
    who, rule = "policy", "every rule"
    if finding is not None:
        answer = admission.answer if now < admission.answer_until else None
        approver = _approver(db, existing, now, answer, proposal)
        if approver is None:
            return Claim(verdict=Verdict.ASK, call=draft, finding=finding, proposal=proposal)
        who, rule = approver, finding.rule
    note(db, decision_on(draft, "allowed", now, rule=rule, who=who, reason=""))
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


def note(db: sqlite3.Connection, decision: Decision) -> None:
    """
    Add a row to the audit.
    """
    names, marks = ", ".join(DECISION_COLUMNS), ", ".join(f":{name}" for name in DECISION_COLUMNS)
    values = {name: getattr(decision, name) for name in DECISION_COLUMNS}
    db.execute(f"INSERT INTO decisions ({names}) VALUES ({marks})", values)  # noqa: S608  our own names


def ask(db: sqlite3.Connection, proposal: Proposal, now: float) -> Proposal:
    """
    Put a proposal in the queue, or find the one of its key that waits there.
    """
    standing = _standing(db, proposal, now)
    if standing is not None and standing.state != "used":
        return standing
    names, marks = ", ".join(PROPOSAL_COLUMNS), ", ".join(f":{name}" for name in PROPOSAL_COLUMNS)
    values = {name: getattr(proposal, name) for name in PROPOSAL_COLUMNS}
    db.execute(f"INSERT INTO proposals ({names}) VALUES ({marks})", values)  # noqa: S608  our own names
    note(db, decision_on(proposal, "asked", now, rule=proposal.rule, who="policy", reason=proposal.why))
    return proposal


def answer_proposal(db: sqlite3.Connection, proposal: Proposal, answer: Answer, now: float) -> Proposal:
    """
    Record a person's decision on a proposal that waits; the proposal as it then stands.
    """
    current = _expire(db, _by_id(db, proposal.id), now)
    if current.state != "waiting":
        return current
    state: Literal["approved", "denied"] = "approved" if answer.is_approved is True else "denied"
    db.execute(
        "UPDATE proposals SET state = ?, decided_at = ?, decided_by = ?, reason = ? WHERE id = ?",
        (state, now, answer.by, answer.reason, proposal.id),
    )
    note(db, decision_on(proposal, state, now, rule=proposal.rule, who=answer.by, reason=answer.reason))
    return replace(current, state=state, decided_at=now, decided_by=answer.by, reason=answer.reason)


def proposals(db: sqlite3.Connection, now: float) -> list[Proposal]:
    """
    All proposals, oldest first, those that are over marked as expired.
    """
    rows = [proposal_of(row) for row in db.execute("SELECT * FROM proposals ORDER BY number")]
    return [_expire(db, proposal, now) for proposal in rows]


def proposal_of(row: sqlite3.Row) -> Proposal:
    """
    The proposal of a row.
    """
    return Proposal(**{name: row[name] for name in PROPOSAL_COLUMNS})


def _approver(
    db: sqlite3.Connection, existing: Call | None, now: float, answer: Answer | None, proposal: Proposal | None
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
    db.execute("UPDATE proposals SET state = 'used' WHERE id = ?", (proposal.id,))
    return proposal.decided_by


def _standing(db: sqlite3.Connection, subject: Call | Proposal, now: float) -> Proposal | None:
    """
    The newest proposal of the key, unless it has expired.
    """
    query = (
        "SELECT * FROM proposals WHERE key = ? AND base_url = ? AND mode = ? AND account = ? "
        "ORDER BY number DESC LIMIT 1"
    )
    row = db.execute(query, (subject.key, subject.base_url, subject.mode, subject.account)).fetchone()
    if row is None:
        return None
    proposal = _expire(db, proposal_of(row), now)
    return None if proposal.state == "expired" else proposal


def _by_id(db: sqlite3.Connection, proposal_id: str) -> Proposal:
    return proposal_of(db.execute("SELECT * FROM proposals WHERE id = ?", (proposal_id,)).fetchone())


def _expire(db: sqlite3.Connection, proposal: Proposal, now: float) -> Proposal:
    if proposal.state not in {"waiting", "approved"} or now < proposal.expires_at:
        return proposal
    db.execute("UPDATE proposals SET state = 'expired' WHERE id = ?", (proposal.id,))
    note(db, decision_on(proposal, "expired", now, rule=proposal.rule, who="policy", reason="nobody used it in time"))
    return replace(proposal, state="expired")
