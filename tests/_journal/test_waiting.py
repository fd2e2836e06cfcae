"""
Nobody waits for the journal longer than its own deadline, and what was told is what is so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TOOL, admit, answered, connect, draft, ledger, order, records, scripted, settle
from places import Place, locked, look

from ocp_stripe_balance import NotSentError, OutcomeUnknownError
from ocp_stripe_balance._calls import delivery
from ocp_stripe_balance._domain import Outcome, State
from ocp_stripe_balance._journal import Journal, writer
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance.errors import ToolError

if TYPE_CHECKING:
    from ocp_stripe_balance.sandbox import Sandbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


async def states(place: Place) -> list[str]:
    journal = Journal(place)
    found = [str(record.state) for record in await records(journal)]
    await journal.aclose()
    return found


@pytest.mark.parametrize("is_new", [False, True])
async def test_a_locked_journal_ends_a_call_at_its_deadline(
    stripe: Sandbox, customer: str, place: Place, is_new: bool
) -> None:
    """Many calls at once all end then, nothing is sent, and nothing is done later; also a new file's."""
    hurried = await connect(stripe, journal=str(place), timeout=0.6)
    async with await connect(stripe, journal=str(place)) as agent, hurried:
        if not is_new:
            await agent.call_tool(TOOL, order(customer))
        with locked(place):
            began = time.monotonic()
            told = await asyncio.gather(
                *(hurried.call_tool(TOOL, order(customer, amount=-n)) for n in range(1, 9)), return_exceptions=True
            )
            took = time.monotonic() - began
        assert all(isinstance(each, NotSentError) and "another program holds its lock" in str(each) for each in told)
        assert took < 20
        await agent.call_tool(TOOL, order(customer, amount=-99))
    assert ["succeeded"] * (1 if is_new else 2) == await states(place)
    assert (1 if is_new else 2) == len(await ledger(stripe, customer))


async def test_a_cancelled_caller_waits_for_no_lock(stripe: Sandbox, customer: str, place: Place) -> None:
    """A timeout of the caller's own ends the call at once; what it wanted is never done."""
    async with await connect(stripe, journal=str(place)) as agent:
        await agent.call_tool(TOOL, order(customer))
        with locked(place):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await agent.call_tool(TOOL, order(customer, amount=-1))
            with pytest.raises(OutcomeUnknownError, match="could not be asked whether it was sent before"):
                async with asyncio.timeout(0.2):
                    await agent.call_tool(TOOL, order(customer, amount=-1), idempotency_key="k")
            assert time.monotonic() - began < 20
        await agent.call_tool(TOOL, order(customer, amount=-2))
    assert ["succeeded"] * 2 == await states(place)


async def test_a_work_that_was_given_up_is_never_done(place: Place) -> None:
    """Its caller was told so: whichever of the two is first, the other knows."""
    journal, done = Journal(place), []
    await records(journal)
    loop = asyncio.get_running_loop()
    for number in range(150):
        work = journal.run(lambda _, number=number: done.append(number), loop.time() + number % 30 / 20_000)  # type: ignore[misc]
        try:
            await work
        except NotSentError:
            await records(journal)
            assert number not in done
        else:
            assert number in done
    await journal.aclose()


