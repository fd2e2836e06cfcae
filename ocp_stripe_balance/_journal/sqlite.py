"""
The SQLite database: made private, opened with every commit on the disk, and brought to the format of this version.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from functools import cache
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal.statements import check_version, is_known, migrations
from ocp_stripe_balance._text.spelling import one_spelling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BUSY_TIMEOUT_S = 30.0
_COPY_PATIENCE_S = 10.0


def open_database(
    path: Path | None, patience_s: float = _BUSY_TIMEOUT_S, *, is_copy: bool = False
) -> sqlite3.Connection:
    """
    The journal in a file, which is made where it is missing; without *path*, one in this process's memory.

    In memory the same rules hold, until the process ends. Others that have it locked are waited for so long. One that
    is not wholly copied yet is opened only for who says that it *is_copy*.

    Raises:
        ConfigurationError: a newer version of this package wrote it.
        OSError: its folder or the file cannot be made.
        sqlite3.Error: it cannot be opened.
    """
    if path is None:
        db = _connect(":memory:", patience_s)
        with contextlib.closing(_connect(":memory:", patience_s)) as empty:
            empty.deserialize(_empty())
            empty.backup(db)
        return db
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    db = _connect(str(path), patience_s)
    try:
        _switch_to_wal(db, patience_s)
        db.execute("PRAGMA synchronous = FULL")  # each commit is on the disk before it returns
        _migrate(db, str(path), is_copy=is_copy)
    except BaseException:
        db.close()
        raise
    return db


@cache
def _empty() -> bytes:
    """
    A journal without calls, to be copied: the migrations take twenty times as long.
    """
    with contextlib.closing(_connect(":memory:", 0)) as db:
        _migrate(db, ":memory:")
        return db.serialize()


def schema() -> list[str]:
    """
    The statements that make an empty journal of this version: tables, then what stands on them.
    """
    with contextlib.closing(_connect(":memory:", 0)) as db:
        db.deserialize(_empty())
        rows = db.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'migrations' "
            "ORDER BY type != 'table', type, rowid"
        )
        return [text for (text,) in rows]


def open_shared(path: Path | None) -> sqlite3.Connection:
    """
    The same, for who waits for others himself.
    """
    return open_database(path, patience_s=0)


def copy(db: sqlite3.Connection, target: Path, patience_s: float = _COPY_PATIENCE_S) -> None:
    """
    All that is in a database, in a new private file, on the disk when this returns.

    Raises:
        FileExistsError: there is one.
        TimeoutError: another program held the lock for so long.
        OSError: it cannot be made.
        sqlite3.Error: it cannot be written, or what was written is not whole.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as made:
            db.backup(made, progress=_until(time.monotonic() + patience_s))
            _check_whole(made)
    except BaseException:
        target.unlink()
        raise


def _until(deadline: float) -> Callable[[int, int, int], None]:
    """
    Ends a copy that another program's lock holds up: SQLite itself would wait without end.
    """

    def step(status: int, _left: int, _all: int) -> None:
        if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} and time.monotonic() > deadline:
            raise TimeoutError("another program holds the journal's lock")

    return step


def _check_whole(db: sqlite3.Connection) -> None:
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the copy is not whole: {verdict}")


def _connect(name: str, patience_s: float) -> sqlite3.Connection:
    # It is used by one thread at a time: of the writers, of whoever forks, and in memory of every event loop.
    db = sqlite3.connect(name, isolation_level=None, timeout=patience_s, check_same_thread=False)
    db.row_factory = sqlite3.Row
    return db


def _switch_to_wal(db: sqlite3.Connection, patience_s: float) -> None:
    """
    Wait for other processes that open the new file at the same moment: SQLite itself does not, for this switch.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _version(db: sqlite3.Connection) -> int:
    """
    How many migrations it has; a reader waits for nobody.
    """
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone() is None:
        return 0
    return int(db.execute("SELECT COALESCE(MAX(version), 0) FROM migrations").fetchone()[0])


def _migrate(db: sqlite3.Connection, name: str, *, is_copy: bool = False) -> None:
    known = migrations()
    if is_known(_version(db), is_copy=is_copy):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at REAL NOT NULL)")
        version = check_version(_version(db), name)
        db.create_function("one_spelling", 1, one_spelling, deterministic=True)
        for number, script in enumerate(known[version:], version + 1):
            for statement in script:
                db.execute(statement)
            db.execute("INSERT INTO migrations VALUES (?, ?)", (number, time.time()))
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
