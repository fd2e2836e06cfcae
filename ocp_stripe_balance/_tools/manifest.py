"""
The published tools, read from the data files: tool_manifest.json and schemas/.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._process.once import Once

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CHECKOUT = Path(__file__).parents[2]


def _read(name: str) -> Any:
    # A wheel carries the data inside the package, which may lie in a zip; a source checkout has it beside the package.
    inside = files("ocp_stripe_balance").joinpath(*name.split("/"))
    path = inside if inside.is_file() else _CHECKOUT / name
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """
    What a call of a tool does, and which of its parameters say to whom and how much.
    """

    kind: Literal["read", "entry", "update", "reversal"]
    """``entry`` moves money; ``update`` moves none; ``reversal`` makes the opposite of an entry that exists."""
    subject: str | None = None
    """The parameter that names the customer it is about, or None of a call about no one customer."""
    amount: str | None = None
    """The parameter with the amount in the currency's smallest unit."""
    currency: str | None = None
    """The parameter with the currency."""
    source: Literal["stripe", "journal"] = "stripe"
    """Where the answer comes from: what the journal answers is never sent anywhere."""


@dataclass(frozen=True, eq=False, kw_only=True)  # without slots, for what is worked out once
class ToolSpec:
    """
    One tool as OCP describes it (ocp-tool.json), with its two JSON Schema documents.
    """

    name: str
    description: str
    method: str
    path: str
    """Path template, such as ``/v1/customers/{customer}/balance_transactions``."""
    parameters: dict[str, dict[str, Any]]
    """Name to ``{type, required, location, description, schema, …}``; location is path, query, header or body."""
    response_schema: dict[str, Any]
    """The response in the catalogue's OpenAPI 3.0 dialect."""
    operation_id: str | None = None
    tags: tuple[str, ...] = ()

    @Once
    def short_name(self) -> str:
        """
        A name that leaves room for what hosts of MCP put before it, as ``list_balance_transactions``.
        """
        *_, noun, last = self.path.replace("}", "").split("/")
        is_item = last.startswith("{")
        noun = noun if is_item else last
        if self.reverses:
            verb = "reverse"
        elif self.method == "GET":
            verb = "get" if is_item else "list"
        else:
            verb = "update" if is_item else "create"
        return f"{verb}_{noun if verb == 'list' else noun.removesuffix('s')}"

    @property
    def names(self) -> tuple[str, str]:
        """
        What it may be called by.
        """
        return self.name, self.short_name

    @Once
    def effect(self) -> Effect:
        """
        What a call of it does, and to whom: ``x-effect`` in its parameters' document.
        """
        return Effect(**self.parameters_json_schema["x-effect"])

    @property
    def reads(self) -> bool:
        """
        Whether it changes nothing.
        """
        return self.effect.kind == "read"

    @property
    def moves_money(self) -> bool:
        """
        Whether it makes an entry of an amount that the call names.
        """
        return self.effect.kind == "entry"

    @property
    def reverses(self) -> bool:
        """
        Whether it makes the opposite of an entry that it names.
        """
        return self.effect.kind == "reversal"

    def money_of(self, arguments: Mapping[str, Any]) -> Money | None:
        """
        What a call with these valid parameters moves.
        """
        effect = self.effect
        if effect.kind != "entry" or effect.amount is None or effect.currency is None:
            return None
        return Money(int(arguments[effect.amount]), arguments[effect.currency].lower())

    def customer_of(self, arguments: Mapping[str, Any]) -> str | None:
        """
        The customer that a call with these parameters is about, where it names one.
        """
        subject = self.effect.subject
        return None if subject is None else arguments.get(subject)

    @Once
    def stated_parameter(self) -> str | None:
        """
        The name of the parameter that states the effect in words, in a tool that has one.
        """
        properties = self.parameters_json_schema["properties"]
        return next((name for name, spec in properties.items() if spec.get("format") == "stated-effect"), None)

    @Once
    def page_size(self) -> int | None:
        """
        How many items Stripe gives at once, of a tool that lists; None of every other.
        """
        size: int | None = self.parameters.get("limit", {}).get("schema", {}).get("x-page-size")
        return size

    @Once
    def parameters_json_schema(self) -> dict[str, Any]:
        """
        The JSON Schema 2020-12 document every call is validated against.
        """
        return _schema_file(f"{self.name}.parameters.json")

    @Once
    def response_json_schema(self) -> dict[str, Any]:
        """
        The response schema as JSON Schema 2020-12, references resolved in ``$defs``.
        """
        return _schema_file(f"{self.name}.response.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """
    One catalogue entry: an API and its tools.
    """

    name: str
    display_name: str
    description: str
    base_url: str
    version: str
    """Stripe API version the tools were written for."""
    tools: tuple[ToolSpec, ...]


def tool_at(tools: Iterable[ToolSpec], method: str, path: str) -> ToolSpec:
    """
    The tool for an operation of Stripe's.
    """
    return next(tool for tool in tools if (tool.method, tool.path) == (method, path) and not tool.reverses)


def tool_named(tools: Iterable[ToolSpec], name: str) -> ToolSpec:
    """
    The tool of that name, of which there is one.
    """
    return next(tool for tool in tools if tool.name == name)


@cache
def _schema_file(name: str) -> dict[str, Any]:
    document: dict[str, Any] = _read(f"schemas/{name}")
    return document


@cache
def load_manifest() -> Manifest:
    """
    The catalogue entry this package publishes.
    """
    entry = _read("tool_manifest.json")
    tools = tuple(
        ToolSpec(
            name=tool["name"],
            description=tool["description"],
            method=tool["method"],
            path=tool["path"],
            parameters=tool["parameters"],
            response_schema=tool["response_schema"],
            operation_id=tool["operation_id"],
            tags=tuple(tool["tags"]),
        )
        for tool in entry["tools"]
    )
    facts = {name: entry[name] for name in ("name", "display_name", "description", "base_url", "version")}
    return Manifest(tools=tools, **facts)
