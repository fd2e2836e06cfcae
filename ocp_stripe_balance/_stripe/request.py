"""
A tool and its validated parameters become an HTTP request. Pure: no clock, no network, no settings.

Stripe takes bodies as application/x-www-form-urlencoded with nested names in brackets:
https://docs.stripe.com/api (v1 does not take JSON).
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

    from ocp_stripe_balance._stripe.evidence import Expected
    from ocp_stripe_balance._tools.manifest import ToolSpec

FORM = "application/x-www-form-urlencoded"
_needs_only_plus = re.compile(r"[\w.~ -]*", re.ASCII).fullmatch
_needs_no_quoting = re.compile(r"[\w.~-]*", re.ASCII).fullmatch


class Request(NamedTuple):
    """
    What goes over the wire.
    """

    method: str
    url: str
    body: bytes
    headers: Mapping[str, str]
    """All but Authorization."""
    template: str = ""
    """Of the path, such as ``/v1/customers/{customer}``; told in place of the path where IDs are not."""
    customer: str | None = None
    """Whose turn it is when requests wait."""
    api_key: SecretStr | None = None
    """Becomes the Authorization header at the last moment, so that no traceback shows it."""
    expected: Expected | None = None
    """What a 2xx must say to be believed; None where any is."""

    @property
    def origin(self) -> str:
        """
        Scheme, host and port.
        """
        path = self.url.find("/", self.url.find("://") + 3)
        return self.url if path < 0 else self.url[:path]

    def all_headers(self) -> Mapping[str, str]:
        """
        The headers with Authorization.
        """
        if self.api_key is None:
            return self.headers
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}", **self.headers}

    def __repr__(self) -> str:
        """
        Method and URL only.
        """
        return f"<Request {self.method} {self.url}>"


def build_request(
    tool: ToolSpec,
    parameters: Mapping[str, Any],
    *,
    base_url: str,
    headers: Mapping[str, str],
    api_key: SecretStr | None = None,
) -> Request:
    """
    The request the tool's template makes of parameters that passed its schema.

    Args:
        tool: where each parameter goes.
        parameters: plain JSON values.
        base_url: scheme, host and an optional path, without a slash at its end.
        headers: sent as they are, with the parameters whose location is header.
        api_key: becomes the Authorization header.

    Raises:
        ValueError: a path parameter would not stay one segment of the path. The schema refuses these first.
    """
    target, body, named = encode(tool, parameters)
    return Request(
        method=tool.method,
        url=base_url + target,
        body=body,
        headers={**headers, **encode_headers(tool, named)},
        template=tool.path,
        customer=parameters.get("customer") if "{customer}" in tool.path else None,
        api_key=api_key,
    )


def encode(tool: ToolSpec, parameters: Mapping[str, Any]) -> tuple[str, bytes, dict[str, Any]]:
    """
    The path with its query, the body, and the parameters that are headers.

    Raises:
        ValueError: as of `build_request`.
    """
    target = tool.path
    query: dict[str, Any] = {}
    header: dict[str, Any] = {}
    body: dict[str, Any] = {}
    parts = {"query": query, "header": header, "body": body}
    given = _with_members(tool, parameters)
    for name, location, is_currency in _places(tool):
        if name not in given:
            continue
        value = given[name]
        if location == "path":
            target = target.replace(f"{{{name}}}", _segment(value))
        else:
            parts[location][name] = value.lower() if is_currency else value
    if query:
        target += f"?{encode_form(query).decode()}"
    return target, encode_form(body), header


class _Place(NamedTuple):
    """
    Where a parameter goes.
    """

    name: str
    location: str
    is_currency: bool


@cache
def _places(tool: ToolSpec) -> tuple[_Place, ...]:
    """
    Those of a tool's parameters that are sent under their own name.
    """
    return tuple(
        _Place(name, spec["location"], spec.get("format") == "currency")
        for name, spec in tool.parameters.items()
        if "x-sent-as" not in spec["schema"]
    )


@cache
def _members(tool: ToolSpec) -> dict[str, tuple[str, str]]:
    """
    Those that are sent as a member of another: ``reference`` as ``metadata[ocp_reference]``.
    """
    sent_as = {name: spec["schema"].get("x-sent-as", "") for name, spec in tool.parameters.items()}
    found = {name: re.fullmatch(r"(\w+)\[(\w+)\]", place) for name, place in sent_as.items()}
    return {name: (match[1], match[2]) for name, match in found.items() if match}


def _with_members(tool: ToolSpec, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    joined: dict[str, Any] | None = None
    for name, (parent, key) in _members(tool).items():
        if name in parameters:
            joined = dict(parameters) if joined is None else joined
            joined[parent] = {**(joined.get(parent) or {}), key: parameters[name]}
    return parameters if joined is None else joined


def encode_headers(tool: ToolSpec, parameters: Mapping[str, Any]) -> dict[str, str]:
    """
    The headers that stand for parameters, ``idempotency_key`` as Idempotency-Key, and the body's type.
    """
    headers = {name.replace("_", "-").title(): str(value) for name, value in parameters.items()}
    return {**headers, "Content-Type": FORM} if tool.method == "POST" else headers


def encode_form(parameters: Mapping[str, Any]) -> bytes:
    """
    The parameters as Stripe reads forms: ``metadata[key]=v``, ``expand[0]=v``, an empty object as ``metadata=``.
    """
    pairs: list[str] = []
    for name, value in parameters.items():
        _add_pairs(pairs, name, value)
    return "&".join(pairs).encode("ascii")


def _add_pairs(pairs: list[str], name: str, value: Any) -> None:
    if type(value) is str:
        text = value.replace(" ", "+") if _needs_only_plus(value) else quote_plus(value)
        pairs.append(f"{_quoted_name(name)}={text}")
    elif isinstance(value, dict):
        if not value:
            pairs.append(f"{_quoted_name(name)}=")
        for key, item in value.items():
            _add_pairs(pairs, f"{name}[{key}]", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _add_pairs(pairs, f"{name}[{index}]", item)
    else:
        pairs.append(f"{_quoted_name(name)}={_plain_text(value)}")


def _plain_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # JSON Schema counts -500.0 as an integer; Stripe does not
    return str(value)


@lru_cache(maxsize=1024)  # the same few names, but for metadata
def _quoted_name(name: str) -> str:
    return quote_plus(name)


def _segment(value: str) -> str:
    segment = value if _needs_no_quoting(value) else quote(value, safe="")
    if segment in {"", ".", ".."}:
        message = f"{value!r} cannot be a path segment"
        raise ValueError(message)
    return segment
