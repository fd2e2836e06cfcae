"""
A journal on a PostgreSQL server: one connection of this process, and transactions that wait only for what they share.

Who begins a transaction names what it touches, and has that to itself until the commit (advisory locks, always taken
in one order). What others committed before is seen, because every statement reads anew (READ COMMITTED). Time is the
server's. A connection that was lost while a commit was under way is opened anew, and the row that was to be committed
is looked for, behind the same locks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import errors

from ocp_stripe_balance._journal.book import Book
from ocp_stripe_balance._journal.database import EVERYTHING, DatabaseError, LostError, UnprovedError
from ocp_stripe_balance._journal.dialect import in_postgres, schema_in_postgres
from ocp_stripe_balance._journal.file import BusyError
from ocp_stripe_balance._journal.forks import forks
from ocp_stripe_balance._journal.shares import Shares
from ocp_stripe_balance._journal.sqlite import schema
from ocp_stripe_balance._journal.statements import check_version, is_known, migrations

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from ocp_stripe_balance._journal.database import Decided, Reach
    from ocp_stripe_balance._text.database_url import DatabaseURL

CONNECT_S, _ANSWER_S, _LONG_ANSWER_S = 5, 10.0, 300.0
_FIND_OUT_S = 10.0
_THAT_ONE = "SELECT number, key, context_id FROM decisions WHERE number = :number"
# A commit is on the disk when it returns, locks are waited for a second, and who is stopped holds none for long.
_BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL search_path TO ocp_stripe_balance;
SET LOCAL lock_timeout TO '1s';
SET LOCAL statement_timeout TO 0;
SET LOCAL idle_in_transaction_session_timeout TO '10s';
SET LOCAL plan_cache_mode TO force_generic_plan;
SET LOCAL enable_seqscan TO off;
SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
"""
# From PostgreSQL 17 on, also who is stopped in the middle of what it sends.
_LIMIT = """
SELECT set_config('transaction_timeout', '{}ms', true) WHERE current_setting('transaction_timeout', true) IS NOT NULL
"""
_NOW = "extract(epoch FROM clock_timestamp())::float8"


class Row(tuple[Any, ...]):
    """
    A row, its values by place and by name.
    """

    __slots__ = ()
    names: tuple[str, ...] = ()

    def __getitem__(self, place: Any) -> Any:
        """
        The value of a column, or the one at a place.
        """
        return tuple.__getitem__(self, self.names.index(place) if isinstance(place, str) else place)

    def keys(self) -> tuple[str, ...]:
        """
        The names of the columns.
        """
        return self.names


