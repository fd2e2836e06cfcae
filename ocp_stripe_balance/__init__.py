"""
Credit or debit a Stripe customer's balance from an LLM agent: once per decision, with the outcome always told.

Every error is in `ocp_stripe_balance.errors`, the embedded Stripe in `ocp_stripe_balance.sandbox`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocp_stripe_balance._domain import ToolCall
    from ocp_stripe_balance._policy import Policy
    from ocp_stripe_balance.agent import OCPAgent
    from ocp_stripe_balance.errors import (
        APINotFound,
        ApprovalRequiredError,
        ConfigurationError,
        InvalidParametersError,
        NotSentError,
        OutcomeUnknownError,
        PolicyRefusedError,
        RejectedError,
        ToolError,
    )
    from ocp_stripe_balance.models import CustomerBalanceTransaction, DryRun, Proposal, ToolResult
    from ocp_stripe_balance.sdk import register
    from ocp_stripe_balance.settings import Settings
    from ocp_stripe_balance.sync import SyncAgent

__all__ = [
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
]

_HOMES = {
    "OCPAgent": "agent",
    "CustomerBalanceTransaction": "models",
    "DryRun": "models",
    "Policy": "_policy",
    "Proposal": "models",
    "Settings": "settings",
    "SyncAgent": "sync",
    "ToolCall": "_domain",
    "ToolResult": "models",
    "register": "sdk",
}


def __getattr__(name: str) -> object:
    """
    Import a public name when it is first used: pydantic alone would double the import time.
    """
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
