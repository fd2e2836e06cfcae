"""
The files for hosts of MCP, and the one for its registry: in their documented formats, and all of one server.
"""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from pages import DOCS, README, ROOT, block
from programs import CLI, started

from ocp_stripe_balance import ConfigurationError
from ocp_stripe_balance._text.secrets import holds_key
from ocp_stripe_balance.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

PAGE = DOCS / "mcp-hosts.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_KEY, _TOKEN, _POLICY = "sk_test_51abc", "bot.secret", "/etc/ocp/policy.toml"


def _server(required: list[str], **fields: Any) -> dict[str, Any]:
    started = {"command": {"type": "string"}, "args": {"type": "array", "items": {"type": "string"}}, "env": _TEXTS}
    known = fields | (started if "command" in required else {"headers": _TEXTS} if "headers" in required else {})
    return {"type": "object", "required": required, "properties": known, "additionalProperties": False}


def _file(key: str, server: dict[str, Any], **more: Any) -> dict[str, Any]:
    servers = {"type": "object", "minProperties": 1, "additionalProperties": server}
    return {"required": [key], "properties": {key: servers, **more}, "additionalProperties": False}


_ANY_TEXT, _SECONDS = {"type": "string"}, {"type": "number"}
_INPUT = {
    "type": "object",
    "required": ["type", "id", "description"],
    "properties": {
        "type": {"const": "promptString"}, "id": _ANY_TEXT, "description": _ANY_TEXT, "password": {"type": "boolean"},
    },
    "additionalProperties": False,
}  # fmt: skip
_INPUTS = {"type": "array", "items": _INPUT}
_STDIO, _HTTP = {"const": "stdio"}, {"const": "http"}

# What each host's documentation says of its file (November 2026): the fields that it knows, and those that it needs.
#   Claude Desktop  https://modelcontextprotocol.io/docs/develop/connect-local-servers
#   Claude Code     https://code.claude.com/docs/en/mcp
#   Cursor          https://cursor.com/docs/mcp
#   VS Code         https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
#   Codex           https://developers.openai.com/codex/mcp
#   Gemini CLI      https://github.com/google-gemini/gemini-cli/blob/main/docs/tools/mcp-server.md
_FORMATS: dict[str, dict[str, Any]] = {
    "claude-desktop": _file("mcpServers", _server(["command"])),
    "claude-code": _file("mcpServers", _server(["command"], type=_STDIO)),
    "cursor": _file("mcpServers", _server(["type", "command"], type=_STDIO, envFile=_ANY_TEXT)),
    "vs-code": _file("servers", _server(["type", "command"], type=_STDIO, envFile=_ANY_TEXT), inputs=_INPUTS),
    "codex": _file(
        "mcp_servers",
        _server(["command"], env_vars={"type": "array"}, tool_timeout_sec=_SECONDS, startup_timeout_sec=_SECONDS),
    ),
    "gemini-cli": _file("mcpServers", _server(["command"], timeout=_SECONDS, trust={"type": "boolean"})),
    "http-claude-code": _file("mcpServers", _server(["type", "url", "headers"], type=_HTTP, url=_ANY_TEXT)),
    "http-cursor": _file("mcpServers", _server(["url", "headers"], url=_ANY_TEXT)),
    "http-vs-code": _file("servers", _server(["type", "url", "headers"], type=_HTTP, url=_ANY_TEXT), inputs=_INPUTS),
    "http-codex": _file(
        "mcp_servers", _server(["url"], url=_ANY_TEXT, bearer_token_env_var=_ANY_TEXT, tool_timeout_sec=_SECONDS)
    ),
    "http-gemini-cli": _file("mcpServers", _server(["httpUrl", "headers"], httpUrl=_ANY_TEXT, timeout=_SECONDS)),
}
# How each host writes a variable of its environment, or what it asks its user for.
_VARIABLES: dict[str, str] = {
    "claude-code": r"\$\{(\w+)\}",
    "cursor": r"\$\{env:(\w+)\}",
    "vs-code": r"\$\{input:([\w-]+)\}",
    "gemini-cli": r"\$(\w+)",
}
_VALUES = {
    "STRIPE_SECRET_KEY": _KEY,
    "stripe-key": _KEY,
    "STRIPE_BALANCE_TOKEN": _TOKEN,
    "stripe-balance-token": _TOKEN,
}


def said(name: str) -> dict[str, Any]:
    """
    What a host makes of its file: the entry of the one server, variables in place.
    """
    text = block(PAGE, name).replace("sk_test_…", _KEY)
    file = tomllib.loads(text) if name.endswith("codex") else json.loads(text)
    jsonschema.Draft202012Validator(_FORMATS[name]).validate(file)
    asked = {each["id"] for each in file.get("inputs", ())}
    used = set(re.findall(_VARIABLES["vs-code"], text))
    assert asked == used
    (entry,) = next(value for key, value in file.items() if key != "inputs").values()
    variable = _VARIABLES.get(name.removeprefix("http-"))
    if variable:
        entry = json.loads(re.sub(variable, lambda found: _VALUES[found[1]], json.dumps(entry)))
    found: dict[str, Any] = entry
    return found


