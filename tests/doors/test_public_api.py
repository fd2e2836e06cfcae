"""
The names people import.
"""

from __future__ import annotations

import inspect

import ocp_agent
import pytest

import ocp_stripe_balance
from ocp_stripe_balance import OCPAgent


def test_public_names_are_these() -> None:
    """Few names, each of them there."""
    assert [
        "APINotFound",
        "ApprovalRequiredError",
        "ConfigurationError",
        "CustomerBalanceTransaction",
        "DryRun",
        "InvalidParametersError",
        "NotSentError",
        "OCPAgent",
        "OutcomeUnknownError",
        "Policy",
        "PolicyRefusedError",
        "Proposal",
        "RejectedError",
        "Settings",
        "SyncAgent",
        "ToolCall",
        "ToolError",
        "ToolResult",
        "register",
    ] == ocp_stripe_balance.__all__
    assert all(callable(getattr(ocp_stripe_balance, name)) for name in ocp_stripe_balance.__all__)


def test_other_names_are_not_there() -> None:
    """A slip of the finger is an AttributeError."""
    with pytest.raises(AttributeError, match="OCPAgnet"):
        getattr(ocp_stripe_balance, "OCPAgnet")  # noqa: B009  a type checker would refuse the plain form


def test_host_has_the_sdks_surface() -> None:
    """The methods of the OCP SDK's agent, with its parameters, in its order."""
    surface = {
        "__init__": ["agent_type", "user", "workspace", "agent_goal", "registry_url", "enable_cache"],
        "register_api": ["name", "spec_url", "base_url", "headers"],
        "list_tools": ["api_name"],
        "get_tool": ["tool_name", "api_name"],
        "search_tools": ["query", "api_name"],
        "call_tool": ["tool_name", "parameters", "api_name", "headers"],
        "get_tool_documentation": ["tool_name", "api_name"],
        "update_goal": ["goal", "summary"],
    }
    for method, names in surface.items():
        parameters = inspect.signature(getattr(OCPAgent, method)).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
        assert names == positional, method


def test_ocp_agent_is_our_host_or_the_sdk() -> None:
    """Without the SDK, the catalogue's import gives our host."""
    if (ocp_agent.__file__ or "").endswith("ocp_agent.py"):
        assert ocp_agent.OCPAgent is OCPAgent
    else:
        assert hasattr(ocp_agent, "OCPRegistry")
