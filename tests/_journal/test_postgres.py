"""
The journal on a PostgreSQL server: the rules are those of the file, and what a server adds is tried here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers import TOOL, connect, ledger, order
from postgres import new_database

if TYPE_CHECKING:
    from ocp_stripe_balance.sandbox import Sandbox

POLICY = {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10.00"}}], "calls_per_minute": 1000}


@pytest.fixture
def url() -> str:
    return new_database()


async def test_a_repeat_is_answered_from_the_server(stripe: Sandbox, customer: str, url: str) -> None:
    """Also to another agent, as on another host."""
    for is_repeat in (False, True):
        async with await connect(stripe, journal=url, policy=POLICY) as agent:
            result = await agent.call_tool(TOOL, order(customer, reference="ticket-1"))
            assert (result.outcome, result.replayed) == ("succeeded", is_repeat)
    assert 1 == len(await ledger(stripe, customer))
