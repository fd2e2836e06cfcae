"""
One unit of work on the journal: every method is one step inside the transaction that its caller began.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ocp_stripe_balance._domain import Outcome, State
from ocp_stripe_balance._journal.past import Past
from ocp_stripe_balance._journal.records import (
    Lease,
    Record,
    about,
    at_key,
    decision_of,
    intent_of,
    proposal_of,
    record_of,
    with_votes,
)
from ocp_stripe_balance._journal.totals import WrongTotal, forget_totals, wrong_totals
from ocp_stripe_balance._journal.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocp_stripe_balance._domain import Intent, Payload, Ruling, Scope
    from ocp_stripe_balance._journal.records import Decision
    from ocp_stripe_balance.models import Answer, Proposal


class Book(Transaction):
    """
    Calls, what was decided about them, and proposals.
    """

    # Calls

    def find(self, intent: Intent) -> Record | None:
        """
        The call that is on record under the key of *intent*, or that a call of that key joined.
        """
        return self._one("call_of_key", at_key(intent))

    def find_key(self, key: str, scope: Scope) -> Record | None:
        """
        The call of that key in that scope.
        """
        return self._one("call_of_key", {"key": key, **scope._asdict()})

    def past(self, intent: Intent, now: float, own: Record | None = None) -> Past:
        """
        What is known around *intent*; *own* is what is on record under its key, where that is known already.
        """
        return Past(self.db, intent, now, own)

    def insert(self, intent: Intent, payload: Payload, lease: Lease, now: float) -> Record:
        """
        Record a call as under way.
        """
        path, body, api_version, is_tagged = payload
        sent = {"path": path, "body": body, "api_version": api_version, "is_tagged": int(is_tagged)}
        self._run("insert_call", {**about(intent), **sent, **_held(lease, now)})
        return Record(intent, payload, Outcome(State.SENDING), lease, now, now, lease.until)

    def take_over(self, record: Record, lease: Lease, now: float) -> Record:
        """
        Let the owner of *lease* send a recorded call again.
        """
        self._run("take_over", {**at_key(record.intent), **_held(lease, now)})
        outcome = record.outcome._replace(state=State.SENDING)
        return record._replace(outcome=outcome, lease=lease, spent_at=lease.until, updated_at=now)

    def delete(self, record: Record) -> None:
        """
        Forget a call of which nothing was sent.
        """
        self._run("delete_call", at_key(record.intent))

    def settle(self, record: Record, outcome: Outcome, now: float, *, is_found_later: bool = False) -> bool:
        """
        Record an outcome, and whether it is on record then.

        A final one on record stays, and one that is not final is recorded only by who holds the lease: whoever took
        the call over meanwhile knows better. For budgets the money moved now, unless *is_found_later*: then at the
        latest moment known so far.
        """
        warnings = json.dumps(outcome.warnings) if outcome.warnings else None
        values = {**at_key(record.intent), **outcome._asdict(), "warnings": warnings}
        values |= {"owner": record.lease.owner, "now": now, "is_found_later": int(is_found_later)}
        values |= {"state": outcome.state.value, "is_final": int(outcome.is_final)}
        if self._run("settle", values).rowcount == 1:
            return True
        found = self.find(record.intent)  # it may be there since a commit whose answer was lost
        return found is not None and (found.state, found.outcome.answer) == (outcome.state, outcome.answer)

    def calls(self, *, states: Sequence[State] = (), since: float = 0.0, customer: str | None = None) -> list[Record]:
        """
        Calls in some states since a time, oldest first; without *states*, in any.
        """
        wanted = list(states) or list(State)
        names = {f"state_{number}": wanted[min(number, len(wanted) - 1)] for number in range(len(State))}
        return self._all("calls", {"since": since, "customer": customer, **names})

    def moved(self, since: float, after: int, before: float, number: int) -> list[tuple[int, Record]]:
        """
        Calls that moved money within a time, some at once, oldest first, each with its number in the journal.

        Of those that moved at *since*, the ones after a number.
        """
        values = {"since": since, "row": after, "before": before, "number": number}
        return [(row["id"], record_of(row)) for row in self._run("moved", values)]

    def calls_of(self, what: Literal["key", "customer", "reference"], value: str) -> list[Record]:
        """
        The calls of one key, customer or business reason in every scope, oldest first.
        """
        return self._all(f"calls_of_{what}", {what: value})

    def open_calls(self, base_url: str, mode: str) -> list[Record]:
        """
        Calls whose outcome is to be found out, oldest first.
        """
        return self._all("open_calls", {"base_url": base_url, "mode": mode})

    def customer_of(self, transaction_id: str, scope: Scope) -> str | None:
        """
        The customer of the call that made an entry.
        """
        row = self._run("customer_of_transaction", {"transaction_id": transaction_id, **scope._asdict()}).fetchone()
        return None if row is None else str(row[0])

    def check(self) -> None:
        """
        Read something, which fails where the journal cannot be used.
        """
        self._run("any_call", {}).fetchone()

    def share(self, pace: str, owner: str, now: float, until: float) -> int:
        """
        Leave word that a process calls Stripe at a pace; how many do, it among them.
        """
        self._run("end_shares", {"pace": pace, "now": now})
        self._run("share", {"pace": pace, "owner": owner, "until": until})
        return int(self._run("sharers", {"pace": pace}).fetchone()[0])

    # Pruning

    def keep(self, window_s: float) -> None:
        """
        Let no pruning delete what the rules count within that window.
        """
        if window_s > self._kept_s:  # most calls come with the same window
            self._run("keep_window", {"window_s": window_s})
            self._kept_s = window_s

    def prune(self, before: float, now: float, *, with_references: bool, keep_s: float) -> int:
        """
        Delete settled calls last touched before a time; how many.

        Calls with a reference stay unless *with_references*, or the same reason could be paid again. What the rules
        of any policy used so far count stays in any case, and so do the last *keep_s* seconds.
        """
        (longest_s,) = self._run("longest_window", {}).fetchone()
        cutoff = min(before, now - max(longest_s, keep_s))
        deleted = self._run("prune", {"before": cutoff, "with_references": with_references}).rowcount
        self._run("drop_empty_totals", {})
        return deleted

    def wrong_totals(self) -> list[WrongTotal]:
        """
        Totals of the rules that are not what the rows add up to; those are made anew when they are asked for next.
        """
        wrong = wrong_totals(self.db)
        if wrong:
            forget_totals(self.db)
        return wrong

    # Decisions

    def note(self, intent: Intent, ruling: Ruling, now: float, *, rule: str, who: str = "policy", reason: str) -> None:  # noqa: PLR0913  what an audit asks
        """
        Add a decision to the audit.
        """
        facts = {"at": now, "decision": ruling, "rule": rule, "who": who, "reason": reason}
        entry = self._run("insert_decision", {**about(intent), **facts})
        self._noting = entry, intent.key.text, intent.caller.context_id

    def decisions(self, key: str | None = None) -> list[Decision]:
        """
        The audit, oldest first: all of it, or of one key.
        """
        rows = self._run("decisions", {}) if key is None else self._run("decisions_of_key", {"key": key})
        return [decision_of(row) for row in rows]

    # Proposals

    def propose(self, proposal: Proposal) -> None:
        """
        Put a call to a person.
        """
        intent = intent_of(proposal)
        asked = {name: getattr(proposal, name) for name in _ASKED}
        self._run("insert_proposal", {**about(intent), **asked})
        self.note(intent, "asked", proposal.asked_at, rule=proposal.rule, reason=proposal.why)

    def proposals(self, now: float) -> list[Proposal]:
        """
        All proposals, oldest first, those that are over marked as expired.
        """
        votes = defaultdict[str, list[Any]](list)
        for vote in self._run("votes", {}).fetchall():
            votes[vote["proposal"]].append(vote)
        found = [self._expire(proposal_of(row), now) for row in self._run("proposals", {}).fetchall()]
        return [with_votes(each, votes[each.id]) for each in found]

    def proposal(self, proposal_id: str, now: float) -> Proposal | None:
        """
        The proposal of that ID as it stands; None if there is none.
        """
        row = self._run("proposal_of_id", {"id": proposal_id}).fetchone()
        return None if row is None else self.voted(self._expire(proposal_of(row), now))

    def recent(self, now: float, key: str | None, scope: Scope) -> tuple[list[Proposal], list[Decision]]:
        """
        The proposals and the refusals of late, newest first: all, or of one key and of the call that it joined.
        """
        values = {"key": key, **scope._asdict()}
        asked, refused = (self._run(name, values).fetchall() for name in ("recent_proposals", "recent_refusals"))
        return [self._expire(proposal_of(row), now) for row in asked], [decision_of(row) for row in refused]

    def standing_proposal(self, key: str, scope: Scope, now: float) -> Proposal | None:
        """
        The newest proposal of that key in that scope, unless it has expired.
        """
        row = self._run("proposal_of_key", {"key": key, **scope._asdict()}).fetchone()
        return None if row is None else self.unless_expired(proposal_of(row), now)

    def unless_expired(self, proposal: Proposal | None, now: float) -> Proposal | None:
        """
        A proposal that was just read; None where its time is over.
        """
        found = None if proposal is None else self._expire(proposal, now)
        return None if found is None or found.state == "expired" else self.voted(found)

    def voted(self, proposal: Proposal) -> Proposal:
        """
        The proposal with what people have said to it by now.
        """
        return with_votes(proposal, self._run("votes_of", {"id": proposal.id}).fetchall())

    def join(self, intent: Intent, first: Intent, now: float) -> None:
        """
        Let the key of a call be a name of the *first* one from now on, whatever becomes of that.
        """
        if self._run("join_key", {**at_key(intent), "first_key": first.key.text}).rowcount:
            self.note(intent, "asked", now, rule="joined", reason=f"it is the call of key {first.key.text}")

    def use_up(self, proposal: Proposal) -> None:
        """
        Mark an approval as used by its call.
        """
        self._run("use_up_proposal", {"id": proposal.id})

    def vote(self, proposal: Proposal, answer: Answer, now: float) -> None:
        """
        Record what a person said to a proposal, which alone decides nothing.
        """
        said = {"by": answer.by, "reason": answer.reason, "how": answer.how, "shown": answer.shown}
        values = {"id": proposal.id, "is_approved": int(answer.is_approved is True), "now": now, **said}
        self._run("insert_vote", {**values, "person": answer.person})
        ruling: Ruling = "approved" if answer.is_approved is True else "denied"
        self.note(intent_of(proposal), ruling, now, rule=proposal.rule, who=answer.by, reason=answer.reason)

    def decide(self, proposal: Proposal, answer: Answer, now: float) -> None:
        """
        Record a person's answer, with which a proposal that waits is decided.
        """
        self.vote(proposal, answer, now)
        state = "approved" if answer.is_approved is True else "denied"
        values = {"id": proposal.id, "state": state, "now": now, "by": answer.by, "reason": answer.reason}
        self._run("decide_proposal", values)

    def close_proposal(self, proposal: Proposal, answer: Answer, now: float) -> None:
        """
        Record what somebody decided about one call alone, whatever became of the row meanwhile: a no always counts.
        """
        self.vote(proposal, answer, now)
        state = "used" if answer.is_approved is True else "denied"
        values = {"id": proposal.id, "state": state, "now": now, "by": answer.by, "reason": answer.reason}
        self._run("close_proposal", values)

    def reopen(self, proposal: Proposal) -> None:
        """
        Let a proposal wait, for as many people as it now says.
        """
        self._run("reopen_proposal", {"id": proposal.id, "needed": proposal.needed})

    def withdraw(self, proposal: Proposal, ruling: Ruling, now: float, *, rule: str, reason: str) -> None:
        """
        Take a question back that nobody decided; a decision made meanwhile stays.
        """
        self._run("expire_proposal", {"id": proposal.id, "state": "waiting"})
        self.note(intent_of(proposal), ruling, now, rule=rule, reason=reason)

    def _expire(self, proposal: Proposal, now: float) -> Proposal:
        if proposal.state not in {"waiting", "approved"} or now < proposal.expires_at:
            return proposal
        if self._run("expire_proposal", {"id": proposal.id, "state": proposal.state}).rowcount == 0:
            return self._expire(proposal_of(self._run("proposal_of_id", {"id": proposal.id}).fetchone()), now)
        self.note(intent_of(proposal), "expired", now, rule=proposal.rule, reason="nobody used it in time")
        return replace(proposal, state="expired")

    def _one(self, name: str, values: dict[str, Any]) -> Record | None:
        return next(map(record_of, self._run(name, values)), None)

    def _all(self, name: str, values: dict[str, Any]) -> list[Record]:
        return [record_of(row) for row in self._run(name, values)]


def _held(lease: Lease, now: float) -> dict[str, Any]:
    owner, host, pid, until, began = lease
    at = {"owner_host": host, "owner_pid": pid, "owner_began": began}
    return {"owner": owner, **at, "until": until, "now": now}


_ASKED = ("id", "customer_name", "balance_before", "rule", "why", "asked_at", "expires_at", "needed")
