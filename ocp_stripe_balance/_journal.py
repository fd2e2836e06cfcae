"""
The durable record of calls: SQLite, written before the first byte of a call leaves and after its outcome is known.

| state      | meaning                                   | the same call again                            |
|------------|-------------------------------------------|------------------------------------------------|
| sending    | it may be under way, or was interrupted   | waits while its owner lives, then is resumed   |
| succeeded  | the entry exists                          | answered from here                             |
| rejected   | Stripe said no                            | answered from here, or tried again (401, 429…) |
| not_sent   | nothing moved                             | sent                                           |
| unknown    | it may have moved                         | resumed with the first bytes, for 23 hours     |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import secrets
import socket
import sqlite3
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from ocp_stripe_balance.errors import ConfigurationError, NotSentError, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_T = TypeVar("_T")

# Stripe may forget a key after 24 h; a resend then pays twice. https://docs.stripe.com/api/idempotent_requests
MAX_RESEND_AGE_S = 23 * 3600
_MAX_BATCH = 256
_BUSY_TIMEOUT_S = 30.0
_LEASE_MARGIN_S = 5.0
_MAX_SKEW_S = 60.0


class State(StrEnum):
    """
    What has become of a call.
    """

    SENDING = "sending"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """
    One row: what was decided, the bytes it is sent as, and what became of it. Never an API key.
    """

    base_url: str
    mode: str
    account: str
    """Connected account, or empty; with base URL and mode it is the namespace of the key."""
    key: str
    tool: str
    customer: str
    amount: int
    currency: str
    reference: str | None
    arguments: str
    """The validated parameters as JSON, names sorted, without the key."""
    path: str
    body: bytes
    api_version: str
    context_id: str
    state: State = State.SENDING
    is_final: bool = False
    """Whether the same call again is answered from here."""
    attempts: int = 0
    status: int | None = None
    request_id: str | None = None
    answer: str | None = None
    """Stripe's object or error, as JSON."""
    note: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    owner: str = ""
    lease_until: float = 0.0


class Verdict(StrEnum):
    """
    What a claim found.
    """

    SEND = "send"
    """The call is ours to send, for the first time."""
    RESUME = "resume"
    """The call is ours to send again: an earlier attempt may have been executed."""
    WAIT = "wait"
    """Another caller is sending it."""
    FINISHED = "finished"
    """The outcome is on record."""
    EXPIRED = "expired"
    """Its outcome is open, and it is too old to be sent again."""
    KEY_TAKEN = "key_taken"
    """The key belongs to a call with other parameters."""
    REFERENCE_TAKEN = "reference_taken"
    """The reference belongs to an entry of another amount or currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    The verdict, and the row it speaks of.
    """

    verdict: Verdict
    call: Call


_COLUMNS = tuple(field.name for field in fields(Call))


def _create_calls(db: sqlite3.Connection) -> None:
    db.execute(
        """CREATE TABLE calls (
            id INTEGER PRIMARY KEY,
            base_url TEXT NOT NULL, mode TEXT NOT NULL, account TEXT NOT NULL, key TEXT NOT NULL,
            tool TEXT NOT NULL, customer TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL,
            reference TEXT, arguments TEXT NOT NULL, path TEXT NOT NULL, body BLOB NOT NULL,
            api_version TEXT NOT NULL, context_id TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('sending', 'succeeded', 'rejected', 'not_sent', 'unknown')),
            is_final INTEGER NOT NULL, attempts INTEGER NOT NULL, status INTEGER, request_id TEXT, answer TEXT,
            note TEXT,
            created_at REAL NOT NULL, updated_at REAL NOT NULL, owner TEXT NOT NULL, lease_until REAL NOT NULL,
            UNIQUE (key, base_url, mode, account)
        )"""
    )
    db.execute("CREATE INDEX calls_by_reference ON calls (reference, customer) WHERE reference IS NOT NULL")
    db.execute("CREATE INDEX calls_by_customer ON calls (customer, created_at)")
    db.execute("CREATE INDEX calls_unsettled ON calls (created_at) WHERE state IN ('sending', 'unknown')")
    db.execute("CREATE INDEX calls_by_time ON calls (created_at)")


_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create_calls,)


