"""
The imports that only a call needs: no fork cuts them in two.

Python keeps a lock for each module that is being imported. A child that another thread forks meanwhile inherits that
lock, and has nobody who gives it up: its own first call would never end.
"""

from __future__ import annotations

import os
import threading

importing = threading.RLock()
"""Held by whoever imports, and by whoever forks."""

if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)
