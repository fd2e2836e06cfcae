"""
The headers of every request to Stripe, all but the one that holds the API key.
"""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocp_stripe_balance._access import Access
    from ocp_stripe_balance.agent import APIOptions, Context


def stripe_headers(access: Access, api_version: str, options: APIOptions) -> dict[str, str]:
    """
    Version, account, who we are, and OCP's own.
    """
    headers = {
        "Stripe-Version": api_version,
        "User-Agent": _user_agent(),
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        **_context_headers(options.context, share=options.settings.share_context),
    }
    if access.account:
        headers["Stripe-Account"] = access.account
    return headers


@cache
def _user_agent() -> str:
    return f"ocp-stripe-balance/{version('ocp-stripe-balance')} Python/{platform.python_version()}"


def _context_headers(context: Context, *, share: bool) -> dict[str, str]:
    """
    OCP's headers; never OCP-Session, which would carry the whole conversation to Stripe.
    """
    headers = {
        # An agent of the SDK may have any text there; the protocol allows these.
        "OCP-Context-ID": re.sub(r"[^a-zA-Z0-9-]", "-", str(context.context_id))[:64],
        "OCP-Agent-Type": re.sub(r"[^a-zA-Z0-9_.-]", "-", str(context.agent_type))[:128],
        "OCP-Version": "1.0",
    }
    if share:
        optional = {
            "OCP-User": (context.user, 64),
            "OCP-Workspace": (context.workspace, 128),
            "OCP-Current-Goal": (context.current_goal, 256),
        }
        for name, (value, limit) in optional.items():
            if value:
                headers[name] = re.sub(r"[^ -~]", "?", str(value))[:limit].strip()
    return headers
