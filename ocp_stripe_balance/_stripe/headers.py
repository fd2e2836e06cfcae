"""
The headers of every request to Stripe, all but the one that holds the API key.
"""

from __future__ import annotations

import platform
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from ocp_stripe_balance._text.version import package_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocp_stripe_balance._domain import Context
    from ocp_stripe_balance._stripe.access import Access


def stripe_headers(access: Access, api_version: str, context: Context, *, shares_context: bool) -> Mapping[str, str]:
    """
    Version, account, who we are, and OCP's own.
    """
    shared = (context.user, context.workspace, context.current_goal) if shares_context else ()
    return _headers(
        api_version,
        access.account,
        str(context.context_id),
        str(context.agent_type),
        tuple([None if each is None else str(each) for each in shared]),
    )


@lru_cache(maxsize=256)  # they hardly change from one call of an agent to the next
def _headers(
    api_version: str, account: str | None, context_id: str, agent_type: str, shared: tuple[str | None, ...]
) -> Mapping[str, str]:
    headers = {
        "Stripe-Version": api_version,
        "User-Agent": _user_agent(),
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        **_context_headers(context_id, agent_type, shared),
    }
    if account:
        headers["Stripe-Account"] = account
    return headers


@cache
def _user_agent() -> str:
    return f"ocp-stripe-balance/{package_version()} Python/{platform.python_version()}"


def _context_headers(context_id: str, agent_type: str, shared: tuple[str | None, ...]) -> Mapping[str, str]:
    """
    OCP's headers; never OCP-Session, which would carry the whole conversation to Stripe.

    Args:
        context_id: of the agent's context.
        agent_type: of the agent.
        shared: user, workspace and goal, where they may be told.
    """
    headers = {
        # An agent of the SDK may have any text there; the protocol allows these.
        "OCP-Context-ID": re.sub(r"[^a-zA-Z0-9-]", "-", context_id)[:64],
        "OCP-Agent-Type": re.sub(r"[^a-zA-Z0-9_.-]", "-", agent_type)[:128],
        "OCP-Version": "1.0",
    }
    limits = {"OCP-User": 64, "OCP-Workspace": 128, "OCP-Current-Goal": 256}
    for (name, limit), value in zip(limits.items(), shared, strict=False):
        if value:
            headers[name] = re.sub(r"[^ -~]", "?", value)[:limit].strip()
    return headers
