"""
The record of calls: durable before the first byte, truthful whatever happens, one key one effect.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import json
import math
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import (
    STRIPES,
    TOOL,
    admit,
    answered,
    connect,
    draft,
    ledger,
    order,
    records,
    scripted,
    settle,
    transaction,
    verdict,
)
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from places import ON_BOTH, Place, Places, age, before_each_row, look, opened, settings_on_server
from programs import processes

from ocp_stripe_balance import (
    ConfigurationError,
    NotSentError,
    OCPAgent,
    OutcomeUnknownError,
    RejectedError,
    Settings,
    ToolError,
    errors,
)
from ocp_stripe_balance._domain import Scope, State
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._journal.keys import open_keys
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._journal.statements import migrations
from ocp_stripe_balance._text.spelling import one_spelling
from ocp_stripe_balance.errors import IdempotencyConflictError, RateLimitError, ResourceMissingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ocp_stripe_balance.sandbox import Sandbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite3"


@pytest.fixture
async def agent(stripe: Sandbox, place: Place) -> AsyncIterator[OCPAgent]:
    async with await connect(stripe, journal=str(place)) as connected:
        yield connected


def rows(place: Place) -> list[dict[str, Any]]:
    with look(place) as db:
        return [dict(row) for row in db.execute("SELECT * FROM calls ORDER BY id")]


def is_recorded(place: Place) -> bool:
    """Whether a row is committed yet, to a file that may not be a journal yet."""
    try:
        return (not isinstance(place, Path) or place.exists()) and bool(rows(place))
    except sqlite3.OperationalError:
        return False


def posts(stripe: Sandbox) -> int:
    return len([r for r in list(stripe.requests) if r.method == "POST" and r.target.endswith("/balance_transactions")])


# What is on disk, and when


@pytest.mark.promise("once.key-before-bytes")
async def test_the_row_is_committed_before_the_first_byte_leaves(place: Place) -> None:
    """At the moment the transport gets the request, another connection reads the whole intent."""
    seen: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.extend(rows(place))
        return answered(request, headers={"Request-Id": "req_1"})

    async with await scripted(handler, journal=str(place), account="acct_1") as agent:
        await agent.call_tool(TOOL, order(description="d", reference="t-1"), idempotency_key="k")
    (row,) = seen
    expected = {"key": "k", "tool": TOOL, "customer": "cus_1", "amount": -500, "currency": "usd", "state": "sending"}
    expected |= {"mode": "test", "account": "acct_1", "reference": "t-1", "attempts": 0, "answer": None}
    assert expected.items() <= row.items()
    assert row["context_id"] == agent.context.context_id
    assert json.loads(row["arguments"])["description"] == "d"
    assert b"metadata%5Bocp_call%5D=k" in row["body"]
    (row,) = rows(place)
    assert ("succeeded", 1, 200, "req_1") == (row["state"], row["attempts"], row["status"], row["request_id"])
    made = transaction(metadata={"ocp_call": "k", "ocp_reference": "t-1"}, description="d")
    assert made == json.loads(row["answer"])


@pytest.mark.file_only("synchronous")
@pytest.mark.promise("once.key-before-bytes")
async def test_commits_reach_the_disk_before_the_request(path: Path) -> None:
    """The journal's own connection runs with WAL and synchronous=FULL, and its COMMIT comes before the request."""
    events: list[str] = []

    def traced(file: Path | None) -> sqlite3.Connection:
        db = open_database(file)
        assert ("wal", 2) == (
            db.execute("PRAGMA journal_mode").fetchone()[0],
            db.execute("PRAGMA synchronous").fetchone()[0],
        )
        db.set_trace_callback(lambda statement: events.append(statement.split()[0]))
        return db

    def handler(request: httpx.Request) -> httpx.Response:
        events.append("SENT")
        return answered(request)

    async with await scripted(handler, opened=Journal(path, open_database=traced)) as agent:
        await agent.call_tool(TOOL, order())
    before = [event for event in events[: events.index("SENT") + 1] if event in {"INSERT", "COMMIT", "SENT"}]
    assert ["INSERT", "COMMIT", "SENT"] == before[-3:]


@pytest.mark.file_only("a trace of its statements")
async def test_concurrent_calls_share_commits(path: Path) -> None:
    """A hundred calls at once need far fewer than two commits each."""
    commits = []

    def traced(file: Path | None) -> sqlite3.Connection:
        db = open_database(file)
        db.set_trace_callback(lambda statement: commits.append(1) if statement == "COMMIT" else None)
        return db

    opened = Journal(path, open_database=traced)
    async with await scripted(answered, opened=opened) as agent:
        await asyncio.gather(*(agent.call_tool(TOOL, order()) for _ in range(100)))
    assert len(commits) < 100
    assert 100 == len(rows(path))


@pytest.mark.file_only("permissions")
async def test_the_file_is_private_and_has_no_secret(path: Path, stripe: Sandbox, customer: str) -> None:
    """0600 in a 0700 folder, and the API key nowhere in it, whatever the outcome."""
    stripe.faults.add("reset", times=4)
    async with await connect(stripe, journal=str(path)) as agent:
        for amount, failing in ((-1, True), (-2, False)):
            with contextlib.suppress(ToolError):
                await agent.call_tool(TOOL, order(customer, amount=amount))
            assert failing or rows(path)
        with contextlib.suppress(ToolError):
            await agent.call_tool(TOOL, order("cus_none"))
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)
        for each in path.parent.iterdir():
            assert stripe.api_key.encode() not in each.read_bytes()


@pytest.mark.file_only("a disk that is full")
@pytest.mark.promise("closed.unrecorded-is-unsent")
async def test_nothing_is_sent_unrecorded(path: Path) -> None:
    """A full disk, a read-only file, a corrupt file, no folder: not sent, with the reason."""
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async def refused(journal: Path, reason: str, open_database: Any = open_database) -> None:
        opened = Journal(journal, open_database=open_database)
        async with await scripted(handler, opened=opened) as agent:
            with pytest.raises(NotSentError, match=reason) as caught:
                await agent.call_tool(TOOL, order())
        assert "OCP_STRIPE_JOURNAL" in caught.value.hint

    path.parent.mkdir()
    corrupt, in_a_file = path.with_name("corrupt"), path.with_name("file") / "journal"
    corrupt.write_bytes(b"not a database, but long enough to be read as one" * 100)
    in_a_file.parent.write_text("")
    await refused(corrupt, "not a database")
    await refused(in_a_file, "directory|exists")
    for pragma, reason in (("max_page_count = 1", "full"), ("query_only = ON", "readonly")):

        def limited(file: Path | None, pragma: str = pragma) -> sqlite3.Connection:
            db = open_database(file)
            db.execute(f"PRAGMA {pragma}")
            return db

        if "page" in pragma:
            await refused_when_full(Journal(path, open_database=limited), handler)
        else:
            await refused(path, reason, limited)
    assert [] == sent