class _Patient(psycopg.Connection[Any]):
    """
    A connection that waits for an answer only so long.
    """

    answer_s = _ANSWER_S

    def wait(self, gen: Generator[Any, Any, Any], interval: float = 0.1) -> Any:  # type: ignore[override]
        """
        What the server answers.

        Raises:
            psycopg.OperationalError: it does not.
        """
        return super().wait(self._in_time(gen), interval)

    def _in_time(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        deadline, ready = time.monotonic() + self.answer_s, None
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as end:
                return end.value
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                self.close()
                raise psycopg.OperationalError(f"the server did not answer within {self.answer_s:g} s")


class _Found:
    """
    What a statement came to, asked for when somebody wants to know.
    """

    def __init__(self, cursor: psycopg.Cursor[Any], db: _Open) -> None:
        self._cursor, self._db = cursor, db

    @property
    def rowcount(self) -> int:
        with self._db.told():
            return self._done().rowcount

    def fetchone(self) -> Any:
        with self._db.told():
            return self._done().fetchone()

    def fetchall(self) -> list[Any]:
        with self._db.told():
            return self._done().fetchall()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def close(self) -> None:
        self._cursor.close()

    def _done(self) -> psycopg.Cursor[Any]:
        if self._cursor.pgresult is None:
            self._db.sync()  # from here on the server counts how long we are idle; it does not in the middle
        return self._cursor


class _Open:
    """
    One connection, as the book has it. Within a transaction a statement whose result nobody reads is not waited for.
    """

    def __init__(self, raw: _Patient) -> None:
        self.raw = raw
        self.clock = 0.0
        """The server's time, less ours that never steps."""
        self.is_proved = False
        """Whether it leads to a server that has what this process put on record."""
        self._socket = _identity(raw.fileno())
        self._pipeline = contextlib.ExitStack()
        self._sent: psycopg.Pipeline | None = None

    def execute(self, sql: str, values: Mapping[str, Any] | None = None, /) -> _Found:
        """
        Run one of the journal's statements.

        Raises:
            DatabaseError: it fails, or an earlier one did.
        """
        with self.told():
            return _Found(self.raw.execute(sql if values is None else in_postgres(sql), values), self)

    @contextlib.contextmanager
    def told(self) -> Generator[None]:
        """
        Foreign errors as ours.

        Raises:
            LostError: the session has ended, or is another one.
            DatabaseError: anything else.
        """
        try:
            with told():
                yield
        except DatabaseError as error:
            if isinstance(error.__cause__, errors.InvalidSqlStatementName | errors.DuplicatePreparedStatement):
                self.raw.prepare_threshold = None  # a pooler in between hands us other sessions
            elif not self.raw.closed:
                raise
            raise LostError(str(error), error.hint) from error.__cause__

    def sync(self) -> None:
        """
        Wait until all was done.
        """
        if self._sent is not None:
            self._sent.sync()

    def begin(self, reach: Sequence[Reach]) -> None:
        """
        Begin a transaction that has all that is within *reach* to itself.

        Raises:
            BusyError: others have some of it.
            DatabaseError: it fails.
        """
        locks, began = ", ".join(_locks(reach)), time.monotonic()
        self.raw.answer_s = _LONG_ANSWER_S if EVERYTHING in reach else _ANSWER_S
        try:
            with told():
                limit = _LIMIT.format(int(3000 * self.raw.answer_s))
                cursor = self.raw.execute(f"{_BEGIN}; {limit}; SELECT {_NOW}, {locks}")
                while cursor.nextset():
                    pass
                now, *_ = cursor.fetchone() or (0.0,)
                self._sent = self._pipeline.enter_context(self.raw.pipeline())
        except DatabaseError as error:
            self.roll_back()
            if isinstance(error.__cause__, errors.LockNotAvailable | errors.DeadlockDetected):
                raise BusyError from error
            raise
        self.clock = now - began  # it was asked before the locks were waited for, and the answer

    def commit(self) -> None:
        """
        Let what was done hold.

        Raises:
            DatabaseError: it does not, or the answer was lost.
        """
        with self.told():
            cursor = self.raw.execute("COMMIT")
            self._end()
            if cursor.statusmessage != "COMMIT":
                raise psycopg.OperationalError(f"the server answered {cursor.statusmessage} to a commit")

    def roll_back(self) -> None:
        """
        Undo what was done, where the server has not undone it itself.
        """
        with contextlib.suppress(psycopg.Error):
            self._end()
        with contextlib.suppress(psycopg.Error):
            self.raw.execute("ROLLBACK")

    def now(self) -> float:
        """
        The server's time.
        """
        return time.monotonic() + self.clock

    def close(self) -> None:
        """
        End the session, and what was begun.
        """
        with contextlib.suppress(psycopg.Error):
            self._end()
        with contextlib.suppress(psycopg.Error):
            self.raw.close()

    def leave(self) -> None:
        """
        Let the parent of this child alone have the session, or the server would not see its end before ours.
        """
        if self._socket is not None and _identity(self._socket[0]) == self._socket:
            os.close(self._socket[0])

    def _end(self) -> None:
        self._sent = None
        self._pipeline.close()


class PostgresStore:
    """
    A journal's server, as this process has it: one connection for all agents and threads.
    """

    max_batch = 64  # what others wait for is short

    def __init__(self, url: DatabaseURL, *, is_copy: bool = False) -> None:
        """
        Prepare; nothing is opened yet. A journal that is not wholly copied yet is opened only where it *is_copy*.
        """
        self._is_copy = is_copy
        self.lock = threading.Lock()
        self.users = 0
        self.shares = Shares()
        self._url = url
        self._held: tuple[_Open, Book] | None = None
        self._reach: list[Reach] = []
        self._known: Decided | None = None
        """The newest decision that this process put on record, here or before the fork."""
        self._clock: float | None = None

    def now(self) -> float:
        """
        The server's time, in seconds since the Unix epoch; ours before it was asked for the first time.
        """
        return time.time() if self._clock is None else time.monotonic() + self._clock

    def begin(self, reach: Sequence[Reach]) -> Book:
        """
        Begin a transaction.

        Raises:
            BusyError: others have what it touches; nothing was begun.
            DatabaseError: the server cannot be used, or lost what was on record.
            ToolError: a newer version wrote it.
        """
        forks.notice()
        self._reach = list(reach)
        if self._held is not None and (self._held[0].raw.closed or not self._held[0].is_proved):
            self.close()
        db, book = self._held = self._held or self._opened()
        try:
            self._begin(db)
        except DatabaseError:
            if not db.is_proved or not db.raw.broken:
                raise
            db, book = self._held = self._opened()  # it was ended while nobody used it
            self._begin(db)
        book.forget()
        return book

    def commit(self) -> None:
        """
        Let what was done hold.

        Raises:
            UnprovedError: it may have been committed, and the server cannot be asked.
            DatabaseError: it was not.
        """
        db, book = self._held or (None, None)
        if db is None or book is None:
            raise DatabaseError("nothing was begun", _MEND)
        noted = book.noted
        try:
            db.commit()
        except DatabaseError as error:
            if not db.raw.broken and not db.raw.closed:
                raise
            self._find_out(noted, error)
        self._known = noted or self._known

    def roll_back(self, error: BaseException) -> None:
        """
        Undo what was done since `begin`, whatever the *error*.
        """
        del error
        if self._held is not None:
            db, book = self._held
            db.roll_back()
            book.roll_back()

    def close(self) -> None:
        """
        Close the connection, where nobody uses it any more; *lock* is held.
        """
        if self._held is not None:
            self._held[0].close()
            self._held = None

    def rest(self) -> None:
        """
        Nothing: a connection may stay open while its process forks, as long as the child leaves it alone.
        """

    def inherit(self) -> None:
        """
        Begin anew in a child; what is open is the parent's, and psycopg closes nothing that another process opened.
        """
        if self._held is not None:
            self._held[0].leave()
        self.lock, self.users, self._held = threading.Lock(), 0, None

    def _begin(self, db: _Open) -> None:
        db.begin(self._reach)
        self._clock = db.clock
        if not db.is_proved and self._known is not None and not _has(db, self._known):
            db.roll_back()
            raise DatabaseError(
                "the server lacks what this process put on record: another one took its place, which lags behind",
                "A person must look at Stripe's ledger for what the record lacks, and then start the processes anew.",
            )
        db.is_proved = True

    def _opened(self) -> tuple[_Open, Book]:
        """
        A new connection to a journal in the format of this version.

        Raises:
            BusyError: another process brings it to that format.
            DatabaseError: the server cannot be reached, or refuses.
            ToolError: a newer version wrote it.
        """
        with told(self._url):
            raw = _Patient.connect(
                self._url.reveal(),
                autocommit=True,  # transactions begin and end where the store says so
                row_factory=_rows,
                connect_timeout=CONNECT_S,
                keepalives_idle=10,
                tcp_user_timeout=int(_ANSWER_S * 1000),
                application_name="ocp-stripe-balance",
                client_encoding="utf8",
            )
        db = _Open(raw)
        try:
            _migrate(db, str(self._url), is_copy=self._is_copy)
        except BaseException:
            db.close()
            raise
        return db, Book(db)

    def _find_out(self, noted: Decided | None, error: DatabaseError) -> None:
        """
        Whether a commit came about whose answer was lost.

        Raises:
            DatabaseError: it did not; so also where nothing was noted, and doing it again changes nothing.
            UnprovedError: the server cannot be asked.
        """
        self.close()
        if noted is None:
            raise error
        deadline = time.monotonic() + _FIND_OUT_S
        while True:
            try:
                db, _ = self._held = self._opened()
                db.begin(self._reach)  # behind the locks of the transaction in doubt, which end with it
                is_there = _has(db, noted)
                db.roll_back()
            except (DatabaseError, BusyError) as again:
                self.close()
                if time.monotonic() > deadline:
                    raise UnprovedError(again) from error
                time.sleep(0.05)
            else:
                break
        if not is_there:
            raise error


class _Foreign(NamedTuple):
    kind: type[psycopg.Error]
    words: str
    """Of servers that do not let us in: libpq hands on what they say, and no code."""
    hint: str


_MEND = "A person must look at the server that OCP_STRIPE_JOURNAL names."
_READS = f"The server only reads: it is a standby, or was made read-only. {_MEND}"
_KINDS = (
    _Foreign(
        errors.InvalidPassword,
        r"password authentication failed|no password supplied",
        "A person must mend the user or the password in OCP_STRIPE_JOURNAL.",
    ),
    _Foreign(
        errors.InvalidAuthorizationSpecification,
        r'role "[^"]*" (does not exist|is not permitted)|pg_hba\.conf',
        "A person must mend the user in OCP_STRIPE_JOURNAL, or let it in at the server.",
    ),
    _Foreign(
        errors.InvalidCatalogName,
        r'database "[^"]*" does not exist',
        "A person must make that database, or name another in OCP_STRIPE_JOURNAL.",
    ),
    _Foreign(
        errors.InsufficientPrivilege,
        r"permission denied for database",
        "A person must give the user its rights: docs/postgres.md has them.",
    ),
    _Foreign(errors.ReadOnlySqlTransaction, r"during recovery", _READS),
    _Foreign(
        errors.UntranslatableCharacter,
        r"cannot contain NUL",
        "A text of this call has a character that the database does not take: leave it out.",
    ),
    _Foreign(errors.DiskFull, r"No space left", "A person must make room on the server."),
    _Foreign(
        errors.TooManyConnections,
        r"too many (clients|connections)|remaining connection slots",
        "The server has no connection left. A person must allow more of them.",
    ),
)


@contextlib.contextmanager
def told(url: DatabaseURL | None = None) -> Generator[None]:
    """
    Foreign errors as ours.

    Raises:
        LostError: others had a row for too long.
        DatabaseError: instead of psycopg's.
    """
    try:
        yield
    except psycopg.Error as error:
        text = " ".join(str(error).split()) or type(error).__name__
        hint = next((e.hint for e in _KINDS if isinstance(error, e.kind) or re.search(e.words, text)), _MEND)
        is_lost = isinstance(error, errors.LockNotAvailable | errors.DeadlockDetected)
        raise (LostError if is_lost else DatabaseError)(url.mask(text) if url else text, hint) from error


def _rows(cursor: psycopg.Cursor[Any]) -> Any:
    """
    Makes rows of what a cursor reads.
    """
    return _row_of(tuple(column.name for column in cursor.description or ()))


@cache
def _row_of(names: tuple[str, ...]) -> type[Row]:
    return type("Row", (Row,), {"names": names, "__slots__": ()})


def _locks(reach: Sequence[Reach]) -> list[str]:
    """
    The locks of a transaction, in the one order in which all take them.
    """
    if any(each.names is None for each in reach):
        return [f"pg_advisory_xact_lock({_number('journal')})"]
    shared = [f"pg_advisory_xact_lock_shared({_number('journal')})"]
    names = sorted({_number(name) for each in reach for name in each.names or ()})
    if not names:
        return shared
    totals = f"pg_advisory_xact_lock{'' if any(each.counts for each in reach) else '_shared'}({_number('totals')})"
    return [*shared, totals, *(f"pg_advisory_xact_lock({name})" for name in names)]


def _number(name: str) -> int:
    """
    The number of a lock, among those of all programs that use the database.
    """
    digest = hashlib.blake2b(f"ocp_stripe_balance {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _identity(number: int) -> tuple[int, ...] | None:
    """
    What tells an open file of this process from a later one of the same number, where that can be seen.
    """
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return number, found.st_dev, found.st_ino


def _has(db: _Open, known: Decided) -> bool:
    """
    Whether a decision is on record; none is ever deleted.
    """
    return bool(db.execute(_THAT_ONE, {"number": known[0]}).fetchone() == tuple(known))


def _migrate(db: _Open, name: str, *, is_copy: bool) -> None:
    """
    Bring the schema to the format of this version.

    Raises:
        BusyError: another process does.
        ConfigurationError: a newer version wrote it, or it is not wholly copied yet.
    """
    known = migrations()
    if is_known(version := _version(db), is_copy=is_copy):
        return
    check_version(version, name)
    db.begin([EVERYTHING])
    try:
        db.execute("CREATE SCHEMA IF NOT EXISTS ocp_stripe_balance")
        db.execute("CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY, applied_at DOUBLE PRECISION)")
        version = check_version(_version(db), name)
        later = [statement for script in known[version:] for statement in script] if version else schema()
        for statement in schema_in_postgres(later):
            db.execute(statement)
        if version < len(known):
            db.execute("INSERT INTO migrations VALUES (:number, :now)", {"number": len(known), "now": db.now()})
        db.commit()
    except BaseException:
        db.roll_back()
        raise


def _version(db: _Open) -> int:
    """
    How many migrations it has.
    """
    if db.execute("SELECT to_regclass('ocp_stripe_balance.migrations')").fetchone()[0] is None:
        return 0
    return int(db.execute("SELECT COALESCE(MAX(version), 0) FROM ocp_stripe_balance.migrations").fetchone()[0])
