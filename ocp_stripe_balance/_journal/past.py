"""
What the journal knows around one call: what stands under its key, what was spent, how often, and what looks like it.

A call counts while it is under way, when it succeeded, and when its outcome is unknown; not when nothing moved.
Nothing here takes longer where there are more calls: what is looked for has an index, and what is added up is kept as
totals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._domain import Caller, Intent, Key, Origin
from ocp_stripe_balance._journal.records import Decision, Record, about, decision_of, proposal_of, record_of
from ocp_stripe_balance._journal.statements import statements
from ocp_stripe_balance._journal.totals import CALLS, Totals
from ocp_stripe_balance._process.once import Once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocp_stripe_balance._domain import Money, Scope
    from ocp_stripe_balance._journal.database import Cursor, Database
    from ocp_stripe_balance.models import Proposal

# Stripe shows the currency of a customer's first entry well within this time.
CURRENCY_WINDOW_S = 600.0
DENIAL_WINDOW_S = 86400.0

_MAX_WALK = 10_000  # calls that are looked at to say when there is room again: a few milliseconds


class Past:
    """
    The past of one call, in its scope and without itself, read in the transaction that would record it.
    """

    def __init__(self, db: Database, intent: Intent, now: float, own: Record | None = None) -> None:
        """
        Look around *intent*; *own* is what is on record under its key, where that is known already.
        """
        self.now = now
        self._db = db
        self._intent = intent
        self._own = own
        self._about = about(intent)
        self._totals = Totals(db, self._about, now)

    @Once
    def call(self) -> Record | None:
        """
        The call itself, where it is on record, or the one that it joined.
        """
        return self._own or self._call_at("call")

    @Once
    def same_reason(self) -> Record | None:
        """
        The first call of the same business reason that moved money or may have.
        """
        return self._call_at("same_reason")

    def proposals(self, *, is_alone: bool) -> Iterator[Proposal]:
        """
        The newest proposal of that key; unless *is_alone*, then that of the key it joined, and one for the same intent.
        """
        for place in ("proposal", "joined_proposal", "alike_proposal")[: 1 if is_alone else None]:
            number = self._look[place]
            if number is not None:
                yield proposal_of(self._run("proposal_of_number", {"number": number}).fetchone())

    def denial(self) -> Decision | None:
        """
        A person's no to this very key; else to the same business reason, or within a day to the same amount.
        """
        look = self._look
        number = look["denied_key"] or max(look["denied_reason"] or 0, look["denied_amount"] or 0)
        return decision_of(self._run("decision_of_number", {"number": number}).fetchone()) if number else None

    def duplicate_of(self, window_s: float) -> Record | None:
        """
        The newest other call to the same customer with the same amount and currency, not told apart by a reference.
        """
        found = [self._call_at(place) for place in ("alike", "alike_unnamed", "alike_named")]
        recent = [call for call in found if call is not None and call.created_at > self.now - window_s]
        return max(recent, key=lambda call: call.created_at, default=None)

    def in_another_currency(self) -> Record | None:
        """
        Another recent call for this customer in another currency that moved money or may have.
        """
        (found,) = self._run("other_currency", {"since": self.now - CURRENCY_WINDOW_S}).fetchone()
        return self._call(found)

    def spent(self, per: str, window_s: float) -> int:
        """
        Minor units that moved, or may have, within the window, in this call's direction and currency.
        """
        return self._totals.of(per, window_s) - self._own_share(per, window_s)

    def room_at(self, per: str, window_s: float, at_most: int) -> tuple[float, bool]:
        """
        When no more than *at_most* minor units are left in the window, and whether that is sure.

        Where too many other calls lie between, it is only the earliest moment at which it may be.
        """
        values = {"per": per, "whose": self._whose(self._intent, per), "since": self.now - window_s}
        left, moment = self.spent(per, window_s), self.now
        rows = self._run("spending", {**values, "number": _MAX_WALK})
        for spent_at, amount in rows:
            if left <= at_most:
                break
            left, moment = left - amount, spent_at + window_s
        rows.close()
        return moment, left <= at_most

    def calls_made(self, window_s: float) -> int:
        """
        How many calls were let through within the window; the same key again counts again.
        """
        return self._totals.of(CALLS, window_s)

    def let_through_at(self, number: int, window_s: float) -> float:
        """
        When the call was let through that is that many back within the window, 1 for the newest.
        """
        values = {"number": number - 1, "since": self.now - window_s}
        return float(self._run("let_through", values).fetchone()[0])

    def includes_this_call(self, window_s: float) -> bool:
        """
        Whether the call itself is on record and counts within the window.
        """
        own = self.call
        return own is not None and own.state.may_have_moved and own.spent_at > self.now - window_s

    @Once
    def _look(self) -> Any:
        values = {"now": self.now, "denied_since": self.now - DENIAL_WINDOW_S}
        return self._run("look", values).fetchone()

    def _call_at(self, place: str) -> Record | None:
        return self._call(self._look[place])

    def _call(self, number: int | None) -> Record | None:
        return None if number is None else record_of(self._run("call_of_id", {"row": number}).fetchone())

    def _own_share(self, per: str, window_s: float) -> int:
        """
        What this call itself is in a total.
        """
        own = self.call
        if own is None or not self.includes_this_call(window_s):
            return 0
        moved, wanted = own.intent.money, self._intent.money
        is_alike = moved and wanted and (moved.currency, moved.direction) == (wanted.currency, wanted.direction)
        is_ours = is_alike and self._whose(own.intent, per) == self._whose(self._intent, per)
        return abs(moved.amount) if moved and is_ours else 0

    @staticmethod
    def _whose(intent: Intent, per: str) -> str | None:
        caller = intent.caller
        return {
            "customer": intent.customer,
            "user": caller.user or "",
            "agent_type": caller.agent_type,
            "context": caller.context_id,
            "all": "",
        }[per]

    def _run(self, name: str, values: dict[str, Any]) -> Cursor:
        return self._db.execute(statements()[name], {**self._about, **values})


def call_of_total(per: str, whose: str, scope: Scope, moved: Money) -> Intent:
    """
    A call that the total of that kind counts for *whose*, as the totals have it.
    """
    named = {per: whose}
    caller = Caller(named.get("context", ""), named.get("agent_type", ""), named.get("user") or None)
    return Intent(scope, caller, Key("", Origin.DRAWN), "", named.get("customer"), moved, None, "{}")
