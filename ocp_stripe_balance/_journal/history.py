"""
What the journal knows around one call: what was spent, how often, and what looks like it.

A call counts while it is under way, when it succeeded, and when its outcome is unknown; not when nothing moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._journal.rows import DECISION_COLUMNS, Call, Decision, call_of

if TYPE_CHECKING:
    import sqlite3

    from ocp_stripe_balance._policy import Direction, Per

_MOVED = "state IN ('sending', 'succeeded', 'unknown')"
# Stripe shows the currency of a customer's first entry well within this time.
CURRENCY_WINDOW_S = 600.0
DENIAL_WINDOW_S = 86400.0
_SAME = {"customer": "customer", "user": "user", "agent_type": "agent_type", "context": "context_id", "all": "''"}


class JournalHistory:
    """
    The `History` of one draft, read within the transaction that would record it.
    """

    def __init__(self, db: sqlite3.Connection, draft: Call, now: float) -> None:
        """
        Look around *draft*: in its base URL, mode and account, itself left out.
        """
        self.now = now
        self._db = db
        self._draft = draft

    def spent(self, per: Per, direction: Direction, window_s: float) -> int:
        """
        Minor units that moved, or may have, within the window.
        """
        where, values = self._spending(per, direction, window_s)
        row = self._db.execute(f"SELECT COALESCE(SUM(ABS(amount)), 0) FROM calls WHERE {where}", values).fetchone()  # noqa: S608  fixed words
        return int(row[0])

    def room_at(self, per: Per, direction: Direction, window_s: float, at_most: int) -> float:
        """
        When no more than *at_most* minor units are left in the window.
        """
        where, values = self._spending(per, direction, window_s)
        query = f"SELECT spent_at, ABS(amount) FROM calls WHERE {where} ORDER BY spent_at"  # noqa: S608  fixed words
        rows = self._db.execute(query, values).fetchall()
        left, moment = sum(amount for _, amount in rows), self.now
        for spent_at, amount in rows:
            if left <= at_most:
                break
            left, moment = left - amount, spent_at + window_s
        return float(moment)

    def counts(self, window_s: float) -> bool:
        """
        Whether the call itself is on record and counts within the window.
        """
        where, values = self._scope()
        query = f"SELECT 1 FROM calls WHERE {where} AND key = ? AND spent_at > ? AND {_MOVED}"  # noqa: S608  fixed words
        return self._db.execute(query, (*values, self._draft.key, self.now - window_s)).fetchone() is not None

    def started(self, window_s: float) -> list[float]:
        """
        When calls were let through within the window, oldest first; the same key again counts again.
        """
        where, values = self._scope()
        query = f"SELECT at FROM decisions WHERE decision = 'allowed' AND at > ? AND {where} ORDER BY at"  # noqa: S608  fixed words
        return [row[0] for row in self._db.execute(query, (self.now - window_s, *values))]

    def alike(self, window_s: float) -> Call | None:
        """
        The newest other call to the same customer with the same amount and currency, not told apart by a reference.
        """
        where, values = self._scope()
        query = (
            f"SELECT * FROM calls WHERE {where} AND key != ? AND customer = ? AND created_at > ? AND amount = ? "  # noqa: S608  fixed words
            f"AND currency = ? AND tool = ? AND {_MOVED} AND (reference IS NULL OR ? IS NULL OR reference = ?) "
            "ORDER BY created_at DESC, id DESC LIMIT 1"
        )
        draft = self._draft
        like = (draft.key, draft.customer, self.now - window_s, draft.amount, draft.currency, draft.tool)
        row = self._db.execute(query, (*values, *like, draft.reference, draft.reference)).fetchone()
        return None if row is None else call_of(row)

    def denied_itself(self) -> Decision | None:
        """
        A person's no to this very key.
        """
        where, values = self._scope()
        names = ", ".join(DECISION_COLUMNS)
        query = f"SELECT {names} FROM decisions WHERE key = ? AND decision = 'denied' AND {where} "  # noqa: S608  fixed words
        query += "ORDER BY number DESC LIMIT 1"
        row = self._db.execute(query, (self._draft.key, *values)).fetchone()
        return None if row is None else Decision(*row)

    def denied(self) -> Decision | None:
        """
        A person's no to the same business reason, or within a day to the same amount, under another key.
        """
        where, values = self._scope()
        draft, names = self._draft, ", ".join(DECISION_COLUMNS)
        query = (
            f"SELECT {names} FROM decisions WHERE decision = 'denied' AND customer = ? AND key != ? AND {where} "  # noqa: S608  fixed words
            "AND (reference = ? OR (amount = ? AND currency = ? AND at > ?)) ORDER BY number DESC LIMIT 1"
        )
        like = (draft.reference, draft.amount, draft.currency, self.now - DENIAL_WINDOW_S)
        row = self._db.execute(query, (draft.customer, draft.key, *values, *like)).fetchone()
        return None if row is None else Decision(*row)

    def in_another_currency(self) -> Call | None:
        """
        Another recent call for this customer in another currency that moved money or may have.
        """
        where, values = self._scope()
        query = (
            f"SELECT * FROM calls WHERE {where} AND key != ? AND customer = ? AND currency != ? AND amount != 0 "  # noqa: S608  fixed words
            f"AND spent_at > ? AND {_MOVED} ORDER BY created_at, id LIMIT 1"
        )
        draft = self._draft
        since = self.now - CURRENCY_WINDOW_S
        row = self._db.execute(query, (*values, draft.key, draft.customer, draft.currency, since)).fetchone()
        return None if row is None else call_of(row)

    def _scope(self) -> tuple[str, tuple[Any, ...]]:
        draft = self._draft
        return "base_url = ? AND mode = ? AND account = ?", (draft.base_url, draft.mode, draft.account)

    def _spending(self, per: Per, direction: Direction, window_s: float) -> tuple[str, tuple[Any, ...]]:
        where, values = self._scope()
        draft, column = self._draft, _SAME[per]
        whose = "" if per == "all" else getattr(draft, column)
        sign = "<" if direction == "credit" else ">"
        # One customer's calls are few: better found by customer than by currency and time, which the + forbids.
        currency = "+currency" if per == "customer" else "currency"
        where += f" AND key != ? AND {currency} = ? AND spent_at > ? AND {column} IS ? AND amount {sign} 0 AND {_MOVED}"
        return where, (*values, draft.key, draft.currency, self.now - window_s, whose)
