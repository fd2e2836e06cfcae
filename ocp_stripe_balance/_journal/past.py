"""
What the journal knows around one call: what was spent, how often, and what looks like it.

A call counts while it is under way, when it succeeded, and when its outcome is unknown; not when nothing moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._journal.records import Decision, Record, about, decision_of, record_of
from ocp_stripe_balance._journal.statements import statements

if TYPE_CHECKING:
    import sqlite3

    from ocp_stripe_balance._domain import Direction, Intent

# Stripe shows the currency of a customer's first entry well within this time.
CURRENCY_WINDOW_S = 600.0
DENIAL_WINDOW_S = 86400.0


class Past:
    """
    The past of one call, in its scope and without itself, read in the transaction that would record it.
    """

    def __init__(self, db: sqlite3.Connection, intent: Intent, now: float) -> None:
        """
        Look around *intent*.
        """
        self.now = now
        self._db = db
        self._intent = intent
        self._about = about(intent)

    def spent(self, per: str, direction: Direction, window_s: float) -> int:
        """
        Minor units that moved, or may have, within the window.
        """
        name = "spent_on_customer" if per == "customer" else "spent"
        return int(self._run(name, self._spending(per, direction, window_s)).fetchone()[0])

    def room_at(self, per: str, direction: Direction, window_s: float, at_most: int) -> float:
        """
        When no more than *at_most* minor units are left in the window.
        """
        rows = self._run("spending", self._spending(per, direction, window_s)).fetchall()
        left, moment = sum(amount for _, amount in rows), self.now
        for spent_at, amount in rows:
            if left <= at_most:
                break
            left, moment = left - amount, spent_at + window_s
        return float(moment)

    def includes_this_call(self, window_s: float) -> bool:
        """
        Whether the call itself is on record and counts within the window.
        """
        return self._run("includes_this_call", {"since": self.now - window_s}).fetchone() is not None

    def calls_since(self, window_s: float) -> list[float]:
        """
        When calls were let through within the window, oldest first; the same key again counts again.
        """
        return [row[0] for row in self._run("calls_since", {"since": self.now - window_s})]

    def duplicate_of(self, window_s: float) -> Record | None:
        """
        The newest other call to the same customer with the same amount and currency, not told apart by a reference.
        """
        row = self._run("duplicate_of", {"since": self.now - window_s}).fetchone()
        return None if row is None else record_of(row)

    def denial(self) -> Decision | None:
        """
        A person's no to this very key; else to the same business reason, or within a day to the same amount.
        """
        since = {"since": self.now - DENIAL_WINDOW_S}
        row = self._run("denial_of_key", {}).fetchone() or self._run("denial_of_like", since).fetchone()
        return None if row is None else decision_of(row)

    def in_another_currency(self) -> Record | None:
        """
        Another recent call for this customer in another currency that moved money or may have.
        """
        row = self._run("other_currency", {"since": self.now - CURRENCY_WINDOW_S}).fetchone()
        return None if row is None else record_of(row)

    def _spending(self, per: str, direction: Direction, window_s: float) -> dict[str, Any]:
        caller, customer = self._intent.caller, self._intent.customer
        whose = {
            "customer": customer,
            "user": caller.user or "",
            "agent_type": caller.agent_type,
            "context": caller.context_id,
            "all": "",
        }[per]
        sign = -1 if direction == "credit" else 1
        return {"per": per, "whose": whose, "sign": sign, "since": self.now - window_s}

    def _run(self, name: str, values: dict[str, Any]) -> sqlite3.Cursor:
        return self._db.execute(statements()[name], {**self._about, **values})
