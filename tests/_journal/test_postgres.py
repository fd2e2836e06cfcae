"""
The journal on a PostgreSQL server: the rules are those of the file, and what a server adds is tried here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, admit, connect, draft, ledger, order
from places import locked, look
from postgres import new_database

from ocp_stripe_balance import NotSentError
from ocp_stripe_balance._journal import Journal, past, postgres, stores
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


async def test_a_look_for_room_reads_no_more_of_a_window_than_it_walks(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server hands over all that was asked for, and the window may have a million calls."""
    monkeypatch.setattr(past, "_MAX_WALK", 5)
    read, fetchall = list[int](), postgres._Found.fetchall

    def counted(found: Any) -> list[Any]:
        rows = fetchall(found)
        read.append(len(rows))
        return rows

    journal = Journal(DatabaseURL(url))
    for number in range(20):
        await admit(journal, draft(f"k{number}", -50))
    monkeypatch.setattr(postgres._Found, "fetchall", counted)
    now = journal.now()
    room = await journal.run(lambda book: book.past(draft("more", -50).intent, now).room_at("all", 3600.0, 0))
    assert (room[1], max(read)) == (False, 5)
    await journal.aclose()


def test_two_threads_that_ask_for_a_server_have_one_store(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The second asks while the first makes it: two connections would know of two newest decisions."""
    new_server, first = stores.new_server, list[Any]()

    def slow(place: DatabaseURL) -> Any:
        if not first:
            first.append(None)
            first.append(stores.server_of(place))
        return new_server(place)

    monkeypatch.setattr(stores, "new_server", slow)
    made = stores.server_of(DatabaseURL(url))
    assert made is first[1]
