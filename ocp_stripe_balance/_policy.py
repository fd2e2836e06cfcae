"""
Guardrails: what is stopped here although Stripe would do it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocp_stripe_balance.errors import PolicyRefusedError

if TYPE_CHECKING:
    from ocp_stripe_balance.settings import Mode


def check_mode(mode: Mode, *, allow_live: bool, tool: str) -> None:
    """
    Let live money move only where someone switched it on.

    Raises:
        PolicyRefusedError: the key is not a test-mode key, and live mode is not allowed.
    """
    if mode == "live" and not allow_live:
        raise PolicyRefusedError(
            "Nothing was sent: the API key is a live-mode key, and live mode is not switched on.",
            rule="allow_live",
            hint="A person must set OCP_STRIPE_ALLOW_LIVE=true, or use a test-mode key (sk_test_… or rk_test_…).",
            tool=tool,
        )
