"""
Who comes in, as routes.
"""

from __future__ import annotations

import base64
import hmac
import math
import re
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse
from starlette.routing import Route

from ocp_stripe_balance.web.access import oidc
from ocp_stripe_balance.web.access.entrance import Entrance, Refusal, Visitor
from ocp_stripe_balance.web.access.guard import is_from_here, own_origin, signed_in
from ocp_stripe_balance.web.access.pages import message, sign_in_page
from ocp_stripe_balance.web.access.sessions import Sessions, address_of, give_secret, is_safe, secret_of, take_secret

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from ocp_stripe_balance.web.gateway import Gateway

_CALLBACK = "/oidc/callback"
_AT_PROVIDER_S = 600
_NOT_SAID = "The other site did not say who you are. Try once more."


def routes(gateway: Gateway) -> list[BaseRoute]:
    """
    Signing in and out, and the way over an OpenID provider where the settings name one.

    Raises:
        ConfigurationError: the settings name a part of one.
    """
    settings = gateway.settings
    provider = oidc.Provider(settings) if settings.oidc_issuer or settings.oidc_client_id else None
    door = _Door(gateway, provider)
    found = [
        Route("/sign-in", door.show),
        Route("/sign-in", door.enter, methods=["POST"]),
        Route("/sign-out", signed_in()(door.leave), methods=["POST"]),
    ]
    if provider is not None:
        found += [Route("/oidc/start", door.to_provider), Route(_CALLBACK, door.from_provider)]
    return [*found]


class _Door:
    """
    The pages of one server.
    """

    def __init__(self, gateway: Gateway, provider: oidc.Provider | None) -> None:
        self._entrance, self._sessions = Entrance(gateway.journal), Sessions(gateway.journal)
        self._provider = provider

    async def show(self, request: Request) -> Response:
        """
        The form; who is in already goes on.
        """
        next_path = own_path(request.query_params.get("next"))
        if await self._sessions.person(request) is not None:
            return RedirectResponse(next_path, status_code=303)
        return sign_in_page(next_path=next_path, has_provider=self._provider is not None)

    async def enter(self, request: Request) -> Response:
        """
        In, or the form again.
        """
        if not is_from_here(request):  # another site would sign somebody in as somebody else
            return message(request, "The request did not come from the sign-in page of this server.", 403)
        async with request.form(max_files=0, max_fields=10) as form:
            name, password, next_path = (str(form.get(each, "")) for each in ("name", "password", "next"))
        found = await self._entrance.by_password(name, password, _visitor(request))
        if isinstance(found, str):
            return _let_in(request, found, next_path)
        page = sign_in_page(
            next_path=own_path(next_path),
            name=name[:64],
            why=found.why,
            has_provider=self._provider is not None,
            status_code=429 if found.wait_s else 403,
        )
        return _with_wait(page, found)

    async def leave(self, request: Request) -> Response:
        """
        Out.
        """
        await self._sessions.end(request.state.person, secret_of(request))
        response = RedirectResponse("/sign-in", status_code=303)
        take_secret(request, response)
        return response

    async def to_provider(self, request: Request) -> Response:
        """
        To the provider; only this browser can come back from it.
        """
        if self._provider is None:
            return message(request, _NOT_SAID, 404)
        secret, next_path = oidc.new_secret(), own_path(request.query_params.get("next"))
        try:
            response = RedirectResponse(await self._provider.start(secret, _callback(request)), status_code=303)
        except oidc.ProviderError:
            return message(request, "The site where you sign in does not answer. Try again later.", 502)
        value = f"{secret}.{base64.urlsafe_b64encode(next_path.encode()).decode()}"
        response.set_cookie(
            _cookie_of(request), value, _AT_PROVIDER_S, secure=is_safe(request), httponly=True, samesite="lax"
        )
        return response

    async def from_provider(self, request: Request) -> Response:
        """
        In, where the provider says to this very browser who that is, and it is somebody.
        """
        secret, _, kept = request.cookies.get(_cookie_of(request), "").partition(".")
        response = await self._back(request, secret, kept)
        response.delete_cookie(_cookie_of(request), secure=is_safe(request), httponly=True, samesite="lax")
        return response

    async def _back(self, request: Request, secret: str, kept: str) -> Response:
        state, code = (request.query_params.get(each, "") for each in ("state", "code"))
        is_own = hmac.compare_digest(state.encode(), oidc.state_of(secret).encode())
        if self._provider is None or not secret or not is_own or not code:
            return message(request, _NOT_SAID, 403)
        visitor = _visitor(request)
        if (refusal := await self._entrance.ask(visitor)) is not None:
            return _with_wait(message(request, refusal.why, 429), refusal)
        try:
            subject = await self._provider.finish(secret, code, _callback(request))
        except oidc.ProviderError as error:
            await self._entrance.note("oidc", str(error), visitor)
            return message(request, _NOT_SAID, 403)
        found = await self._entrance.by_provider(self._provider.issuer, subject, visitor)
        if isinstance(found, Refusal):
            return message(request, found.why, 403)
        try:
            next_path = base64.urlsafe_b64decode(kept).decode()
        except ValueError:
            next_path = ""
        return _let_in(request, found, next_path)


def own_path(path: str | None) -> str:
    """
    Where to go on: a path of this site, or its first page where it is anything else.
    """
    # Browsers read a backslash as a slash, and leave out what is no character.
    return path if path and re.fullmatch(r"/(?!/)[!-\[\]-~]*", path) else "/"


def _let_in(request: Request, secret: str, next_path: str) -> Response:
    response = RedirectResponse(own_path(next_path), status_code=303)
    give_secret(request, response, secret)
    return response


def _with_wait(response: Response, refusal: Refusal) -> Response:
    if refusal.wait_s:
        response.headers["Retry-After"] = str(math.ceil(refusal.wait_s))
    return response


def _visitor(request: Request) -> Visitor:
    return Visitor(address_of(request), secret_of(request))


def _callback(request: Request) -> str:
    return own_origin(request) + _CALLBACK


def _cookie_of(request: Request) -> str:
    return "__Host-oidc" if is_safe(request) else "oidc"
