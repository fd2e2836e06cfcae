"""
The accounts of people, as whoever runs the server makes and changes them. Every change is in the audit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal.people import Account, People, with_people
from ocp_stripe_balance._text.plain import nearest, shown
from ocp_stripe_balance.errors import ConfigurationError
from ocp_stripe_balance.web.access.passwords import Passwords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ocp_stripe_balance._journal import Journal
    from ocp_stripe_balance._journal.people import Visit
    from ocp_stripe_balance.web.access.person import Role

NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")


class Accounts:
    """
    The accounts of one journal.
    """

    def __init__(self, journal: Journal, by: str) -> None:
        """
        Touch nothing yet; *by* is who changes something.
        """
        self._journal, self._by = journal, by

    async def all(self) -> list[Account]:
        """
        Every account, by name.

        Raises:
            NotSentError: the journal cannot be read.
        """
        return await with_people(self._journal, lambda people: people.all())

    async def visits(self, name: str | None, number: int) -> list[Visit]:
        """
        What was noted of one person or of all, newest first.

        Raises:
            NotSentError: the journal cannot be read.
        """
        return await with_people(self._journal, lambda people: people.visits(name, number))

    async def add(
        self, name: str, roles: Iterable[Role], *, password: str | None = None, known_as: tuple[str, str] | None = None
    ) -> None:
        """
        Make an account, with a password or what an OpenID provider (its issuer) calls that person.

        Raises:
            ConfigurationError: the name or the password is impossible, or taken.
            NotSentError: the journal cannot be used.
        """
        if not NAME.fullmatch(name):
            message = f"{shown(name)} is not 1 to 64 of a to z, 0 to 9 and . _ @ + -, a letter or digit first."
            raise ConfigurationError(message)
        kept = None if password is None else await Passwords().hash(password)
        issuer, subject = known_as or (None, None)
        account = Account(name, _words(roles), kept, issuer, subject, 0.0, None)

        def work(people: People) -> bool:
            if not people.add(account):
                return False
            people.note("made", name, how="shell", detail=f"{account.roles}; by {self._by}")
            return True

        if not await with_people(self._journal, work):
            also = "" if known_as is None else ", or somebody else is known to the provider as that"
            raise ConfigurationError(f"There is an account {name} already{also}.", hint="See: people list")

    async def change_password(self, name: str, password: str) -> None:
        """
        Let that password be good, and no other; whoever is in with another is out.

        Raises:
            ConfigurationError: there is no such account, it has no password, or the password is impossible.
            NotSentError: the journal cannot be used.
        """
        account = await with_people(self._journal, lambda people: people.account(name))
        if account is not None and account.password is None:  # a second way in, past the provider
            raise ConfigurationError(f"{name} signs in with {account.issuer}, and has no password here.")
        kept = await Passwords().hash(password)
        await self._change(name, "password changed", lambda people: people.change_password(name, kept))

    async def change_roles(self, name: str, roles: Iterable[Role]) -> None:
        """
        Let a person do what these roles may, from the next request on.

        Raises:
            ConfigurationError: there is no such account.
            NotSentError: the journal cannot be used.
        """
        words = _words(roles)
        await self._change(name, "roles changed", lambda people: people.change_roles(name, words), words)

    async def disable(self, name: str) -> None:
        """
        Let a person in no more, and out at once.

        Raises:
            ConfigurationError: there is no such account.
            NotSentError: the journal cannot be used.
        """
        await self._change(name, "disabled", lambda people: people.disable(name))

    async def enable(self, name: str) -> None:
        """
        Let a person in again.

        Raises:
            ConfigurationError: there is no such account.
            NotSentError: the journal cannot be used.
        """
        await self._change(name, "enabled", lambda people: people.enable(name))

    async def _change(self, name: str, what: str, step: Callable[[People], object], detail: str = "") -> None:
        def work(people: People) -> list[str] | None:
            if people.account(name) is None:
                return [each.name for each in people.all()]
            step(people)
            people.note(what, name, how="shell", detail="; ".join(filter(None, (detail, f"by {self._by}"))))
            return None

        names = await with_people(self._journal, work)
        if names is not None:
            near = nearest(name, names)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names) or 'none'}."
            raise ConfigurationError(f"There is no account {shown(name)}.", hint=hint)


def _words(roles: Iterable[Role]) -> str:
    return " ".join(sorted(roles))