async def refused_when_full(journal: Journal, handler: Any) -> None:
    """
    Calls until the file may not grow any more: what does not fit is not sent.
    """
    async with await scripted(handler, opened=journal) as agent:
        with pytest.raises(NotSentError, match="full"):
            await agent.call_tool(TOOL, order(metadata={f"k{i}": "v" * 500 for i in range(49)}))


@contextlib.contextmanager
def broken(place: Place) -> Iterator[None]:
    """
    A journal in which no call can be changed, until the block ends.
    """
    if not isinstance(place, Path):
        with before_each_row(place, "RAISE 'broken'", of="UPDATE"):
            yield
        return
    with look(place) as db:
        db.execute("CREATE TRIGGER broken BEFORE UPDATE ON calls BEGIN SELECT RAISE(ABORT, 'broken'); END")
        yield
        db.execute("DROP TRIGGER broken")


@ON_BOTH
async def test_open_calls_are_found_by_their_keys_and_by_those_that_joined_them(place: Place) -> None:
    journal, scope = Journal(place), draft("first").intent.scope
    ready = await admit(journal, draft("first", reference="r"))
    await admit(journal, draft("joined", reference="r"))
    await admit(journal, draft("elsewhere", mode="live"))
    assert {"first", "joined"} == await journal.run(lambda book: open_keys(book, scope))
    await settle(journal, ready.record, State.SUCCEEDED)
    assert set() == await journal.run(lambda book: open_keys(book, scope))
    await journal.aclose()


@ON_BOTH
async def test_an_outcome_that_cannot_be_recorded_is_still_told(place: Place) -> None:
    """The journal breaks after the request left: the success is a success, with a warning."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.headers["Idempotency-Key"] == "second":
            lock.enter_context(broken(place))
        return answered(request)

    with contextlib.ExitStack() as lock:
        async with await scripted(handler, opened=Journal(place)) as agent:
            await agent.call_tool(TOOL, order(), idempotency_key="first")
            result = await agent.call_tool(TOOL, order(), idempotency_key="second")
    assert any("not in the journal" in warning for warning in result.warnings)
    assert ["succeeded", "sending"] == [row["state"] for row in rows(place)]


@pytest.mark.file_only("a format of its own")
async def test_a_newer_file_is_refused_undamaged(path: Path) -> None:
    """A file of a later version is left as it is."""
    async with await scripted(answered, journal=str(path)) as agent:
        await agent.call_tool(TOOL, order())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO migrations VALUES (99, 0)")
    before = rows(path)
    async with await scripted(answered, journal=str(path)) as agent:
        with pytest.raises(ConfigurationError, match="newer version"):
            await agent.call_tool(TOOL, order())
    assert before == rows(path)


# One key, one effect


@pytest.mark.promise("once.one-reason")
async def test_a_finished_call_answers_without_the_network(
    stripe: Sandbox, agent: OCPAgent, customer: str, place: Place
) -> None:
    """The same key and parameters again, here and after a restart: the first result, marked as replayed."""
    first = await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    again = await agent.call_tool(TOOL, order(customer, amount=-500.0, currency="USD"), idempotency_key="k")
    async with await connect(stripe, journal=str(place)) as restarted:
        later = await restarted.call_tool(TOOL, order(customer), idempotency_key="k")
    assert 1 == posts(stripe)
    assert first.data == again.data == later.data
    assert (False, True, True) == (first.replayed, again.replayed, later.replayed)
    assert (1, 0, 0) == (first.attempts, again.attempts, later.attempts)
    assert first.request_id == again.request_id == later.request_id


async def test_a_running_call_is_waited_for(stripe: Sandbox, agent: OCPAgent, customer: str, place: Place) -> None:
    """Two callers of one agent and one of another at once: one request, one transaction, told to all."""
    stripe.faults.add("stall", seconds=0.3, path="balance")
    async with await connect(stripe, journal=str(place)) as other:
        results = await asyncio.gather(
            *(a.call_tool(TOOL, order(customer), idempotency_key="k") for a in (agent, agent, other))
        )
    assert 1 == posts(stripe)
    assert 1 == len({result.data["id"] for result in results})
    assert [False, True, True] == sorted(result.replayed for result in results)


async def test_waiting_ends_with_the_deadline(stripe: Sandbox, customer: str, place: Place) -> None:
    """Who waits for another's call longer than its own deadline is told that the outcome is open."""
    stripe.faults.add("stall", seconds=5, path="balance")
    async with (
        await connect(stripe, journal=str(place)) as slow,
        await connect(stripe, journal=str(place), timeout=0.3) as hasty,
    ):
        running = asyncio.create_task(slow.call_tool(TOOL, order(customer), idempotency_key="k"))
        while not posts(stripe):
            await asyncio.sleep(0.01)
        with pytest.raises(OutcomeUnknownError, match="Another caller"):
            await hasty.call_tool(TOOL, order(customer), idempotency_key="k")
        waiting = asyncio.create_task(slow.call_tool(TOOL, order(customer), idempotency_key="k"))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(OutcomeUnknownError, match="repeats one that may have been sent"):
            await waiting
        running.cancel()
        with pytest.raises(OutcomeUnknownError):
            await running


@pytest.mark.parametrize(
    "second",
    [
        order(amount=-501),
        order("cus_2"),
        order(currency="eur"),
        order(description="x"),
        order(metadata={"a": "b"}),
        order(expand=["customer"]),
        order(reference="t-1"),
    ],
)
async def test_the_same_key_with_other_parameters_is_a_conflict(second: dict[str, Any]) -> None:
    """Nothing is sent, and the error says whose key it is."""
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async with await scripted(handler) as agent:
        await agent.call_tool(TOOL, order(), idempotency_key="k")
        with pytest.raises(
            IdempotencyConflictError, match=r"credit 5\.00 usd for cus_1, succeeded, transaction cbtxn_"
        ):
            await agent.call_tool(TOOL, second, idempotency_key="k")
    assert 1 == len(sent)


async def test_an_unfinished_call_is_resumed_with_its_first_bytes(
    stripe: Sandbox, agent: OCPAgent, customer: str
) -> None:
    """After lost replies the same key finds the first entry; the bytes are those first recorded."""
    stripe.faults.add("reset", executed=True, times=4)
    with pytest.raises(OutcomeUnknownError):
        await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    result = await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    assert result.replayed
    assert 1 == len(await ledger(stripe, customer))
    assert 1 == len({request.body for request in stripe.requests if "balance" in request.target and request.body})


