"""
A tool and its validated parameters become an HTTP request. Pure: no clock, no network, no settings.

Stripe takes bodies as application/x-www-form-urlencoded with nested names in brackets:
https://docs.stripe.com/api (v1 does not take JSON).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import SecretStr

    from ocp_stripe_balance._manifest import ToolSpec

_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """
    What goes over the wire.
    """

    method: str
    url: str
    body: bytes
    headers: dict[str, str]
    """All but Authorization."""
    template: str = ""
    """Of the path, such as ``/v1/customers/{customer}``; told in place of the path where IDs are not."""
    customer: str | None = None
    """Whose turn it is when requests wait."""
    api_key: SecretStr | None = None
    """Becomes the Authorization header at the last moment, so that no traceback shows it."""

    def all_headers(self) -> dict[str, str]:
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
        return f"<WireRequest {self.method} {self.url}>"


def build_request(
    tool: ToolSpec,
    parameters: Mapping[str, Any],
    *,
    base_url: str,
    headers: Mapping[str, str],
    api_key: SecretStr | None = None,
) -> WireRequest:
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
    parts: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}, "body": {}}
    members: list[tuple[str, str, Any]] = []
    for name, value in parameters.items():
        spec = tool.parameters[name]
        if spec["schema"].get("x-sent-as") == "nothing":
            continue
        sent_as = re.fullmatch(r"(\w+)\[(\w+)\]", spec["schema"].get("x-sent-as", ""))
        if sent_as:
            members.append((sent_as[1], sent_as[2], value))
        else:
            parts[spec["location"]][name] = value.lower() if spec.get("format") == "currency" else value
    for name, key, value in members:
        parts["body"][name] = {**(parts["body"].get(name) or {}), key: value}

    url = base_url + tool.path
    for name, value in parts["path"].items():
        url = url.replace(f"{{{name}}}", _segment(value))
    if parts["query"]:
        url += "?" + encode_form(parts["query"]).decode()
    sent = {**headers, **encode_headers(tool, parts["header"])}
    body = encode_form(parts["body"])
    return WireRequest(
        method=tool.method,
        url=url,
        body=body,
        headers=sent,
        template=tool.path,
        customer=parts["path"].get("customer"),
        api_key=api_key,
    )


def encode_headers(tool: ToolSpec, parameters: Mapping[str, Any]) -> dict[str, str]:
    """
    The headers that stand for parameters, ``idempotency_key`` as Idempotency-Key, and the body's type.
    """
    headers = {name.replace("_", "-").title(): str(value) for name, value in parameters.items()}
    return {**headers, "Content-Type": _FORM} if tool.method == "POST" else headers


def encode_form(parameters: Mapping[str, Any]) -> bytes:
    """
    The parameters as Stripe reads forms: ``metadata[key]=v``, ``expand[0]=v``, an empty object as ``metadata=``.
    """
    pairs = [pair for name, value in parameters.items() for pair in _pairs(name, value)]
    return urlencode(pairs).encode("ascii")


def _pairs(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if not value:
            yield name, ""
        for key, item in value.items():
            yield from _pairs(f"{name}[{key}]", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _pairs(f"{name}[{index}]", item)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    elif isinstance(value, float) and value.is_integer():
        yield name, str(int(value))  # JSON Schema counts -500.0 as an integer; Stripe does not
    else:
        yield name, str(value)


def _segment(value: str) -> str:
    segment = quote(value, safe="")
    if segment in {"", ".", ".."}:
        message = f"{value!r} cannot be a path segment"
        raise ValueError(message)
    return segment
