"""
The calls on record, on the command line.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, ledger, run
from places import age

from ocp_stripe_balance import Settings
from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path


def credit(stripe: Sandbox, customer: str, key: str, amount: int = -500) -> int:
    arguments = ("call", TOOL, f"customer={customer}", f"amount={amount}", "currency=usd", "--idempotency-key", key)
    variables = {"OCP_STRIPE_MAX_ATTEMPTS": "1", "OCP_STRIPE_CUSTOMER_CHECK": "off"}
    return int(run(*arguments, stripe=stripe, **variables).returncode)


async def test_list_show_and_export_tell_what_is_on_record(stripe_thread: Sandbox) -> None:
    """Narrowed by outcome, time and customer; in words and as JSON, without secrets."""
    ada, bob = stripe_thread.create_customer(), stripe_thread.create_customer()
    assert [0, 0, 3] == [
        credit(stripe_thread, ada, "a"),
        credit(stripe_thread, bob, "b", 250),
        credit(stripe_thread, "cus_0", "c"),
    ]
    text = run("calls", "list").stdout
    assert 3 == len(text.splitlines())
    assert "credit 5.00 usd" in text
    assert "debit 2.50 usd" in text
    for arguments, keys in (
        (["--outcome", "rejected"], ["c"]),
        (["--outcome", "rejected", "--outcome", "succeeded"], ["a", "b", "c"]),
        (["--customer", bob], ["b"]),
        (["--since", "1h"], ["a", "b", "c"]),
        (["--since", "2999-01-01"], []),
    ):
        told = json.loads(run("calls", "list", "--json", *arguments).stdout)["calls"]
        assert keys == [call["key"] for call in told]
    assert "customer    " + ada in run("calls", "show", "a").stdout
    (call,) = json.loads(run("calls", "show", "a", "--json").stdout)["calls"]
    (entry,) = await ledger(stripe_thread, ada)
    assert ("succeeded", entry, {"amount": -500, "currency": "usd", "customer": ada}) == (
        call["outcome"],
        call["answer"],
        call["arguments"],
    )
    assert "decision    20" in run("calls", "show", "a").stdout
    decided = run("calls", "decisions", "--customer", bob).stdout
    assert (1, True) == (len(decided.splitlines()), f"debit 2.50 usd  {bob}  policy (every rule)  b" in decided)
    assert ["allowed"] * 3 == [
        each["decision"] for each in json.loads(run("calls", "decisions", "--json").stdout)["decisions"]
    ]
    assert "No decisions." in run("calls", "decisions", "--since", "2999-01-01").stderr
    exported = [json.loads(line) for line in run("calls", "export").stdout.splitlines()]
    assert [("call", "a"), ("call", "b"), ("call", "c")] == [(each["record"], each["key"]) for each in exported[:3]]
    assert [("decision", "allowed", "policy")] * 3 == [
        (each["record"], each["decision"], each["who"]) for each in exported[3:]
    ]
    assert stripe_thread.api_key not in json.dumps(exported)


def test_a_look_into_the_journal_shows_rows(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """As the other lists do: the calls, what waits, what was refused, and what the policy leaves."""
    customer, policy = stripe_thread.create_customer(), tmp_path / "policy.toml"
    policy.write_text('[limits]\ncredit = { usd = "9.00" }\n[approval]\nabove = { usd = "6.00" }\nqueue = true\n')
    more = {"OCP_STRIPE_POLICY": str(policy)}
    for key, amount, code in (("paid", 500, 0), ("waits", 700, 2), ("refused", 1000, 2)):
        words = ("call", TOOL, f"customer={customer}", f"amount=-{amount}", "currency=usd", "--idempotency-key", key)
        assert code == run(*words, stripe=stripe_thread, **more).returncode
    told = run("call", "list_balance_calls", f"customer={customer}", stripe=stripe_thread, **more).stdout
    assert re.search(rf"^20\S+Z  succeeded  credit 5.00 usd  {customer}  paid$", told, re.MULTILINE)
    assert re.search(rf"^ap_\w+  waiting  credit 7.00 usd  {customer}", told, re.MULTILINE)
    assert re.search(rf"^20\S+Z  limits.credit.usd  credit 10.00 usd  {customer}  refused$", told, re.MULTILINE)
    assert "One credit is at most 9.00 usd." in told


async def test_an_open_call_is_reconciled_or_resumed(stripe_thread: Sandbox) -> None:
    """Reading finds what was made; resuming makes what was not; both end with one entry each."""
    customer = stripe_thread.create_customer()
    for key, executed in (("made", True), ("lost", False)):
        stripe_thread.faults.add("reset", executed=executed, path="balance")
        assert 4 == credit(stripe_thread, customer, key, -1 if executed else -2)
    done = run("calls", "reconcile", stripe=stripe_thread)
    assert 4 == done.returncode
    assert "succeeded  made" in done.stdout
    assert "unknown    lost" in done.stdout
    assert "settled by calls reconcile" in run("calls", "show", "made").stdout
    assert "was credited 0.02 usd" in run("calls", "resume", "lost", stripe=stripe_thread).stdout
    assert "replayed" in run("calls", "resume", "lost", "--json", stripe=stripe_thread).stdout
    done = run("calls", "reconcile", "--json", stripe=stripe_thread)
    assert (0, {"format": 1, "findings": []}) == (done.returncode, json.loads(done.stdout))
    assert [-2, -1] == [entry["amount"] for entry in await ledger(stripe_thread, customer)]


def test_prune_leaves_open_calls(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """Only what is settled goes, and what no rule of the policy counts any more."""
    customer = stripe_thread.create_customer()
    credit(stripe_thread, customer, "settled")
    stripe_thread.faults.add("reset", path="balance")
    credit(stripe_thread, customer, "open", -2)
    assert "Deleted 0" in run("calls", "prune", "--before", "1d").stderr
    assert "Deleted 0" in run("calls", "prune", "--before", "2999-01-01T00:00:00Z").stderr
    age(next(tmp_path.rglob("journal.sqlite3")), 700)
    assert "Deleted 1" in run("calls", "prune", "--before", "2999-01-01T00:00:00Z").stderr
    assert ["open"] == [call["key"] for call in json.loads(run("calls", "list", "--json").stdout)["calls"]]


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["show", "nope"], {}, "The journal has no call of that key"),
        (["resume", "nope"], {"STRIPE_SECRET_KEY": "sk_test_x"}, "the journal has no call of that key"),
        (["resume", "nope"], {}, "there is no API key"),
        (["reconcile"], {}, "there is no API key"),
        (["list", "--since", "yesterday"], {}, "'yesterday' is not a time"),
        (["list"], {"OCP_STRIPE_JOURNAL": "off"}, "switched off"),
        (["list"], {"OCP_STRIPE_JOURNAL": "/dev/null/journal"}, "cannot be used"),
        (["list", "--outcome", "lost"], {}, "'lost' is not one of"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: list[str], environment: dict[str, Any], said: str) -> None:
    """Exit code 2, and the reason on stderr."""
    done = run("calls", *arguments, **environment)
    assert (2, "") == (done.returncode, done.stdout)
    assert said in done.stderr


def test_an_empty_journal_is_no_error() -> None:
    """Nothing on record yet."""
    done = run("calls", "list")
    assert (0, "", "No calls.\n") == (done.returncode, done.stdout, done.stderr)
    assert "" == run("calls", "export").stdout


async def test_check_says_whether_the_totals_are_what_the_calls_add_up_to(
    stripe_thread: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are not, by how much; then they are made anew."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[[budgets]]\nper = "customer"\nwindow = "1h"\ncredit = { usd = "9.00" }\n')
    monkeypatch.setenv("OCP_STRIPE_POLICY", str(policy))
    customer = stripe_thread.create_customer()
    missing = run("calls", "check")
    assert (2, True) == (missing.returncode, "There is no journal at" in missing.stderr)
    assert 0 == credit(stripe_thread, customer, "a")
    assert (0, True) == (
        (told := run("calls", "check")).returncode,
        "what the calls add up to: 1 calls in /" in told.stderr,
    )
    path = Settings().journal_place
    assert path is not None
    with contextlib.closing(sqlite3.connect(str(path))) as db:
        db.execute("UPDATE totals SET total = total - 400")
        db.commit()
    told = run("calls", "check")
    assert (1, f"customer {customer} within 1 hour (test usd): 400 too low\n") == (told.returncode, told.stdout)
    assert 0 == run("calls", "check").returncode
    assert 2 == credit(stripe_thread, customer, "b"), "5.00 of 9.00 are spent"


def test_a_call_of_another_server_is_resumed_there(stripe_thread: Sandbox) -> None:
    """Who asks at the wrong one is told where the call was made."""
    stripe_thread.faults.add("reset", path="balance")
    assert 4 == credit(stripe_thread, stripe_thread.create_customer(), "k")
    with Sandbox() as other:
        told = run("calls", "resume", "k", stripe=other)
        settled = run("calls", "reconcile", stripe=other)
        checked = json.loads(run("doctor", "--json", stripe=other).stdout)
    assert (2, True) == (told.returncode, f"it has one for {stripe_thread.url} in test mode" in told.stderr)
    assert f"No call is open at {other.url} in this mode." in settled.stderr
    assert f"1 open call belongs to {stripe_thread.url} (test mode)." in settled.stderr
    assert 1 == checked["open_calls"]
    assert "belong" not in run("calls", "reconcile", stripe=stripe_thread).stderr
