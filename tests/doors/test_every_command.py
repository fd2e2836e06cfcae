"""
Every command, on a terminal and in a pipe: whole IDs at 80 columns, one JSON document, and errors as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, ledger
from terminal import Done, at_terminal, in_pipe

from ocp_stripe_balance.cli.app import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

POLICY = """
[approval]
above = { usd = "20.00" }
queue = true
"""

PASSWORD = "correct horse battery\n"
CAMPAIGN = ("--reference", "outage", "--direction", "credit", "--currency", "usd")


def names(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """
    The words of every command there is.
    """
    for name, each in command.commands.items():
        yield from names(each, (*path, name)) if hasattr(each, "commands") else [(*path, name)]


class Desk:
    """
    Somebody who works with a sandbox, a policy that wants a person asked, and every command there is.
    """

    def __init__(self, stripe: Sandbox, folder: Path) -> None:
        self.stripe, self.used = stripe, set[tuple[str, ...]]()
        (folder / "policy.toml").write_text(POLICY)
        self.more = {"OCP_STRIPE_POLICY": str(folder / "policy.toml"), "OCP_STRIPE_MAX_ATTEMPTS": "1"}

    def _uses(self, words: tuple[str, ...]) -> None:
        self.used |= {name for name in names(program()) if words[: len(name)] == name}

    def shown(self, *words: str, code: int = 0, answer: str = "", columns: int = 80) -> str:
        """
        What a terminal shows of a command.
        """
        self._uses(words)
        done = at_terminal(*words, stripe=self.stripe, answer=answer, columns=columns, **self.more)
        assert code == done.code, done.out
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.out)
        assert not [line for line in plain.splitlines() if len(line) > columns and " " in line[:columns].strip()]
        return plain

    def piped(self, *words: str, code: int = 0, stdin: str = "") -> Done:
        """
        What a command writes into pipes.
        """
        self._uses(words)
        done = in_pipe(*words, stripe=self.stripe, stdin=stdin, **self.more)
        assert code == done.code, done.err
        assert "Traceback" not in done.err
        return done

    def told(self, *words: str, code: int = 0, stdin: str = "") -> dict[str, Any]:
        """
        The JSON document that a command prints.
        """
        document: dict[str, Any] = json.loads(self.piped(*words, "--json", code=code, stdin=stdin).out)
        assert 1 == document["format"]
        return document

    def entries(self, customer: str) -> list[dict[str, Any]]:
        return asyncio.run(ledger(self.stripe, customer))


@pytest.fixture
def desk(stripe_thread: Sandbox, tmp_path: Path) -> Desk:
    return Desk(stripe_thread, tmp_path)


def test_every_command_prints_one_json_document(desk: Desk, tmp_path: Path) -> None:
    """Whose format has a number; all but the sandbox, which is tested in a process, and export, which prints many."""
    customer = desk.stripe.create_customer(email="a@b.test")
    desk.told("debit", customer, "2.50", "usd", "--reference", "a", "--metadata", "order=1", "--description", "d")
    desk.told("credit", customer, "5", "usd", "--reference", "b")
    newest, oldest = desk.entries(customer)
    assert (-500, 250, "1", "d") == (
        *(newest["amount"], oldest["amount"], oldest["metadata"]["order"], oldest["description"]),
    )
    desk.told("reverse", newest["id"])
    assert "owes 2.50 usd" in desk.told("balance", customer)["summary"]
    assert "3 entries" in desk.told("history", "a@b.test")["summary"]
    assert "1 customer" in desk.told("find", "a@b.test")["summary"]
    order = json.dumps({"customer": customer, "amount": -1, "currency": "usd"})
    (tmp_path / "order.json").write_text(order)
    foreseen = desk.told("call", TOOL, f"customer={customer}", "amount=-1", "currency=usd", "--dry-run")
    assert "send" == foreseen["verdict"]

    for key in ("yes", "no"):
        words = ("call", TOOL, f"customer={customer}", "amount=-2500", "currency=usd", "--idempotency-key", key)
        asked = json.loads(desk.piped(*words, "--json", code=2).err)
        assert (1, "approval_required") == (asked["format"], asked["error"])
    assert ["yes", "no"] == [each["key"] for each in desk.told("approvals", "list")["proposals"]]
    assert "waiting" == desk.told("approvals", "show", "yes")["state"]
    assert "approved" == desk.told("approvals", "approve", "yes", "--yes", "--by", "Ana")["state"]
    denied = desk.told("approvals", "deny", "no", "--yes", "--by", "Ana", "--reason", "r")
    assert ("denied", "Ana") == (denied["state"], denied["decided_by"])

    desk.stripe.faults.add("reset", path="balance")
    lost = ("call", TOOL, f"customer={customer}", "amount=-3", "currency=usd", "--idempotency-key", "lost")
    unknown = json.loads(desk.piped(*lost, "--json", code=4).err)
    assert (1, True) == (unknown["format"], unknown["to_finish"].endswith("calls resume lost"))
    assert "unknown" == desk.told("calls", "reconcile", code=4)["findings"][0]["outcome"]
    desk.told("calls", "resume", "lost")
    assert ["lost"] == [each["key"] for each in desk.told("calls", "show", "lost")["calls"]]
    assert 4 == len(desk.told("calls", "list")["calls"])
    assert "Ana" in {each["who"] for each in desk.told("calls", "decisions")["decisions"]}
    assert [] == desk.told("calls", "check")["wrong"]
    assert str(tmp_path / "copy") == desk.told("calls", "backup", str(tmp_path / "copy"))["file"]
    assert desk.told("calls", "copy", str(tmp_path / "copy"), str(tmp_path / "moved"))["is_whole"]
    assert 0 == desk.told("calls", "prune", "--before", "1d")["deleted"]
    exported = [json.loads(line) for line in desk.piped("calls", "export").out.splitlines()]
    assert {"call", "decision"} == {each["record"] for each in exported}

    for command in (("policy", "show"), ("policy", "check", str(tmp_path / "policy.toml"))):
        document = desk.told(*command)
        assert str(tmp_path / "policy.toml") == document["policy"]
        said = {"topic": "approval", "sentence": "A person decides on a call of more than 20.00 usd."}
        assert said in document["rules"]
    assert "send" == desk.told("policy", "explain", str(tmp_path / "order.json"))["verdict"]
    assert TOOL in {tool["name"] for tool in desk.told("tools")["tools"]}
    assert True is desk.told("doctor")["may_read_customers"]
    steps = desk.told("demo")["steps"]
    assert (6, 1) == (len(steps), len(steps[-1]["lines"])), "the ledger has one entry"
    check_bulk(desk, customer, tmp_path / "list.csv")
    for check in (check_tokens, check_webhooks, check_people):
        check(desk)
    assert set(names(program())) == desk.used | {("console",), ("sandbox",), ("serve",)}


def check_tokens(desk: Desk) -> None:
    """Under the name that they had before, too."""
    for words in (("tokens",), ("mcp", "tokens")):
        limits = ("--tools", "get_customer, list_customers", "--rate", "5")
        assert desk.told(*words, "create", "laptop", *limits)["token"]
        (token,) = desk.told(*words, "list")["tokens"]
        assert ("laptop", ["getCustomers", "getCustomersCustomer"], 5) == (token["name"], token["tools"], token["rate"])
        assert True is desk.told(*words, "revoke", "laptop")["revoked"]


def check_people(desk: Desk) -> None:
    assert desk.told("people", "add", "ana", "--role", "sees", "--role", "decides", stdin=PASSWORD)["added"]
    assert desk.told("people", "password", "ana", stdin=PASSWORD)["password_changed"]
    assert desk.told("people", "roles", "ana", "--role", "sees")["roles_changed"]
    assert desk.told("people", "disable", "ana")["disabled"]
    assert [["sees"]] == [each["roles"] for each in desk.told("people", "list")["people"]]
    assert desk.told("people", "enable", "ana")["enabled"]
    visits = desk.told("people", "log", "ana")["visits"]
    assert ["enabled", "disabled", "roles changed", "password changed", "made"] == [each["what"] for each in visits]


def check_webhooks(desk: Desk) -> None:
    assert desk.told("webhooks", "add", "http://127.0.0.1:9/", "--name", "hook")["secret"].startswith("whsec_")
    assert ["hook"] == [each["name"] for each in desk.told("webhooks", "list")["endpoints"]]
    assert "could not be reached" in desk.piped("webhooks", "test", "hook", "--json", code=2).err
    assert {"arrived": 0, "failed": 0} == {
        name: desk.told("webhooks", "deliver")[name] for name in ("arrived", "failed")
    }
    assert True is desk.told("webhooks", "remove", "hook")["removed"]


def check_bulk(desk: Desk, customer: str, source: Path) -> None:
    source.write_text(f"customer,amount\n{customer},3.00\n")
    plan = desk.told("bulk", "plan", str(source), *CAMPAIGN)["plan"]
    assert {"succeeded": 1} == desk.told("bulk", "run", plan)["this_run"]
    assert {"succeeded": 1} == desk.told("bulk", "status", plan)["rows"]
    assert desk.told("bulk", "report", plan)["report"] == f"{plan}.report.csv"
    assert 300 == desk.told("bulk", "reverse", plan)["sums"][0]["amount"]
    by_order = desk.told("calls", "sums", "--by", "metadata.order")["sums"]
    assert {"1": 250} == {each["metadata.order"]: each["amount"] for each in by_order if each["metadata.order"]}
    chosen = ("bulk", "customers", str(source.with_name("chosen.csv")), "--amount", "1", "--currency", "usd")
    assert 0 < desk.told(*chosen)["number"]


def test_help_is_whole_and_in_plain_words() -> None:
    """No sentence is cut, and no type of Python's stands where a word is."""
    tree = program()
    groups = {name[:length] for name in names(tree) for length in range(len(name))}
    for path in sorted({*names(tree), *groups}):
        lines = [line for line in in_pipe(*path, "--help").out.splitlines() if not line.startswith("Usage")]
        assert (path, []) == (path, [line for line in lines if line.endswith("...") or "<" in line])


