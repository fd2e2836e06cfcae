"""
What no fork cuts in two: the imports that only a call needs, and what a process makes once.

Python keeps a lock for each module that is being imported. A child that another thread forks meanwhile inherits that
lock, and has nobody who gives it up: its own first call would never end. So it is with every lock.
"""

from __future__ import annotations

import os
import threading


class NoFork:
    """
    Held by whoever forks, and for what is short by whoever must not be forked.
    """

    def __init__(self) -> None:
        """
        Let forks wait from now on.
        """
        self._lock = threading.RLock()
        self._is_first = True
        self._let_forks_wait()

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._is_first:
            # Who forks takes the locks of these two as well, and those of later modules first. So these come before us,
            # now that it matters: else who forks would hold what is needed by who holds ours.
            import concurrent.futures.thread  # what an import of the package does not need
            import logging  # as above

            del concurrent, logging
            self._let_forks_wait()
            self._is_first = False

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _let_forks_wait(self) -> None:
        lock = self._lock
        if hasattr(os, "register_at_fork"):  # Windows has no fork
            os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


no_fork = NoFork()
