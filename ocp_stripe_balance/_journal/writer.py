"""
The thread that owns the connection, and commits what has gathered in one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._journal.book import Book

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    Item = tuple[Callable[[Book], Any], asyncio.Future[Any]]
    News = tuple[asyncio.Future[Any], Any, BaseException | None]

_MAX_BATCH = 256


class Writer:
    """
    The thread that owns the connection.
    """

    def __init__(self, open_database: Callable[[], sqlite3.Connection]) -> None:
        """
        Start the thread, which opens the database when the first work comes.
        """
        self.pid = os.getpid()
        self._open = open_database
        self._book: Book | None = None
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Book], Any]) -> asyncio.Future[Any]:
        """
        The result of *work* once it is committed. It may be run twice, and only what it did last counts.
        """
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put((work, waiter))
        return waiter

    def stop(self) -> None:
        """
        Let the thread end once it has done what was submitted.
        """
        self._queue.put(None)

    def join(self) -> None:
        """
        Wait until the thread has ended.
        """
        self._thread.join()

    def _run(self) -> None:
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
                self._serve(batch)
        if self._book is not None:
            self._book.close()

    def _serve(self, batch: list[Item]) -> None:
        """
        Run a batch in one transaction; where that fails, each work in its own.
        """
        try:
            book = self._book = self._book or Book(self._open())
            book.begin()
        except BaseException as error:  # noqa: BLE001  handed to those who wait
            _fail(batch, error)
            return
        try:
            results = [work(book) for work, _ in batch]
            book.commit()
        except BaseException as error:  # noqa: BLE001  handed to those who wait
            book.roll_back()
            if len(batch) == 1:
                _fail(batch, error)
                return
            for item in batch:
                self._serve([item])
        else:
            _tell([(waiter, result, None) for (_, waiter), result in zip(batch, results, strict=True)])


def _fail(batch: list[Item], error: BaseException) -> None:
    _tell([(waiter, None, error) for _, waiter in batch])


def _tell(news: list[News]) -> None:
    """
    Wake those who wait, each event loop once: waking it takes longer than a row.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[News]] = {}
    for each in news:
        by_loop.setdefault(each[0].get_loop(), []).append(each)
    for loop, its_news in by_loop.items():
        with contextlib.suppress(RuntimeError):  # it is closed, and nobody waits any more
            loop.call_soon_threadsafe(_settle, its_news)


def _settle(news: list[News]) -> None:
    for waiter, result, error in news:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(error)
