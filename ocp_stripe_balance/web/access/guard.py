"""
Nobody reads or does anything here who has not signed in, and nothing is done that a page of ours did not ask for.
"""

from __future__ import annotations

import hmac
from functools import wraps
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.responses import RedirectResponse

from ocp_stripe_balance.web.access.pages import message
from ocp_stripe_balance.web.access.sessions import Sessions, csrf_of, secret_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance.web.access.person import Person, Role

    Page = Callable[[Request], Awaitable[Response]]

_SAFE = {"GET", "HEAD"}
_LONGEST_DETAIL = 300


def signed_in(*needed: Role) -> Callable[[Page], Page]:
    """
    Let a page be for those who have signed in and have all the roles *needed*.

    It finds who that is in ``request.state.person``, and what its forms have to send as ``csrf`` in
    ``request.state.csrf``. Whatever it does is in the audit before it does it.
    """

    def guarded(page: Page) -> Page:
        @wraps(page)
        async def guard(request: Request) -> Response:
            try:
                return await served(request)
            finally:
                await request.close()  # of what was sent, files may be left

        async def served(request: Request) -> Response:
            sessions = Sessions(request.app.state.gateway.journal)
            is_by_hand = request.headers.get("sec-fetch-dest") != "empty"  # which is what a script asked for
            person = await sessions.person(request, is_by_hand=is_by_hand)
            if person is None:
                return _sign_in(request)
            request.state.person, request.state.csrf = person, csrf_of(secret_of(request))
            refusal = await _refusal(request, person, needed)
            if refusal is not None:
                await sessions.note(person, "refused", f"{_named(request)}: {refusal}")
                return message(request, refusal, 403)
            if request.method not in _SAFE:
                await sessions.note(person, "asked for", _named(request))
            return await page(request)

        guard.needed = frozenset(needed)  # type: ignore[attr-defined]  # for a test that asks every route
        return guard

    return guarded


def is_from_here(request: Request) -> bool:
    """
    Whether a page of this very site sent a request, as browsers say; what says nothing is no browser's form.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    return (site, origin) != (None, None) and site in {None, "same-origin"} and origin in {None, own_origin(request)}


def own_origin(request: Request) -> str:
    """
    What a browser calls this site.
    """
    return f"{request.scope['scheme']}://{request.headers.get('host', '')}"


async def _refusal(request: Request, person: Person, needed: tuple[Role, ...]) -> str | None:
    """
    Why somebody is not served; None where they are.
    """
    missing = [role for role in needed if role not in person.roles]
    if missing:
        return f"{person.name} does not have the role '{missing[0]}'. Who makes the accounts can give it."
    if request.method in _SAFE:
        return None
    if not is_from_here(request):
        return "Nothing was done: the request did not come from a page of this server."
    header = request.headers.get("x-csrf-token")
    sent = (await request.form()).get("csrf") if header is None else header
    if not isinstance(sent, str) or not hmac.compare_digest(sent.encode(), request.state.csrf.encode()):
        return "Nothing was done: the page was opened before you signed in. Open it again, and try once more."
    return None


def _sign_in(request: Request) -> Response:
    """
    The way to the sign-in page, where a person would follow it.
    """
    if request.method not in _SAFE:
        return message(request, "Nothing was done: you are not signed in any more.", 401)
    return RedirectResponse(f"/sign-in?{urlencode({'next': _path_of(request)})}", status_code=303)


def _named(request: Request) -> str:
    return f"{request.method} {_path_of(request)}"[:_LONGEST_DETAIL]


def _path_of(request: Request) -> str:
    """
    The path and the query, as they were sent.
    """
    path, query = (bytes(request.scope[name]).decode("ascii", "replace") for name in ("raw_path", "query_string"))
    return f"{path}?{query}" if query else path