def test_times_for_people_have_one_form(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the zone of the machine, where the proposal expires and where it was asked."""
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        words = ("call", TOOL, f"customer={desk.stripe.create_customer()}", "amount=-2500", "currency=usd")
        desk.piped(*words, "--idempotency-key", "k", code=2)
        shown = desk.piped("approvals", "show", "k").out + desk.piped("approvals", "list").out
    finally:
        monkeypatch.undo()
        time.tzset()
    assert 2 == len(re.findall(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+02:00\b", shown))
    assert 2 == len(re.findall(r"20\d\d-", shown))


def test_a_list_of_no_tokens_says_who_may_call(desk: Desk) -> None:
    """Everybody where none was ever made, and nobody where none is left."""
    assert "No token was ever made: every program" in desk.piped("mcp", "tokens", "list").err
    desk.piped("mcp", "tokens", "create", "laptop")
    assert "" == desk.piped("mcp", "tokens", "list").err
    desk.piped("mcp", "tokens", "revoke", "laptop")
    assert "No token is valid; every request is refused.\n" == desk.piped("mcp", "tokens", "list").err


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("credit", "cus_1"),
        ("credit", "cus_1", "-5", "usd"),
        ("credit", "cus_1", "1.00", "usd", "--reference", "--dry-run"),
        ("calls", "list", "--since", "yesterday"),
        ("policy", "check", "/nowhere.toml"),
        ("policy", "explain", "/nowhere.json"),
        ("approvals", "approve", "nope"),
        ("tools", "nope"),
        ("bulk", "plan", "/nowhere.csv"),
        ("bulk", "run", "/nowhere.plan"),
        ("sandbox", "--fault", "earthquake"),
    ],
)
def test_what_is_wrong_with_a_command_is_json_too(desk: Desk, words: tuple[str, ...]) -> None:
    """One document on stderr, where scripts look for it, and nothing on stdout."""
    done = desk.piped(*words, "--json", code=2)
    told = json.loads(done.err)
    assert ("", 1, "not_sent") == (done.out, told["format"], told["outcome"])
    assert told["message"]


def test_every_command_keeps_ids_whole_on_a_narrow_terminal(desk: Desk, tmp_path: Path) -> None:
    """Where columns do not fit they go below; a key that is folded cannot be copied."""
    customer = desk.stripe.create_customer(name="Ada Lovelace of a rather long name", email="ada@example.com")
    words = ("credit", customer, "5.00", "usd", "--reference", "r", "--description", "some words " * 9)
    desk.shown(*words, answer="y\n")
    (entry,) = desk.entries(customer)
    key = str(entry["metadata"]["ocp_call"])
    assert 68 == len(key)
    asked = desk.shown("credit", customer, "25.00", "usd", "--reference", "s", code=2, answer="\n")
    (proposal,) = set(re.findall(r"ap_\w+", asked))
    desk.stripe.faults.add("reset", path="balance")
    lost = desk.shown("credit", customer, "6.00", "usd", "--reference", "t", "--yes", code=4)
    (lost_key,) = re.findall(r"ref-\w{64}", lost)  # once
    for columns in (80, 120):
        looks: list[tuple[list[str], tuple[str, ...]]] = [
            ([entry["id"], "some words"], ("history", customer)),
            ([customer, "ada@example.com"], ("find", "ada@example.com")),
            ([customer], ("balance", customer)),
            ([customer, key], ("calls", "list")),
            ([customer, key], ("calls", "decisions")),
            ([customer, key], ("calls", "show", key)),
            ([customer, proposal], ("approvals", "list")),
            ([customer, proposal], ("approvals", "show", proposal)),
        ]
        for ids, command in looks:
            text = desk.shown(*command, columns=columns)
            assert [each for each in ids if each not in text] == [], command
    assert lost_key in desk.shown("calls", "reconcile", code=4)
    assert lost_key in desk.shown("calls", "resume", lost_key)
    assert "\r\n\r\n" not in desk.shown("history", customer, columns=120), "one entry has no description"
    assert entry["id"] in desk.shown("reverse", entry["id"], answer="y\n")
    assert "denied: credit" in desk.shown("approvals", "deny", proposal, "--reason", "r", answer="y\n")
    assert "Nothing was decided" in desk.shown("approvals", "approve", proposal, code=2, answer="n\n")
    order = ("call", TOOL, f"customer={customer}", "amount=-1", "currency=usd")
    assert "[y/N]" in desk.shown("debit", customer, "1.00", "usd", "--reference", "u", answer="n\n", code=2)
    assert "[y/N]" in desk.shown(*order, answer="y\n")
    (tmp_path / "order.json").write_text(json.dumps({"customer": customer, "amount": -2, "currency": "usd"}))
    (tmp_path / "list.csv").write_text(f"customer,amount\n{customer},3.00\n")
    plan, planned = str(tmp_path / "list.plan"), ("bulk", "plan", str(tmp_path / "list.csv"), *CAMPAIGN)
    assert "credit 3.00 usd in 1 entry" in desk.shown(*planned, "--out", plan)
    assert "Stopped" not in desk.shown("bulk", "run", plan, answer="y\n")
    others: list[tuple[str, tuple[str, ...]]] = [
        ("1 (credit 3.00 usd)", ("bulk", "status", plan)),
        ("Written to", ("bulk", "report", plan)),
        ("debit 3.00 usd in 1 entry", ("bulk", "reverse", plan)),
        ("Look it through", ("bulk", "customers", "chosen.csv", "--amount", "1", "--currency", "usd")),
        ("credit 14.01 usd", ("calls", "sums", "--by", "customer")),
        ("more than 20.00 usd", ("policy", "show")),
        ("is valid", ("policy", "check", str(tmp_path / "policy.toml"))),
        ("would be sent", ("policy", "explain", str(tmp_path / "order.json"))),
        (TOOL, ("tools",)),
        ("Credit or debit a customer's balance at Stripe", ("tools", TOOL)),
        ("ledger has one entry", ("demo",)),
        ("Every total is", ("calls", "check")),
        ("Copied to", ("calls", "backup", str(tmp_path / "copy"))),
        ("records are in the copy", ("calls", "copy", str(tmp_path / "copy"), str(tmp_path / "moved"))),
        ("Deleted 0", ("calls", "prune", "--before", "1d")),
        ("✓ may read customers", ("doctor",)),
        *(
            (said, (*words, *command))
            for words in (("tokens",), ("mcp", "tokens"))
            for said, command in (
                ("The header is 'Authorization: Bearer …'", ("create", "laptop", "--tools", "get_customer")),
                ("laptop", ("list",)),
                ("Revoked: laptop.", ("revoke", "laptop")),
            )
        ),
        ("ana sees a password", ("people", "list")),
        ("Roles changed: ana.", ("people", "roles", "ana", "--role", "decides")),
        ("Disabled: ana.", ("people", "disable", "ana")),
        ("Enabled: ana.", ("people", "enable", "ana")),
        ("ana password changed shell", ("people", "log")),
        ("That is the secret of hook", ("webhooks", "add", "http://127.0.0.1:9/", "--name", "hook")),
        ("127.0.0.1:9", ("webhooks", "list")),
        ("0 arrived", ("webhooks", "deliver")),
        ("Removed: hook.", ("webhooks", "remove", "hook")),
    ]
    desk.piped("people", "add", "ana", "--role", "sees", stdin=PASSWORD)
    desk.piped("people", "password", "ana", stdin=PASSWORD)
    for said, command in others:
        assert said in " ".join(desk.shown(*command).split()), command
    assert "no endpoint named" in desk.shown("webhooks", "test", "hook", code=2)
    assert "━" in desk.shown("calls", "check"), "a bar, while it reads"
    assert "decision" in at_terminal("calls", "export").out
    assert (done := at_terminal("sandbox", interrupt_at="first-try")).code == 0
    assert "Interrupted." in done.out
    assert set(names(program())) == desk.used | {("console",), ("sandbox",), ("serve",), ("calls", "export")}
