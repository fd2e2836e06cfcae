"""
The journal as the rest of the package uses it: units of work, each in one transaction, durable when it returns.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ocp_stripe_balance._journal.book import Book
from ocp_stripe_balance._journal.lease import Leases
from ocp_stripe_balance._journal.permissions import hint_of
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._journal.writer import Writer
from ocp_stripe_balance.errors import NotSentError, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")


class Journal:
    """
    One file, shared by any number of processes, or a record in memory; safe for many calls at once.

    All work on the file runs in one thread, which commits what has gathered in one transaction: concurrent
    calls share one fsync. Work in memory is done at once.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Callable[[], float] = time.time,
        open_database: Callable[[Path | None], sqlite3.Connection] = open_database,
    ) -> None:
        """
        Prepare; nothing is opened before the first use.

        Args:
            path: the file, made with its folder where it is missing; None for a record in memory.
            clock: the time in seconds since the Unix epoch.
            open_database: how the database is opened, for tests.
        """
        self.path = path
        self.now = clock
        self.leases = Leases()
        self._open_database = open_database
        self._writer: Writer | None = None
        self._memory: Book | None = None
        self._lock = threading.Lock()  # an agent may be used from several event loops

    async def run(self, work: Callable[[Book], _T]) -> _T:
        """
        The result of *work*, committed; a cancelled caller is told so once it is done.

        Raises:
            NotSentError: the journal cannot be used.
        """
        result, cancelled = await self.finish(work)
        if cancelled is not None:
            raise cancelled
        return result

    async def preview(self, work: Callable[[Book], _T]) -> _T:
        """
        The result of *work*, with everything that it changed undone.

        Raises:
            NotSentError: the journal cannot be read.
        """

        def undone(book: Book) -> _T:
            with book.undone():
                return work(book)

        return await self.run(undone)

    async def finish(self, work: Callable[[Book], _T]) -> tuple[_T, asyncio.CancelledError | None]:
        """
        The result of *work*, and the cancellation that came meanwhile: a write that began is waited for.

        Raises:
            NotSentError: the journal cannot be used.
            asyncio.CancelledError: it cannot be used, and the caller was cancelled.
        """
        if self.path is None:
            return self._run_in_memory(work), None
        try:
            with self._lock:
                if self._writer is None or self._writer.pid != os.getpid():  # threads do not survive a fork
                    self._writer = Writer(partial(self._open_database, self.path))
                waiter = self._writer.submit(work)
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

    async def aclose(self) -> None:
        """
        Write what is left and close the file; what is in memory stays.
        """
        with self._lock:  # nothing is submitted behind the end
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.stop()
        if writer is not None:
            await asyncio.to_thread(writer.join)

    def _run_in_memory(self, work: Callable[[Book], Any]) -> Any:
        with self._lock:
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
        refused = None if self.path is None else hint_of(self.path, error)
        hint = refused or "A person must make room, or mend the file that OCP_STRIPE_JOURNAL names."
        return NotSentError(
            f"The journal at {self.path} cannot be used ({name}: {error}), so this attempt sent nothing.",
            hint=f"{hint} Then call again with the same key: what became of earlier attempts is in the journal.",
            retryable=refused is None,
        )

    def __del__(self) -> None:
        """
        Let the thread end with a journal that nobody closed.
        """
        if self._writer is not None:
            self._writer.stop()
        if self._memory is not None:
            self._memory.close()
