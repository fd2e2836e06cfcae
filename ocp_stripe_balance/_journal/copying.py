"""
Copying one journal into another, a file or a server each, and proving that all of it is there.

The source is locked for as long as it takes, so that nobody pays by it meanwhile; the copy bears a mark until it is
whole, so that nobody pays by it either. It is written in batches. A copy that was interrupted goes on: what is there
already is compared row by row.
"""

from __future__ import annotations

import contextlib
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._journal.database import EVERYTHING, FAILURES, UnprovedError
from ocp_stripe_balance._journal.file import BusyError, MisplacedError, Place, has_journal
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._journal.statements import UNFINISHED, statements
from ocp_stripe_balance._journal.store import FileStore
from ocp_stripe_balance._journal.stores import new_server
from ocp_stripe_balance._journal.totals import forget_totals, make_totals, wrong_totals
from ocp_stripe_balance.errors import NotSentError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from ocp_stripe_balance._journal.book import Book
    from ocp_stripe_balance._journal.database import Cursor, Database, Store
    from ocp_stripe_balance._text.database_url import DatabaseURL

    Row = dict[str, Any]

_NUMBERED = {"decisions": "number", "calls": "id"}
_NUMBERED |= dict.fromkeys(("proposals", "votes", "deliveries", "people", "visits"), "number")
_SCOPED = ("key", "base_url", "mode", "account")
_BATCH = 2000
_PATIENCE_S = 10.0
_OTHERS = "Name a place that has no calls yet."
_AGAIN = "Run the same again: it goes on where it was."
_WAIT = "SET LOCAL idle_in_transaction_session_timeout TO '5min'"  # the source does nothing while the copy is written

Kind = tuple[str, str, str, str]
"""Which records: calls, decisions, proposals, accounts of people and so on; their mode, currency and outcome."""
Sum = tuple[int, int]
"""How many there are, and what their amounts come to in minor units."""


class Proof(NamedTuple):
    """
    What was counted on both sides when a copy was done.
    """

    sums: dict[Kind, tuple[Sum, Sum]]
    """In the source, and in the copy."""
    wrong_totals: int
    """Totals of the copy that are not what its rows add up to."""

    @property
    def records(self) -> int:
        """
        How many the source has.
        """
        return sum(ours[0] for ours, _ in self.sums.values())

    @property
    def is_whole(self) -> bool:
        """
        Whether the copy has all of them, and nothing else.
        """
        return not self.wrong_totals and all(ours == theirs for ours, theirs in self.sums.values())


class Copying:
    """
    One run.
    """

    def __init__(self, source: Path | DatabaseURL, target: Path | DatabaseURL, *, batch: int = _BATCH) -> None:
        """
        Prepare; nothing is opened yet.
        """
        self._source, self._target, self._batch = source, target, batch
        self.proof = Proof({}, 0)
        """Once all steps are done."""

    def steps(self) -> Generator[tuple[int, int]]:
        """
        Copy, and say after each batch how many records of how many are done. It may be given up in between.

        Raises:
            NotSentError: a journal cannot be used, or the target has other calls.
            ConfigurationError: a newer version wrote one of them.
        """
        if not has_journal(self._source):
            raise NotSentError(f"There is no journal at {self._source}.", hint="Name the one to copy.")
        if _is_same(self._source, self._target):
            raise NotSentError(f"{self._target} is the journal itself.", hint=_OTHERS)
        try:
            with _locked(self._source) as source, contextlib.closing(_Target(self._target)) as target:
                yield from self._copy(source, target)
        except (*FAILURES, BusyError, MisplacedError, UnprovedError, OSError) as error:
            hint = f"{getattr(error, 'hint', '')} {_AGAIN}".strip()
            raise NotSentError(f"The copy is not whole: {error}.", hint=hint) from error

    def _copy(self, source: Database, target: _Target) -> Generator[tuple[int, int]]:
        ours, (newest,) = _sums(source), _run(source, "newest", table="decisions").fetchone()
        with target.writing() as db:
            is_new = target.begin(db, ours)
        done, total = 0, sum(number for number, _ in ours.values())
        for table, rows, after in _pages(source, self._batch):
            with target.writing() as db:
                if not is_new:
                    target.compare(db, table, rows, after)
                    continue
                target.put(db, table, rows, after, newest)
            done += len(rows)
            yield done, total
        with target.writing() as db:
            if is_new:
                target.end(db, source)
            self.proof = _proof(ours, db)
            if is_new and self.proof.is_whole:
                _run(db, "unmark", {"number": UNFINISHED})


