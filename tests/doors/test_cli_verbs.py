"""
The verbs of the command line, on a terminal and in a pipe.
"""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers import ledger, run
from programs import folder
from terminal import at_terminal, in_pipe

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox


def test_money_is_asked_about_once_and_moves_once(stripe_thread: Sandbox) -> None:
    """Who, what, the balance before and after; and the same reference again is the same credit."""
    customer = stripe_thread.create_customer(name="Ada", email="ada@example.com")
    words = ("credit", "ada@example.com", "5.00", "usd", "--reference", "ticket-812")
    assert 2 == at_terminal(*words, stripe=stripe_thread, answer="n\n").code
    assert [] == asyncio.run(ledger(stripe_thread, customer))
    code, shown, _ = at_terminal(*words, stripe=stripe_thread, answer="y\n")
    assert 0 == code
    for said in (f"{customer} (Ada)", "e-mail      ada@example.com", "0.00 usd when asked, in credit 5.00", "[y/N]"):
        assert said in shown
    assert 0 == run(*words, stripe=stripe_thread).returncode
    assert [-500] == [entry["amount"] for entry in asyncio.run(ledger(stripe_thread, customer))]


async def test_a_verb_says_the_effect_that_a_policy_demands(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """The verb and the decimals are that statement."""
    customer, policy = stripe_thread.create_customer(), tmp_path / "policy.toml"
    policy.write_text("[require]\nstated_effect = true\n")
    done = run(
        *("credit", customer, "5.00", "usd", "--reference", "r"), stripe=stripe_thread, OCP_STRIPE_POLICY=str(policy)
    )
    assert 0 == done.returncode
    assert [-500] == [entry["amount"] for entry in await ledger(stripe_thread, customer)]


def test_a_budget_per_user_is_one_on_a_terminal_and_in_pipes(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """The command line knows who runs it, whatever it is connected to."""
    customer, policy = stripe_thread.create_customer(), tmp_path / "policy.toml"
    policy.write_text('[[budgets]]\nper = "user"\nwindow = "1d"\ncredit = { usd = "3.00" }\n')

    def words(reference: str) -> tuple[str, ...]:
        return ("credit", customer, "2.00", "usd", "--reference", reference)

    assert 0 == in_pipe(*words("a"), stripe=stripe_thread, OCP_STRIPE_POLICY=str(policy)).code
    piped = in_pipe(*words("b"), stripe=stripe_thread, OCP_STRIPE_POLICY=str(policy))
    seated = at_terminal(*words("c"), "--yes", stripe=stripe_thread, OCP_STRIPE_POLICY=str(policy))
    assert (2, 2) == (piped.code, seated.code)
    assert [-200] == [entry["amount"] for entry in asyncio.run(ledger(stripe_thread, customer))]


@pytest.mark.parametrize(
    "words",
    [
        ("--reference", "--dry-run"),
        ("--reference", "r", "--description", "--dry-run"),
        ("--reference", "r", "--idempotency-key", "--yes"),
        ("--reference", "r", "--reference", "s"),
        ("--reference", "r", "--idempotency-key=a", "--idempotency-key", "b"),
        ("--reference", ""),
        ("--reference", "   "),
        ("--reference", "<reference>"),
    ],
)
def test_what_was_meant_otherwise_moves_nothing(stripe_thread: Sandbox, words: tuple[str, ...]) -> None:
    """An option that swallows the next one, one that is there twice, a reason that says nothing."""
    customer = stripe_thread.create_customer()
    done = run("credit", customer, "1.00", "usd", *words, stripe=stripe_thread)
    assert (2, True, 0) == (done.returncode, "--" in done.stderr, len(stripe_thread.requests))


@pytest.mark.parametrize("address", ["@", " @ ", "@@", "?@?", "ADA@example.com", "a@b.test"])
async def test_only_the_customer_of_that_very_address_is_paid(stripe_thread: Sandbox, address: str) -> None:
    """The only one there is has another."""
    customer = stripe_thread.create_customer(email="ada@example.com")
    done = run("credit", address, "1.00", "usd", "--reference", "r", stripe=stripe_thread)
    assert (2, []) == (done.returncode, await ledger(stripe_thread, customer))


@pytest.mark.parametrize(
    ("amount", "currency"), [("5.005", "usd"), ("1,234", "usd"), ("5.00", "jpy"), ("1e3", "usd"), ("+5", "usd")]
)
def test_an_amount_that_is_not_one_is_refused(stripe_thread: Sandbox, amount: str, currency: str) -> None:
    """Nothing is sent."""
    done = run("credit", "cus_1", amount, currency, "--reference", "r", stripe=stripe_thread)
    assert (2, True, 0) == (done.returncode, "amount" in done.stderr, len(stripe_thread.requests))


def test_an_address_of_none_or_of_several_is_nobody(stripe_thread: Sandbox) -> None:
    """The IDs of those who have it are named."""
    twins = [stripe_thread.create_customer(email="t@b.test") for _ in range(2)]
    done = run("balance", "t@b.test", stripe=stripe_thread)
    assert (2, True) == (done.returncode, all(twin in done.stderr for twin in twins))
    done = run("balance", "nobody@b.test", stripe=stripe_thread)
    assert (2, True) == (done.returncode, "no customers have" in done.stderr)


def test_more_customers_than_are_named_are_said_to_be_more(stripe_thread: Sandbox) -> None:
    """Eleven have the address, ten are listed."""
    for _ in range(11):
        stripe_thread.create_customer(email="t@b.test")
    assert "more than 10 customers have the e-mail address" in in_pipe("balance", "t@b.test", stripe=stripe_thread).err


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_table_in_colour_and_text_as_it_is(stripe_thread: Sandbox, columns: int) -> None:
    """Markup and escapes of others are shown, not obeyed; whole IDs are there."""
    customer = stripe_thread.create_customer()
    hostile = ("--description", "[red]x[/red]\x1b[2J")
    assert 0 == run("credit", customer, "5.00", "usd", "--reference", "r", *hostile, stripe=stripe_thread).returncode
    code, shown, _ = at_terminal("history", customer, stripe=stripe_thread, columns=columns)
    assert (0, True, True) == (code, "balance after" in shown or "balance" in shown, "[red]" in shown)
    assert "\x1b[2J" not in shown
    listed = at_terminal("calls", "list", stripe=stripe_thread, columns=columns).out
    assert ("\x1b[1mtime" in listed, "\x1b[32msucceeded" in listed) == (True, True)
    for plain in ({"TERM": "dumb"}, {"NO_COLOR": "1"}):
        text = at_terminal("doctor", stripe=stripe_thread, columns=columns, **plain).out
        assert "\x1b[3" not in text
    piped = run("history", customer, stripe=stripe_thread).stdout
    assert ("[red]x[/red]\\x1b[2J" in piped, "\x1b" in piped, "─" in piped) == (True, False, False)


def test_the_old_name_still_works_and_says_the_new_one() -> None:
    """Its JSON keeps the shape it had, alone on its stream."""
    assert (0, "[]\n", "") == in_pipe("journal", "list", "--json")
    assert "'journal' is now 'calls list'" in in_pipe("journal", "list").err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    done = run(_OCP_STRIPE_BALANCE_COMPLETE=f"source_{shell}")
    assert (0, True) == (done.returncode, "ocp-stripe-balance" in done.stdout)


def test_bash_completes_commands_and_options() -> None:
    """As bash itself calls it."""
    script = run(_OCP_STRIPE_BALANCE_COMPLETE="source_bash").stdout
    ask = 'COMP_WORDS=("$1" calls re); COMP_CWORD=2; _ocp_stripe_balance_completion "$1"; echo "${COMPREPLY[@]}"'
    words = ["bash", "-c", f"{script}\n{ask}", "bash", str(folder() / "ocp-stripe-balance")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603  our own program
    assert "reconcile resume" == " ".join(done.stdout.split())
