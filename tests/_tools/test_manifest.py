"""
What is published is what is on disk, and the two views of each tool are one truth.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ocp_stripe_balance._tools.manifest import ToolSpec, load_manifest

ROOT = Path(__file__).parents[2]
TOOLS = {tool.name: tool for tool in load_manifest().tools}
ENTRY: dict[str, Any] = json.loads((ROOT / "tool_manifest.json").read_text("utf-8"))

# The form of one tool in an OCP catalogue: fields, their types, and that there are no others.
_TEXT = {"type": "string"}
_TYPES = ["string", "number", "integer", "boolean", "array", "object"]
OCP_TOOL = {
    "type": "object",
    "required": ["name", "description", "method", "path", "parameters", "response_schema"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z][a-zA-Z0-9]*$"},
        "description": _TEXT,
        "method": {"enum": ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]},
        "path": {"type": "string", "pattern": "^/"},
        "operation_id": {"type": ["string", "null"]},
        "parameters": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-zA-Z][a-zA-Z0-9_]*$"},
            "additionalProperties": {
                "type": "object",
                "required": ["type", "required", "location"],
                "additionalProperties": False,
                "properties": {
                    "type": {"enum": _TYPES},
                    "required": {"type": "boolean"},
                    "location": {"enum": ["path", "query", "header", "body"]},
                    "schema": {"type": "object"},
                    "description": _TEXT,
                    "default": {},
                    "enum": {"type": "array"},
                    "format": _TEXT,
                    "items": {"type": "object"},
                    "properties": {"type": "object"},
                    "minimum": {"type": "number"},
                    "maximum": {"type": "number"},
                    "minLength": {"type": "integer"},
                    "maxLength": {"type": "integer"},
                    "pattern": _TEXT,
                },
            },
        },
        "response_schema": {"type": "object"},
        "tags": {"type": ["array", "null"], "items": _TEXT, "uniqueItems": True},
        "security": {"type": "array", "items": {"type": "object"}},
        "servers": {"type": "array", "items": {"type": "object", "required": ["url"]}},
        "deprecated": {"type": "boolean"},
    },
}
ENTRY_OBJECT = {
    **TOOLS["postCustomersCustomerBalanceTransactions"].response_json_schema["properties"]["object"],
}
CUSTOMER_OBJECT = {**TOOLS["getCustomersCustomer"].response_json_schema["properties"]["object"]}
# What an OCP parameter says outside its schema; the rest is in the schema alone.
LIFTED = ("default", "enum", "format", "items", "properties", "minimum", "maximum", "minLength", "maxLength", "pattern")


@pytest.mark.parametrize("tool", ENTRY["tools"], ids=lambda tool: str(tool["name"]))
def test_manifest_is_an_ocp_catalogue(tool: dict[str, Any]) -> None:
    """Fields of an OCP tool, and of a registry entry around it."""
    assert {"name", "display_name", "description", "base_url", "version", "tools"} == set(ENTRY)
    jsonschema.Draft7Validator(OCP_TOOL).validate(tool)


def derive_parameters(document: dict[str, Any], locations: dict[str, str]) -> dict[str, Any]:
    """
    The OCP parameters that a JSON Schema document stands for.
    """
    derived = {}
    for name, schema in document["properties"].items():
        rest = {key: value for key, value in schema.items() if key != "description"}
        derived[name] = {
            "type": schema.get("type", "object"),
            "required": name in document["required"],
            "location": locations[name],
            "description": schema["description"],
            "schema": rest,
            **{key: schema[key] for key in LIFTED if key in schema},
        }
    return derived


@pytest.mark.parametrize("tool", TOOLS.values(), ids=list(TOOLS))
def test_parameters_are_two_views_of_one_truth(tool: ToolSpec) -> None:
    """The manifest's parameters are what the JSON Schema document gives; only the place on the wire is its own."""
    document = tool.parameters_json_schema
    jsonschema.Draft202012Validator.check_schema(document)
    locations = {name: spec["location"] for name, spec in tool.parameters.items()}
    assert derive_parameters(document, locations) == tool.parameters
    assert document["additionalProperties"] is False
    assert document["description"] == tool.description
    in_path = {name for name, location in locations.items() if location == "path"}
    assert in_path == set(re.findall(r"\{(\w+)\}", tool.path))


