"""
A row that another session has for too long, on a server: its transaction is waited for as others' locks are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, connect, draft, ledger, order
from places import look

from ocp_stripe_balance import NotSentError
from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._journal import Journal, postgres
from ocp_stripe_balance._journal.postgres import PostgresStore
from ocp_stripe_balance._text.database_url import DatabaseURL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from places import Place

    from ocp_stripe_balance.sandbox import Sandbox

POLICY = {
    "duplicate_window": "off",
    "budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10.00"}}],
}
ON_SERVER = pytest.mark.parametrize("engine", ["postgres"], indirect=True)


@contextlib.contextmanager
def rows_of_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """
    Another session has the totals to itself until the block ends. The event comes when a transaction was lost for
    that, which does not take long here.
    """
    monkeypatch.setattr(postgres, "_BEGIN", postgres._BEGIN.replace("'1s'", "'20ms'"))
    loop, lost, undo = asyncio.get_running_loop(), asyncio.Event(), PostgresStore.roll_back

    def roll_back(self: Any, error: BaseException) -> None:
        undo(self, error)
        loop.call_soon_threadsafe(lost.set)

    with look(place) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM totals FOR UPDATE")
        monkeypatch.setattr(PostgresStore, "roll_back", roll_back)
        yield lost


@ON_SERVER
async def test_a_call_waits_for_a_row_that_others_have(
    stripe: Sandbox, customer: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not sent yet, and is as soon as they let it go."""
    async with await connect(stripe, journal=str(place), policy=POLICY) as agent:
        await agent.call_tool(TOOL, order(customer, -100))
        with rows_of_others(place, monkeypatch) as lost:
            call = asyncio.ensure_future(agent.call_tool(TOOL, order(customer, -200)))
            await lost.wait()
            assert not call.done()
        assert "succeeded" == (await call).outcome
    assert 2 == len(await ledger(stripe, customer))


@ON_SERVER
async def test_a_row_that_others_keep_ends_a_call_at_its_deadline(
    stripe: Sandbox, customer: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing was sent."""
    async with await connect(stripe, journal=str(place), policy=POLICY) as agent:
        await agent.call_tool(TOOL, order(customer, -100))
    async with await connect(stripe, journal=str(place), policy=POLICY, timeout=1) as agent:
        with rows_of_others(place, monkeypatch) as lost:
            with pytest.raises(NotSentError, match="holds its lock"):
                await agent.call_tool(TOOL, order(customer, -200))
            assert lost.is_set()
    assert 1 == len(await ledger(stripe, customer))


@ON_SERVER
@pytest.mark.promise("closed.budget")
async def test_a_look_takes_nothing_out_of_a_total_that_a_call_takes_out_too(
    stripe: Sandbox, customer: str, place: Place
) -> None:
    """What has left a window is taken out once, or the budget would have room for it again."""
    assert isinstance(place, DatabaseURL)
    now_s = time.time()
    async with await connect(stripe, journal=str(place), policy=POLICY, seams={"clock": lambda: now_s}) as agent:
        await agent.call_tool(TOOL, order(customer, -800))
        now_s += 7200
        intent = draft("k", customer=customer, base_url=stripe.url).intent._replace(money=Money(-1, "usd"))
        reach = Journal(place).reach(intent)  # as of a call on another host
        with contextlib.closing(PostgresStore(place)) as other, look(place) as db:
            assert other.begin([reach]).past(intent, now_s).spent("all", 3600.0) == 0
            looking = asyncio.ensure_future(agent.call_tool("getBalanceCalls", {"customer": customer}))
            while not db.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                await asyncio.sleep(0.005)
            other.commit()
            await looking
        assert [] == await Journal(place).run(lambda book: book.wrong_totals())
