"""
What people look at in the journal, a page at a time: how long it takes does not depend on how many calls there are.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._journal.database import READING
from ocp_stripe_balance._journal.lease import is_alive
from ocp_stripe_balance._journal.records import proposal_of, record_of
from ocp_stripe_balance._journal.statements import statements
from ocp_stripe_balance._text.spelling import one_spelling

if TYPE_CHECKING:
    from ocp_stripe_balance._domain import Money, Scope
    from ocp_stripe_balance._journal.book import Book
    from ocp_stripe_balance._journal.database import Cursor
    from ocp_stripe_balance._journal.journal import Journal
    from ocp_stripe_balance._journal.records import Decision, Record
    from ocp_stripe_balance.models import Proposal

_MOST_LOOKED_AT = 10_000  # calls, for one page of those that are like what is wanted: some 50 ms
_MOST_MOVED = 20_000  # calls, for the figures of a time
_EVER = 1e11
_LAST_ROW = 2**62

Place = tuple[float, int]
"""Where in the list of all calls, newest first, a page ends."""


class Wanted(NamedTuple):
    """
    Which calls are looked for.
    """

    text: str = ""
    """A customer, a key, a reference or an entry; empty for all."""
    state: str = ""
    amount: int = 0
    """In the smallest unit, without a sign; 0 for any."""
    currency: str = ""
    since: float = 0.0
    until: Place = (_EVER, _LAST_ROW)
    number: int = 50


class Found(NamedTuple):
    """
    A page of calls.
    """

    records: list[Record]
    next: Place | None
    """Where the next page begins, where there may be one."""
    looked: int = 0
    """How many calls were looked at, where that was no reason to say that there are no more."""


class Moved(NamedTuple):
    """
    What one call moved, or may have.
    """

    at: float
    created_at: float
    updated_at: float
    currency: str
    amount: int
    state: str
    attempts: int
    note: str | None


class Told(NamedTuple):
    """
    All that is known of one key.
    """

    records: list[Record]
    decisions: list[Decision]
    proposals: list[Proposal]


class Pages:
    """
    What people look at in one journal.
    """

    def __init__(self, journal: Journal) -> None:
        """
        Read nothing yet.
        """
        self._journal = journal

    async def search(self, wanted: Wanted) -> Found:
        """
        The calls that are wanted, newest first.

        Raises:
            NotSentError: the journal cannot be used, as for all that follow.
        """
        return await self._journal.run(lambda book: _search(book, wanted), reach=READING)

    async def search_one(self, text: str) -> Record | None:
        """
        The newest call of that key, reference or entry.
        """
        return next(iter((await self.search(Wanted(text, number=1))).records), None) if text else None

    async def alike(self, proposal: Proposal, since: float, number: int) -> list[Record]:
        """
        What else moved for the customer of a proposal since a time, or may have, newest first.
        """
        values = {"customer": proposal.customer, "since": since, "key": proposal.key, "number": number}
        return await self._journal.run(
            lambda book: [record_of(row) for row in _rows(book, "alike", values)], reach=READING
        )

    async def waiting(self, number: int) -> tuple[list[Proposal], int]:
        """
        What waits for a person, the first asked first, and how many there are in all.
        """

        def work(book: Book) -> tuple[list[Proposal], int]:
            now = self._journal.now()
            found = [proposal_of(row) for row in _rows(book, "waiting", {"number": number + 100}).fetchall()]
            standing = (book.unless_expired(each, now) for each in found)
            shown = list(islice((each for each in standing if each is not None), number))
            (count,) = _rows(book, "how_many_wait").fetchone()
            return shown, count

        return await self._journal.run(work, reach=READING)

    async def proposal(self, proposal_id: str) -> Proposal | None:
        """
        The proposal of that ID as it stands now.
        """

        def work(book: Book) -> Proposal | None:
            return book.proposal(proposal_id, self._journal.now())

        return await self._journal.run(work, reach=READING)

    async def told(self, key: str) -> Told:
        """
        All that is known of one key.
        """

        def work(book: Book) -> Told:
            ids = [row["id"] for row in _rows(book, "proposals_of_key", {"key": key}).fetchall()]
            asked = [book.proposal(each, self._journal.now()) for each in ids]
            return Told(book.calls_of("key", key), book.decisions(key), [each for each in asked if each is not None])

        return await self._journal.run(work, reach=READING)

    async def call_at(self, key: str, scope: Scope) -> Record | None:
        """
        The call of that key in that scope.
        """
        return await self._journal.run(lambda book: book.find_key(key, scope), reach=READING)

    async def open_calls(self, number: int) -> tuple[list[Record], int]:
        """
        The oldest calls whose outcome is open and that nobody is sending, and how many of those were looked at.
        """

        def work(book: Book) -> list[Record]:
            return [record_of(row) for row in _rows(book, "open", {"number": number})]

        found = await self._journal.run(work, reach=READING)
        now = self._journal.now()
        return [each for each in found if not is_alive(each, now)], len(found)

    async def newest(self) -> int:
        """
        A number that is another one once something was decided.
        """
        return await self._journal.run(lambda book: int(_rows(book, "newest").fetchone()[0]), reach=READING)

    async def moved(self, since: float) -> tuple[list[Moved], bool]:
        """
        What moved since a time, newest first, and whether that is all.
        """
        values = {"since": since, "number": _MOST_MOVED + 1}
        found = await self._journal.run(
            lambda book: [Moved(*row) for row in _rows(book, "moved", values)], reach=READING
        )
        return found[:_MOST_MOVED], len(found) <= _MOST_MOVED

    async def refused(self, since: float) -> list[tuple[str, int, float]]:
        """
        Which rules refused calls since a time, how often and when last.
        """

        def work(book: Book) -> list[tuple[str, int, float]]:
            return [(rule, times, at) for rule, times, at in _rows(book, "refused", {"since": since})]

        return await self._journal.run(work, reach=READING)


def most_used(book: Book, scope: Scope, window: tuple[str, float], moved: Money, number: int) -> list[str]:
    """
    Who has used most of a budget, whose kind and span *window* is, in the direction and currency of *moved*.
    """
    per, window_s = window
    values = {"per": per, "window_s": window_s, "currency": moved.currency, "sign": 1 if moved.amount > 0 else -1}
    return [str(row[0]) for row in _rows(book, "most_used", {**values, "number": number, **scope._asdict()})]


def _search(book: Book, wanted: Wanted) -> Found:
    until, row = wanted.until
    is_any = not (wanted.state or wanted.amount or wanted.currency)
    most = wanted.number + 1 if is_any else _MOST_LOOKED_AT
    values = {
        "state": wanted.state, "amount": wanted.amount, "currency": wanted.currency, "since": wanted.since,
        "until": until, "row": row, "number": wanted.number + 1, "most": most,
    }  # fmt: skip
    if wanted.text:
        values |= {"text": wanted.text, "reference": one_spelling(wanted.text)}
    rows = _rows(book, "of_text" if wanted.text else "of_time", values).fetchall()
    records = [record_of(each) for each in rows[: wanted.number]]
    if len(rows) > wanted.number:
        last = rows[wanted.number - 1]
        return Found(records, (last["created_at"], last["id"]))
    if wanted.text or is_any:
        return Found(records, None)
    last = _rows(book, "looked_at", {**values, "most": most - 1}).fetchone()
    return Found(records, None) if last is None else Found(records, (last[0], last[1]), most)


def _rows(book: Book, name: str, values: dict[str, Any] | None = None) -> Cursor:
    return book.db.execute(statements("pages")[name], values or {})
