"""
The short form of the chaos run and of the race: `make chaos` has the long one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import chaos
import chaos_mcp_http
import chaos_web
import pytest
from chaos_journals import opened
from helpers import draft

from ocp_stripe_balance.models import Proposal, Vote

if TYPE_CHECKING:
    from pathlib import Path


NOTHING: dict[str, list[object]] = {
    name: [] for name in ("double", "lost", "wrong statement", "unrecorded", "wrong total", "wrong time")
}


def options_of(**given: object) -> argparse.Namespace:
    """
    Of a short run.
    """
    usual = {"journal": "file", "faults": 0.3, "stops": 0, "ends": 0, "timeout": 8, "margin": 5}
    return argparse.Namespace(**usual | given)


@pytest.mark.usefixtures("at_once")
def test_three_witnesses_agree_after_a_short_chaos(tmp_path: Path) -> None:
    """Killed workers, forks, a folder that goes, faulty exchanges: no double, lost, wrong or unrecorded entry."""
    report = asyncio.run(chaos.Run(options_of(calls=150, workers=2, kills=4, forks=3, away=2), 11, tmp_path).main())
    assert NOTHING == report["violations"]
    harms = [report[harm] for harm in ("SIGKILLs", "forks", "journal taken away")]
    assert all(harms)
    assert sum(harms) > 4  # of 9: the calls may be over before
    assert report["issued"] > report["calls"]
    assert sum(report["faults"].values()) > 10
    assert set(report["told"]) <= {"succeeded", "rejected", "not_sent", "unknown"}


@pytest.mark.usefixtures("at_once")
@pytest.mark.skipif("TEST_POSTGRES_URL" in os.environ, reason="a server of others is not killed")
def test_three_witnesses_agree_after_a_short_chaos_on_a_server(tmp_path: Path) -> None:
    """Two hosts with wrong clocks, a server that is killed, sessions that it ends, a worker stopped past its lease."""
    given = {"journal": "postgres", "timeout": 1, "margin": 0.2}
    options = options_of(calls=60, workers=2, kills=2, forks=2, away=1, stops=1, ends=4, **given)
    report = asyncio.run(chaos.Run(options, 12, tmp_path).main())
    assert NOTHING == report["violations"]
    # One is stopped only where none was killed just then, and the calls may be over before the last of the others.
    assert all(report[harm] for harm in ("SIGKILLs", "forks", "journal taken away", "sessions ended"))
    assert report["told"]["succeeded"] > 10  # of a busy machine too


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("at_once")
def test_the_witnesses_agree_where_mcp_sessions_are_killed(tmp_path: Path) -> None:
    """Some seconds of it, in which the server lives; `make chaos-mcp` kills that too."""
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    options = argparse.Namespace(sessions=12, seconds=3, every=0.3, server_every=99, faults=0.2)
    report = asyncio.run(chaos_mcp_http.Sessions(options, 5, tmp_path).main())
    assert NOTHING == report["violations"]
    assert report["SIGKILLs"] > 5  # of 10
    assert report["told"]["succeeded"] > 0
    assert report["issued"] > report["calls"]


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("at_once")
def test_a_gateway_that_is_killed_loses_no_call_and_no_decision(tmp_path: Path) -> None:
    """A few agents, two people, a server that is killed twice and told to end twice; `make chaos-web` has more."""
    for each in ("uvicorn", "jinja2", "argon2"):
        pytest.importorskip(each, reason="the extra web is not installed")
    options = argparse.Namespace(agents=8, people=2, kills=2, ends=1, every=0.4, faults=0.2, calls=40, patience=60)
    run = chaos_web.Gateways(options, 5, tmp_path)
    report = asyncio.run(run.main())
    assert NOTHING == report["violations"]
    assert 2 <= report["SIGKILLs"]
    assert 2 == report["told to end"]
    assert report["issued"] > report["calls"]
    assert report["told"]["succeeded"] > 0
    assert run.decisions.counted


@pytest.mark.parametrize(("rounds", "processes", "on_server"), [(10, 6, False), (3, 16, True)])
def test_racing_processes_are_told_one_transaction(rounds: int, processes: int, on_server: bool) -> None:
    """They make the same call at the same moment, several times over."""
    report = chaos.race(rounds, processes, on_server=on_server)
    assert rounds == report["entries"] == report["keys with one entry"]
    assert rounds == report["rounds in which all were told the same"]


def test_the_comparison_sees_what_is_wrong(tmp_path: Path) -> None:
    """Doctored evidence of each kind is found: the witnesses are really compared."""

    async def compare(told: list[dict[str, str]], ledger: list[dict[str, object]]) -> dict[str, list[object]]:
        run = chaos.Run(options_of(), 1, tmp_path)
        run.jobs = [chaos.Job(0, {}, "k", told=told)]
        found: dict[str, list[object]] = (await run.compare(ledger))["violations"]
        return found

    def entry(name: str) -> dict[str, object]:
        return {"id": name, "metadata": {"ocp_call": "k"}}

    paid = {"outcome": "succeeded", "key": "k", "id": "a"}
    refused = {"outcome": "rejected", "key": "k"}
    assert ["k"] == asyncio.run(compare([paid], [entry("a"), entry("b")]))["double"]
    assert [0] == asyncio.run(compare([paid], []))["lost"]
    assert [0] == asyncio.run(compare([refused], [entry("a")]))["wrong statement"]
    assert [0] == asyncio.run(compare([paid], [entry("b")]))["wrong statement"]
    assert ["k"] == asyncio.run(compare([paid], [entry("a")]))["unrecorded"]


def test_the_comparison_sees_what_is_wrong_with_decisions() -> None:
    """Doctored proposals, beside what people were told and what was paid."""
    waits = Proposal(
        id="ap", key="k", tool="t", arguments="{}", base_url="", mode="test", account="", customer="c",
        customer_name=None, amount=-900, currency="usd", balance_before=None, reference=None, rule="r", why="",
        context_id="", agent_type="", user=None, asked_at=0.0, expires_at=9.0,
    )  # fmt: skip
    ada, bob = (Vote(by=name, how="", at=1.0) for name in ("ada", "bob"))
    used = replace(waits, state="used", approvals=(ada,))
    paid = [{"metadata": {"ocp_call": "k"}, "amount": -900}]

    def wrong(*journal: Proposal, told: str = "waiting", counted: str = "", paid: list[Any] | None = None) -> set[str]:
        decisions = chaos_web.Decisions()
        decisions.hear("ap", told)
        decisions.counted += [("ap", counted, "approve")] if counted else []
        for each in journal:
            decisions.look([each])
        decisions.judge(paid or [])
        return {name for name, found in decisions.wrong.items() if found}

    assert set() == wrong(replace(used, state="approved"), used, told="approved", counted="ada", paid=paid)
    assert {"lost proposal"} == wrong(replace(waits, id="other"), counted="ada")
    assert {"undone"} == wrong(waits, told="denied")
    assert {"undone"} == wrong(waits, counted="ada")
    assert {"undone"} == wrong(used, waits)
    assert {"decided twice"} == wrong(replace(used, approvals=(ada, bob)))
    assert {"decided twice"} == wrong(replace(used, approvals=(ada, ada), needed=2))
    assert {"wrong state"} == wrong(replace(waits, approvals=(ada,)))
    assert {"without a yes"} == wrong(waits, paid=paid)


def test_the_comparison_sees_a_time_that_is_not_of_the_run(tmp_path: Path) -> None:
    """As a host with a wrong clock would put it on record."""

    async def compare() -> dict[str, list[object]]:
        run = chaos.Run(options_of(), 1, tmp_path)
        run.jobs = []
        journal = opened(run.journal.name)
        now = journal.now() + 3600
        await journal.run(lambda book: book.note(draft("k").intent, "refused", now, rule="none", reason=""))
        await journal.aclose()
        found: dict[str, list[object]] = (await run.compare([]))["violations"]
        return found

    assert ["k"] == asyncio.run(compare())["wrong time"]
