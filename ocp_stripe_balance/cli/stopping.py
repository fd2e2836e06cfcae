"""
Ctrl-C and its relatives: what a terminal, a container or a service manager sends to end a program.

All are treated alike, so that a call under way is told and recorded whoever ends the program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import FrameType

# SIGHUP is a terminal that went away; SIGBREAK is Ctrl-Break, and what Windows sends to a group of processes.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_received: list[int] = []


@contextlib.contextmanager
def stopped_by(stop: Callable[[bool], None]) -> Iterator[None]:
    """
    Call *stop* at each signal that would end the program, and say whether it may raise what ends it.

    A signal that is ignored stays so, as ``nohup`` wants it.
    """
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        stop(not _is_finalizing(frame))

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    former = {number: signal.getsignal(number) for number in numbers}
    former = {number: handler for number, handler in former.items() if handler is not signal.SIG_IGN}
    for number in former:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) is note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _is_finalizing(frame: FrameType | None) -> bool:
    """
    Whether a finalizer is being run: what is raised there is printed, and ends nothing.
    """
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_globals.get("__name__") == "weakref":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def waking(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """
    Let every signal wake *loop*: one that comes just before the loop waits would be noticed only after the wait.
    """
    if threading.current_thread() is not threading.main_thread() or os.name == "nt":  # where asyncio does it itself
        yield
        return
    import socket  # that --help does not need

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        loop.add_reader(ours, ours.recv, 64)
        former = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(former)
            loop.remove_reader(ours)


def ignore() -> None:
    """
    Let no further signal change how a program ends that is about to say it.
    """
    for name in _NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def interrupt(may_raise: bool) -> None:
    """
    End at once what blocks the program, such as waiting for a line.
    """
    if may_raise:
        raise KeyboardInterrupt


def forget() -> None:
    """
    Begin anew, as a program does.
    """
    _received.clear()


def exit_code(otherwise: int) -> int:
    """
    128 and the signal's number, by which shells and service managers know it; after Ctrl-C or none, *otherwise*.
    """
    numbers = [number for number in _received if number != signal.SIGINT]
    return 128 + numbers[0] if numbers else otherwise


def times() -> int:
    """
    How many signals have come.
    """
    return len(_received)
