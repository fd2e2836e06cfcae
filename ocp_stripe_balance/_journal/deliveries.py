"""
What webhooks tell: found in what is on record, whoever put it there, and kept until it has arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._domain import Scope
from ocp_stripe_balance._journal.database import Reach
from ocp_stripe_balance._journal.past import Past, call_of_total
from ocp_stripe_balance._journal.records import decision_of, proposal_of, record_of
from ocp_stripe_balance._journal.statements import statements

if TYPE_CHECKING:
    from ocp_stripe_balance._domain import Money
    from ocp_stripe_balance._journal.book import Book
    from ocp_stripe_balance._journal.database import Cursor
    from ocp_stripe_balance._journal.records import Decision, Record
    from ocp_stripe_balance.models import Proposal

DELIVERIES = Reach(("deliveries",))
COLLECTING = DELIVERIES._replace(counts=True)
"""With the totals of budgets."""
AT_ONCE = 100


class Delivery(NamedTuple):
    """
    One event on its way to one endpoint.
    """

    number: int
    endpoint: str
    message: str
    """The ``webhook-id``, the same in each attempt."""
    payload: str
    attempts: int
    """Those that were begun, with the one under way."""


class Spent(NamedTuple):
    """
    How much of a budget somebody has spent.
    """

    whose: str
    """As the totals have it; empty where a budget is for all."""
    scope: Scope
    amount: int
    """In minor units, without a sign."""


class Standing(NamedTuple):
    """
    How it stands with what one endpoint is told.
    """

    waiting: int
    delivered: int
    given_up: int
    last_failure: str | None


class Deliveries:
    """
    What endpoints are told, within one transaction.
    """

    def __init__(self, book: Book, now: float) -> None:
        """
        Work with what *book* has.
        """
        self._book, self._now = book, now

    def expire(self) -> None:
        """
        Put on record which proposals are over: nobody may have looked.
        """
        for row in self._run("over", {"now": self._now}).fetchall():
            self._book.unless_expired(proposal_of(row), self._now)

    def news_of_decisions(self, endpoint: str, since: float) -> list[tuple[str, Decision, Proposal | None]]:
        """
        The first hundred decisions that an endpoint was not told of, each with the name of the event and its proposal.
        """
        values = {"endpoint": endpoint, "since": since, "number": AT_ONCE}
        found = [(row["number"], decision_of(row)) for row in self._run("news_of_decisions", values).fetchall()]
        return [(f"decision {number}", decision, self._proposal_then(decision)) for number, decision in found]

    def news_of_calls(self, endpoint: str, since: float) -> list[tuple[str, Record]]:
        """
        Calls with an open outcome that an endpoint was not told of, each with the name of the event.
        """
        values = {"endpoint": endpoint, "since": since, "now": self._now, "number": AT_ONCE}
        rows = self._run("news_of_calls", values).fetchall()
        return [(f"call {row['id']} {row['key']}", record_of(row)) for row in rows]

    def nearly_spent(self, per: str, window_s: float, least: Money) -> list[Spent]:
        """
        Whose calls in one direction and currency moved at least so much within a window.
        """
        sign = 1 if least.amount > 0 else -1
        values = {
            "per": per,
            "window_s": window_s,
            "currency": least.currency,
            "sign": sign,
            "least": abs(least.amount),
        }
        found = []
        for whose, *scope in self._run("nearly_spent", values).fetchall():
            intent = call_of_total(per, whose, Scope(*scope), least)
            spent = Past(self._book.db, intent, self._now).spent(per, window_s)
            if spent >= abs(least.amount):
                found.append(Spent(whose, intent.scope, spent))
        return found

    def tell(self, event: str, endpoint: str, message: str, payload: str | None) -> None:
        """
        Let an endpoint be told of an event; without a *payload*, never.
        """
        values = {"event": event, "endpoint": endpoint, "message": message, "now": self._now}
        self._run("tell", {**values, "payload": payload or "", "state": "waiting" if payload else "untold"})

    def take(self, endpoint: str, until: float) -> Delivery | None:
        """
        What an endpoint is to be sent now, which nobody else sends before *until*; None where there is nothing.
        """
        row = self._run("due", {"now": self._now, "endpoint": endpoint}).fetchone()
        if row is None:
            return None
        self._run("take", {"number": row["number"], "attempts": row["attempts"], "until": until})
        facts = {name: row[name] for name in ("number", "endpoint", "message", "payload")}
        return Delivery(**facts, attempts=row["attempts"] + 1)

    def settle(self, delivery: Delivery, state: str, *, until: float, status: int | None, note: str) -> None:
        """
        Record what became of an attempt; the next one is at *until*.
        """
        values = {"number": delivery.number, "attempts": delivery.attempts, "until": until}
        self._run("settle", {**values, "state": state, "status": status, "note": note})

    def standing(self, endpoint: str) -> Standing:
        """
        How it stands with what an endpoint is told.
        """
        counts = dict(self._run("standing", {"endpoint": endpoint}))
        row = self._run("last_failure", {"endpoint": endpoint}).fetchone()
        numbers = {state: counts.get(state, 0) for state in ("waiting", "delivered", "given_up")}
        return Standing(**numbers, last_failure=None if row is None else row["note"])

    def give_up(self, endpoint: str) -> None:
        """
        Send an endpoint nothing more.
        """
        self._run("give_up", {"endpoint": endpoint})

    def forget(self, before: float) -> None:
        """
        Forget what was over before a time.
        """
        self._run("forget", {"before": before})

    def _proposal_then(self, decision: Decision) -> Proposal | None:
        values = {"key": decision.key, **decision.scope._asdict(), "at": decision.at}
        row = self._run("proposal_then", values).fetchone()
        return None if row is None else self._book.voted(proposal_of(row))

    def _run(self, name: str, values: dict[str, Any]) -> Cursor:
        return self._book.db.execute(statements("deliveries")[name], values)
