"""
One event loop in the background, for programs that have none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from ocp_stripe_balance._process.forking import no_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_T = TypeVar("_T")


class _Loop:
    """
    A loop in a daemon thread.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ocp-stripe-balance", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        if threading.current_thread() is self._thread:
            coroutine.close()
            message = "a sync call cannot be made from within another one, such as from an approver"
            raise RuntimeError(message)
        done: Future[_T] = Future()
        tasks: list[asyncio.Task[_T]] = []

        def start() -> None:
            if done.done():  # it was stopped before
                return
            task = self._loop.create_task(coroutine)
            tasks.append(task)
            task.add_done_callback(lambda ended: _hand_over(ended, done))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            elif not done.done():
                coroutine.close()
                done.set_exception(asyncio.CancelledError())

        with _ctrl_c(lambda: self._loop.call_soon_threadsafe(cancel)) as presses:
            try:
                self._loop.call_soon_threadsafe(start)
                error = done.exception()
            except BaseException:
                # What a signal handler raises: the call may have been sent. Cancelled, it says so, and that is worth
                # more than the interrupt.
                self._loop.call_soon_threadsafe(cancel)
                if _says_nothing(done.exception()):
                    raise
                return done.result()
        if presses and _says_nothing(error):
            raise KeyboardInterrupt
        return done.result()


@contextlib.contextmanager
def _ctrl_c(stop: Callable[[], object]) -> Iterator[list[int]]:
    """
    Call *stop* once at Ctrl-C where Python would raise `KeyboardInterrupt` each time; yields the presses.
    """
    presses: list[int] = []

    def press(number: int, _frame: object) -> None:
        presses.append(number)
        if len(presses) == 1:
            stop()

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield presses
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _says_nothing(error: BaseException | None) -> bool:
    """
    Whether a call that was stopped sent nothing, or had just succeeded.
    """
    return error is None or isinstance(error, asyncio.CancelledError)


_current: _Loop | None = None


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """
    The result of *coroutine*, run in the one background loop.

    Raises:
        KeyboardInterrupt: Ctrl-C, and nothing was sent or the call had just succeeded; so with what any signal handler
            raises. Where it may have been sent, it is the `OutcomeUnknownError` that says so.
    """
    global _current  # noqa: PLW0603  one loop for all, as connections belong to a loop
    with no_fork:
        if _current is None or _current.pid != os.getpid():  # threads do not survive a fork
            _current = _Loop()
        loop = _current
    return loop.run(coroutine)


def _hand_over(task: asyncio.Task[_T], done: Future[_T]) -> None:
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())
