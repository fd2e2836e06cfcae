"""
Signing in: by a password, or by what an OpenID provider says.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._journal.people import with_people
from ocp_stripe_balance.web.access.accounts import NAME
from ocp_stripe_balance.web.access.passwords import Passwords
from ocp_stripe_balance.web.access.sessions import begin
from ocp_stripe_balance.web.access.waiting import counters, enter, forgive

if TYPE_CHECKING:
    from ocp_stripe_balance._journal import Journal
    from ocp_stripe_balance._journal.people import Account, People
    from ocp_stripe_balance.web.access.waiting import Counter

WRONG = "The name or the password is not right."
UNKNOWN = "Nobody here is known under that account. Who makes the accounts can add it."


class Visitor(NamedTuple):
    """
    Who wants to come in.
    """

    address: str
    before: str
    """The secret that the browser brought, which is good for nothing once they are in."""


class Refusal(NamedTuple):
    """
    Why somebody may not come in.
    """

    why: str
    wait_s: float = 0.0
    """How long nobody asks."""


class Entrance:
    """
    Where people come in.
    """

    def __init__(self, journal: Journal) -> None:
        """
        Touch nothing yet.
        """
        self._journal, self._passwords = journal, Passwords()

    async def by_password(self, name: str, password: str, visitor: Visitor) -> str | Refusal:
        """
        The secret of a new session, or why there is none: a name that is nobody's is told the same, after as long.

        Raises:
            NotSentError: the journal cannot be used.
        """
        name = name.strip().lower()
        name = name if NAME.fullmatch(name) else ""  # which is nobody's
        asked, account, wait_s = await with_people(self._journal, lambda people: self._ask(people, name, visitor))
        if wait_s > 0:
            return Refusal(_later(wait_s), wait_s)
        kept = account.password if account else None
        is_right = await self._passwords.is_right(kept, password)
        if account is None or kept is None or not is_right:
            why = "wrong password" if kept else "no password" if account else "no such account"
            return await self._refused(account, "password", why, visitor)
        renewed = await self._passwords.renewed(kept, password)

        def let_in(people: People) -> str | None:
            now = people.account(account.name)
            if now is None or now.disabled_at is not None or now.password != kept:  # while the hash was looked at
                return None
            forgive(people, asked, self._journal.now())
            if renewed is not None:
                people.rehash(account.name, kept, renewed)
            return begin(people, account.name, "password", visitor.address, visitor.before)

        return await with_people(self._journal, let_in) or await self._refused(account, "password", "disabled", visitor)

    async def by_provider(self, issuer: str, subject: str, visitor: Visitor) -> str | Refusal:
        """
        The secret of a new session for whom a provider knows as that, or why there is none.

        Raises:
            NotSentError: the journal cannot be used.
        """

        def let_in(people: People) -> tuple[Account | None, str | None]:
            account = people.known_as(issuer, subject)
            if account is None or account.disabled_at is not None:
                return account, None
            forgive(people, counters(people, None, visitor.address), self._journal.now())
            return account, begin(people, account.name, "oidc", visitor.address, visitor.before)

        account, secret = await with_people(self._journal, let_in)
        if secret is not None:
            return secret
        await self._refused(account, "oidc", "disabled" if account else "no such account", visitor)
        return Refusal(UNKNOWN)

    async def ask(self, visitor: Visitor) -> Refusal | None:
        """
        Why a visitor has to wait, by the address alone; None where they do not, and then this counts as a refusal.

        Raises:
            NotSentError: the journal cannot be used.
        """
        wait_s = await with_people(
            self._journal, lambda people: enter(people, counters(people, None, visitor.address), self._journal.now())
        )
        return Refusal(_later(wait_s), wait_s) if wait_s > 0 else None

    async def note(self, how: str, why: str, visitor: Visitor) -> None:
        """
        Note that somebody was refused whose name nobody knows.

        Raises:
            NotSentError: the journal cannot be used.
        """
        await self._refused(None, how, why, visitor)

    def _ask(self, people: People, name: str, visitor: Visitor) -> tuple[list[Counter], Account | None, float]:
        asked = counters(people, name, visitor.address)
        wait_s = enter(people, asked, self._journal.now())
        return asked, people.account(name) if wait_s <= 0 else None, wait_s

    async def _refused(self, account: Account | None, how: str, why: str, visitor: Visitor) -> Refusal:
        name = account.name if account else ""  # what was typed may be a password
        await with_people(
            self._journal, lambda people: people.note("refused", name, how=how, address=visitor.address, detail=why)
        )
        return Refusal(WRONG)


def _later(wait_s: float) -> str:
    seconds = math.ceil(wait_s)
    return f"Too many attempts were refused. Try again in {seconds} second{'s' if seconds > 1 else ''}."