@pytest.mark.parametrize("name", [name for name in _FORMATS if not name.startswith("http-")])
def test_each_host_starts_the_same_server(name: str) -> None:
    entry = said(name)
    environment = entry.get("env", {}) | {each: _VALUES[each] for each in entry.get("env_vars", ())}
    assert ["ocp-stripe-balance", "mcp"] == [entry["command"], *entry["args"]]
    assert {"STRIPE_SECRET_KEY": _KEY, "OCP_STRIPE_POLICY": _POLICY} == environment


@pytest.mark.parametrize("name", [name for name in _FORMATS if name.startswith("http-")])
def test_each_host_reaches_the_same_server(name: str) -> None:
    entry = said(name)
    assert "http://127.0.0.1:8765/mcp" == entry.get("url", entry.get("httpUrl"))
    header = entry.get("headers", {}).get("Authorization") or f"Bearer {_VALUES[entry['bearer_token_env_var']]}"
    assert f"Bearer {_TOKEN}" == header


@pytest.mark.parametrize("name", ["claude-code", "cursor", "vs-code", "gemini-cli"])
def test_a_variable_that_a_host_left_as_it_is_is_no_key(name: str) -> None:
    text = re.search(r'"STRIPE_SECRET_KEY": "(.*?)"', block(PAGE, name))
    assert text
    with pytest.raises(ConfigurationError, match="that nobody replaced"):
        Settings(api_key=text[1])


async def test_the_server_that_they_start_answers(tmp_path: Path) -> None:
    """With no more of an environment than such a file gives."""
    pytest.importorskip("mcp")
    (tmp_path / "policy.toml").write_text(block(DOCS / "policy.md", "policy"))
    variables = {"STRIPE_SECRET_KEY": _KEY, "OCP_STRIPE_POLICY": str(tmp_path / "policy.toml"), "HOME": str(tmp_path)}
    server = await asyncio.create_subprocess_exec(
        *started(), CLI, "mcp", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=variables
    )
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    told, _ = await server.communicate(json.dumps(hello).encode() + b"\n")
    assert "ocp-stripe-balance" == json.loads(told)["result"]["serverInfo"]["name"]


# The registry


_NAME = {"type": "string", "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$", "minLength": 3, "maxLength": 200}
_SHORT = {"type": "string", "minLength": 1, "maxLength": 100}
_ARGUMENT = {
    "required": ["type", "value"],
    "properties": {"type": {"enum": ["positional", "named"]}, "name": _ANY_TEXT, "value": _ANY_TEXT},
    "additionalProperties": False,
}
_VARIABLE = {
    "required": ["name"],
    "properties": {
        "name": _ANY_TEXT,
        "description": _ANY_TEXT,
        "format": {"enum": ["string", "number", "boolean", "filepath"]},
        "default": _ANY_TEXT,
        "isRequired": {"type": "boolean"},
        "isSecret": {"type": "boolean"},
    },
    "additionalProperties": False,
}
_PACKAGE = {
    "required": ["registryType", "identifier", "transport"],
    "properties": {
        "registryType": {"const": "pypi"},
        "identifier": _ANY_TEXT,
        "version": {"type": "string", "minLength": 1, "not": {"const": "latest"}},
        "runtimeHint": _ANY_TEXT,
        "runtimeArguments": {"type": "array", "items": _ARGUMENT},
        "packageArguments": {"type": "array", "items": _ARGUMENT},
        "transport": {"required": ["type"], "properties": {"type": _STDIO}, "additionalProperties": False},
        "environmentVariables": {"type": "array", "items": _VARIABLE},
    },
    "additionalProperties": False,
}
# Of the registry's schema of 2025-12-11, the newest there is, what our file uses.
_REGISTRY = {
    "required": ["$schema", "name", "description", "version"],
    "properties": {
        "$schema": {"const": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"},
        "name": _NAME,
        "title": _SHORT,
        "description": _SHORT,
        "version": {"type": "string", "maxLength": 255},
        "packages": {"type": "array", "items": _PACKAGE},
    },
    "additionalProperties": False,
}


def test_the_registry_reads_what_the_package_is() -> None:
    """Its version, its extra and its settings; and the README names the server, by which the registry knows us."""
    text = (ROOT / "server.json").read_text("utf-8")
    server = json.loads(text)
    jsonschema.Draft202012Validator(_REGISTRY).validate(server)
    (package,) = server["packages"]
    assert PROJECT["version"] == server["version"] == package["version"]
    assert PROJECT["name"] == package["identifier"]
    (needed,) = package["runtimeArguments"]
    assert PROJECT["optional-dependencies"]["mcp"] == [needed["value"]]
    assert ["mcp"] == [each["value"] for each in package["packageArguments"]]
    assert f"<!-- mcp-name: {server['name']} -->" in README.read_text("utf-8")
    reference = (DOCS / "reference" / "settings.md").read_text("utf-8")
    assert [] == [each["name"] for each in package["environmentVariables"] if f"`{each['name']}`" not in reference]
    assert ["STRIPE_SECRET_KEY"] == [each["name"] for each in package["environmentVariables"] if each.get("isSecret")]
    assert not holds_key(text, None)
