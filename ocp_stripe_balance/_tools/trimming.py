"""
What the model may read of an answer: what the tool's response schema knows, at every depth.

An expanded customer comes with phone and addresses, and Stripe may add fields at any time; neither is for a model.
"""

from __future__ import annotations

from typing import Any

from ocp_stripe_balance._tools.manifest import load_manifest

_UNKNOWN = object()


def trimmed(tool_name: str, data: dict[str, Any]) -> dict[str, Any]:
    """
    An answer of that tool without what its response schema does not know; of a tool that is none of ours, nothing.
    """
    schema = next((tool.response_json_schema for tool in load_manifest().tools if tool.name == tool_name), {})
    known = _known(schema, data, schema.get("$defs", {}))
    return known if isinstance(known, dict) else {}


def _known(schema: dict[str, Any], value: Any, definitions: dict[str, Any]) -> Any:
    """
    What the schema knows of a value, or that it does not know it at all.
    """
    if not isinstance(value, dict | list):
        return value
    wanted = "object" if isinstance(value, dict) else "array"
    branches = [_resolved(branch, definitions) for branch in schema.get("anyOf", (schema,))]
    branch = next((each for each in branches if wanted in _types(each)), None)
    if branch is None:
        return _UNKNOWN
    if isinstance(value, list):
        items = [_known(branch.get("items", {}), item, definitions) for item in value]
        return [item for item in items if item is not _UNKNOWN]
    properties, others = branch.get("properties", {}), branch.get("additionalProperties")
    known = {
        name: _known(properties.get(name, others), item, definitions)
        for name, item in value.items()
        if name in properties or others
    }
    return {name: item for name, item in known.items() if item is not _UNKNOWN}


def _resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else types
