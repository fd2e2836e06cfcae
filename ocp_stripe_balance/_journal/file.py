"""
The file: made private, opened with every commit on the disk, and brought to the format of this version.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING

from ocp_stripe_balance.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BUSY_TIMEOUT_S = 30.0


def _create_calls(db: sqlite3.Connection) -> None:
    db.execute(
        """CREATE TABLE calls (
            id INTEGER PRIMARY KEY,
            base_url TEXT NOT NULL, mode TEXT NOT NULL, account TEXT NOT NULL, key TEXT NOT NULL,
            tool TEXT NOT NULL, customer TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL,
            reference TEXT, arguments TEXT NOT NULL, path TEXT NOT NULL, body BLOB NOT NULL,
            api_version TEXT NOT NULL, context_id TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('sending', 'succeeded', 'rejected', 'not_sent', 'unknown')),
            is_final INTEGER NOT NULL, attempts INTEGER NOT NULL, status INTEGER, request_id TEXT, answer TEXT,
            note TEXT,
            created_at REAL NOT NULL, updated_at REAL NOT NULL, owner TEXT NOT NULL, lease_until REAL NOT NULL,
            UNIQUE (key, base_url, mode, account)
        )"""
    )
    db.execute("CREATE INDEX calls_by_reference ON calls (reference, customer) WHERE reference IS NOT NULL")
    db.execute("CREATE INDEX calls_by_customer ON calls (customer, created_at)")
    db.execute("CREATE INDEX calls_unsettled ON calls (created_at) WHERE state IN ('sending', 'unknown')")
    db.execute("CREATE INDEX calls_by_time ON calls (created_at)")


def _add_guardrails(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE calls ADD COLUMN agent_type TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE calls ADD COLUMN user TEXT")
    db.execute("ALTER TABLE calls ADD COLUMN spent_at REAL NOT NULL DEFAULT 0")
    db.execute("UPDATE calls SET spent_at = MAX(updated_at, lease_until)")
    # A worker of the version before, still running on this file, does not know the column.
    db.execute(
        "CREATE TRIGGER calls_spent AFTER INSERT ON calls WHEN NEW.spent_at = 0 "
        "BEGIN UPDATE calls SET spent_at = NEW.lease_until WHERE id = NEW.id; END"
    )
    db.execute("CREATE INDEX calls_by_spending ON calls (currency, spent_at)")
    db.execute("CREATE TABLE windows (longest_s REAL NOT NULL)")
    about = """base_url TEXT NOT NULL, mode TEXT NOT NULL, account TEXT NOT NULL, key TEXT NOT NULL, tool TEXT NOT NULL,
        customer TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL, reference TEXT,
        context_id TEXT NOT NULL, agent_type TEXT NOT NULL, user TEXT"""
    db.execute(
        f"""CREATE TABLE decisions (
            number INTEGER PRIMARY KEY, at REAL NOT NULL, decision TEXT NOT NULL, rule TEXT NOT NULL, who TEXT NOT NULL,
            reason TEXT NOT NULL, {about}
        )"""
    )
    db.execute("CREATE INDEX decisions_by_key ON decisions (key)")
    db.execute("CREATE INDEX decisions_allowed ON decisions (at) WHERE decision = 'allowed'")
    db.execute("CREATE INDEX decisions_denied ON decisions (customer) WHERE decision = 'denied'")
    db.execute(
        f"""CREATE TABLE proposals (
            number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, {about},
            arguments TEXT NOT NULL, customer_name TEXT, balance_before INTEGER, rule TEXT NOT NULL, why TEXT NOT NULL,
            asked_at REAL NOT NULL, expires_at REAL NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('waiting', 'approved', 'denied', 'expired', 'used')),
            decided_at REAL, decided_by TEXT, reason TEXT
        )"""
    )
    db.execute("CREATE INDEX proposals_by_key ON proposals (key)")
    db.execute("CREATE INDEX proposals_waiting ON proposals (asked_at) WHERE state = 'waiting'")


_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create_calls, _add_guardrails)


def open_database(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
    db.row_factory = sqlite3.Row
    try:
        _switch_to_wal(db)
        db.execute("PRAGMA synchronous = FULL")  # each commit is on the disk before it returns
        _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """
    Wait out other processes that open the new file at the same moment: SQLite itself does not, for this switch.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at REAL NOT NULL)")
        (version,) = db.execute("SELECT COALESCE(MAX(version), 0) FROM migrations").fetchone()
        if version > len(_MIGRATIONS):
            raise ConfigurationError(  # noqa: TRY301  the transaction is to be rolled back
                f"The journal at {path} was written by a newer version of this package (format {version}, "
                f"known up to {len(_MIGRATIONS)}). Nothing in it was changed.",
                hint="Upgrade this package, or set OCP_STRIPE_JOURNAL to another path.",
            )
        for number, migrate in enumerate(_MIGRATIONS[version:], version + 1):
            migrate(db)
            db.execute("INSERT INTO migrations VALUES (?, ?)", (number, time.time()))
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
