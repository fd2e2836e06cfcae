"""
Where the journal of a test is kept: in a file or on a server. One set of tests is for both.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import pytest
from helpers import put_journal
from hypothesis import settings
from postgres import new_database

from ocp_stripe_balance._journal import Book, stores
from ocp_stripe_balance._journal.database import EVERYTHING
from ocp_stripe_balance._journal.postgres import PostgresStore, _number, _rows
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._text.database_url import DatabaseURL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hypothesis.stateful import RuleBasedStateMachine

usual_engine = "file"
"""The one that --engine names."""
T = TypeVar("T")
Place = Path | DatabaseURL
"""Its `str` is what OCP_STRIPE_JOURNAL says: the tests' server is told no password."""

ON_BOTH = pytest.mark.parametrize("engine", ["file", "postgres"], indirect=True)
"""For a test that runs on both engines each time; the others do so with --engine postgres."""


class Places:
    """
    The places of one test, each by a name, and those on a server used again for the next.
    """

    _empty: list[DatabaseURL] = []  # noqa: RUF012  of all

    def __init__(self, engine: str, folder: Path) -> None:
        self.engine, self._folder = engine, folder
        self._given: dict[str, DatabaseURL] = {}

    def __call__(self, name: str) -> Place:
        """
        Always the same for the same name; there is nothing in it yet.
        """
        if self.engine == "file":
            return self._folder / name
        if name not in self._given:
            self._given[name] = self._empty.pop() if self._empty else database()
        return self._given[name]

    def close(self) -> None:
        for url in self._given.values():
            empty(url)
            self._empty.append(url)


def database() -> DatabaseURL:
    """
    A database with a journal in it that is still empty.
    """
    url = DatabaseURL(new_database())
    with contextlib.closing(Other(url)):
        return url


def empty(url: DatabaseURL) -> None:
    """
    Let a journal on a server be as it was when it was made.
    """
    with look(url) as db:
        db.execute("SET lock_timeout TO '10s'")
        names = [
            name
            for (name,) in db.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = "
                "'ocp_stripe_balance'::regnamespace AND relname != 'migrations'"
            )
        ]
        db.execute(f"TRUNCATE {', '.join(names)} RESTART IDENTITY")
    if store := stores._servers.get(url):
        with store.lock:
            store.close()  # some agents are never closed
            store._known = None


def columns(db: Any, table: str = "calls") -> list[str]:
    """
    The names of a table's columns.
    """
    return [column[0] for column in db.execute(f"SELECT * FROM {table} LIMIT 0").description]  # noqa: S608


class Look:
    """
    A connection of the test's own to a server, which takes what one to a file does.
    """

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self.raw = raw

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return self.raw.execute(sql.replace("?", "%s").encode(), values or None)


@contextlib.contextmanager
def look(place: Place | None) -> Iterator[Any]:
    """
    A plain connection, each of whose statements is committed at once: what another program finds or does there.
    """
    assert place is not None, "it is in memory"
    if isinstance(place, Path):
        with contextlib.closing(sqlite3.connect(place, isolation_level=None, timeout=5, check_same_thread=False)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = OFF")
            yield db
    else:
        words = {"options": "-c search_path=ocp_stripe_balance", "row_factory": _rows}
        with psycopg.connect(place.reveal(), autocommit=True, **words) as raw:  # type: ignore[arg-type]
            yield Look(raw)


@contextlib.contextmanager
def locked(place: Place | None, how: str = "IMMEDIATE") -> Iterator[None]:
    """
    Another program has the journal to itself, until the block ends.
    """
    with look(place) as db:
        if isinstance(place, Path):
            db.execute(f"BEGIN {how}")
        else:
            db.execute("BEGIN")
            db.execute(f"SELECT pg_advisory_xact_lock({_number('journal')})")
        yield


@contextlib.contextmanager
def before_each_row(url: DatabaseURL, does: str, *, of: str) -> Iterator[None]:
    """
    The server does something before each INSERT or UPDATE of a call, until the block ends.
    """
    with look(url) as db:
        db.execute(
            f"CREATE FUNCTION before_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NEW; END $$; "
            f"CREATE TRIGGER before_row BEFORE {of} ON calls FOR EACH ROW EXECUTE FUNCTION before_row()"
        )
        yield
        db.execute("DROP TRIGGER before_row ON calls; DROP FUNCTION before_row")


class Other:
    """
    Another program at a journal, which works on it at once, without a thread.
    """

    def __init__(self, place: Place) -> None:
        if isinstance(place, Path):
            self._store, self._book = None, Book(opened(place))
        else:
            self._store = PostgresStore(place)
            self.work(lambda _: None)

    def work(self, work: Callable[[Book], T]) -> T:
        """
        One transaction.
        """
        if self._store is not None:
            book = self._store.begin([EVERYTHING])
            found = work(book)
            self._store.commit()
            return found
        self._book.begin()
        found = work(self._book)
        self._book.commit()
        return found

    def close(self) -> None:
        self._book.close() if self._store is None else self._store.close()


def opened(path: Path | None, *more: Any, is_copied: bool = True, **how: Any) -> sqlite3.Connection:
    """
    A file, a new one copied, without waiting for the disk: no power fails here.
    """
    if path is not None and is_copied:
        put_journal(path)
    db = open_database(path, *more, **how)
    db.execute("PRAGMA synchronous = OFF")
    return db


def age(place: Place, seconds: float) -> None:
    """
    Let everything in a journal have happened earlier.
    """
    with look(place) as db:
        db.execute(
            "UPDATE calls SET created_at = created_at - ?, updated_at = updated_at - ?, spent_at = spent_at - ?",
            (seconds,) * 3,
        )
        db.execute("UPDATE decisions SET at = at - ?", (seconds,))


def settings_on_server(machine: type[RuleBasedStateMachine], max_examples: int) -> settings:
    """
    Those of a machine, for fewer examples where both engines are tested: a transaction takes longer there.
    """
    given = machine.TestCase.settings
    return settings(given, max_examples=given.max_examples // 3 if usual_engine == "postgres" else max_examples)
