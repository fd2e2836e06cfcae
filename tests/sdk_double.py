"""
A small double of the OCP SDK's surface (0.3.0), as far as a registration meets it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


@dataclass
class OCPTool:
    name: str
    description: str
    method: str
    path: str
    parameters: dict[str, Any]
    response_schema: dict[str, Any] | None
    operation_id: str | None = None
    tags: list[str] | None = None


@dataclass
class OCPAPISpec:
    base_url: str
    title: str
    version: str
    description: str
    tools: list[OCPTool]
    raw_spec: dict[str, Any]
    name: str | None = None


class Context:
    def __init__(self, agent_type: str, user: str | None) -> None:
        self.context_id, self.agent_type, self.user = "ocp-1", agent_type, user
        self.workspace: str | None = None
        self.current_goal: str | None = None
        self.history: list[dict[str, Any]] = []
        self.api_specs: dict[str, str] = {}

    def add_interaction(self, action: str, api_endpoint: Any = None, result: Any = None, metadata: Any = None) -> None:
        entry = {"action": action, "api_endpoint": api_endpoint, "result": result, "metadata": metadata or {}}
        self.history.append(entry)

    def add_api_spec(self, api_name: str, openapi_url: str) -> None:
        self.api_specs[api_name] = openapi_url


class OCPAgent:
    """
    Knows one API of its own, ``weather``, and answers calls of its tool with a fixed response.
    """

    def __init__(self, agent_type: str = "ai_agent", user: str | None = None) -> None:
        self.context = Context(agent_type, user)
        self.known_apis: dict[str, OCPAPISpec] = {}

    def register_api(self, name: str, spec_url: Any = None, base_url: Any = None, headers: Any = None) -> OCPAPISpec:
        del spec_url, base_url, headers
        if name.lower().strip() not in self.known_apis:
            raise ValueError(name)
        return self.known_apis[name.lower().strip()]

    def list_tools(self, api_name: str | None = None) -> list[OCPTool]:
        if api_name and api_name.lower().strip() not in self.known_apis:
            message = f"Unknown API: {api_name}"
            raise ValueError(message)
        apis = [self.known_apis[api_name.lower().strip()]] if api_name else self.known_apis.values()
        return [tool for api in apis for tool in api.tools]

    def get_tool(self, tool_name: str, api_name: str | None = None) -> OCPTool | None:
        return next((tool for tool in self.list_tools(api_name) if tool.name == tool_name), None)

    def search_tools(self, query: str, api_name: str | None = None) -> list[OCPTool]:
        return [
            each for each in self.list_tools(api_name) if query.lower() in f"{each.name} {each.description}".lower()
        ]

    def get_tool_documentation(self, tool_name: str, api_name: str | None = None) -> str:
        tool = self.get_tool(tool_name, api_name)
        return f"## {tool.name}\n{tool.description}\n{sorted(tool.parameters)}" if tool else "not found"

    def call_tool(self, tool_name: str, parameters: Any = None, api_name: Any = None, headers: Any = None) -> Any:
        del parameters, headers
        if self.get_tool(tool_name, api_name) is None:
            message = f"Tool '{tool_name}' not found"
            raise ValueError(message)
        return SimpleNamespace(status_code=200, reason="OK", ok=True, content=b"{}")
