"""
What no fork cuts in two: the imports that only a call needs, and what a process makes once.

Python keeps a lock for each module that is being imported. A child that another thread forks meanwhile inherits that
lock, and has nobody who gives it up: its own first call would never end. So it is with every lock.
"""

from __future__ import annotations

import os
import threading

no_fork = threading.RLock()
"""Held by whoever forks, and for what is short by whoever must not be forked."""

if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=no_fork.release)
