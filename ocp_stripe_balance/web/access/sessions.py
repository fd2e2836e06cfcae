"""
Who is in: a browser holds a secret of 256 bits, and the journal its digest.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal import READING
from ocp_stripe_balance._journal.people import with_people
from ocp_stripe_balance.web.access.person import Person, Role

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance._journal import Journal
    from ocp_stripe_balance._journal.people import People

IDLE_S, LONGEST_S = 30 * 60.0, 12 * 3600.0
"""After which time without a request, and after which time in any case, somebody has to sign in again."""
_NOTE_S = 60.0


class Sessions:
    """
    Who is in, as the journal has it.
    """

    def __init__(self, journal: Journal) -> None:
        """
        Touch nothing yet.
        """
        self._journal = journal

    async def person(self, request: Request, *, is_by_hand: bool = True) -> Person | None:
        """
        Who sent a request; None where nobody is in with what it holds.

        What is not by hand does not say that somebody is there: a page that is left open keeps nobody in.

        Raises:
            NotSentError: the journal cannot be read.
        """
        secret = secret_of(request)
        if not secret:
            return None
        note_s = _NOTE_S if is_by_hand else IDLE_S  # by which time it is over
        limits = {"idle_s": IDLE_S, "longest_s": LONGEST_S, "note_s": note_s}
        entry = await with_people(self._journal, lambda people: people.entry(_digest(secret), **limits), READING)
        if entry is None:
            return None
        return Person(name=entry.name, roles=roles_of(entry.roles), how=entry.how, address=address_of(request))

    async def end(self, person: Person, secret: str) -> None:
        """
        Let somebody out.

        Raises:
            NotSentError: the journal cannot be written.
        """

        def work(people: People) -> None:
            people.end(_digest(secret))
            people.note("signed out", person.name, how=person.how, address=person.address)

        await with_people(self._journal, work)

    async def note(self, person: Person, what: str, detail: str) -> None:
        """
        Note what somebody did.

        Raises:
            NotSentError: the journal cannot be written.
        """

        def work(people: People) -> None:
            people.note(what, person.name, how=person.how, address=person.address, detail=detail)

        await with_people(self._journal, work, READING)


def begin(people: People, name: str, how: str, address: str, before: str) -> str:
    """
    The secret of a new session; the one that the browser brought is good for nothing any more.
    """
    secret = secrets.token_urlsafe(32)
    people.forget_sessions(idle_s=IDLE_S, longest_s=LONGEST_S)
    people.end(_digest(before))
    people.begin(_digest(secret), name, how, address)
    people.note("signed in", name, how=how, address=address)
    return secret


def roles_of(names: str) -> frozenset[Role]:
    """
    The roles that a text names.
    """
    return frozenset(map(Role, names.split()))


def csrf_of(secret: str) -> str:
    """
    What a form of a session has to send: another site cannot know it, and it does not tell the secret.
    """
    return hashlib.sha256(f"csrf {secret}".encode()).hexdigest()


def secret_of(request: Request) -> str:
    """
    What the browser holds; empty where it holds nothing.
    """
    return request.cookies.get(_cookie_of(request), "")


def address_of(request: Request) -> str:
    """
    Where a request comes from. No header can say: only the server knows which proxies are ours.
    """
    return request.client.host if request.client else ""


def is_safe(request: Request) -> bool:
    """
    Whether it came over TLS, by what the server says.
    """
    return bool(request.scope["scheme"] == "https")


def give_secret(request: Request, response: Response, secret: str) -> None:
    """
    Let the browser hold it, until it is closed or the session ends.
    """
    response.set_cookie(_cookie_of(request), secret, path="/", secure=is_safe(request), httponly=True, samesite="lax")


def take_secret(request: Request, response: Response) -> None:
    """
    Let the browser forget it.
    """
    response.delete_cookie(_cookie_of(request), path="/", secure=is_safe(request), httponly=True, samesite="lax")


def _cookie_of(request: Request) -> str:
    # With that prefix a browser takes it from this very host alone, over TLS: no neighbour can set it.
    return "__Host-session" if is_safe(request) else "session"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
