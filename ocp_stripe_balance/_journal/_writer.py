"""
The thread that owns the connection, and commits what has gathered in one transaction.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._journal import _file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAX_BATCH = 256


class Writer:
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
            db = db or _file.open_database(self._path)
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
