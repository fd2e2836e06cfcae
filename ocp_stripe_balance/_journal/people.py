"""
Who may come in, who is in, and what they did: steps inside a transaction, as in `Book`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._journal.database import Reach
from ocp_stripe_balance._journal.statements import statements

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ocp_stripe_balance._journal.database import Cursor, Database
    from ocp_stripe_balance._journal.journal import Journal

    T = TypeVar("T")

PEOPLE = Reach(("people",))
"""What a step here touches that goes by what another has written."""


class Account(NamedTuple):
    """
    Somebody who may come in.
    """

    name: str
    roles: str
    """Their names, with a space between two."""
    password: str | None
    """As a slow hash; None where it is never asked for."""
    issuer: str | None
    """The OpenID provider that knows them, where one does."""
    subject: str | None
    """What it calls them."""
    made_at: float
    disabled_at: float | None
    """Since when they may not come in any more; None where they may."""


class Visit(NamedTuple):
    """
    What somebody did, or what was done about them.
    """

    at: float
    what: str
    name: str
    how: str
    address: str
    detail: str


class Entry(NamedTuple):
    """
    Somebody who is in.
    """

    name: str
    roles: str
    how: str
    seen_at: float


class People:
    """
    The tables of people, in the transaction of a book.
    """

    def __init__(self, db: Database, now: float) -> None:
        """
        Prepare; *now* is the journal's time.
        """
        self._db, self._now = db, now

    # Accounts

    def account(self, name: str) -> Account | None:
        """
        The account of that name.
        """
        row = self._run("person", name=name).fetchone()
        return None if row is None else Account(*row)

    def known_as(self, issuer: str, subject: str) -> Account | None:
        """
        The account that an OpenID provider knows as that.
        """
        row = self._run("person_of_subject", issuer=issuer, subject=subject).fetchone()
        return None if row is None else Account(*row)

    def all(self) -> list[Account]:
        """
        Every account, by name.
        """
        return [Account(*row) for row in self._run("people")]

    def add(self, account: Account) -> bool:
        """
        Make an account; False where the name is taken, or somebody else is known as that.
        """
        return self._run("add_person", **account._asdict(), now=self._now).rowcount == 1

    def change_password(self, name: str, password: str) -> None:
        """
        Let that password be good, and end what was begun with another.
        """
        self._run("set_password", name=name, password=password)
        self.end_sessions(name)

    def rehash(self, name: str, old: str, password: str) -> None:
        """
        Keep the same password as another hash.
        """
        self._run("rehash", name=name, old=old, password=password)

    def change_roles(self, name: str, roles: str) -> None:
        """
        Let a person do what these roles may, from now on.
        """
        self._run("set_roles", name=name, roles=roles)

    def disable(self, name: str) -> None:
        """
        Let a person in no more, and out at once.
        """
        self._run("disable", name=name, now=self._now)
        self.end_sessions(name)

    def enable(self, name: str) -> None:
        """
        Let a person in again.
        """
        self._run("enable", name=name)

    # Sessions

    def begin(self, digest: str, name: str, how: str, address: str) -> None:
        """
        Let somebody in who holds the secret of that digest.
        """
        self._run("begin_session", digest=digest, name=name, how=how, address=address, now=self._now)

    def entry(self, digest: str, *, idle_s: float, longest_s: float, note_s: float) -> Entry | None:
        """
        Who is in with the secret of that digest, unless that is over; that they are there is noted now and then.
        """
        over = {"after": self._now - idle_s, "since": self._now - longest_s}
        row = self._run("session", digest=digest, **over).fetchone()
        entry = None if row is None else Entry(*row)
        if entry is not None and self._now - entry.seen_at > note_s:
            self._run("see_session", digest=digest, now=self._now)
        return entry

    def end(self, digest: str) -> None:
        """
        Let the secret be good for nothing.
        """
        self._run("end_session", digest=digest)

    def end_sessions(self, name: str) -> None:
        """
        Let no secret of a person be good for anything.
        """
        self._run("end_sessions", name=name)

    def forget_sessions(self, *, idle_s: float, longest_s: float) -> None:
        """
        Forget those that are over.
        """
        self._run("end_old_sessions", after=self._now - idle_s, since=self._now - longest_s)

    # Refusals

    def failures(self, whose: str, window_s: float) -> tuple[int, float]:
        """
        How often somebody was refused of late, and until when they wait.
        """
        row = self._run("attempts", whose=whose, since=self._now - window_s).fetchone()
        return (0, 0.0) if row is None else (int(row[0]), float(row[1]))

    def refuse(self, whose: str, failures: int, until: float) -> None:
        """
        Note how often somebody was refused, and until when they wait.
        """
        self._run("attempt", whose=whose, number=failures, until=until, now=self._now)

    def forgive(self, whose: str) -> None:
        """
        Forget that somebody was refused.
        """
        self._run("forgive", whose=whose)

    def forget_refusals(self, window_s: float) -> None:
        """
        Forget those that count no more.
        """
        self._run("forget_attempts", since=self._now - window_s)

    # What was done

    def note(self, what: str, name: str, *, how: str = "", address: str = "", detail: str = "") -> None:
        """
        Note what somebody did, or what was done about them.
        """
        self._run("visit", now=self._now, what=what, name=name, how=how, address=address, detail=detail)

    def came_from(self, name: str, address: str, window_s: float) -> bool:
        """
        Whether somebody came in from an address of late.
        """
        values = {"name": name, "address": address, "since": self._now - window_s}
        return self._run("came_from", **values).fetchone() is not None

    def visits(self, name: str | None, number: int) -> list[Visit]:
        """
        What was noted of one person or of all, newest first.
        """
        return [Visit(*row) for row in self._run("visits", name=name, number=number)]

    def _run(self, statement: str, **values: Any) -> Cursor:
        return self._db.execute(statements("people")[statement], values)


async def with_people(journal: Journal, step: Callable[[People], T], reach: Reach = PEOPLE) -> T:
    """
    What a step finds or does, in a transaction of its own.

    Raises:
        NotSentError: the journal cannot be used.
    """
    return await journal.run(lambda book: step(People(book.db, journal.now())), reach=reach)
