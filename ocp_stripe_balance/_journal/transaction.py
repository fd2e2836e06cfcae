"""
The transaction that a unit of work is done in.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._journal.database import FAILURES
from ocp_stripe_balance._journal.statements import statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocp_stripe_balance._journal.database import Cursor, Database, Decided


class Transaction:
    """
    One at a time, on one connection.
    """

    def __init__(self, db: Database) -> None:
        """
        Work on *db*, which belongs to this book from now on.
        """
        self.db = db
        """The connection, for who works on tables as a whole."""
        self._kept_s = 0.0
        self._statements = statements()
        self._noting: tuple[Cursor, str, str] | None = None
        self._noted: Decided | None = None

    def begin(self) -> None:
        """
        Begin a transaction that nobody else can write in.
        """
        self.db.execute("BEGIN IMMEDIATE")
        self.forget()

    def forget(self) -> None:
        """
        Let nothing be noted yet: a transaction has begun.
        """
        self._noting = self._noted = None

    def commit(self) -> None:
        """
        Let what was done since `begin` hold.
        """
        _ = self.noted  # a row that is still to be read would be in the way
        self.db.execute("COMMIT")

    @property
    def noted(self) -> Decided | None:
        """
        The newest decision noted in this transaction. Its number is read late: a server is not waited for meanwhile.
        """
        if self._noting is not None:
            cursor, *rest = self._noting
            self._noted, self._noting = (cursor.fetchone()[0], *rest), None
        return self._noted

    def roll_back(self) -> None:
        """
        Undo what was done since `begin`, where the database has not undone it itself.
        """
        with contextlib.suppress(*FAILURES):
            self.db.execute("ROLLBACK")
        self._kept_s = 0.0

    def close(self) -> None:
        """
        Close the connection.
        """
        self.db.close()

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """
        Undo everything that is done within.
        """
        noted = self.noted
        self.db.execute("SAVEPOINT preview")
        try:
            yield
        finally:
            _ = self.noted  # as in `commit`
            self.db.execute("ROLLBACK TO preview")
            self.db.execute("RELEASE preview")
            self._kept_s, self._noting, self._noted = 0.0, None, noted

    def _run(self, name: str, values: dict[str, Any]) -> Cursor:
        return self.db.execute(self._statements[name], values)
