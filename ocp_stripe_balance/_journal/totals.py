"""
What the rules add up, kept as totals, so that a call costs the same however many calls there are.

The database itself changes a total with every row that comes, changes or goes (`migrations/007_totals.sql`); what is
left to do here is taking out what has left a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._journal.statements import statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ocp_stripe_balance._journal.database import Cursor, Database

CALLS = "calls"
"""The kind of total that counts how many calls were let through."""
_FOR_EVER = float("inf")


class WrongTotal(NamedTuple):
    """
    A total that is not what the rows add up to.
    """

    per: str
    """Whose calls are added up, or `CALLS`."""
    window_s: float
    whose: str
    base_url: str
    mode: str
    account: str
    currency: str
    sign: int
    excess: int
    """By how much it is too high, in minor units or calls."""


class _Total(NamedTuple):
    since: float
    total: int
    is_behind: bool
    """Whether something has left the window since then, or is in it again, because the clock went back."""


class Totals:
    """
    The totals that one call is in, at one moment, in the transaction that would record it.
    """

    def __init__(self, db: Database, about: Mapping[str, Any], now: float) -> None:
        """
        Prepare; *about* has the columns of the call.
        """
        self._db = db
        self._about = about
        self._now = now
        self._known: dict[tuple[str, float], _Total] = {}

    def of(self, per: str, window_s: float) -> int:
        """
        What is added up of that kind within the window that ends now, in the call's own direction and currency.
        """
        if not self._known:
            self._read()
        found = self._known.get((per, window_s))
        if found is None or found.is_behind or self._now - window_s - found.since > window_s / 2:
            if found is None:
                self._forget_stale_windows()
            self._move(per, window_s, found)
            self._read()
            found = self._known[per, window_s]
        return found.total

    def _read(self) -> None:
        rows = self._run("totals", {"now": self._now})
        self._known = {(per, window_s): _Total(*rest) for per, window_s, *rest in rows}

    def _move(self, per: str, window_s: float, total: _Total | None) -> None:
        """
        Let the totals of a window be those of the window that ends now.
        """
        since = self._now - window_s
        begun = _FOR_EVER if total is None else total.since
        values = {"per": per, "window_s": window_s, "since": since}
        values |= {"after": min(begun, since), "until": max(begun, since), "factor": 1 if since < begun else -1}
        self._run("move_count" if per == CALLS else "move_total", values)
        self._run("begin_total", values)

    def _forget_stale_windows(self) -> None:
        for per, window_s in self._run("stale_windows", {"now": self._now}).fetchall():
            self._run("end_total", {"per": per, "window_s": window_s})
            self._run("drop_totals", {"per": per, "window_s": window_s})

    def _run(self, name: str, values: Mapping[str, Any]) -> Cursor:
        return self._db.execute(statements()[name], {**self._about, **values})


def wrong_totals(db: Database) -> list[WrongTotal]:
    """
    Totals that are not what the rows add up to; there are none, unless something else wrote them.
    """
    return [WrongTotal(*row) for row in db.execute(statements()["wrong_totals"])]


def make_totals(db: Database, windows: Iterable[tuple[str, float, float]]) -> None:
    """
    Let some totals be made anew from the rows, and no others be kept: of each its kind, its window and its begin.
    """
    forget_totals(db)
    for per, window_s, since in windows:
        values = {"per": per, "window_s": window_s, "since": since, "after": since, "until": _FOR_EVER, "factor": 1}
        db.execute(statements()["move_count" if per == CALLS else "move_total"], values)
        db.execute(statements()["begin_total"], values)


def forget_totals(db: Database) -> None:
    """
    Let the totals be made anew from the rows when they are asked for next.
    """
    db.execute(statements()["forget_windows"])
    db.execute(statements()["forget_totals"])
