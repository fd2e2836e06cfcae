"""
The people's side, as routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from ocp_stripe_balance.web.gateway import Gateway


def routes(gateway: Gateway) -> list[BaseRoute]:
    """
    None yet.
    """
    del gateway
    return []