class Journal:
    """
    One file, shared by any number of processes; safe for many calls at once in one event loop.

    All work runs in one thread, which commits what has gathered in one transaction: concurrent
    calls share one fsync.
    """

    def __init__(self, path: Path | None, *, now: Callable[[], float] = time.time) -> None:
        """
        Prepare; nothing is opened before the first use.

        Args:
            path: the file, made with its folder where it is missing; None for a record in memory.
            now: the time in seconds since the Unix epoch.
        """
        self.path = path
        self._now = now
        self._writer: _Writer | None = None

    async def claim(
        self, draft: Call, *, has_own_key: bool, lease_s: float
    ) -> tuple[Claim, asyncio.CancelledError | None]:
        """
        Record the intent before anything is sent, or find the call it repeats. Durable when it returns.

        The second value is the cancellation that came meanwhile; the row then says that the call is not being sent.

        Args:
            draft: the call as it would be sent.
            has_own_key: whether the caller chose the key, so that every parameter must match.
            lease_s: how long the call may take; an owner that dies loses it by then at the latest.

        Raises:
            NotSentError: the journal cannot be written.
        """
        # Names this claim among those of all processes and hosts that share the file.
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"

        def work(db: sqlite3.Connection) -> Claim:
            return _claim(db, draft, owner, self._now(), has_own_key=has_own_key, lease_s=lease_s)

        claim, cancelled = await self._finish(work)
        if cancelled is not None:
            state = {Verdict.SEND: State.NOT_SENT, Verdict.RESUME: State.UNKNOWN}.get(claim.verdict)
            if state is not None:
                with contextlib.suppress(NotSentError, asyncio.CancelledError):
                    if not await self.settle(claim.call, state, note="cancelled before it was sent"):
                        claim = replace(claim, verdict=Verdict.WAIT)  # its lease was over: another has it
        return claim, cancelled

    async def settle(  # noqa: PLR0913  the columns of an outcome
        self,
        call: Call,
        state: State,
        *,
        is_final: bool = False,
        attempts: int = 0,
        status: int | None = None,
        request_id: str | None = None,
        answer: Any = None,
        note: str | None = None,
    ) -> bool:
        """
        Record the outcome, and whether that was possible. A cancelled caller waits for the write.

        A final outcome on record is never overwritten, and one that is not final is recorded only by who holds
        the claim: whoever took the call over meanwhile knows better.

        Raises:
            NotSentError: the journal cannot be written.
        """
        text = None if answer is None else json.dumps(answer)
        values = (state, is_final, attempts, status, request_id, text, note, self._now())

        def work(db: sqlite3.Connection) -> bool:
            done = db.execute(
                "UPDATE calls SET state = ?, is_final = ?, attempts = attempts + ?, status = ?, request_id = ?, "
                "answer = ?, note = ?, updated_at = ?, owner = '', lease_until = 0 "
                "WHERE key = ? AND base_url = ? AND mode = ? AND account = ? AND NOT is_final "
                "AND (? OR owner = ?)",
                (*values, call.key, call.base_url, call.mode, call.account, is_final, call.owner),
            )
            return done.rowcount == 1

        is_recorded, cancelled = await self._finish(work)
        if cancelled is not None:
            raise cancelled
        return is_recorded

    async def find(self, key: str, *, base_url: str, mode: str, account: str) -> Call | None:
        """
        The call of that key in that namespace, or None.
        """
        return (await self._finish(lambda db: _by_key(db, key, base_url, mode, account)))[0]

    async def select(
        self,
        *,
        key: str | None = None,
        states: Sequence[State] = (),
        since: float = 0.0,
        customer: str | None = None,
        limit: int = -1,
    ) -> list[Call]:
        """
        Calls, oldest first: of one key, in some states, made since a time, for one customer.
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
        return (await self._finish(lambda db: [_call(row) for row in db.execute(query, (*values, limit))]))[0]

    async def prune(self, before: float, *, with_references: bool = False) -> int:
        """
        Delete settled calls last touched before a time; how many.

        Calls with a reference stay unless *with_references*, or the same reason could be paid again.
        """
        query = (
            "DELETE FROM calls WHERE updated_at < ? AND state NOT IN ('sending', 'unknown') "
            "AND (? OR reference IS NULL OR state != 'succeeded')"
        )
        return (await self._finish(lambda db: db.execute(query, (before, with_references)).rowcount))[0]

    def is_still_held(self, call: Call) -> bool:
        """
        Whether nobody can have taken the call over since it was claimed.
        """
        return self._now() < call.lease_until

    def is_owned_by_the_living(self, call: Call) -> bool:
        """
        Whether whoever sends the call may still be at it.
        """
        return _is_alive(call, self._now())

    async def aclose(self) -> None:
        """
        Write what is left and close the file.
        """
        if self.path is None:
            return  # it would be forgotten
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.close)

    async def _finish(self, work: Callable[[sqlite3.Connection], _T]) -> tuple[_T, asyncio.CancelledError | None]:
        """
        The result of *work*, and the cancellation that came meanwhile: a write that began is waited for.
        """
        try:
            if self._writer is None or self._writer.pid != os.getpid():  # threads do not survive a fork
                self._writer = _Writer(self.path)
            waiter = asyncio.wrap_future(self._writer.submit(work))
        except RuntimeError as error:  # no thread can be started
            raise self._unusable(error) from error
        cancelled = None
        while not waiter.done():
            try:
                await asyncio.shield(waiter)
            except asyncio.CancelledError as error:
                cancelled = error
            except Exception:  # noqa: BLE001, S110  raised below
                pass
        try:
            return waiter.result(), cancelled
        except ToolError:
            raise
        except Exception as error:
            if cancelled is not None:
                raise cancelled from error
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> NotSentError:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        return NotSentError(
            f"The journal at {self.path} cannot be used ({name}: {error}), so this attempt sent nothing.",
            hint=(
                "A person must make room, or mend the file that OCP_STRIPE_JOURNAL names. Then call again with the "
                "same key: what became of earlier attempts is in the journal."
            ),
            retryable=True,
        )

    def __del__(self) -> None:
        """
        Let the thread of a record in memory end with it.
        """
        if self._writer is not None:
            self._writer.stop()


class _Writer:
    """
    The thread that owns the connection.
    """

    def __init__(self, path: Path | None) -> None:
        self.pid = os.getpid()
        self._path = path
        self._queue: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future[Any]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._queue.put((work, future))
        return future

    def stop(self) -> None:
        self._queue.put(None)

    def close(self) -> None:
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        is_open = True
        while is_open:
            batch = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= _MAX_BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            is_open = item is not None
            if batch:
                db = self._serve(db, batch)
        if db is not None:
            db.close()

    def _serve(
        self, db: sqlite3.Connection | None, batch: list[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]]
    ) -> sqlite3.Connection | None:
        """
        Run a batch in one transaction, each work for itself; where it cannot be committed, all of it has failed.
        """
        try:
            db = db or _open(self._path)
            db.execute("BEGIN IMMEDIATE")
            results = [_alone(db, work) for work, _ in batch]
            db.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  handed to those who wait
            if db is not None:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), (result, failure) in zip(batch, results, strict=True):
                if failure is None:
                    future.set_result(result)
                else:
                    future.set_exception(failure)
        return db


def _alone(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], Any]) -> tuple[Any, Exception | None]:
    """
    The result of one work of a batch, or why it failed; a failure undoes this work and no other.
    """
    db.execute("SAVEPOINT work")
    try:
        result, failure = work(db), None
    except Exception as error:
        if not db.in_transaction:  # a full disk, say, undoes the whole batch
            raise
        db.execute("ROLLBACK TO work")
        result, failure = None, error
    db.execute("RELEASE work")
    return result, failure


def _open(path: Path | None) -> sqlite3.Connection:
    if path is None:
        db = sqlite3.connect(":memory:", isolation_level=None)
    else:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
    db.row_factory = sqlite3.Row
    try:
        if path is not None:
            _switch_to_wal(db)
            db.execute("PRAGMA synchronous = FULL")  # each commit is on the disk before it returns
        _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """
    Wait out other processes that open the new file at the same moment: SQLite itself does not, for this switch.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(db: sqlite3.Connection, path: Path | None) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at REAL NOT NULL)")
        (version,) = db.execute("SELECT COALESCE(MAX(version), 0) FROM migrations").fetchone()
        if version > len(_MIGRATIONS):
            raise ConfigurationError(  # noqa: TRY301  the transaction is to be rolled back
                f"The journal at {path} was written by a newer version of this package (format {version}, "
                f"known up to {len(_MIGRATIONS)}). Nothing in it was changed.",
                hint="Upgrade this package, or set OCP_STRIPE_JOURNAL to another path.",
            )
        for number, migrate in enumerate(_MIGRATIONS[version:], version + 1):
            migrate(db)
            db.execute("INSERT INTO migrations VALUES (?, ?)", (number, time.time()))
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _claim(  # noqa: PLR0913  who claims what, and when
    db: sqlite3.Connection, draft: Call, owner: str, now: float, *, has_own_key: bool, lease_s: float
) -> Claim:
    call = _by_key(db, draft.key, draft.base_url, draft.mode, draft.account)
    if call is not None and has_own_key and (call.tool, call.arguments) != (draft.tool, draft.arguments):
        return Claim(verdict=Verdict.KEY_TAKEN, call=call)
    if draft.reference is not None and (call is None or _verdict_on(call, now, lease_s) is Verdict.SEND):
        # Nothing moved under this key; another key may have served the same reason meanwhile.
        other = _by_reference(db, draft)
        if other is not None and (other.amount, other.currency) != (draft.amount, draft.currency):
            return Claim(verdict=Verdict.REFERENCE_TAKEN, call=other)
        call = other or call
    if call is None:
        return Claim(verdict=Verdict.SEND, call=_insert(db, draft, owner, now, lease_s))
    verdict = _verdict_on(call, now, lease_s)
    if verdict is Verdict.SEND:
        # Nothing was sent under this key, so these are the first bytes.
        _delete(db, call)
        return Claim(verdict=verdict, call=_insert(db, draft, owner, now, lease_s))
    if verdict is Verdict.RESUME:
        lease_until = now + lease_s + _LEASE_MARGIN_S
        db.execute(
            "UPDATE calls SET state = 'sending', owner = ?, lease_until = ?, updated_at = ? "
            "WHERE key = ? AND base_url = ? AND mode = ? AND account = ?",
            (owner, lease_until, now, call.key, call.base_url, call.mode, call.account),
        )
        call = replace(call, owner=owner, lease_until=lease_until)
    return Claim(verdict=verdict, call=call)