class _Target:
    """
    The copy.
    """

    def __init__(self, place: Path | DatabaseURL) -> None:
        self._place, self._is_server = place, not isinstance(place, Path)
        self._store, self._begin = _store_of(place)

    def close(self) -> None:
        """
        Close it.
        """
        self._store.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Database]:
        """
        One transaction, which has all of it to itself.

        Raises:
            BusyError: others have it for too long.
        """
        book = _patiently(self._begin)
        try:
            yield book.db
            self._store.commit()
        except BaseException as error:
            self._store.roll_back(error)
            raise

    def begin(self, db: Database, ours: dict[Kind, Sum]) -> bool:
        """
        Mark it as not whole; False where it is whole already.

        Raises:
            NotSentError: it has other calls.
        """
        (version,) = _run(db, "version").fetchone()
        if version > UNFINISHED:
            return True
        if theirs := _sums(db):
            if theirs == ours:
                return False
            number = sum(number for number, _ in theirs.values())
            raise NotSentError(f"{self._place} has {number} records already, which are others.", hint=_OTHERS)
        forget_totals(db)
        _run(db, "mark", {"number": UNFINISHED + version, "now": time.time()})
        return True

    def compare(self, db: Database, table: str, rows: list[Row], after: int) -> None:
        """
        Look whether the rows after a number are there: as many for as much may be of another journal.

        Raises:
            NotSentError: they are not.
        """
        if table in _NUMBERED and _page(db, table, after, len(rows)) != rows:
            raise NotSentError(f"{self._place} has as many records already, which are others.", hint=_OTHERS)

    def put(self, db: Database, table: str, rows: list[Row], after: int, newest_decision: int) -> None:
        """
        Put in what is not there yet, or was changed since; the rows are those after a number.

        Raises:
            NotSentError: what was begun is the copy of another journal, or somebody had it open before and uses it.
        """
        if _run(db, "newest", table="decisions").fetchone()[0] > newest_decision:
            raise NotSentError(f"{self._place} is used by others meanwhile.", hint=_OTHERS)
        if table == "joined":
            for row in rows:
                db.execute(statements()["join_key"], row)
            return
        number = _NUMBERED[table]
        (newest,) = _run(db, "newest", table=table).fetchone()
        there = _page(db, table, after, len(rows)) if after < newest else []
        known = {row[number]: row for row in there}
        for row in rows:
            if known.get(row[number], row) != row:
                if table == "decisions":  # which nothing ever changes
                    raise NotSentError(f"{self._place} has a part of another journal.", hint=_OTHERS)
                _run(db, "take_out", {"number": row[number]}, table=table)
        self._insert(db, table, [row for row in rows if known.get(row[number]) != row])

    def end(self, db: Database, source: Database) -> None:
        """
        Make what is no copy of rows: totals, and numbers that are free.
        """
        make_totals(db, [tuple(row) for row in _run(source, "windows")])
        (window_s,) = source.execute(statements()["longest_window"]).fetchone()
        db.execute(statements()["keep_window"], {"window_s": window_s})
        for table in _NUMBERED if self._is_server else ():
            _run(db, "count_on", table=table)
            _run(db, "analyze", table=table)

    def _insert(self, db: Database, table: str, rows: list[Row]) -> None:
        if not rows:
            return
        if self._is_server:  # all at once, or each row would take a moment of its own
            _run(db, "put_in_all", {"rows": json.dumps(rows, default=_in_hexadecimal)}, table=table)
            return
        names, places = ", ".join(f'"{name}"' for name in rows[0]), ", ".join(f":{name}" for name in rows[0])
        put_in = _statement("put_in", table=table, names=names, places=places)
        for row in rows:
            db.execute(put_in, row)


@contextlib.contextmanager
def _locked(place: Path | DatabaseURL) -> Iterator[Database]:
    """
    The journal to be copied, which nobody writes meanwhile.

    Raises:
        BusyError, sqlite3.Error: others have it for too long.
    """
    if isinstance(place, Path):
        with contextlib.closing(Place(place, makes_folder=False)) as found:
            found.check()
            # Without the turn of its folder, in which the copy may be.
            with contextlib.closing(open_database(place, _PATIENCE_S)) as file:
                file.execute("BEGIN IMMEDIATE")
                yield file
        return
    with contextlib.closing(new_server(place)) as store:
        db = _patiently(partial(store.begin, [EVERYTHING])).db
        db.execute(_WAIT)
        yield db


def _store_of(place: Path | DatabaseURL) -> tuple[Store, Callable[[], Book]]:
    """
    What holds the copy, and how a transaction begins on it.
    """
    if isinstance(place, Path):
        file = FileStore(place.absolute())
        return file, partial(file.begin, partial(open_database, patience_s=0, is_copy=True))
    server = new_server(place, is_copy=True)
    return server, partial(server.begin, [EVERYTHING])


def _patiently(begin: Callable[[], Book]) -> Book:
    """
    The transaction, as soon as others are done.

    Raises:
        BusyError: they are not for long.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return begin()
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _pages(db: Database, size: int) -> Iterator[tuple[str, list[Row], int]]:
    """
    All rows, some at a time, each with its table and the number before.
    """
    for table, number in _NUMBERED.items():
        after = 0
        while rows := _page(db, table, after, size):
            yield table, rows, after
            after = rows[-1][number]
    first = dict.fromkeys(_SCOPED, "")
    while rows := _rows(_run(db, "page_of_joined", {**first, "number": size})):
        yield "joined", rows, 0
        first = {name: rows[-1][name] for name in _SCOPED}


def _page(db: Database, table: str, after: int, size: int) -> list[Row]:
    return _rows(_run(db, "page", {"row": after, "number": size}, table=table))


def _rows(cursor: Cursor) -> list[Row]:
    return [dict(zip(row.keys(), row, strict=True)) for row in cursor]


def _sums(db: Database) -> dict[Kind, Sum]:
    return {tuple(row)[:4]: tuple(row)[4:] for row in _run(db, "sums")}


def _proof(ours: dict[Kind, Sum], db: Database) -> Proof:
    theirs = _sums(db)
    sums = {kind: (ours.get(kind, (0, 0)), theirs.get(kind, (0, 0))) for kind in sorted({*ours, *theirs})}
    return Proof(sums, len(wrong_totals(db)))


def _is_same(source: Path | DatabaseURL, target: Path | DatabaseURL) -> bool:
    if isinstance(source, Path) and isinstance(target, Path):
        return target.exists() and source.samefile(target)
    return source == target


def _run(db: Database, name: str, values: Mapping[str, Any] | None = None, *, table: str = "") -> Cursor:
    return db.execute(_statement(name, table=table), values or {})


def _statement(name: str, *, table: str, **words: str) -> str:
    """
    A statement of ``copying.sql`` about a table.
    """
    return statements("copying")[name].format(table=table, number=_NUMBERED.get(table), **words)


def _in_hexadecimal(value: bytes) -> str:
    return f"\\x{value.hex()}"