def to_json_schema(dialect: Any) -> Any:
    """
    JSON Schema 2020-12 for a schema in the OpenAPI 3.0 dialect.
    """
    if isinstance(dialect, list):
        return [to_json_schema(item) for item in dialect]
    if not isinstance(dialect, dict):
        return dialect
    schema: dict[str, Any] = {
        key: {name: to_json_schema(item) for name, item in value.items()}
        if key == "properties"
        else to_json_schema(value)
        for key, value in dialect.items()
        if key != "nullable" and not key.startswith("x-")
    }
    if "$ref" in schema:
        schema["$ref"] = schema["$ref"].replace("#/components/schemas/", "#/$defs/")
    if dialect.get("nullable"):
        if "anyOf" in schema:
            schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
        else:
            schema["type"] = [schema["type"], "null"]
    return schema


@pytest.mark.parametrize("tool", TOOLS.values(), ids=list(TOOLS))
def test_responses_are_two_views_of_one_truth(tool: ToolSpec) -> None:
    """The JSON Schema is the catalogue's response schema in today's dialect, its references resolved."""
    document = dict(tool.response_json_schema)
    jsonschema.Draft202012Validator.check_schema(document)
    definitions = document.pop("$defs", {})
    assert "https://json-schema.org/draft/2020-12/schema" == document.pop("$schema")
    assert to_json_schema(tool.response_schema) == document
    named: set[str] = set()
    found = {name for name in definitions if f'"#/$defs/{name}"' in json.dumps(document)}
    while found - named:
        named |= found
        found = {name for name in definitions for by in named if f'"#/$defs/{name}"' in json.dumps(definitions[by])}
    assert named == set(definitions)
    for name, definition in definitions.items():
        assert {"id", "object"} <= set(definition["required"])
        assert definition["properties"]["object"] in ({"const": name}, ENTRY_OBJECT, CUSTOMER_OBJECT)
        assert definition.get("additionalProperties", True) is True


def test_create_tool_has_all_parameters() -> None:
    """The complete tool, with each parameter's place on the wire."""
    tool = TOOLS["postCustomersCustomerBalanceTransactions"]
    assert {
        "customer": ("path", "string", True),
        "amount": ("body", "integer", True),
        "currency": ("body", "string", True),
        "description": ("body", "string", False),
        "metadata": ("body", "object", False),
        "expand": ("body", "array", False),
        "reference": ("body", "string", False),
        "stated_effect": ("body", "string", False),
        "idempotency_key": ("header", "string", False),
    } == {name: (spec["location"], spec["type"], spec["required"]) for name, spec in tool.parameters.items()}
    assert "PostCustomersCustomerBalanceTransactions" == tool.operation_id


def test_create_response_is_the_catalogues() -> None:
    """The fields that tell a balance transaction from anything else, as the catalogue lists them."""
    schema = TOOLS["postCustomersCustomerBalanceTransactions"].response_schema
    required = ["amount", "created", "currency", "customer", "ending_balance", "id", "livemode", "object", "type"]
    assert required == schema["required"]
    assert 15 == len(schema["properties"])
    assert 12 == len(schema["properties"]["type"]["enum"])
    assert ["checkout_session", "credit_note", "customer", "invoice"] == schema["x-expandableFields"]
    assert {"$ref": "#/components/schemas/customer"} == schema["properties"]["customer"]["anyOf"][1]


def test_every_schema_file_belongs_to_a_tool() -> None:
    """One pair per tool, and nothing else."""
    expected = {f"{name}.{kind}.json" for name in TOOLS for kind in ("parameters", "response")}
    assert expected == {path.name for path in (ROOT / "schemas").iterdir()}


def test_published_files_are_those_on_disk() -> None:
    """The installed package carries the repository's data, unchanged."""
    package = Path(str(files("ocp_stripe_balance")))
    if not (package / "tool_manifest.json").exists():  # an editable install reads the repository itself
        package = package.parent
    for name in ("tool_manifest.json", *(f"schemas/{path.name}" for path in (ROOT / "schemas").iterdir())):
        assert (ROOT / name).read_bytes() == (package / name).read_bytes()


@pytest.mark.parametrize("tool", TOOLS.values(), ids=list(TOOLS))
def test_every_parameter_explains_itself(tool: ToolSpec) -> None:
    """A model reads the description, a refusal quotes the hint, and the example is valid."""
    document = tool.parameters_json_schema
    for name, schema in document["properties"].items():
        assert schema["description"].endswith(".")
        assert schema["x-hint"].startswith("pass ")
        for example in schema["examples"]:
            jsonschema.Draft202012Validator(schema).validate(example)
        assert name in tool.parameters
