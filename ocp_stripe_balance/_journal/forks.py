"""
What a process must not take along when it forks.

SQLite keeps its locks per process and file: a child that inherits an open database believes for ever that it holds
them, and nobody else sees that it does. So what is open is closed right before a fork, by whoever forks, and opened
again when it is next used, by parent and child each for itself. Nobody waits long
for that: where a transaction does not end in time, the child refuses.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol

_PATIENCE_S = 1.0


class Opened(Protocol):
    """
    Something that may be open when the process forks.
    """

    lock: threading.Lock
    """Held by whoever uses it."""

    def rest(self) -> None:
        """
        Close it, so that it can be opened again; leave it open where that would lose something.
        """

    def inherit(self) -> None:
        """
        Begin anew in a child: what is still open belongs to the parent.
        """


class Forks:
    """
    The forks of this process.
    """

    def __init__(self) -> None:
        """
        Watch from now on.
        """
        self.lock = threading.Lock()
        """For what is short: no fork happens while it is held."""
        self._pid = os.getpid()
        self._known: list[Opened] = []
        self._forking: int | None = None
        self._held: list[threading.Lock] = []

    def add(self, opened: Opened) -> None:
        """
        Look after something for as long as the process lives; *lock* is held.
        """
        self._known.append(opened)

    def notice(self) -> None:
        """
        Begin anew where this is a child by a fork that Python was not told of.
        """
        if self._pid != os.getpid():
            self.in_child()

    def before(self) -> None:
        """
        Close what is open, as far as that is possible within a second.
        """
        deadline = time.monotonic() + _PATIENCE_S
        if not self.lock.acquire(timeout=_PATIENCE_S):
            return  # others fork for so long; what is open then, the child sees
        self._forking = threading.get_ident()
        for opened in self._known:
            if opened.lock.acquire(timeout=max(deadline - time.monotonic(), 0)):
                self._held.append(opened.lock)
                opened.rest()

    def in_parent(self) -> None:
        """
        Let everybody go on.
        """
        if self._forking == threading.get_ident():
            self._forking = None
            while self._held:
                self._held.pop().release()
            self.lock.release()

    def in_child(self) -> None:
        """
        Begin anew: threads that held a lock are not here.
        """
        self._pid, self._forking, self._held, self.lock = os.getpid(), None, [], threading.Lock()
        for opened in self._known:
            opened.inherit()


forks = Forks()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=forks.before, after_in_parent=forks.in_parent, after_in_child=forks.in_child)
