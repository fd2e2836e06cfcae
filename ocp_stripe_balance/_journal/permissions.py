"""
Who may use the journal's file, and which command lets in who may not.
"""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_REFUSALS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


def hint_of(path: Path, error: Exception) -> str | None:
    """
    What a person must do where the system does not let this user at the journal; None where *error* is something else.
    """
    is_refusal = isinstance(error, PermissionError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _REFUSALS
    if getattr(error, "errno", None) == errno.EROFS:
        return f"{path.parent} is read-only. A person must set OCP_STRIPE_JOURNAL to a file on a volume that is not."
    if not is_refusal or (_may_use(path) and _may_use(path.parent)):
        return None
    there = next(each for each in (path, *path.parents) if _is_there(each))
    if there not in (path, path.parent):
        return (
            f"The user of this process may make nothing in {there}. A person must make {path.parent} for it, or set "
            "OCP_STRIPE_JOURNAL to a file in a folder that is its own."
        )
    folder, files = shlex.quote(str(path.parent)), f"{shlex.quote(str(path))}*"
    return (
        "The journal is another user's. Its owner, or root, lets in a group that both users are in: "
        f"`chgrp GROUP {folder} {files} && chmod 2770 {folder} && chmod 660 {files}`."
    )


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:  # in a folder that this user may not look into
        return False
    return True
