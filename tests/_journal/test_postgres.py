"""
The journal on a PostgreSQL server: the rules are those of the file, and what a server adds is tried here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers import TOOL, connect, ledger, order
from places import locked, look
from postgres import new_database

from ocp_stripe_balance import NotSentError
from ocp_stripe_balance._text.database_url import DatabaseURL

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


@pytest.mark.promise("once.one-reason")
async def test_a_server_that_lacks_what_was_on_record_is_refused_each_time(
    stripe: Sandbox, customer: str, url: str
) -> None:
    """Another one that lags took its place: not only the first call that notices is refused, also behind a lock."""
    hasty = await connect(stripe, journal=url, timeout=0.5)
    async with hasty, await connect(stripe, journal=url) as agent:
        await agent.call_tool(TOOL, order(customer, reference="ticket-1"))
        with look(DatabaseURL(url)) as db:
            db.execute("DELETE FROM calls")
            (lost,) = db.execute("DELETE FROM decisions RETURNING number").fetchall()
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                       "AND pid != pg_backend_pid()")  # fmt: skip
        with locked(DatabaseURL(url)), pytest.raises(NotSentError):
            await hasty.call_tool(TOOL, order(customer, reference="ticket-1"))
        for _ in range(2):
            with pytest.raises(NotSentError, match="the server lacks what this process put on record"):
                await agent.call_tool(TOOL, order(customer, reference="ticket-1"))
    assert 1 == lost["number"] == len(await ledger(stripe, customer))
