"""
What a client is told that did not get what it asked for: problem details as RFC 9457 has them.

They say all that the error says. Each kind of problem has a page, whose address is its type.
"""

from __future__ import annotations

import json
import math
import time
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, Response

from ocp_stripe_balance.errors import (
    AuthenticationError,
    ConfigurationError,
    IdempotencyConflictError,
    InvalidParametersError,
    NotSentError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PolicyRefusedError,
    RateLimitError,
    RejectedError,
    ResourceMissingError,
    ToolError,
)
from ocp_stripe_balance.serving.desk import RATE
from ocp_stripe_balance.serving.gate import CHALLENGE
from ocp_stripe_balance.web.api.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import URL

_AT_ONCE_S = 1
_BUSY_RULES = {RATE, "calls_per_minute"}


class RequestError(Exception):
    """
    A request that is none of a tool, and is answered at once.
    """

    def __init__(self, kind: str, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        """
        Say which problem it is; *detail* says what of this request.
        """
        super().__init__(detail)
        self.kind, self.detail, self.headers = kind, detail, headers


def as_json(
    facts: object, status: int = 200, headers: Mapping[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    """
    An answer in JSON, in ASCII: what Stripe or a model wrote may have half a surrogate pair, which UTF-8 cannot carry.
    """
    return Response(json.dumps(facts), status, headers, media_type)


def problem(
    base: URL | str,
    kind: str,
    detail: str = "",
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    **facts: Any,
) -> Response:
    """
    The answer of a kind of problem.

    Args:
        base: the address of this server, which has a page for each.
        kind: one of `KINDS`.
        detail: what happened to this request.
        status: where it is not that of the kind.
        headers: of the answer.
        **facts: what else there is to be said.
    """
    known = KINDS[kind]
    said = {"type": f"{base}problems/{kind}", "title": known.title, "status": status or known.status}
    more = {"detail": detail or known.text, "outcome": "not_sent", **facts}
    return as_json({**said, **more}, status or known.status, headers, "application/problem+json")


def refusal(base: URL | str, error: RequestError) -> Response:
    """
    The answer to a request that was refused.
    """
    headers = {"WWW-Authenticate": CHALLENGE} if error.kind == "unauthorized" else {}
    return problem(base, error.kind, error.detail, headers={**headers, **(error.headers or {})})


def failure(base: URL | str, error: ToolError) -> Response:
    """
    The answer to a call that did not succeed, with all that its error says.
    """
    told = error.to_dict()
    # These two are names of RFC 9457's own.
    stripes = {f"stripe_{name}": told.pop(name) for name in ("status", "type") if name in told}
    kind, status = _kind(error)
    wait_s = _wait_s(error)
    headers = {} if wait_s is None else {"Retry-After": str(wait_s)}
    return problem(base, kind, told.pop("message"), status=status, headers=headers, **told, **stripes)


def _kind(error: ToolError) -> tuple[str, int | None]:
    """
    Which problem an error is, and its status where that of the kind is another one.
    """
    if isinstance(error, OutcomeUnknownError):
        if error.is_under_way:
            return "under-way", None
        return "outcome-unknown", 504 if error.status is None else 502
    if isinstance(error, PolicyRefusedError) and error.rule in _BUSY_RULES:
        return "too-many-calls", None
    return next(kind for cls, kind in _KINDS_OF.items() if isinstance(error, cls)), None


_KINDS_OF: dict[type[ToolError], str] = {
    InvalidParametersError: "invalid-parameters",
    ConfigurationError: "configuration",
    PolicyRefusedError: "policy-refused",
    IdempotencyConflictError: "idempotency-conflict",
    NotSentError: "not-sent",
    AuthenticationError: "stripe-access",
    PermissionDeniedError: "stripe-access",
    ResourceMissingError: "resource-missing",
    RateLimitError: "too-many-calls",
    RejectedError: "rejected",
    ToolError: "server-fault",
}


def _wait_s(error: ToolError) -> int | None:
    """
    After how many seconds the same request may be sent again.
    """
    if error.after_seconds is not None:
        return math.ceil(error.after_seconds)
    free_at = getattr(error, "free_at", None)
    if free_at is not None:
        return max(math.ceil(datetime.fromisoformat(free_at).timestamp() - time.time()), 1)
    return _AT_ONCE_S if error.next == "call_again" and not isinstance(error, RejectedError) else None


def page(kind: str, status: int = 200) -> Response:
    """
    The page of a kind of problem.
    """
    known = KINDS[kind]
    inside = f"<p>{_words(known.text)}</p><p><a href='/problems'>All</a></p>"
    return _html(f"{known.title} ({known.status})", inside, status)


def contents() -> Response:
    """
    The page that leads to all others.
    """
    links = ((kind, f"{each.status} {each.title}") for kind, each in KINDS.items())
    lines = (f"<li><a href='/problems/{kind}'>{escape(words)}</a></li>" for kind, words in links)
    return _html("Problems", f"<ul>{''.join(lines)}</ul>")


def _html(title: str, inside: str, status: int = 200) -> Response:
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
    return HTMLResponse(
        f"{head}<meta name='viewport' content='width=device-width'><h1>{escape(title)}</h1>{inside}", status
    )


def _words(text: str) -> str:
    """
    The text as HTML, what stands between backticks as code.
    """
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
