"""
What the journal needs of a database and of what holds it: a file of SQLite's, or a server of PostgreSQL's.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping

    from ocp_stripe_balance._journal.shares import Shares

Decided = tuple[int, str, str]
"""Number, key and context of a decision, none of which is ever deleted: proof that a record goes on where it was."""


class Cursor(Protocol):
    """
    What a statement found or changed; a row has its values by place and by name.
    """

    @property
    def rowcount(self) -> int:
        """
        How many rows were changed.
        """

    def fetchone(self) -> Any:
        """
        The next row, or None.
        """

    def fetchall(self) -> list[Any]:
        """
        The rows that are left.
        """

    def __iter__(self) -> Iterator[Any]:
        """
        The rows that are left, one by one.
        """

    def close(self) -> None:
        """
        Read no further.
        """


class Database(Protocol):
    """
    A connection that somebody else has begun a transaction on.
    """

    def execute(self, sql: str, values: Mapping[str, Any] = ..., /) -> Cursor:
        """
        Run one statement of `statements`; its values stand in it as ``:name``.

        Raises:
            sqlite3.Error, DatabaseError: it fails.
        """

    def close(self) -> None:
        """
        Close the connection.
        """


class DatabaseError(Exception):
    """
    A server refused, failed, or could not be reached.
    """

    def __init__(self, message: str, hint: str) -> None:
        """
        *hint* says what a person must do.
        """
        super().__init__(message)
        self.hint = hint


class LostError(DatabaseError):
    """
    A transaction was lost, with its connection or to another that had a row too long: nothing was done, and may be yet.
    """


FAILURES = (sqlite3.Error, DatabaseError)
"""What any of them may raise."""


class UnprovedError(Exception):
    """
    It was committed, but not where others look; or whether it was cannot be found out.
    """

    def __init__(self, cause: Exception) -> None:
        """
        Because of *cause*.
        """
        super().__init__(str(cause))
        self.hint = getattr(cause, "hint", "")


class Reach(NamedTuple):
    """
    What a unit of work touches: on a server, others that touch none of it do not wait.
    """

    names: tuple[str, ...] | None
    """Of keys and customers, each in its scope; None for everything."""
    counts: bool = False
    """Whether it goes by totals of many calls, or may."""


EVERYTHING, READING = Reach(None), Reach(())


class Store(Protocol):
    """
    What holds the journal, as this process has it.
    """

    lock: threading.Lock
    """Held by whoever uses it."""
    users: int
    """How many writers use it."""
    max_batch: int
    """How many units of work go into one transaction."""
    shares: Shares

    def now(self) -> float:
        """
        The time of the journal, in seconds since the Unix epoch.
        """

    def commit(self) -> None:
        """
        Let what was done in the transaction hold.

        Raises:
            UnprovedError: it may hold, but others may not see it.
            sqlite3.Error, DatabaseError: it does not.
        """

    def roll_back(self, error: BaseException) -> None:
        """
        Undo what was done in the transaction, because of *error*.
        """

    def close(self) -> None:
        """
        Close it, where nobody uses it any more; *lock* is held.
        """

    def rest(self) -> None:
        """
        Make ready for a fork.
        """

    def inherit(self) -> None:
        """
        Begin anew in a child.
        """
