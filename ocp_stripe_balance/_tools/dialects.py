"""
The parameters of a tool in the dialects of JSON Schema that models are given, and the models' arguments back.

A model is told what it chooses by: types, choices and descriptions. Which characters and lengths there may be is
checked when the tool is called, and a refusal says how to mend it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._tools.validation import KEY_PARAMETER
from ocp_stripe_balance.errors import InvalidParametersError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ocp_stripe_balance._tools.manifest import ToolSpec

    Schema = dict[str, Any]

# The host names the call. A model that made up keys would make up a new one to try again, and pay twice.
_KEY_DESCRIPTION = (
    "Leave this out, but to repeat a call whose outcome was unknown or that waited for approval: then pass the "
    "idempotency_key that the answer named."
)
_PAIR_HINT = "pass a list of objects, each with a key and a value, each key once"
_TEXT = {"type": "string"}
_RULES = ("type", "enum", "minimum", "maximum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    What a provider takes of JSON Schema.
    """

    is_closed: bool
    """Whether each object must say that it has no other properties."""
    is_all_required: bool
    """Whether each property must be required; one that may be left out is null instead."""
    has_unions: bool
    """Whether it takes anyOf."""
    has_maps: bool
    """Whether it takes objects of names that nobody knows before."""


STANDARD = Dialect(is_closed=True, is_all_required=False, has_unions=True, has_maps=True)
# https://platform.openai.com/docs/guides/structured-outputs ("Supported schemas")
OPENAI_STRICT = Dialect(is_closed=True, is_all_required=True, has_unions=True, has_maps=False)
# https://ai.google.dev/api/caching#Schema
GEMINI = Dialect(is_closed=False, is_all_required=False, has_unions=False, has_maps=False)


def rendered(tool: ToolSpec, dialect: Dialect) -> Schema:
    """
    The parameters in a dialect.
    """
    schema, properties = tool.parameters_json_schema, {}
    for name, spec in schema["properties"].items():
        said = _say(spec, dialect)
        if dialect.is_all_required and name not in schema["required"]:
            said = _or_null(said)
        properties[name] = {**said, "description": _KEY_DESCRIPTION if name == KEY_PARAMETER else spec["description"]}
    said = _object(properties, schema["required"], dialect)
    return {"description": "null stands for left out.", **said} if dialect.is_all_required else said


def arguments_of(tool: ToolSpec, said: Mapping[str, Any]) -> dict[str, Any]:
    """
    The parameters that a model means with arguments in a dialect: lists of pairs become objects, inner nulls go.

    Raises:
        InvalidParametersError: a list of pairs is none.
    """
    properties = tool.parameters_json_schema["properties"]
    arguments, problems = dict(said), []
    for name, value in said.items():
        spec = properties.get(name, {})
        if _is_map(spec) and isinstance(value, list):
            arguments[name], wrong = _mapping(name, value)
            problems += wrong
        elif isinstance(value, dict) and not _is_map(spec):
            arguments[name] = {key: item for key, item in value.items() if item is not None}
    if problems:
        raise InvalidParametersError(problems, tool=tool.name)
    return arguments


def reworded(tool: ToolSpec, error: InvalidParametersError) -> InvalidParametersError:
    """
    The refusal for a model that was told of pairs where the schema has an object.
    """
    maps = {name: spec for name, spec in tool.parameters_json_schema["properties"].items() if _is_map(spec)}
    problems = [
        replace(problem, hint=_pair_hint(maps[name]))
        if (name := re.split(r"[.\[]", problem.path)[0]) in maps
        else problem
        for problem in error.problems
    ]
    return InvalidParametersError(problems, tool=error.tool, idempotency_key=error.idempotency_key)


def _pair_hint(spec: Schema) -> str:
    return f"{_PAIR_HINT}: {spec['x-hint'].rpartition(': ')[2]}"


def _say(spec: Schema, dialect: Dialect) -> Schema:
    if "anyOf" in spec:
        return _say_union(spec["anyOf"], dialect)
    if _is_map(spec):
        return {"type": "object", "additionalProperties": _TEXT} if dialect.has_maps else _pairs(dialect)
    said = {key: spec[key] for key in _RULES if key in spec}
    if spec["type"] == "array":
        said["items"] = _say(spec["items"], dialect)
    if spec["type"] == "object":
        parts = {name: _say(part, dialect) for name, part in spec["properties"].items()}
        properties = {name: _or_null(part) if dialect.is_all_required else part for name, part in parts.items()}
        said |= _object(properties, spec.get("required", []), dialect)
    return said


def _say_union(branches: Sequence[Schema], dialect: Dialect) -> Schema:
    """
    Alternatives: without those of one fixed text, and where the dialect has no unions, the richest alone.
    """
    typed = [branch for branch in branches if "type" in branch]
    if not dialect.has_unions:
        typed = [branch for branch in typed if branch["type"] == "object"] or typed[:1]
    said = [_say(branch, dialect) for branch in typed]
    return said[0] if len(said) == 1 else {"anyOf": said}


def _object(properties: Schema, required: Sequence[str], dialect: Dialect) -> Schema:
    named = list(properties) if dialect.is_all_required else list(required)
    said: Schema = {"type": "object", "properties": properties, "required": named}
    return {**said, "additionalProperties": False} if dialect.is_closed else said


def _or_null(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    nullable = {**schema, "type": [schema["type"], "null"]}
    return {**nullable, "enum": [*schema["enum"], None]} if "enum" in schema else nullable


def _is_map(spec: Schema) -> bool:
    """
    Whether it is an object of names that nobody knows before, which strict dialects do not have.
    """
    return isinstance(spec.get("additionalProperties"), dict) or any(_is_map(part) for part in spec.get("anyOf", ()))


def _pairs(dialect: Dialect) -> Schema:
    return {"type": "array", "items": _object({"key": _TEXT, "value": _TEXT}, ["key", "value"], dialect)}


def _mapping(name: str, pairs: Sequence[Any]) -> tuple[dict[str, Any], list[Problem]]:
    mapping: dict[str, Any] = {}
    problems = []
    for index, pair in enumerate(pairs):
        path = f"{name}[{index}]"
        if not isinstance(pair, dict) or set(pair) != {"key", "value"} or not isinstance(pair["key"], str):
            problems.append(Problem(path=path, message="is not a key and a value", hint=_PAIR_HINT))
        elif pair["key"] in mapping:
            problems.append(Problem(path=path, message="has a key that was given before", hint=_PAIR_HINT))
        else:
            mapping[pair["key"]] = pair["value"]
    return mapping, problems[:20]