def _verdict_on(call: Call, now: float, lease_s: float) -> Verdict:
    if call.is_final:
        return Verdict.FINISHED
    if call.state is State.SENDING and _is_alive(call, now):
        return Verdict.WAIT
    if call.state in {State.NOT_SENT, State.REJECTED}:
        return Verdict.SEND
    # The last attempt of a resumed call must be over before Stripe may forget the key.
    age_s = now - call.created_at
    # A call from the future was made by a clock that was wrong, and may be of any age.
    is_young = age_s > -_MAX_SKEW_S and age_s + lease_s < MAX_RESEND_AGE_S
    return Verdict.RESUME if is_young else Verdict.EXPIRED


def _is_alive(call: Call, now: float) -> bool:
    """
    Whether the owner of a call under way still runs, as far as can be told from here.

    A wrong yes ends with the lease. After a wrong no, both send the same key, which Stripe executes once, and only
    the one who took the claim last records an outcome that is not final.
    """
    host, pid, _ = (*call.owner.split(":"), "", "", "")[:3]
    if call.state is not State.SENDING or not call.owner or now >= call.lease_until:
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return True


def _by_key(db: sqlite3.Connection, key: str, base_url: str, mode: str, account: str) -> Call | None:
    query = "SELECT * FROM calls WHERE key = ? AND base_url = ? AND mode = ? AND account = ?"
    row = db.execute(query, (key, base_url, mode, account)).fetchone()
    return None if row is None else _call(row)