@pytest.mark.parametrize("outcome", ["succeeded", "rejected", "unknown"])
async def test_an_outcome_under_a_lock_is_told_truthfully_and_written_later(
    place: Place, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told that nothing was sent; it is on record as soon as the other program is done."""
    monkeypatch.setattr(delivery, "_LONGEST_S", 0.2)
    with contextlib.ExitStack() as lock:

        def handler(request: httpx.Request) -> httpx.Response:
            lock.enter_context(locked(place))
            if outcome == "rejected":
                return httpx.Response(
                    404, json={"error": {"type": "invalid_request_error", "code": "resource_missing"}}
                )
            return answered(request) if outcome == "succeeded" else httpx.Response(500)

        async with await scripted(handler, journal=str(place), max_attempts=1) as agent:
            try:
                told: dict[str, Any] = (await agent.call_tool(TOOL, order(), idempotency_key="k")).to_dict()
            except ToolError as error:
                told = error.to_dict()
            assert outcome == told["outcome"]
            assert "sent nothing" not in str(told)
            assert "nothing was sent" not in str(told).lower()
            assert outcome != "succeeded" or "not in the journal yet" in str(told["warnings"])
            with look(place) as database:
                assert ["sending"] == [state for (state,) in database.execute("SELECT state FROM calls")]
            lock.close()
    assert [outcome] == await states(place)


async def test_closing_under_a_lock_ends_soon(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One patience for all outcomes that are owed together; what is then not on record is said."""
    assert 2 == writer.CLOSE_S
    monkeypatch.setattr(writer, "CLOSE_S", 0.5)
    journal = Journal(place)
    admitted = [await admit(journal, draft(f"k{number}")) for number in range(3)]
    loop = asyncio.get_running_loop()

    def settled(book: Any, record: Any) -> bool:
        return bool(book.settle(record, Outcome(State.SUCCEEDED, is_final=True), 1.0))

    with locked(place), caplog.at_level(logging.WARNING):
        for each in admitted:
            written = await journal.owe(lambda book, each=each: settled(book, each.record), loop.time() + 0.05)  # type: ignore[misc]
            assert "another program holds its lock" in written.gap
        began = time.monotonic()
        await journal.aclose()
        assert time.monotonic() - began < 20
    assert 3 == caplog.text.count("an outcome is not on record")
    assert ["sending"] * 3 == await states(place)


@pytest.mark.file_only("a connection of SQLite")
async def test_closing_ends_where_the_file_cannot_be_closed(path: Path) -> None:
    """Whatever goes wrong there, nobody hangs."""

    class Stuck(sqlite3.Connection):
        def close(self) -> None:
            raise sqlite3.OperationalError("disk I/O error")

    def opened(file: Path | None) -> sqlite3.Connection:
        open_database(file).close()
        db = sqlite3.connect(str(file), isolation_level=None, check_same_thread=False, factory=Stuck)
        db.row_factory = sqlite3.Row
        return db

    journal = Journal(path, open_database=opened)
    await records(journal)
    await asyncio.wait_for(journal.aclose(), 30)


@pytest.mark.file_only("a -wal beside it")
async def test_two_agents_of_one_process_do_not_close_each_others_file(path: Path) -> None:
    """They share it; the last one closes it."""
    one, two = Journal(path), Journal(path)
    await settle(one, (await admit(one, draft("a"))).record, State.SUCCEEDED)
    await records(two)
    await one.aclose()
    assert path.with_name("journal-wal").exists()
    assert 1 == len(await records(two))
    await two.aclose()
    assert not path.with_name("journal-wal").exists()


GARBAGE = """
import asyncio, contextlib, gc, os, sys, threading, time
from helpers import TOOL, order
from ocp_stripe_balance import OCPAgent, Settings
url, key, journal, customer = sys.argv[1:]

def opened():
    found = []
    for number in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f'/proc/self/fd/{number}'))
    return [name for name in found if os.path.dirname(journal) in name]

def is_clean():
    until = time.monotonic() + 5
    while time.monotonic() < until and (opened() or [t for t in threading.enumerate() if t.name == 'journal']):
        gc.collect()
        time.sleep(0.01)
    return not opened() and not [t for t in threading.enumerate() if t.name == 'journal']

async def one(number):
    agent = OCPAgent(settings=Settings(api_key=key, api_base=url, journal=journal, rate_limit='off'))
    await agent.register_api('stripe')
    await agent.call_tool(TOOL, order(customer, -100, reference=f'r{number}'))
    return agent

for number in range(5):
    asyncio.run(one(number))
assert is_clean(), opened()
agent = asyncio.run(one(6))
pid = os.fork()
if pid == 0:
    assert not opened(), opened()
    asyncio.run(one(7))
    del agent
    os._exit(0 if is_clean() else 1)
assert 0 == os.waitpid(pid, 0)[1]
"""


@pytest.mark.file_only("descriptors of it")
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_agents_that_nobody_closes_leave_nothing_open(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """No thread and no descriptor, in the process and in a child of it."""
    where = (stripe_thread.url, stripe_thread.api_key, str(tmp_path / "state" / "journal"))
    words = [sys.executable, "-W", "ignore", "-c", GARBAGE, *where, stripe_thread.create_customer()]
    tests = str(Path(__file__).parents[1])
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": tests}, timeout=50)  # noqa: S603
