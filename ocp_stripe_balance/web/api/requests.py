"""
What a request says: its parameters as one JSON object, its idempotency key, and how long it wants to wait.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._text.parsing import parsed
from ocp_stripe_balance._text.plain import clip, escaped
from ocp_stripe_balance.web.api.problems import RequestError

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_WAIT_S = 60
_JSON = re.compile(r'application/json(?:\s*;\s*charset="?utf-?8"?)?\s*', re.IGNORECASE)
# A string as structured fields have it (RFC 9651); what stands behind it are its parameters.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"\s*(?:;.*)?')
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,6})"?\s*(?=$|[,;])', re.IGNORECASE)
# The second is the parameter as the OCP JavaScript agent sends it.
_KEY_HEADERS = ("idempotency-key", "idempotency_key")


async def parameters_of(request: Request) -> dict[str, Any]:
    """
    The parameters of a call; none where there is no body.

    Raises:
        RequestError: the body is not one JSON object, or there are parameters elsewhere.
    """
    if request.scope["query_string"]:
        raise RequestError("malformed-request", "Parameters stand in the body, and none in the address.")
    body = await request.body()
    kind, coding = one_header(request, "content-type"), one_header(request, "content-encoding")
    if coding is not None or not (_JSON.fullmatch(kind) if kind else not body):
        raise RequestError("unsupported-media-type", headers={"Accept": "application/json"})
    if not body:
        return {}
    try:
        value = parsed(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise RequestError("malformed-request", "The body is not UTF-8.") from None
    except RecursionError:
        raise RequestError("malformed-request", "The body is nested too deep.") from None
    except ValueError as error:
        raise RequestError("malformed-request", f"The body is not JSON: {clip(escaped(str(error)), 200)}.") from None
    if not isinstance(value, dict):
        raise RequestError("malformed-request", "The body is not one JSON object with the parameters by name.")
    return value


def key_of(request: Request) -> str | None:
    """
    The idempotency key in the headers, with quotes around it or without; None where there is none.

    Raises:
        RequestError: there are two, or its quotes are not closed.
    """
    said = [one_header(request, name) for name in _KEY_HEADERS]
    keys = {_unquoted(each) for each in said if each is not None}
    if len(keys) > 1:
        raise RequestError("malformed-request", "There are two idempotency keys.")
    return next(iter(keys), None)


def wait_of(request: Request) -> int:
    """
    How many seconds the client wants to wait (RFC 7240), up to a limit.
    """
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return min(int(found[1]), MAX_WAIT_S) if found else 0


def one_header(request: Request, name: str) -> str | None:
    """
    The value of a header that may be there once.

    Raises:
        RequestError: it is there twice: nobody knows which a proxy took.
    """
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise RequestError("malformed-request", f"The header {name} is there twice.")
    return values[0] if values else None


def _unquoted(said: str) -> str:
    if not said.startswith('"'):
        return said
    found = _QUOTED.fullmatch(said)
    if found is None:
        raise RequestError(
            "malformed-request", "The header Idempotency-Key begins with a quote, and is no such string."
        )
    return re.sub(r"\\(.)", r"\1", found[1])
