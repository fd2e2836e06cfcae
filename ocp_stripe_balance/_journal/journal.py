"""
The journal as the rest of the package uses it: units of work, each in one transaction, durable when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ocp_stripe_balance._journal.book import Book
from ocp_stripe_balance._journal.database import EVERYTHING, Reach, UnprovedError
from ocp_stripe_balance._journal.file import BusyError
from ocp_stripe_balance._journal.forks import forks
from ocp_stripe_balance._journal.lease import Leases
from ocp_stripe_balance._journal.permissions import hint_of
from ocp_stripe_balance._journal.sqlite import copy, open_shared
from ocp_stripe_balance._journal.stores import server_of, store_of
from ocp_stripe_balance._journal.writer import Writer
from ocp_stripe_balance.errors import NotSentError, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance._domain import Intent
    from ocp_stripe_balance._journal.writer import Item
    from ocp_stripe_balance._text.database_url import DatabaseURL

_T = TypeVar("_T")
_PATIENCE_S = 30.0
# Work that can be done at once is done also for who is cancelled: it may repeat a call, and is told what became of it.
_GRACE_S = 0.25


class Written(NamedTuple, Generic[_T]):
    """
    What became of something that is to be on record.
    """

    result: _T | None
    gap: str = ""
    """Why it is not on record yet; empty where it is."""
    cancelled: asyncio.CancelledError | None = None
    """What came meanwhile."""


class Journal:
    """
    One file or server, shared by any number of processes, or a record in memory; safe for many calls at once.

    All work on a file or server runs in one thread, which commits what has gathered in one transaction: concurrent
    calls share one fsync. Work in memory is done at once.
    """

    def __init__(
        self,
        place: Path | DatabaseURL | None,
        *,
        clock: Callable[[], float] | None = None,
        open_database: Callable[[Path | None], sqlite3.Connection] = open_shared,
        patience_s: float = _PATIENCE_S,
        counts: bool = True,
    ) -> None:
        """
        Prepare; nothing is opened before the first use.

        Args:
            place: the file, made with its folder where it is missing, or the server; None for a record in memory.
            clock: the time in seconds since the Unix epoch; by default the server's, or this machine's.
            open_database: how the database is opened, for tests.
            patience_s: how long a work waits for its turn where its caller does not say.
            counts: whether the policy of its calls adds calls up: budgets, calls per minute.
        """
        self.place = place
        self._clock = clock
        self.leases = Leases()
        self._open_database = open_database
        self._patience_s = patience_s
        self._counts = counts
        self._writer: Writer | None = None
        self._memory: Book | None = None

    def now(self) -> float:
        """
        The time of the journal, in seconds since the Unix epoch: that of a server is one for all hosts.

        It is known in a work and after the first one; before, only this machine's clock is.
        """
        if self._clock is not None:
            return self._clock()
        if self.place is None or isinstance(self.place, Path):
            return time.time()
        return server_of(self.place).now()

    def reach(self, intent: Intent) -> Reach:
        """
        What is touched by what becomes of a call: all that may stand for the same decision, and the totals.
        """
        base_url, mode, account = intent.scope
        scope = f"{base_url} {mode} {account}"
        return Reach((f"key {scope} {intent.key.text}", f"customer {scope} {intent.customer}"), self._counts)

    def count(self) -> None:
        """
        Know that a policy of its calls adds calls up.
        """
        self._counts = True

    def part_of(self, pace: str) -> float:
        """
        Which part of Stripe's limit is this process's, of all that call at that pace with this record.
        """
        return 1.0 if self._writer is None else self._writer.part_of(pace)

    async def run(self, work: Callable[[Book], _T], deadline: float | None = None, reach: Reach = EVERYTHING) -> _T:
        """
        The result of *work*, committed; a cancelled caller is told so once it is done, or will never be done.

        Args:
            work: what is to be done.
            deadline: in the loop's time; a work that has not begun by then is never done.
            reach: what it touches.

        Raises:
            NotSentError: the journal cannot be used.
        """
        result, stop = await self.finish(work, deadline, reach)
        if stop is not None:
            raise stop
        return result

    async def preview(self, work: Callable[[Book], _T], reach: Reach = EVERYTHING) -> _T:
        """
        The result of *work*, with everything that it changed undone.

        Raises:
            NotSentError: the journal cannot be read.
        """

        def undone(book: Book) -> _T:
            with book.undone():
                return work(book)

        return await self.run(undone, reach=reach)

    async def finish(
        self, work: Callable[[Book], _T], deadline: float | None = None, reach: Reach = EVERYTHING
    ) -> tuple[_T, asyncio.CancelledError | NotSentError | None]:
        """
        The result of *work*, and why it must not be acted upon all the same, if there is a reason.

        The caller was cancelled meanwhile, or it was committed and others may not see it.

        Raises:
            NotSentError: the journal cannot be used, or could not until *deadline*.
            asyncio.CancelledError: the same, and the caller was cancelled.
        """
        if self.place is None:
            return self._run_in_memory(work), None
        item = self._submit(self.place, work, reach, is_owed=False)
        (result, error), cancelled = await _wait(item, self._patience_s, deadline)
        if error is None:
            return result, cancelled
        if isinstance(error, UnprovedError):
            return result, cancelled or self._unusable(error)
        if isinstance(error, ToolError) or not isinstance(error, Exception):
            raise error
        raise cancelled or self._unusable(error) from error

    async def owe(self, work: Callable[[Book], _T], deadline: float, reach: Reach = EVERYTHING) -> Written[_T]:
        """
        What became of *work* by *deadline*; a cancelled caller does not wait longer either.

        Where it is not on record by then, it is put there as soon as the journal can be used, until it is closed.
        """
        try:
            if self.place is None:
                return Written(self._run_in_memory(work))
            item = self._submit(self.place, work, reach, is_owed=True)
        except NotSentError as unusable:
            return Written(None, str(unusable.__cause__))
        (result, error), cancelled = await _wait(item, self._patience_s, deadline)
        if error is None:
            return Written(result, cancelled=cancelled)
        return Written(None, f"{self.place}: {self._words(error)}", cancelled)

    async def aclose(self) -> None:
        """
        Write what is left and close the file, in a few seconds at most; what is in memory stays.
        """
        with forks.lock:  # nothing is submitted behind the end
            writer, self._writer = self._writer, None
            if writer is not None and writer.pid == os.getpid():
                writer.stop()
        if writer is not None and writer.pid == os.getpid():
            await writer.ended()

    def _submit(self, place: Path | DatabaseURL, work: Callable[[Book], Any], reach: Reach, *, is_owed: bool) -> Item:
        """
        Hand *work* to the thread of this process.

        Raises:
            NotSentError: no thread can be started.
        """
        forks.notice()
        try:
            with forks.lock:
                if self._writer is None or self._writer.pid != os.getpid():  # threads do not survive a fork
                    self._writer = Writer(*store_of(place, self._open_database))
                return self._writer.submit(work, reach, is_owed=is_owed)
        except RuntimeError as error:
            raise self._unusable(error) from error

    def _run_in_memory(self, work: Callable[[Book], Any]) -> Any:
        with forks.lock:
            book = self._memory = self._memory or Book(self._open_database(None))
            book.begin()
            try:
                result = work(book)
            except BaseException as error:
                book.roll_back()
                if isinstance(error, sqlite3.Error | UnicodeError | OverflowError):
                    raise self._unusable(error) from error
                raise
            book.commit()
            return result

    def _unusable(self, error: Exception) -> NotSentError:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        hint = getattr(error, "hint", "")
        why = self._words(error) if hint else f"{name}: {error}"
        refused = hint_of(self.place, error) if isinstance(self.place, Path) else None
        hint = refused or hint or "A person must make room, or mend the file that OCP_STRIPE_JOURNAL names."
        return NotSentError(
            f"The journal at {self.place} cannot be used ({why}), so this attempt sent nothing.",
            hint=f"{hint} Then call again with the same key: what became of earlier attempts is in the journal.",
            next="call_again" if refused is None else "stop_and_tell",
        )

    def _words(self, error: BaseException) -> str:
        """
        What is wrong: who waits for a server in vain does not know for what.
        """
        is_either = isinstance(error, BusyError) and not isinstance(self.place, Path)
        return f"{error}, or the server does not answer" if is_either else str(error)

    def __del__(self) -> None:
        """
        Let the thread end with a journal that nobody closed.
        """
        if self._writer is not None and self._writer.pid == os.getpid():
            self._writer.stop()
        if self._memory is not None:
            self._memory.close()


def back_up(place: Path | DatabaseURL | None, target: Path) -> Path:
    """
    The path of a whole copy of a journal, private and on the disk; others may write meanwhile.

    Raises:
        NotSentError: it cannot be made; a file that is there is never written over.
    """
    if place is None:
        raise NotSentError("There is no journal to copy: it is kept in memory only.")
    if not isinstance(place, Path):
        hint = "Back it up with PostgreSQL's own pg_dump, or as all that is on that server."
        raise NotSentError("The journal is on a server.", hint=hint)
    path = place
    made = target.absolute()
    hint = "Name a file that is not there yet, in a folder that is."
    if any(made.resolve() == Path(f"{path.resolve()}{end}") for end in ("", "-wal", "-shm", "-journal")):
        raise NotSentError(f"{made} is the journal itself, or belongs to it.", hint=hint)
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as db:
            copy(db, made)
    except (OSError, sqlite3.Error) as error:
        raise NotSentError(f"No copy was made at {made}: {error}.", hint=hint) from error
    return made


async def _wait(
    item: Item, patience_s: float, deadline: float | None
) -> tuple[tuple[Any, BaseException | None], asyncio.CancelledError | None]:
    """
    What a work came to, or why it did not until *deadline*; and the cancellation that came meanwhile.
    """
    loop = asyncio.get_running_loop()
    timer = loop.call_at(loop.time() + patience_s if deadline is None else deadline, item.give_up)
    cancelled = None
    while not item.waiter.done():
        try:
            await asyncio.shield(item.waiter)
        except asyncio.CancelledError as error:
            if cancelled is None:
                loop.call_later(_GRACE_S, item.give_up)
            cancelled = error
    timer.cancel()
    return item.waiter.result(), cancelled
