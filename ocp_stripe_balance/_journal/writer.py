"""
The thread that works on a journal, and commits what has gathered in one transaction.

It waits for locks before it takes up any work, so whoever does not want to wait any longer can take a work back: it is
done, or it is never done, and its caller knows which.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._journal.database import FAILURES, LostError, UnprovedError
from ocp_stripe_balance._journal.file import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance._journal.book import Book
    from ocp_stripe_balance._journal.database import Reach, Store
    from ocp_stripe_balance._journal.stores import Begin

    Waiter = asyncio.Future[tuple[Any, BaseException | None]]
    News = tuple[Waiter, Any, BaseException | None]

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.0005, 0.02
_OWED_PAUSE_S, _LOST_PAUSE_S = 0.2, 0.05
_TAKEN_S = 0.02
CLOSE_S = 2.0
"""How long closing waits for what is owed."""
_log = logging.getLogger("ocp_stripe_balance.journal")


class Item:
    """
    One work, until it is done or taken back.
    """

    __slots__ = ("_free", "is_alone", "is_owed", "not_before", "reach", "waiter", "work")

    def __init__(self, work: Callable[[Book], Any], reach: Reach, *, is_owed: bool) -> None:
        """
        Prepare; *is_owed* says that it must be done, also where nobody waits for it any more.
        """
        self.work, self.reach = work, reach
        self.waiter: Waiter = asyncio.get_running_loop().create_future()
        self.is_owed = is_owed
        self.is_alone = False
        """Whether it is done in a transaction of its own."""
        self.not_before = 0.0
        self._free = [True]

    def take(self) -> bool:
        """
        Whether it is the taker's now: the writer's to do, or its caller's to leave. Only one of them gets it.
        """
        try:
            return self._free.pop()
        except IndexError:
            return False

    def again(self, not_before: float = 0.0) -> None:
        """
        Let it be tried again, in a transaction of its own: nothing was done.
        """
        self.is_alone, self.not_before = True, not_before
        self._free.append(True)

    @property
    def is_free(self) -> bool:
        """
        Whether it is still to be done: its caller has not taken it back.
        """
        return bool(self._free)

    def give_up(self) -> None:
        """
        Tell the caller that it was not done in time; one that is being done right now ends by itself.
        """
        if self.waiter.done():
            return
        if self.is_owed or self.take():
            self.waiter.set_result((None, BusyError()))
        else:
            self.waiter.get_loop().call_later(_TAKEN_S, self.give_up)


class Writer:
    """
    The thread of one journal.
    """

    def __init__(self, store: Store, begin: Begin) -> None:
        """
        Start the thread, which opens the store when the first work comes.
        """
        self.pid = os.getpid()
        self._store = store
        self._begin = begin
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._ends_at: float | None = None
        self._ended = threading.Event()
        self._closers: list[Waiter] = []
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def part_of(self, pace: str) -> float:
        """
        Which part of that pace's limit is this process's.
        """
        return self._store.shares.part_of(pace)

    def submit(self, work: Callable[[Book], Any], reach: Reach, *, is_owed: bool = False) -> Item:
        """
        Have *work* done. It may be run twice, and only what it did last counts.
        """
        item = Item(work, reach, is_owed=is_owed)
        self._queue.put(item)
        return item

    def stop(self) -> None:
        """
        Let the thread end once it has done what was submitted, or after two seconds.
        """
        self._ends_at = time.monotonic() + CLOSE_S
        self._queue.put(None)

    async def ended(self) -> None:
        """
        Wait until the thread has closed the file, but not long.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._closers.append(waiter)
        if not self._ended.is_set():
            await asyncio.wait([waiter], timeout=CLOSE_S + 1)
        if self._ended.is_set():
            self._thread.join(1)

    def _run(self) -> None:
        items: list[Item] = []
        pause_s: float | None = None
        with self._store.lock:
            self._store.users += 1
        try:
            while self._gather(items, pause_s):
                pause_s = self._serve(items, pause_s)
        finally:
            try:
                self._leave(items)
            finally:
                self._ended.set()
                _tell([(waiter, None, None) for waiter in self._closers])

    def _gather(self, items: list[Item], pause_s: float | None) -> bool:
        """
        Add what was submitted, waiting for it so long (without *pause_s*, for ever); False where all is over.
        """
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=0 if pause_s is None and self._ends_at is not None else pause_s)
            while item is not None:
                items.append(item)
                item = self._queue.get_nowait()
        return self._ends_at is None or (bool(items) and time.monotonic() < self._ends_at)

    def _serve(self, items: list[Item], pause_s: float | None) -> float | None:
        """
        Do what is there, in as few transactions as possible; how long to wait with what is left, None where nothing is.
        """
        while True:
            now = time.monotonic()
            items[:] = [item for item in items if item.is_free]
            ready = [item for item in items if item.not_before <= now]
            batch = [item for item in ready if not item.is_alone][: self._store.max_batch] or ready[:1]
            if not batch:
                return min((item.not_before - now for item in items), default=None)
            try:
                with self._store.lock:
                    self._attempt(batch)
            except BusyError:
                return min((pause_s or _FIRST_PAUSE_S) * 1.5, _MAX_PAUSE_S)

    def _attempt(self, batch: list[Item]) -> None:
        """
        One transaction; what is to be tried again is free again.

        Raises:
            BusyError: others have the file; nothing was taken.
        """
        try:
            book = self._begin([item.reach for item in batch])
        except BusyError:
            raise
        except BaseException as error:  # noqa: BLE001  handed to those who wait
            self._fail([(item, None, error) for item in batch if item.take()])
            return
        taken = [item for item in batch if item.take()]
        results: list[Any] = []
        try:
            self._store.shares.renew(book, self._store.now())
            results += [item.work(book) for item in taken]
            self._store.commit()
        except UnprovedError as error:
            self._fail([(item, result, error) for item, result in zip(taken, results, strict=True)])
        except BaseException as error:  # noqa: BLE001  handed to those who wait
            self._store.roll_back(error)
            is_lost = isinstance(error, LostError)
            if len(taken) == 1 and not is_lost:
                self._fail([(taken[0], None, error)])
            else:
                for item in taken:  # its caller can take it back before it is lost once more
                    item.again(time.monotonic() + _LOST_PAUSE_S if is_lost else 0.0)
        else:
            _tell([(item.waiter, result, None) for item, result in zip(taken, results, strict=True)])

    def _fail(self, failed: list[tuple[Item, Any, BaseException]]) -> None:
        """
        Tell those who wait; what is owed is tried again, at the end only where it was the file that failed.
        """
        for item, _, error in failed:
            is_hopeless = self._ends_at is not None and isinstance(error, FAILURES)
            if item.is_owed and not is_hopeless:
                item.again(time.monotonic() + _OWED_PAUSE_S)
            elif item.is_owed:
                _log.warning("an outcome is not on record (%s); calls reconcile finds it", error)
        _tell([(item.waiter, result, error) for item, result, error in failed])

    def _leave(self, items: list[Item]) -> None:
        """
        Close the file where nobody else uses it, and tell whoever still waits.
        """
        for item in items:
            if item.is_owed:
                _log.warning("an outcome is not on record, the journal was closed before; calls reconcile finds it")
        _tell([(item.waiter, None, BusyError()) for item in items if item.take()])
        with self._store.lock:
            self._store.users -= 1
            if self._store.users == 0:
                self._store.close()


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
        if not waiter.done():
            waiter.set_result((result, error))
