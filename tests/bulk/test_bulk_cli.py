"""
The commands of bulk, as people and scripts use them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import chaos_bulk
import programs
import pytest
from helpers import run
from terminal import at_terminal

from ocp_stripe_balance.cli.bulk import _span

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

WORDS = ("--reference", "outage", "--direction", "credit", "--currency", "usd")


@pytest.fixture
def plan(stripe_thread: Sandbox, tmp_path: Path) -> str:
    """
    The plan of thirty rows.
    """
    rows = "".join(f"{stripe_thread.create_customer()},5.00\n" for _ in range(30))
    (tmp_path / "in.csv").write_text(f"customer,amount\n{rows}")
    done = run("bulk", "plan", "in.csv", *WORDS, "--expect-count", "30", stripe=stripe_thread)
    assert 0 == done.returncode, done.stderr
    assert done.stderr.splitlines()[-1].endswith("bulk run in.csv.plan")
    return "in.csv.plan"


def test_plan_tells_every_mistake_at_once(stripe_thread: Sandbox, tmp_path: Path) -> None:
    name = stripe_thread.create_customer()
    (tmp_path / "in.csv").write_text(f"customer;amount;Ref\n{name};5,00;=1\ncus_none;x;b\n")
    words = ("bulk", "plan", "in.csv", "--direction", "credit", "--currency", "usd")
    assert "pass --separator ';'" in run(*words, stripe=stripe_thread).stderr
    said = (*words, "--separator", ";", "--decimal", "comma")
    assert "ref: is no column that is known; the columns are customer" in run(*said, stripe=stripe_thread).stderr
    done = run(*said, "--ignore", "ref", "--expect-total", "9.00 usd", stripe=stripe_thread)
    assert (2, "") == (done.returncode, done.stdout)
    no_reason = "is empty; write the business reason, such as ticket-812, or pass --reference for all rows"
    assert [
        f"- line 2, reference: {no_reason}",
        f"- line 3, reference: {no_reason}",
        "- line 3, amount: 'x' is not an amount; write a plain number such as '5.00'",
    ] == [line for line in done.stderr.splitlines() if line.startswith("- ")]
    for wrong in (("--separator", ";;"), ("--expect-total", "much"), ("--decimal", "dot")):
        assert 2 == run(*said, *wrong, stripe=stripe_thread).returncode


def test_a_list_that_was_changed_since_is_told_before_the_question(
    stripe_thread: Sandbox, plan: str, tmp_path: Path
) -> None:
    """And no plan is put in the place of another."""
    with (tmp_path / "in.csv").open("a") as file:
        file.write("cus_more,5.00\n")
    done = run("bulk", "plan", "in.csv", *WORDS, stripe=stripe_thread)
    assert 2 == done.returncode
    assert "Nothing was planned: in.csv.plan is there already." in done.stderr
    assert "mistake" not in done.stderr
    asked = at_terminal("bulk", "run", plan, stripe=stripe_thread, answer="n\n").out
    assert "in.csv has changed since the plan was made of it" in asked.partition("Send it?")[0]


def test_a_time_is_said_in_words() -> None:
    """One second is one, and what takes minutes is not told in seconds."""
    assert ["1 second", "1 second", "2 seconds", "119 seconds", "2 minutes", "3 hours"] == [
        _span(seconds) for seconds in (0.1, 1.4, 1.6, 119.4, 120, 3 * 3600)
    ]


def test_dry_run_sends_nothing_and_a_terminal_asks(stripe_thread: Sandbox, plan: str) -> None:
    assert "to do       30 (credit 150.00 usd)" in run("bulk", "run", plan, "--dry-run", stripe=stripe_thread).stdout
    asked = at_terminal("bulk", "run", plan, stripe=stripe_thread, answer="n\n")
    assert 2 == asked.code
    assert "30 entries: credit 150.00 usd (test mode)" in asked.out
    assert "Send it? [y/N]" in asked.out
    assert not [each for each in stripe_thread.requests if each.method == "POST"]
    assert 0 == at_terminal("bulk", "run", plan, "--yes", stripe=stripe_thread, OCP_STRIPE_RATE_LIMIT="off").code
    assert 30 == len([each for each in stripe_thread.requests if each.method == "POST"])


def test_ctrl_c_says_how_far_it_is_and_the_same_command_goes_on(stripe_thread: Sandbox, plan: str) -> None:
    """At the rate of the test mode, so that most rows are still to do."""
    environment = {**os.environ, "STRIPE_SECRET_KEY": stripe_thread.api_key, "STRIPE_API_BASE": stripe_thread.url}
    words = [*programs.started(), programs.CLI, "bulk", "run", plan, "--json"]
    with subprocess.Popen(words, env=environment, stdout=-1, stderr=-1, stdin=subprocess.DEVNULL) as process:  # noqa: S603  our own
        while not posts(stripe_thread):
            pass
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=30)
    assert 2 == process.returncode, told
    facts: dict[str, Any] = json.loads(out)
    assert "it was interrupted" == facts["stopped"]
    assert b"Stopped: it was interrupted.\nTo go on: the same command again." in told
    assert 30 == sum(facts["rows"].values())
    assert facts["rows"]["succeeded"] == facts["this_run"]["succeeded"] == posts(stripe_thread) < 30
    done = run("bulk", "run", plan, "--json", stripe=stripe_thread, OCP_STRIPE_RATE_LIMIT="off")
    assert {"succeeded": 30} == json.loads(done.stdout)["rows"]
    assert 30 == posts(stripe_thread)


def posts(stripe: Sandbox) -> int:
    return sum(each.method == "POST" for each in list(stripe.requests))


def test_exit_codes_say_what_went_worst(stripe_thread: Sandbox, plan: str, tmp_path: Path) -> None:
    words = ("bulk", "run", plan, "--limit", "1")
    policy = {"OCP_STRIPE_RATE_LIMIT": "off", "OCP_STRIPE_MAX_ATTEMPTS": "1"}
    refused = {"OCP_STRIPE_POLICY": str(tmp_path / "policy.toml"), **policy}
    (tmp_path / "policy.toml").write_text('[limits]\ncredit = { usd = "1.00" }\n')
    done = run("bulk", "run", plan, "--only-failed", stripe=stripe_thread, **policy)
    assert (2, 0) == (done.returncode, posts(stripe_thread))  # none failed, and all are left
    done = run("bulk", "run", plan, stripe=stripe_thread, **refused)
    assert 2 == done.returncode
    assert "Stopped: 20 of the last 20 rows failed; the last one: Nothing was sent: a credit of" in done.stderr
    assert 2 == run(*words, stripe=stripe_thread, **policy).returncode  # the limit is reached, and rows are left
    stripe_thread.faults.add("reset", path="balance")
    assert 4 == run(*words, stripe=stripe_thread, **policy).returncode
    assert 0 == run("bulk", "run", plan, stripe=stripe_thread, **policy).returncode


@pytest.mark.timeout(180)  # workers wait between attempts as they do at work
@pytest.mark.promise("once.bulk")
def test_workers_on_one_plan_that_are_killed_pay_each_row_once(tmp_path: Path) -> None:
    """Two at once, three kills, a failing Stripe: report, journal and ledger agree. make chaos-bulk has more."""
    found = chaos_bulk.run(tmp_path, rows=24, workers=2, kills=3, faults=0.2, seed=7)
    assert {"succeeded", "unknown"} >= set(found["told"])
    assert found["told"]["succeeded"] > 20
    assert 1 == len(set(found["sums"].values()))
    assert [] == found["wrong"]
