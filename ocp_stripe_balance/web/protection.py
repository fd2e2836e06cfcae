"""
What every request passes before anybody looks at it, and what every answer is sent with.

A browser can be made to send a request here under any name. So the Host and the Origin of a request must be names that
this server was given, and no answer may be framed, guessed at, kept, or run anything that does not come from here.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from ocp_stripe_balance._text.secrets import redact
from ocp_stripe_balance.serving.http import MAX_HEAD
from ocp_stripe_balance.web.api.kinds import KINDS
from ocp_stripe_balance.web.api.problems import page, problem

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1024 * 1024
_MAX_LIST = 16 * 1024 * 1024  # a spreadsheet of many entries
_MAX_FORM = 64 * 1024  # whoever asks may send one to the sign-in page, and reading it takes its time
_LISTS = "/console/bulk"
_FORMS = ("/console", "/sign-", "/oidc/")
_ANYWHERE = {"/health", "/ready"}  # which a balancer asks under an address of its own
_CONTENT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    b"content-security-policy": _CONTENT.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cache-control": b"no-store",
}
_KINDS = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
_log = logging.getLogger("ocp_stripe_balance")


class Protection:
    """
    Stands before all pages and endpoints.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        """
        Stand before *app*, on a server that has those names.
        """
        self._app, self._names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Refuse a request, or let it in.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_begun = False

        async def secured(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                said = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in _HEADERS.items() if each[0] not in said)]
            await send(message)

        why = self._refusal(scope)
        if why is not None:
            await _about(scope, *why)(scope, receive, secured)
            return
        try:
            await self._app(scope, _bounded(scope, receive), secured)
        except ClientDisconnect:  # before all of the request was there
            return
        except Exception:  # noqa: BLE001  its text may have anything in it
            _log.error("a request failed as it should not: %s", redact(traceback.format_exc()))
            if is_begun:
                raise ConnectionAbortedError from None
            await _about(scope, "server-fault")(scope, receive, secured)

    def _refusal(self, scope: Scope) -> tuple[str, int | None] | None:
        """
        The problem and the status with which a request is refused; None where it may come in.
        """
        headers = Headers(scope=scope)
        length = headers.get("content-length")
        is_twofold = length is not None and "transfer-encoding" in headers
        # No browser says how a form is written, and some ways take hours to read.
        if is_twofold or "charset" in headers.get("content-type", "").lower().partition("multipart/")[2]:
            return "malformed-request", None  # the first ends at one place for a proxy, and at another one here
        if length is not None and int(length) > _most(scope):
            return "too-large", None
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD:
            return "too-large", 431
        if scope["path"] in _ANYWHERE:
            return None
        if not self._is_ours(headers.get("host", "")):
            return "misdirected", None
        origin = headers.get("origin")
        return None if origin is None or self._is_ours(_netloc(origin)) else ("misdirected", 403)

    def _is_ours(self, netloc: str) -> bool:
        """
        Whether a name, with a port or without, is one of this server.
        """
        name, _, port = netloc.lower().rpartition(":")
        return netloc.lower() in self._names or (port.isdecimal() and name in self._names)


async def refused(request: Request, error: Exception) -> Response:
    """
    The answer where a page or an endpoint refuses a request, or there is none.
    """
    found = error if isinstance(error, HTTPException) else HTTPException(500)
    kind = _KINDS.get(found.status_code)
    if kind is None:
        return PlainTextResponse(found.detail, found.status_code, found.headers)
    return _about(request.scope, kind)


def _about(scope: Scope, kind: str, status: int | None = None) -> Response:
    """
    The answer of a kind of problem: a page for a browser, and JSON for everybody else.
    """
    request = Request(scope)
    if "text/html" in request.headers.get("accept", ""):
        return page(kind, status or KINDS[kind].status)
    # Of what a fault stopped, nobody knows how far it came.
    outcome = "unknown" if kind == "server-fault" and scope["method"] == "POST" else "not_sent"
    return problem(request.base_url, kind, status=status, outcome=outcome)


def _most(scope: Scope) -> int:
    path = scope["path"]
    return _MAX_LIST if path == _LISTS else _MAX_FORM if path.startswith(_FORMS) else MAX_BODY


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """
    What is received, up to a limit: a body that comes in chunks does not say how long it is.
    """
    length, most = 0, _most(scope)

    async def bounded() -> Any:
        nonlocal length
        message = await receive()
        length += len(message.get("body", b""))
        if length > most:
            raise HTTPException(413)
        return message

    return bounded