def one_after_another(answers: list[httpx.Response | Exception]) -> Callable[[httpx.Request], httpx.Response]:
    def handler(_: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler


async def test_a_resumed_call_starts_in_doubt(place: Place) -> None:
    """A 429 on the resend says nothing about the first attempt, so the outcome stays unknown."""
    answers: list[httpx.Response | Exception] = [
        httpx.ReadError("lost"),
        httpx.Response(429, json={"error": {"type": "invalid_request_error"}}, headers=STRIPES),
    ]

    async with await scripted(one_after_another(answers), journal=str(place), max_attempts=1) as agent:
        for _ in range(2):
            with pytest.raises(OutcomeUnknownError):
                await agent.call_tool(TOOL, order(), idempotency_key="k")
    assert ["unknown"] == [row["state"] for row in rows(place)]


async def test_a_call_that_was_not_sent_can_be_sent(place: Place) -> None:
    """Neither a refused connection nor a rate limit uses the key up."""
    answers: list[httpx.Response | Exception] = [
        httpx.ConnectError("refused"),
        httpx.Response(429, json={"error": {"type": "invalid_request_error"}}, headers=STRIPES),
        httpx.Response(200, json=transaction()),
    ]

    async with await scripted(one_after_another(answers), journal=str(place), max_attempts=1) as agent:
        for cls in (NotSentError, RateLimitError):
            with pytest.raises(cls):
                await agent.call_tool(TOOL, order(), idempotency_key="k")
        assert (await agent.call_tool(TOOL, order(), idempotency_key="k")).ok


async def test_a_rejected_call_is_answered_from_the_journal(stripe: Sandbox, agent: OCPAgent) -> None:
    """Stripe's verdict is told again, with all its facts, without asking again."""
    told = []
    for _ in range(2):
        with pytest.raises(ResourceMissingError) as caught:
            await agent.call_tool(TOOL, order("cus_none"), idempotency_key="k")
        told.append(caught.value.to_dict())
    assert told[0] == told[1]
    assert 1 == posts(stripe)


async def test_after_23_hours_nothing_is_sent_again(
    stripe: Sandbox, agent: OCPAgent, customer: str, place: Place
) -> None:
    """Stripe may have forgotten the key: a resend could pay twice, so the ledger must tell."""
    stripe.faults.add("reset", executed=True, times=4)
    with pytest.raises(OutcomeUnknownError):
        await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    make_older(place, hours=23.1)
    with pytest.raises(OutcomeUnknownError, match="more than 23 hours ago") as caught:
        await agent.call_tool(TOOL, order(customer), idempotency_key="k")
    assert not caught.value.retryable
    assert 4 == posts(stripe)


def make_older(place: Place, hours: float) -> None:
    with look(place) as db:
        db.execute("UPDATE calls SET created_at = created_at - ?, updated_at = updated_at - ?", (hours * 3600,) * 2)


async def test_keys_are_apart_by_mode_account_and_base(place: Place) -> None:
    """The same key in another account, mode or at another address is another call."""
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    for more in (
        {},
        {"account": "acct_1"},
        {"api_key": "sk_live_1", "allow_live": True},
        {"api_base": "https://b.test"},
    ):
        async with await scripted(handler, journal=str(place), **more) as agent:
            await agent.call_tool(TOOL, order(), idempotency_key="k")
    assert 4 == len(sent) == len(rows(place))


async def test_off_keeps_keys_in_memory(stripe: Sandbox, customer: str, tmp_path: Path) -> None:
    """Without a file the same rules hold for the life of the agent, and nothing is written."""
    async with await connect(stripe, journal="off") as agent:
        first = await agent.call_tool(TOOL, order(customer), idempotency_key="k")
        assert (await agent.call_tool(TOOL, order(customer), idempotency_key="k")).data == first.data
        with pytest.raises(IdempotencyConflictError):
            await agent.call_tool(TOOL, order(customer, amount=-1), idempotency_key="k")
    assert not list(tmp_path.rglob("*.sqlite3"))


@pytest.mark.file_only("a folder")
def test_the_default_file_is_in_the_state_folder(tmp_path: Path) -> None:
    """Where the platform keeps such things."""
    assert Settings().journal_place == tmp_path / ".local" / "state" / "ocp-stripe-balance" / "journal.sqlite3"
    assert Settings(journal="~/j").journal_place == tmp_path / "j"


# One intent, one key


async def test_a_reference_is_paid_once_whatever_the_words(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """A model that plans anew rewords its text; the reason stays, and the first call's words stand."""
    first = await agent.call_tool(TOOL, order(customer, reference="ticket-812", description="Sorry"))
    again = await agent.call_tool(TOOL, order(customer, reference="ticket-812", description="We apologise"))
    assert first.data == again.data
    assert again.replayed
    assert any("the first call's description was kept" in warning for warning in again.warnings)
    (entry,) = await ledger(stripe, customer)
    assert ("Sorry", "ticket-812") == (entry["description"], entry["metadata"]["ocp_reference"])


async def test_a_reference_is_paid_once_whatever_the_key(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """A new tool-call ID for the same reason finds the first call, and says so."""
    first = await agent.call_tool(TOOL, order(customer, reference="t"), idempotency_key="call_1")
    again = await agent.call_tool(TOOL, order(customer, reference="t"), idempotency_key="call_2")
    assert ("call_1", first.data) == (again.idempotency_key, again.data)
    assert any("belongs to the call with key 'call_1'" in warning for warning in again.warnings)
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("other", [{"amount": -600}, {"currency": "eur"}])
async def test_a_reference_with_another_amount_is_a_conflict(
    agent: OCPAgent, customer: str, other: dict[str, Any]
) -> None:
    """The error names the first transaction."""
    first = await agent.call_tool(TOOL, order(customer, reference="t"))
    with pytest.raises(IdempotencyConflictError, match=first.data["id"]):
        await agent.call_tool(TOOL, order(customer, **{"reference": "t", **other}))


async def test_another_reason_or_customer_is_another_intent(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """References do not reach across customers, and each is its own reason; without one, each call is."""
    other = stripe.create_customer()
    calls = [
        order(customer, reference="a"),
        order(customer, reference="b"),
        order(other, reference="a"),
        order(customer),
        order(customer),
    ]
    results = [await agent.call_tool(TOOL, parameters) for parameters in calls]
    assert 5 == len({result.data["id"] for result in results})


async def test_a_rejected_reference_can_be_mended(agent: OCPAgent, customer: str) -> None:
    """What moved nothing binds nothing: the same reason may come with another amount."""
    with pytest.raises(RejectedError):
        await agent.call_tool(TOOL, order(customer, currency="zzz", reference="t"))
    assert (await agent.call_tool(TOOL, order(customer, amount=-600, reference="t"))).ok


async def test_a_reference_is_not_paid_by_an_old_key_later(stripe: Sandbox, customer: str, place: Place) -> None:
    """What was not sent under one key and paid under another is not paid again under the first."""
    async with await connect(stripe, journal=str(place), max_attempts=1) as agent:
        stripe.faults.add("rate_limit", path="balance")
        with pytest.raises(RateLimitError):
            await agent.call_tool(TOOL, order(customer, reference="t"), idempotency_key="a")
        paid = await agent.call_tool(TOOL, order(customer, reference="t"), idempotency_key="b")
        again = await agent.call_tool(TOOL, order(customer, reference="t"), idempotency_key="a")
        assert (paid.data, True) == (again.data, again.replayed)
    assert 1 == len(await ledger(stripe, customer))


# Finding out


async def unknown_call(agent: OCPAgent, stripe: Sandbox, customer: str, key: str, *, executed: bool) -> None:
    stripe.faults.add("reset", executed=executed, times=4)
    with pytest.raises(OutcomeUnknownError):
        await agent.call_tool(TOOL, order(customer), idempotency_key=key)


async def test_reconcile_finds_what_was_made(stripe: Sandbox, agent: OCPAgent, customer: str, place: Place) -> None:
    """The entry is found by its tag, the row is settled, no money moves, and the call is answered from then on."""
    await unknown_call(agent, stripe, customer, "k", executed=True)
    for _ in range(3):
        await agent.call_tool(TOOL, order(customer, amount=-1))
    before = await ledger(stripe, customer)
    (finding,) = await agent.reconcile()
    assert ("k", "succeeded", before[-1]) == (finding.key, finding.outcome, finding.transaction)
    assert before == await ledger(stripe, customer)
    assert {"succeeded"} == {row["state"] for row in rows(place)}
    assert [] == await agent.reconcile()
    assert before[-1] == (await agent.call_tool(TOOL, order(customer), idempotency_key="k")).data


async def test_reconcile_reads_every_page(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """An entry under two hundred others is found."""
    await unknown_call(agent, stripe, customer, "k", executed=True)
    await asyncio.gather(*(agent.call_tool(TOOL, order(customer, amount=-1)) for _ in range(220)))
    (finding,) = await agent.reconcile()
    assert "succeeded" == finding.outcome


async def test_reconcile_leaves_open_what_may_still_come(
    stripe: Sandbox, agent: OCPAgent, customer: str, place: Place
) -> None:
    """Within the key's life absence proves nothing; after it, with a full listing, it does."""
    await unknown_call(agent, stripe, customer, "k", executed=False)
    (finding,) = await agent.reconcile()
    assert "unknown" == finding.outcome
    assert "same call again under its key" in finding.advice
    make_older(place, hours=24.1)
    (finding,) = await agent.reconcile()
    assert "not_sent" == finding.outcome
    assert ["not_sent"] == [row["state"] for row in rows(place)]
    assert [] == await ledger(stripe, customer)


async def test_reconcile_names_suspects_it_cannot_tell_apart(stripe: Sandbox, place: Place, customer: str) -> None:
    """Without the tag, an entry of the same amount may be it: a person must look."""
    async with await connect(stripe, journal=str(place), tag_calls=False) as agent:
        await unknown_call(agent, stripe, customer, "k", executed=False)
        make_older(place, hours=24.1)
        (finding,) = await agent.reconcile()
        assert ("unknown", True) == (finding.outcome, "cannot be told apart" in finding.advice)
        await agent.call_tool(TOOL, order(customer), idempotency_key="other")
        (finding,) = await agent.reconcile()
    (entry,) = await ledger(stripe, customer)
    assert ("unknown", True) == (finding.outcome, entry["id"] in finding.advice)
    assert ["unknown", "succeeded"] == [row["state"] for row in rows(place)]


async def test_reconcile_is_not_fooled_by_the_clock_or_a_forged_tag(
    stripe: Sandbox, agent: OCPAgent, customer: str, place: Place
) -> None:
    """The whole ledger is read, and a tag on an entry of another amount settles nothing."""
    await unknown_call(agent, stripe, customer, "k", executed=True)
    make_older(place, hours=-48)  # our clock was two days ahead
    (finding,) = await agent.reconcile()
    assert "succeeded" == finding.outcome
    await unknown_call(agent, stripe, customer, "forged", executed=False)
    async with httpx.AsyncClient(base_url=stripe.url, auth=(stripe.api_key, "")) as http:
        form = {"amount": "-7", "currency": "usd", "metadata[ocp_call]": "forged"}
        await http.post(f"/v1/customers/{customer}/balance_transactions", data=form)
    make_older(place, hours=25)
    (finding,) = await agent.reconcile()
    assert ("unknown", True) == (finding.outcome, "Check whether one of these is it" in finding.advice)


async def test_reconcile_never_moves_money(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """It sends GETs only, also where it finds nothing or the customer is gone."""
    await unknown_call(agent, stripe, customer, "k", executed=False)
    stripe.requests.clear()
    await agent.reconcile()
    async with httpx.AsyncClient(base_url=stripe.url, auth=(stripe.api_key, "")) as http:
        await http.delete(f"/v1/customers/{customer}")
    (finding,) = await agent.reconcile()
    assert "could not be read, so the outcome is still unknown: " in finding.advice
    assert "Nothing moved" not in finding.advice
    stripe.faults.add("reset", times=None)
    (finding,) = await agent.reconcile()
    assert "could not be read, so the outcome is still unknown: " in finding.advice
    assert "Nothing moved" not in finding.advice
    assert [] == [name for name in dir(errors) if name.endswith("Error") and name in finding.advice]
    assert {"GET", "DELETE"} == {request.method for request in stripe.requests}


async def test_resume_sends_the_recorded_call(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """An open call is settled by its own key and bytes; a settled one is answered."""
    await unknown_call(agent, stripe, customer, "k", executed=False)
    api = agent._apis["stripe"]
    assert not (await api.resume("k")).replayed
    assert (await api.resume("k")).replayed
    assert 1 == len(await ledger(stripe, customer))
    with pytest.raises(ValueError, match="has no call of that key"):
        await api.resume("nope")


# Interruptions


@pytest.mark.promise("outcomes.no-fifth")
async def test_cancelling_at_every_await_leaves_a_truthful_row(stripe: Sandbox, place: Place, customer: str) -> None:
    """Cancelled after each step of the loop in turn: what the caller is told, the row and the ledger agree."""
    told: dict[str, int] = {}
    async with await connect(stripe, journal=str(place)) as agent:
        await agent.call_tool(TOOL, order(customer, amount=-1))
        # Some are counted from the start of the call, some from the moment its request is out.
        for is_out, steps in itertools.product((False, True), range(60)):
            key = f"cancelled-{is_out}-{steps}"
            stripe.requests.clear()
            task = asyncio.create_task(agent.call_tool(TOOL, order(customer, amount=-2), idempotency_key=key))
            while is_out and not posts(stripe) and not task.done():
                await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            outcome = await outcome_of(task)
            told[outcome] = told.get(outcome, 0) + 1
            row = next((row for row in rows(place) if row["key"] == key), None)
            made = [entry for entry in await ledger(stripe, customer) if entry["metadata"]["ocp_call"] == key]
            if outcome == "cancelled":  # before anything was sent
                assert row is None or row["state"] == "not_sent"
                assert [] == made
            elif outcome == "succeeded":
                assert row is not None
                assert ("succeeded", 1) == (row["state"], len(made))
            else:
                assert "unknown" == outcome
                assert row is not None
                assert row["state"] in {"unknown", "succeeded"}
    assert {"cancelled", "unknown"} <= set(told)


@pytest.mark.parametrize("steps", range(8))
async def test_cancelling_a_repeat_is_no_plain_cancellation(
    stripe: Sandbox, agent: OCPAgent, customer: str, steps: int
) -> None:
    """Who repeats a call that may have moved money is told so, however soon it is cancelled."""
    await unknown_call(agent, stripe, customer, "k", executed=True)
    task = asyncio.create_task(agent.call_tool(TOOL, order(customer), idempotency_key="k"))
    for _ in range(steps + 1):
        await asyncio.sleep(0)
    task.cancel()
    assert await outcome_of(task) in {"unknown", "succeeded"}
    assert "succeeded" == (await agent.call_tool(TOOL, order(customer), idempotency_key="k")).outcome


async def outcome_of(task: asyncio.Task[Any]) -> str:
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"
    except ToolError as error:
        return error.outcome
    return "succeeded"


def call_and_stall(url: str, api_key: str, place: str, customer: str) -> None:
    """
    In a process of its own, to be killed.
    """

    async def main() -> None:
        settings = Settings(api_key=api_key, api_base=url, journal=place)
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            await agent.call_tool(TOOL, order(customer), idempotency_key="k")

    asyncio.run(main())


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.promise("once.after-a-crash")
def test_a_killed_process_leaves_a_call_that_can_be_resumed(
    stripe_thread: Sandbox, place: Place, executed: bool
) -> None:
    """SIGKILL while the request is out: the row says it may have been sent, and the next caller finishes it at once."""
    customer = stripe_thread.create_customer()
    stripe_thread.faults.add("stall", seconds=0.6, executed=executed, path="balance")
    arguments = (stripe_thread.url, stripe_thread.api_key, str(place), customer)
    process = processes().Process(target=call_and_stall, args=arguments)
    process.start()
    while not posts(stripe_thread):
        assert process.exitcode is None
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert ["sending"] == [row["state"] for row in rows(place)]

    async def again() -> tuple[Any, int]:
        async with await connect(stripe_thread, journal=str(place), max_attempts=20) as agent:
            result = await agent.call_tool(TOOL, order(customer), idempotency_key="k")
            return result, len(await ledger(stripe_thread, customer))

    result, entries = asyncio.run(again())
    assert ("succeeded", 1) == (result.outcome, entries)


# The state machine of a call, against a model

KEYS = ["a", "b"]
OUTCOMES = [State.NOT_SENT, State.SUCCEEDED, State.UNKNOWN, State.REJECTED]


class CallMachine(RuleBasedStateMachine):
    """
    Admissions, outcomes, deaths and hours in any order; the verdict is the model's, on an engine and in memory.
    """

    engine = "file"

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.calls: dict[str, list[Any]] = {}  # key -> [amount, reference, state, made at, is its owner alive]
        self.names: dict[str, str] = {}  # key -> the key of the call that it joined
        self.loop = asyncio.new_event_loop()

    @initialize(is_durable=st.booleans())
    def open(self, is_durable: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.places = Places(self.engine, Path(self.folder.name))
        self.place = self.places("journal") if is_durable else None
        self.journal = Journal(self.place, clock=lambda: self.now, open_database=self.opened)

    def opened(self, path: Path | None) -> sqlite3.Connection:
        self.db = opened(path)
        return self.db

    def expected(self, key: str, amount: int, reference: str | None) -> tuple[str, str]:
        """
        The model: what a call must find, and the key of the call it finds.
        """
        first = self.names.get(key, key)
        if key not in self.calls and first in self.calls and self.calls[first][2] is not State.REJECTED:
            key = first
        if key in self.calls and self.calls[key][:2] != [amount, reference]:
            return "conflict", key
        if reference is not None and (key not in self.calls or self.calls[key][2] is State.NOT_SENT):
            open_calls = [
                k for k, c in self.calls.items() if c[1] == reference and c[2] not in {State.NOT_SENT, State.REJECTED}
            ]
            if open_calls:
                key = min(open_calls, key=lambda k: self.calls[k][3])
                if self.calls[key][0] != amount:
                    return "conflict", key
        if key not in self.calls or self.calls[key][2] is State.NOT_SENT:
            return "send", key
        _, _, state, made_at, is_alive = self.calls[key]
        if state in {State.SUCCEEDED, State.REJECTED}:
            return "replay", key
        if state is State.SENDING and is_alive:
            return "wait", key
        return ("resume" if self.now + 60 - made_at < 23 * 3600 else "too_old"), key

    # One choice among all that a call can be: to draw each part takes longer than the call.
    @rule(call=st.sampled_from(list(itertools.product(KEYS, [1, 1, 1, 2], ["r", "r", "r", None]))))
    def admit(self, call: tuple[str, int, str | None]) -> None:
        key, amount, reference = call
        expected, found = self.expected(key, amount, reference)
        admitted = self.loop.run_until_complete(admit(self.journal, draft(key, amount, reference)))
        record = getattr(admitted, "record", None) or admitted.first
        assert (expected, found) == (verdict(admitted), record.key)
        if found != key and expected != "conflict" and key not in self.calls:
            self.names[key] = found
        if expected == "send":
            self.calls[found] = [amount, reference, State.SENDING, self.now, True]
        elif expected == "resume":
            self.calls[found][2:] = [State.SENDING, self.calls[found][3], True]
        self.now += 1

    @rule(end=st.sampled_from(list(itertools.product(KEYS, OUTCOMES))))
    def settle(self, end: tuple[str, State]) -> None:
        key, state = end
        call = self.calls.get(key)
        if call is None or call[2] not in {State.SENDING, State.UNKNOWN}:
            return
        is_final = state in {State.SUCCEEDED, State.REJECTED}
        (record,) = self.loop.run_until_complete(self.journal.run(lambda book: book.calls_of("key", key)))
        assert self.loop.run_until_complete(settle(self.journal, record, state, is_final=is_final))
        call[2], call[4] = state, False

    @rule()
    def everyone_dies(self) -> None:
        sql = f"UPDATE calls SET owner = 'dead', owner_pid = {2**22 + 1} WHERE owner != ''"  # noqa: S608  a number
        if self.calls and self.place is not None:
            with look(self.place) as db:
                db.execute(sql)
        elif self.calls:
            self.db.execute(sql)
        for call in self.calls.values():
            call[4] = False

    @rule(hours=st.sampled_from([0.1, 5, 23]))
    def time_passes(self, hours: float) -> None:
        self.now += hours * 3600
        for call in self.calls.values():
            call[4] = False  # the lease of a minute is over

    @invariant()
    def no_reference_is_paid_twice(self) -> None:
        paid = [c[1] for c in self.calls.values() if c[1] is not None and c[2] is State.SUCCEEDED]
        assert len(paid) == len(set(paid))

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.loop.run_until_complete(self.journal.aclose())
            self.places.close()
            self.folder.cleanup()
        self.loop.close()


CallMachine.TestCase.settings = hypothesis_settings(max_examples=200, stateful_step_count=40, deadline=None)
TestCallMachine = CallMachine.TestCase


class CallMachineOnServer(CallMachine):
    engine = "postgres"


CallMachineOnServer.TestCase.settings = settings_on_server(CallMachine, max_examples=15)
TestCallMachineOnServer = CallMachineOnServer.TestCase


@pytest.mark.file_only("openings")
def test_many_first_openings_at_once(tmp_path: Path) -> None:
    """A new file that many open in the same moment is ready for each of them."""
    barrier = threading.Barrier(8)

    def first_use(path: Path) -> None:
        barrier.wait()
        open_database(path).close()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for number in range(30):
            for done in [pool.submit(first_use, tmp_path / f"journal{number}") for _ in range(8)]:
                done.result()


async def test_one_failing_work_fails_alone(place: Place) -> None:
    """A key that no database can take is its caller's trouble, not that of those who share the commit."""
    journal, scope = Journal(place), Scope("", "", "")
    keys: list[Any] = ["\ud800", 2**70 if isinstance(place, Path) else "a\0b"]
    bad = [journal.run(lambda book, key=key: book.find_key(key, scope)) for key in keys]  # type: ignore[misc]  # a default is no parameter here
    good = [admit(journal, draft(f"k{i}"), timeout_s=1) for i in range(20)]
    results = await asyncio.gather(*good[:10], *bad, *good[10:], return_exceptions=True)
    assert 2 == len([result for result in results if isinstance(result, NotSentError)])
    assert 20 == len(await records(journal))
    await journal.aclose()


async def test_who_lost_the_lease_records_no_doubtful_outcome(place: Place) -> None:
    """A late not_sent does not overwrite the taker's unknown; a success is recorded by whoever saw it."""
    now = [1_000_000.0]
    journal = Journal(place, clock=lambda: now[0])
    first = await admit(journal, draft("k"), timeout_s=1)
    now[0] += 100
    second = await admit(journal, draft("k"), timeout_s=1)
    assert ("send", "resume") == (verdict(first), verdict(second))
    assert await settle(journal, second.record, State.UNKNOWN)
    assert not await settle(journal, first.record, State.NOT_SENT)
    assert [State.UNKNOWN] == [record.state for record in await records(journal)]
    assert await settle(journal, first.record, State.SUCCEEDED)
    assert not await settle(journal, second.record, State.REJECTED, is_final=True)
    assert [State.SUCCEEDED] == [record.state for record in await records(journal)]
    await journal.aclose()


@pytest.mark.parametrize(("hours", "expected"), [(-48, "too_old"), (22.9, "resume"), (22.99, "too_old")])
@pytest.mark.promise("once.own-bytes-only-while-known")
async def test_only_what_is_surely_young_is_resumed(place: Place, hours: float, expected: str) -> None:
    """A call from the future, or whose last attempt could end past the border, is not sent again."""
    now = [1_000_000.0]
    journal = Journal(place, clock=lambda: now[0])
    first = await admit(journal, draft("k"))
    await settle(journal, first.record, State.UNKNOWN)
    now[0] += hours * 3600
    assert expected == verdict(await admit(journal, draft("k")))
    await journal.aclose()


def take_over(place: Place) -> None:
    """Another caller has the call now, and it may have moved money."""
    with look(place) as db:
        assert 1 == db.execute("UPDATE calls SET owner = 'another:1:x', state = 'unknown'").rowcount


async def test_a_cancelled_caller_who_lost_the_claim_is_told_unknown(place: Place) -> None:
    """Its own attempts sent nothing, but whoever took the call over may have moved money."""

    def handler(_: httpx.Request) -> httpx.Response:
        take_over(place)
        task.cancel()
        raise httpx.ConnectError("refused")

    async with await scripted(handler, journal=str(place)) as agent:
        task = asyncio.create_task(agent.call_tool(TOOL, order(), idempotency_key="k"))
        assert "unknown" == await outcome_of(task)
    assert ["unknown"] == [row["state"] for row in rows(place)]


async def test_a_claim_lost_while_it_was_cancelled_is_not_called_unsent(place: Place) -> None:
    """The row was committed, taken over, and only then did the cancelled caller get to it."""
    async with await scripted(lambda _: httpx.Response(500), journal=str(place)) as agent:
        task = asyncio.create_task(agent.call_tool(TOOL, order(), idempotency_key="k"))
        await asyncio.sleep(0)  # the claim is with the writer's thread
        deadline = time.monotonic() + 30
        while not is_recorded(place):
            time.sleep(0.005)  # noqa: ASYNC251  the loop must not see the commit yet
            assert time.monotonic() < deadline
        take_over(place)
        task.cancel()
        assert "unknown" == await outcome_of(task)
    assert ["unknown"] == [row["state"] for row in rows(place)]


async def test_a_row_that_is_sent_anew_says_so(place: Place) -> None:
    """While a resumed call is out, its row says sending, whatever became of it before."""
    seen: list[dict[str, Any]] = []
    answers = [
        httpx.Response(429, json={"error": {"type": "invalid_request_error"}}, headers=STRIPES),
        httpx.Response(200, json=transaction()),
    ]

    def handler(_: httpx.Request) -> httpx.Response:
        seen.append(rows(place)[0])
        return answers.pop(0)

    async with await scripted(handler, journal=str(place), max_attempts=1) as agent:
        with pytest.raises(RateLimitError):
            await agent.call_tool(TOOL, order(), idempotency_key="k")
        await agent._apis["stripe"].resume("k")
    assert [("sending", 0, None, None)] * 2 == [(r["state"], r["attempts"], r["status"], r["answer"]) for r in seen]


async def test_a_retagged_entry_is_a_suspect(stripe: Sandbox, agent: OCPAgent, customer: str, place: Place) -> None:
    """Someone edits the tag in the Dashboard: that the tag is gone proves nothing."""
    await unknown_call(agent, stripe, customer, "k", executed=True)
    (entry,) = await ledger(stripe, customer)
    async with httpx.AsyncClient(base_url=stripe.url, auth=(stripe.api_key, "")) as http:
        path_ = f"/v1/customers/{customer}/balance_transactions/{entry['id']}"
        await http.post(path_, data={"metadata[ocp_call]": "edited"})
    make_older(place, hours=25)
    (finding,) = await agent.reconcile()
    assert ("unknown", True) == (finding.outcome, entry["id"] in finding.advice)


@pytest.mark.promise("answers.surprising-success")
async def test_a_replay_repeats_the_warnings(place: Place) -> None:
    """What was surprising the first time is told again."""
    async with await scripted(partial(answered, type="of_next_year"), journal=str(place)) as agent:
        results = [await agent.call_tool(TOOL, order(), idempotency_key="k") for _ in range(2)]
    assert results[0].warnings == results[1].warnings != ()


@pytest.mark.promise("once.one-reason")
async def test_a_reference_known_to_another_journal_is_unknown(stripe: Sandbox, customer: str, places: Places) -> None:
    """Two hosts without a common journal derive one key: Stripe refuses other words, but the money may have moved."""
    for name, words in (("a", "Sorry"), ("b", "We apologise")):
        async with await connect(stripe, journal=str(places(name))) as agent:
            call = agent.call_tool(TOOL, order(customer, reference="t", description=words), idempotency_key=None)
            if name == "a":
                await call
            else:
                with pytest.raises(OutcomeUnknownError, match="another journal"):
                    await call
    assert 1 == len(await ledger(stripe, customer))


async def pruned(journal: Journal, *, with_references: bool = False) -> int:
    return await journal.run(lambda book: book.prune(9e9, journal.now(), with_references=with_references, keep_s=0.0))


@pytest.mark.promise("once.one-reason")
async def test_prune_keeps_paid_references(agent: OCPAgent, customer: str, place: Place) -> None:
    """A reason that was paid stays known, unless it is given up by name."""
    await agent.call_tool(TOOL, order(customer, reference="t"))
    await agent.call_tool(TOOL, order(customer))
    journal = Journal(place)
    assert 0 == await pruned(journal), "the rules still count the last ten minutes"
    age(place, 700)
    assert 1 == await pruned(journal)
    assert (await agent.call_tool(TOOL, order(customer, reference="t"))).replayed
    assert 1 == await pruned(journal, with_references=True)
    await journal.aclose()


@pytest.mark.file_only("formats of before")
async def test_a_worker_of_the_version_before_is_counted(path: Path) -> None:
    """It writes rows without the newer columns; budgets count them from the end of their lease."""
    journal = Journal(path)
    admitted = await admit(journal, draft("k"))
    newer = {"id", "agent_type", "user", "spent_at", "key", "key_origin", "moves_money", "is_tagged"}
    newer |= {"transaction_id", "warnings", "owner_host", "owner_pid"}
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(calls)")]
        old = ", ".join(name for name in columns if name not in newer)
        db.execute(f"INSERT INTO calls (key, {old}) SELECT 'old', {old} FROM calls")  # noqa: S608  the table's own names
    (record,) = [record for record in await records(journal) if record.key == "old"]
    assert admitted.record.lease.until == record.spent_at == record.lease.until
    assert not record.payload.is_tagged
    assert "wait" == verdict(await admit(journal, draft("old")))
    await journal.aclose()


OLD_CALL = (
    "INSERT INTO calls (base_url, mode, account, key, tool, customer, amount, currency, reference, arguments, path, "
    "body, api_version, context_id, state, is_final, attempts, status, answer, note, created_at, updated_at, owner, "
    "lease_until) VALUES ('b', 'test', '', ?, 't', 'c', ?, 'usd', ?, '{}', '/', ?, 'v', 'ocp', ?, 1, 1, 200, ?, ?, "
    "100.0, 150.0, ?, 0)"
)


def file_of_format(path: Path, number: int) -> sqlite3.Connection:
    """
    A journal as a version wrote it that knew so many migrations.
    """
    path.parent.mkdir(parents=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.create_function("one_spelling", 1, one_spelling)
    db.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, applied_at REAL NOT NULL)")
    for version, script in enumerate(migrations()[:number], 1):
        for statement in script:
            db.execute(statement)
        db.execute("INSERT INTO migrations VALUES (?, 0)", (version,))
    return db


@pytest.mark.file_only("formats of before")
async def test_a_file_of_the_first_format_is_brought_up_to_date(path: Path) -> None:
    """Its calls stay, and count from when they were settled."""
    db = file_of_format(path, 1)
    db.execute(OLD_CALL, ("k", -5, None, b"", "succeeded", None, None, ""))
    db.close()
    journal = Journal(path)
    (record,) = await records(journal)
    assert ("k", 150.0, "", None) == (record.key, record.spent_at, *record.intent.caller[1:])
    await journal.aclose()


@pytest.mark.file_only("formats of before")
async def test_a_decision_of_before_there_were_votes_is_one(path: Path) -> None:
    """It still counts where the proposal waits once more, because the policy wants two people now."""
    db = file_of_format(path, 12)
    for number, (state, by) in enumerate([("waiting", None), ("approved", "kim"), ("denied", "lee")]):
        db.execute(
            "INSERT INTO proposals (id, base_url, mode, account, key, key_origin, tool, customer, moves_money, amount, "
            "currency, context_id, agent_type, arguments, rule, why, asked_at, expires_at, state, decided_at, "
            "decided_by, reason) VALUES (?, 'b', 'test', '', ?, 'drawn', 't', 'c', 1, -5, 'usd', 'ocp', 'bot', '{}', "
            "'r', 'w', 1, 9e9, ?, ?, ?, ?)",
            (f"ap_{number}", f"k{number}", state, by and 2.0, by, by and "fine"),
        )
    db.close()
    journal = Journal(path)
    waiting, approved, denied = await journal.run(lambda book: book.proposals(3.0))
    await journal.run(lambda book: book.reopen(replace(approved, needed=2)))
    again = await journal.run(lambda book: book.proposal("ap_1", 3.0))
    assert ((), None) == (waiting.approvals, waiting.denial)
    assert ("approved", 1, None) == (approved.state, approved.needed, approved.denial)
    assert [("kim", 2.0, "fine")] == [(each.by, each.at, each.reason) for each in approved.approvals]
    assert again is not None
    assert ("waiting", 2, ["kim"]) == (again.state, again.needed, [each.by for each in again.approvals])
    assert denied.denial is not None
    assert ((), "lee", 2.0) == (denied.approvals, denied.denial.by, denied.denial.at)
    await journal.aclose()


@pytest.mark.file_only("formats of before")
async def test_facts_that_were_hidden_in_texts_move_to_columns(path: Path) -> None:
    """A file of the second format: whose the key is, the mark in the body, the entry, warnings, the owner."""
    db = file_of_format(path, 2)
    derived = "0123456789abcdef" * 4
    tag, answer = b"metadata%5Bocp_call%5D=k", '{"id": "cbtxn_1"}'
    for key, amount, reference, body, state, told, note, owner in (
        ("ref-1", -5, None, tag, "succeeded", answer, '["odd"]', ""),
        ("rev-ticket-1", -5, None, b"", "not_sent", "{}", "reconciled", ""),
        (f"ref-{derived}", -5, "ticket", b"", "succeeded", "NaN", None, ""),
        (f"rev-{derived}", 5, "reversal", b"", "sending", None, None, "somewhere:77:x-1"),
        ("update", 0, None, b"", "succeeded", answer, None, ""),
    ):
        db.execute(OLD_CALL, (key, amount, reference, body, state, told, note, owner))
    db.close()
    journal = Journal(path)
    found = {record.key: record for record in await records(journal)}
    await journal.aclose()
    origins = [record.intent.key.origin.value for record in found.values()]
    assert ["caller", "caller", "reference", "reversal", "caller"] == origins
    first = found["ref-1"]
    assert (True, ("odd",), None) == (first.payload.is_tagged, first.outcome.warnings, first.outcome.note)
    assert ["cbtxn_1", None, None, None, None] == [record.transaction_id for record in found.values()]
    assert "reconciled" == found["rev-ticket-1"].outcome.note
    assert ("somewhere", 77) == found[f"rev-{derived}"].lease[1:3]
    assert None is found["update"].intent.money


async def test_journals_close_and_open_again(place: Place) -> None:
    """A closed journal opens by itself when it is needed."""
    journal = Journal(place)
    found = []
    for key in ("a", "b"):
        found.append(verdict(await admit(journal, draft(key), timeout_s=1)))
        await journal.aclose()
        await journal.aclose()
    assert ["send", "send"] == found
    assert 2 == len(await records(journal))
    await journal.aclose()


CALL = """
import asyncio, sys
from ocp_stripe_balance import OCPAgent, Settings
url, key, journal, tool, customer = sys.argv[1:]

async def main():
    async with OCPAgent(settings=Settings(api_key=key, api_base=url, journal=journal)) as agent:
        await agent.register_api('stripe')
        words = {'customer': customer, 'amount': -500, 'currency': 'usd'}
        await agent.call_tool(tool, words)

asyncio.run(main())
"""


@pytest.mark.file_only("fsync")
@pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace; the test of the commits above runs everywhere"
)
@pytest.mark.promise("once.key-before-bytes")
def test_the_kernel_is_asked_to_write_before_the_first_byte(stripe_thread: Sandbox, path: Path) -> None:
    """A system call trace of a whole process: the journal is fsynced between its last write and the request."""
    customer = stripe_thread.create_customer()
    trace = path.with_name("trace")
    path.parent.mkdir(parents=True)
    words = [stripe_thread.url, stripe_thread.api_key, str(path), TOOL, customer]
    # Stopped at these calls only, which takes a third of the time.
    strace = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "200", "-o", str(trace)]
    strace += ["-e", "trace=write,pwrite64,fsync,fdatasync,sendto"]
    subprocess.run([*strace, sys.executable, "-c", CALL, *words], check=True)  # noqa: S603  ours
    lines = trace.read_text().splitlines()
    sent = next(i for i, line in enumerate(lines) if "POST /v1/customers" in line)
    written = max(i for i, line in enumerate(lines[:sent]) if "journal.sqlite3-wal" in line and "write" in line)
    synced = [i for i, line in enumerate(lines) if "journal.sqlite3-wal" in line and "sync" in line]
    assert any(written < i < sent for i in synced)


async def test_a_journal_that_nobody_closes_leaves_no_thread(place: Place) -> None:
    """A host may drop an agent without closing it."""
    journal = Journal(place)
    before = set(threading.enumerate())
    await records(journal)
    (thread,) = set(threading.enumerate()) - before
    del journal
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_closing_in_one_thread_strands_no_work_of_another(place: Place) -> None:
    """What is asked while another thread closes the journal is answered, by a new thread where need be."""
    journal, done = Journal(place), []

    async def ask() -> None:
        for _ in range(500):
            await asyncio.wait_for(records(journal), 20)
        done.append(True)

    async def close() -> None:
        while len(done) < 2:
            await journal.aclose()
        await journal.aclose()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            works = [pool.submit(asyncio.run, work) for work in (ask(), ask(), close(), close())]
            for each in works:
                each.result(40)
    finally:
        sys.setswitchinterval(interval)
    assert not [thread for thread in threading.enumerate() if thread.name == "journal"]


async def test_an_answer_that_sqlite_cannot_read_is_no_trouble_to_others(place: Place) -> None:
    """NaN is no JSON to SQLite; the entry of another call is found all the same."""
    bodies = [json.dumps(transaction(id="cbtxn_odd", x=math.nan)).encode(), json.dumps(transaction()).encode()]
    async with await scripted(lambda _: httpx.Response(200, content=bodies.pop(0)), journal=str(place)) as agent:
        for _ in range(2):
            await agent.call_tool(TOOL, order())
    journal = Journal(place)
    scope, known = Scope("https://api.stripe.com", "test", ""), transaction()["id"]
    assert "cus_1" == await journal.run(lambda book: book.customer_of(known, scope))
    assert None is await journal.run(lambda book: book.customer_of("cbtxn_other", scope))
    await journal.aclose()
