"""
The journal in a file: every step as SQL, within the transaction of the thread that writes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ocp_stripe_balance._journal.history import JournalHistory
from ocp_stripe_balance._journal.rows import (
    COLUMNS,
    DECISION_COLUMNS,
    PROPOSAL_COLUMNS,
    Call,
    Decision,
    State,
    call_of,
    decision_on,
    proposal_of,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from ocp_stripe_balance._journal.book import Settled
    from ocp_stripe_balance._journal.rows import Ruling
    from ocp_stripe_balance.models import Answer, Proposal

_AT_KEY = "key = ? AND base_url = ? AND mode = ? AND account = ?"


def _insertion(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608  our own names


_INSERT_CALL = _insertion("calls", COLUMNS)
_INSERT_DECISION = _insertion("decisions", DECISION_COLUMNS)
_INSERT_PROPOSAL = _insertion("proposals", PROPOSAL_COLUMNS)


class SqliteBook:
    """
    The `Book` of one connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        """
        Over *db*, whose transactions the caller begins and ends.
        """
        self._db = db

    def attempt(self, work: Callable[[SqliteBook], Any]) -> Any:
        """
        The result of *work*, with everything that it changed undone.
        """
        self._db.execute("SAVEPOINT rehearsal")
        try:
            return work(self)
        finally:
            self._db.execute("ROLLBACK TO rehearsal")
            self._db.execute("RELEASE rehearsal")

    def by_key(self, key: str, base_url: str, mode: str, account: str) -> Call | None:
        """
        The call of that key in that namespace.
        """
        return self._one(f"SELECT * FROM calls WHERE {_AT_KEY}", (key, base_url, mode, account))  # noqa: S608  fixed words

    def by_reference(self, draft: Call) -> Call | None:
        """
        The first call of the same business reason that moved money or may have.
        """
        query = (
            # A customer may have very many calls, and SQLite would take the index that has them in order.
            "SELECT * FROM calls INDEXED BY calls_by_reference "
            "WHERE reference = ? AND customer = ? AND tool = ? AND base_url = ? AND mode = ? "
            "AND account = ? AND state IN ('sending', 'succeeded', 'unknown') ORDER BY created_at, id LIMIT 1"
        )
        return self._one(
            query, (draft.reference, draft.customer, draft.tool, draft.base_url, draft.mode, draft.account)
        )

    def surroundings(self, draft: Call, now: float) -> JournalHistory:
        """
        What is known around *draft*.
        """
        return JournalHistory(self._db, draft, now)

    def insert(self, draft: Call, owner: str, now: float, lease_until: float) -> Call:
        """
        Record a draft as under way.
        """
        call = draft.begun(owner, now, lease_until)
        self._db.execute(_INSERT_CALL, call)
        return call

    def take_over(self, call: Call, owner: str, now: float, lease_until: float) -> Call:
        """
        Let *owner* send a recorded call again.
        """
        self._db.execute(
            f"UPDATE calls SET state = 'sending', owner = ?, lease_until = ?, spent_at = ?, updated_at = ? "  # noqa: S608  fixed words
            f"WHERE {_AT_KEY}",
            (owner, lease_until, lease_until, now, *call.namespace),
        )
        return call.taken_over(owner, now, lease_until)

    def delete(self, call: Call) -> None:
        """
        Forget a call of which nothing was sent.
        """
        self._db.execute(f"DELETE FROM calls WHERE {_AT_KEY}", call.namespace)  # noqa: S608  fixed words

    def settle(self, call: Call, outcome: Settled, now: float) -> bool:
        """
        Record an outcome, and whether that was possible.
        """
        state, is_final, attempts, status, request_id, answer, note, is_found_later = outcome
        values = (state, is_final, attempts, status, request_id, answer, note, now, is_found_later, now)
        done = self._db.execute(
            "UPDATE calls SET state = ?, is_final = ?, attempts = attempts + ?, status = ?, request_id = ?, "  # noqa: S608  fixed words
            "answer = ?, note = ?, updated_at = ?, spent_at = CASE WHEN ? THEN spent_at ELSE ? END, "
            f"owner = '', lease_until = 0 WHERE {_AT_KEY} AND NOT is_final AND (? OR owner = ?)",
            (*values, *call.namespace, is_final, call.owner),
        )
        return done.rowcount == 1

    def note(  # noqa: PLR0913  what an audit asks
        self, subject: Call | Proposal, ruling: Ruling, at: float, *, rule: str, who: str, reason: str
    ) -> None:
        """
        Add a decision to the audit.
        """
        self._db.execute(_INSERT_DECISION, decision_on(subject, ruling, at, rule=rule, who=who, reason=reason))

    def keep(self, window_s: float) -> None:
        """
        Let no pruning delete what the rules count within that window.
        """
        query = "INSERT INTO windows SELECT ? WHERE NOT EXISTS (SELECT 1 FROM windows WHERE longest_s >= ?)"
        self._db.execute(query, (window_s, window_s))

    def prune(self, before: float, now: float, *, with_references: bool, keep_s: float) -> int:
        """
        Delete settled calls; how many.
        """
        (longest_s,) = self._db.execute("SELECT COALESCE(MAX(longest_s), 0) FROM windows").fetchone()
        cutoff = min(before, now - max(longest_s, keep_s))
        query = (
            "DELETE FROM calls WHERE updated_at < ? AND spent_at < ? AND state NOT IN ('sending', 'unknown') "
            "AND (? OR reference IS NULL OR state != 'succeeded')"
        )
        return self._db.execute(query, (cutoff, cutoff, with_references)).rowcount

    def select(
        self, *, key: str | None, states: Sequence[State], since: float, customer: str | None, limit: int
    ) -> list[Call]:
        """
        Calls, oldest first.
        """
        where, values = ["created_at >= ?"], [since, *states]
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
        if customer is not None:
            where.append("customer = ?")
            values.append(customer)
        if key is not None:
            where.append("key = ?")
            values.append(key)
        query = f"SELECT * FROM calls WHERE {' AND '.join(where)} ORDER BY created_at, id LIMIT ?"  # noqa: S608  fixed words
        return [call_of(row) for row in self._db.execute(query, (*values, limit))]

    def customer_of(self, transaction: str, base_url: str, mode: str, account: str) -> str | None:
        """
        The customer of the call that made an entry.
        """
        query = (
            "SELECT customer FROM calls WHERE base_url = ? AND mode = ? AND account = ? AND state = 'succeeded' "
            # SQLite refuses the whole query for what Python reads all the same, such as NaN.
            "AND amount != 0 AND CASE WHEN json_valid(answer) THEN json_extract(answer, '$.id') = ? END LIMIT 1"
        )
        row = self._db.execute(query, (base_url, mode, account, transaction)).fetchone()
        return None if row is None else str(row[0])

    def decisions(self, key: str | None) -> list[Decision]:
        """
        The audit, oldest first.
        """
        names, where = ", ".join(DECISION_COLUMNS), "" if key is None else "WHERE key = ? "
        query = f"SELECT {names} FROM decisions {where}ORDER BY number"  # noqa: S608  our own names
        return [Decision(*row) for row in self._db.execute(query, () if key is None else (key,))]

    def proposals(self, now: float) -> list[Proposal]:
        """
        All proposals, oldest first, those that are over marked as expired.
        """
        rows = [proposal_of(row) for row in self._db.execute("SELECT * FROM proposals ORDER BY number")]
        return [self._expire(proposal, now) for proposal in rows]

    def standing_proposal(self, subject: Call | Proposal, now: float) -> Proposal | None:
        """
        The newest proposal of the key, unless it has expired.
        """
        query = f"SELECT * FROM proposals WHERE {_AT_KEY} ORDER BY number DESC LIMIT 1"  # noqa: S608  fixed words
        at = (subject.key, subject.base_url, subject.mode, subject.account)
        row = self._db.execute(query, at).fetchone()
        proposal = None if row is None else self._expire(proposal_of(row), now)
        return None if proposal is None or proposal.state == "expired" else proposal

    def use_up(self, proposal: Proposal) -> None:
        """
        Mark an approval as used by its call.
        """
        self._db.execute("UPDATE proposals SET state = 'used' WHERE id = ?", (proposal.id,))

    def ask(self, proposal: Proposal, now: float) -> Proposal:
        """
        Put a proposal in the queue, or find the one of its key that waits there.
        """
        standing = self.standing_proposal(proposal, now)
        if standing is not None and standing.state != "used":
            return standing
        self._db.execute(_INSERT_PROPOSAL, tuple(getattr(proposal, name) for name in PROPOSAL_COLUMNS))
        self.note(proposal, "asked", now, rule=proposal.rule, who="policy", reason=proposal.why)
        return proposal

    def answer(self, proposal: Proposal, answer: Answer, now: float) -> Proposal:
        """
        Record a person's decision on a proposal that waits; the proposal as it then stands.
        """
        row = self._db.execute("SELECT * FROM proposals WHERE id = ?", (proposal.id,)).fetchone()
        current = self._expire(proposal_of(row), now)
        if current.state != "waiting":
            return current
        state: Literal["approved", "denied"] = "approved" if answer.is_approved is True else "denied"
        self._db.execute(
            "UPDATE proposals SET state = ?, decided_at = ?, decided_by = ?, reason = ? WHERE id = ?",
            (state, now, answer.by, answer.reason, proposal.id),
        )
        self.note(proposal, state, now, rule=proposal.rule, who=answer.by, reason=answer.reason)
        return replace(current, state=state, decided_at=now, decided_by=answer.by, reason=answer.reason)

    def _expire(self, proposal: Proposal, now: float) -> Proposal:
        if proposal.state not in {"waiting", "approved"} or now < proposal.expires_at:
            return proposal
        self._db.execute("UPDATE proposals SET state = 'expired' WHERE id = ?", (proposal.id,))
        self.note(proposal, "expired", now, rule=proposal.rule, who="policy", reason="nobody used it in time")
        return replace(proposal, state="expired")

    def _one(self, query: str, values: tuple[Any, ...]) -> Call | None:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else call_of(row)
