"""
What there is to call, for programs: the catalogue entry of OCP, and OpenAPI 3.1, both made of manifest and schemas.

A tool is called by its name, with all parameters in the body: nothing that a model writes stands in a path or a query,
where clients escape it each in their own way, or not at all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance._tools.validation import KEY_PARAMETER
from ocp_stripe_balance.web.api.kinds import KINDS
from ocp_stripe_balance.web.api.requests import MAX_WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocp_stripe_balance._tools.manifest import ToolSpec

_ENTRY = {
    "id": "cbtxn_1MrU9qLkdIwHu7ixhdjxGBgI",
    "object": "customer_balance_transaction",
    "amount": -500,
    "checkout_session": None,
    "created": 1764432000,
    "credit_note": None,
    "currency": "usd",
    "customer": "cus_NcjdgdwZyI9Rj7",
    "description": None,
    "ending_balance": -500,
    "invoice": None,
    "livemode": False,
    "metadata": {"ocp_reference": "ticket-812"},
    "type": "adjustment",
}
_RESULT = {
    "outcome": "succeeded",
    "summary": "cus_NcjdgdwZyI9Rj7 was credited 5.00 usd, and now is in credit 5.00 usd",
    "data": _ENTRY,
    "idempotency_key": "ticket-812",
    "request_id": "req_8Xk2aB",
    "attempts": 1,
    "replayed": False,
    "warnings": [],
}
_SAID = {
    "outcome": {"const": "succeeded"},
    "summary": {"type": "string", "description": "What happened, in a sentence."},
    "idempotency_key": {"type": "string", "description": "The same again returns the same result."},
    "request_id": {"type": ["string", "null"], "description": "Stripe's."},
    "attempts": {"type": "integer"},
    "replayed": {"type": "boolean", "description": "Whether this is the result of an earlier request."},
    "warnings": {"type": "array", "items": {"type": "string"}},
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "outcome"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "A page about this kind of problem."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "outcome": {
            "enum": ["not_sent", "rejected", "unknown"],
            "description": "Nothing moved, or, where it is unknown, money may have moved.",
        },
        "error": {"type": "string", "description": "The kind of error in one word."},
        "next": {
            "enum": ["mend_and_call_again", "call_again", "call_again_once_approved", "wait_until", "stop_and_tell"]
        },
        "hint": {"type": "string"},
        "idempotency_key": {"type": "string", "description": "To send the same request again with."},
        "rule": {"type": "string", "description": "The rule of the policy."},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "message", "hint"],
                "properties": {name: {"type": "string"} for name in ("path", "message", "hint")},
            },
        },
    },
}
_WAITING = {
    "type": "object",
    "required": ["outcome", "proposal_id", "expires_at", "idempotency_key", "next"],
    "properties": {
        "outcome": {"const": "not_sent"},
        "message": {"type": "string"},
        "proposal_id": {"type": "string"},
        "expires_at": {"type": "string", "format": "date-time"},
        "idempotency_key": {"type": "string"},
        "next": {"const": "call_again_once_approved"},
    },
}
_PROPOSAL = {
    "type": "object",
    "required": ["id", "state", "next", "tool", "idempotency_key", "effect", "expires_at"],
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["waiting", "approved", "denied", "expired", "used"]},
        "next": {"enum": ["call_again_once_approved", "call_again", "stop_and_tell"]},
        "tool": {"type": "string"},
        "idempotency_key": {"type": "string", "description": "To make the call with, once it is approved."},
        "effect": {"type": "string"},
        "why": {"type": "string"},
        "expires_at": {"type": "string", "format": "date-time"},
        "reason": {"type": ["string", "null"], "description": "Of the person who decided."},
    },
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The name of this one decision, your own. The same request under it moves money once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "example": '"ticket-812"',
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": f"wait=N: how many seconds to wait for a person's decision, {MAX_WAIT_S} at most.",
    "schema": {"type": "string"},
    "example": "wait=30",
}


def summary() -> dict[str, Any]:
    """
    The one API there is, as a registry lists it.
    """
    manifest = load_manifest()
    return {
        "name": manifest.name,
        "display_name": manifest.display_name,
        "description": manifest.description,
        "version": manifest.version,
    }


def catalogue(tools: Iterable[ToolSpec], base_url: str) -> dict[str, Any]:
    """
    The entry of OCP's catalogue, its tools where they are called here.
    """
    return {**summary(), "base_url": base_url, "tools": [definition(tool) for tool in tools]}


def definition(tool: ToolSpec) -> dict[str, Any]:
    """
    A tool as OCP describes it (ocp-tool.json).
    """
    return {
        "name": tool.name,
        "description": tool.description,
        "method": "POST",
        "path": f"/tools/{tool.name}",
        "operation_id": tool.name,
        "parameters": {
            name: {**spec, "location": "header" if name == KEY_PARAMETER else "body"}
            for name, spec in tool.parameters.items()
        },
        "response_schema": {
            "type": "object",
            "required": ["outcome", "summary", "data"],
            "properties": {**_SAID, "data": tool.response_schema},
        },
        "tags": list(tool.tags),
    }


def openapi(tools: Iterable[ToolSpec], base_url: str) -> dict[str, Any]:
    """
    The OpenAPI 3.1 document.
    """
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Problem": _PROBLEM, "Waiting": _WAITING, "Proposal": _PROPOSAL}
    for tool in tools:
        schemas[f"{tool.name}.parameters"] = _component(tool.parameters_json_schema, tool, schemas)
        data = _component(tool.response_json_schema, tool, schemas)
        required = ["outcome", "summary", "data"] + (["idempotency_key", "replayed"] if not tool.reads else [])
        schemas[f"{tool.name}.result"] = {
            "type": "object",
            "required": required,
            "properties": {**_SAID, "data": data},
        }
        paths[f"/tools/{tool.name}"] = {"post": _operation(tool)}
    paths["/proposals/{id}"] = {"get": _of_proposals()}
    about = load_manifest()
    return {
        "openapi": "3.1.0",
        "info": {"title": about.display_name, "description": about.description, "version": about.version},
        "servers": [{"url": base_url}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {kind: _refused(kind) for kind in KINDS},
        },
    }


def _operation(tool: ToolSpec) -> dict[str, Any]:
    properties, required = tool.parameters_json_schema["properties"], tool.parameters_json_schema["required"]
    named = [*required, *(name for name in ("reference", "transaction") if name in properties)]
    example = {name: properties[name]["examples"][0] for name in dict.fromkeys(named)}
    result = {"$ref": f"#/components/schemas/{tool.name}.result"}
    done: dict[str, Any] = {"schema": result, **({"example": _RESULT} if tool.moves_money else {})}
    answers = {"200": _answer("The result, or that of the first request where this repeats one.", result)}
    if not tool.reads:
        answers["201"] = {"description": "An entry was made.", "content": {"application/json": done}}
        answers["202"] = _answer(
            "The call waits for a person. Location names the proposal; the same request again goes on once somebody "
            "decided.",
            {"$ref": "#/components/schemas/Waiting"},
            Location="Where the proposal is.",
        )
    return {
        "operationId": tool.name,
        "summary": tool.short_name.replace("_", " ").capitalize(),
        "description": tool.description,
        "tags": list(tool.tags),
        "parameters": [] if tool.reads else [_KEY, _PREFER],
        "requestBody": {
            "required": bool(required),
            "content": {
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{tool.name}.parameters"},
                    "example": example,
                }
            },
        },
        "responses": {**answers, **_refusals()},
    }


def _of_proposals() -> dict[str, Any]:
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}, "example": "ap_0123456789ab"}
    return {
        "operationId": "getProposal",
        "summary": "What became of a call that waits for a person",
        "parameters": [name, _PREFER],
        "responses": {
            "200": _answer("The proposal.", {"$ref": "#/components/schemas/Proposal"}),
            "401": {"$ref": "#/components/responses/unauthorized"},
            "404": {"$ref": "#/components/responses/not-found"},
        },
    }


def _answer(description: str, schema: dict[str, Any], **headers: str) -> dict[str, Any]:
    said = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    return {"description": description, "headers": said, "content": {"application/json": {"schema": schema}}}


def _refusals() -> dict[str, Any]:
    """
    One answer for each status: of several kinds of one, the first.
    """
    found: dict[str, Any] = {"502": {"$ref": "#/components/responses/outcome-unknown"}}
    for kind, known in KINDS.items():
        found.setdefault(str(known.status), {"$ref": f"#/components/responses/{kind}"})
    return found


def _refused(kind: str) -> dict[str, Any]:
    known = KINDS[kind]
    example = {
        "type": f"/problems/{kind}",
        "title": known.title,
        "status": known.status,
        "detail": known.text,
        "outcome": "unknown" if kind in {"outcome-unknown", "under-way"} else "not_sent",
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema, "example": example}}
    return {"description": known.text, "content": content}


def _component(schema: dict[str, Any], tool: ToolSpec, schemas: dict[str, Any]) -> dict[str, Any]:
    """
    A schema as it may stand in the document; what it refers to stands beside it.
    """
    names = {}
    for name, inner in schema.get("$defs", {}).items():
        # Two tools may call two things by one name.
        names[name] = name if schemas.get(name, inner) == inner else f"{tool.name}.{name}"
    text = json.dumps({name: part for name, part in schema.items() if name not in {"$defs", "$schema"}})
    defined = json.dumps({names[name]: inner for name, inner in schema.get("$defs", {}).items()})
    for name, named in names.items():
        text, defined = (
            each.replace(f'"#/$defs/{name}"', f'"#/components/schemas/{named}"') for each in (text, defined)
        )
    schemas.update(json.loads(defined))
    found: dict[str, Any] = json.loads(text)
    return found
