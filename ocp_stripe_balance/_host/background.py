"""
One event loop in the background, for programs that have none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from ocp_stripe_balance._process.forking import no_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

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
            task = self._loop.create_task(coroutine)
            tasks.append(task)
            task.add_done_callback(lambda ended: _hand_over(ended, done))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            elif not done.done():  # the loop runs in order: what begins it never came
                coroutine.close()
                done.set_exception(asyncio.CancelledError())

        try:
            self._loop.call_soon_threadsafe(start)
            return done.result()
        except BaseException:
            if done.done():
                raise
            # Ctrl-C, or what a signal handler raises: the call may have been sent. Cancelled, it says so, and that is
            # worth more than the interrupt.
            error = self._stopped(cancel, done)
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error from None
            raise

    def _stopped(self, cancel: Callable[[], None], done: Future[_T]) -> BaseException | None:
        """
        How a call ends that is cancelled, however often that is interrupted.
        """
        is_cancelled = False
        while not done.done():
            with contextlib.suppress(KeyboardInterrupt):  # what became of the call is still to be told
                if not is_cancelled:
                    self._loop.call_soon_threadsafe(cancel)
                    is_cancelled = True
                done.exception()
        return done.exception()


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