def _by_reference(db: sqlite3.Connection, draft: Call) -> Call | None:
    """
    The call of the same business reason that moved money or may have.
    """
    query = (
        "SELECT * FROM calls WHERE reference = ? AND customer = ? AND tool = ? AND base_url = ? AND mode = ? "
        "AND account = ? AND state IN ('sending', 'succeeded', 'unknown') ORDER BY created_at, id LIMIT 1"
    )
    values = (draft.reference, draft.customer, draft.tool, draft.base_url, draft.mode, draft.account)
    row = db.execute(query, values).fetchone()
    return None if row is None else _call(row)


def _insert(db: sqlite3.Connection, draft: Call, owner: str, now: float, lease_s: float) -> Call:
    row = {name: getattr(draft, name) for name in _COLUMNS}
    # The draft may be an old row that is sent anew: what became of it then is no part of what it is now.
    row |= {"state": State.SENDING, "is_final": False, "attempts": 0}
    row |= dict.fromkeys(("status", "request_id", "answer", "note"))
    row |= {"owner": owner, "created_at": now, "updated_at": now, "lease_until": now + lease_s + _LEASE_MARGIN_S}
    names, marks = ", ".join(_COLUMNS), ", ".join(f":{name}" for name in _COLUMNS)
    db.execute(f"INSERT INTO calls ({names}) VALUES ({marks})", row)  # noqa: S608  our own names
    return Call(**row)


def _delete(db: sqlite3.Connection, call: Call) -> None:
    query = "DELETE FROM calls WHERE key = ? AND base_url = ? AND mode = ? AND account = ?"
    db.execute(query, (call.key, call.base_url, call.mode, call.account))


def _call(row: sqlite3.Row) -> Call:
    values = {name: row[name] for name in _COLUMNS}
    return Call(**{**values, "state": State(values["state"]), "is_final": bool(values["is_final"])})
