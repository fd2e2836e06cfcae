"""
Approval by a person: at the terminal, and over the queue in the journal.
"""

from __future__ import annotations

import asyncio
import getpass
import signal
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._journal import State
from ocp_stripe_balance._policy import moment
from ocp_stripe_balance.cli.journal import open_journal
from ocp_stripe_balance.cli.output import print_json, printable, say
from ocp_stripe_balance.errors import NotSentError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ocp_stripe_balance._journal import Call
    from ocp_stripe_balance.models import Answer, Proposal


def add_parser(commands: Any) -> None:
    """
    Add ``approvals`` and its commands.
    """
    approvals = commands.add_parser("approvals", help="calls that wait for a person")
    actions = approvals.add_subparsers(dest="action", required=True, metavar="COMMAND")

    lister = actions.add_parser("list", help="what waits, oldest first")
    lister.add_argument("--all", action="store_true", help="also what is decided or over")
    lister.add_argument("--json", dest="as_json", action="store_true", help="as a JSON list")

    for name, text in (("show", "one proposal"), ("approve", "let the call run, once"), ("deny", "stop the call")):
        action = actions.add_parser(name, help=text)
        action.add_argument("key", metavar="KEY", help="the proposal's ID (ap_…), or the call's idempotency key")
        if name != "show":
            action.add_argument("--by", metavar="NAME", help="who decides (default: the user and host)")
            action.add_argument("--reason", default="", required=name == "deny", help="for the agent and the audit")
            action.add_argument("--yes", action="store_true", help="do not ask: needed where there is no terminal")


async def run(options: argparse.Namespace) -> int:
    """
    Run one approvals command and return its exit code.
    """
    if options.action == "list":
        return await _list(options)
    proposal = await _find(options.key)
    if options.action == "show":
        print(printable(f"{'proposal':<12} {proposal.id}, {_standing(proposal)}\n{proposal.describe()}"))
        for line in await _since(proposal):
            print(printable(line))
        return 0
    return await _decide(proposal, options)


async def ask_at_terminal(proposal: Proposal) -> Answer:
    """
    The answer of whoever sits at the terminal.
    """
    by = f"{whoami()} at the terminal"
    try:
        is_yes = ask_at(f"{proposal.describe()}\nSend it? [y/N] ")
    except KeyboardInterrupt:
        raise asyncio.CancelledError from None  # which a task can end with
    return proposal.approve(by=by) if is_yes else proposal.deny(by=by)


def ask_at(question: str) -> bool:
    """
    Whether the person at the terminal says yes; Ctrl-C interrupts.
    """
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)  # waiting for a line blocks the loop
    try:
        print(printable(question), end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
    finally:
        signal.signal(signal.SIGINT, interrupted)


def whoami() -> str:
    """
    The user and host, as the operating system has them.
    """
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user, in a container say
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


async def _list(options: argparse.Namespace) -> int:
    proposals: list[Proposal] = await _with_journal(lambda journal: journal.proposals())
    shown = [each for each in proposals if options.all or each.state == "waiting"]
    if options.as_json:
        print_json([_facts(each) for each in shown])
        return 0
    for each in shown:
        row = (each.id, each.state, moment(each.asked_at), each.effect, each.customer, each.key)
        print(printable("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (15, 8, 20, 18, 20, 0), strict=True))))
    if not shown:
        say("Nothing waits for approval.")
    return 0


async def _decide(proposal: Proposal, options: argparse.Namespace) -> int:
    is_yes = options.action == "approve"
    is_at_terminal = sys.stdin is not None and sys.stdin.isatty()
    if not options.yes:
        say("\n".join([proposal.describe(), *await _since(proposal)]))
        if not is_at_terminal:
            raise NotSentError("Nothing was decided: there is no terminal to ask at.", hint="Read it, then add --yes.")
        if not ask_at(f"{'Approve' if is_yes else 'Deny'} it? [y/N] "):
            say("Nothing was decided.")
            return 2
    decide = proposal.approve if is_yes else proposal.deny
    answer = decide(by=options.by or whoami(), reason=options.reason)
    done: Proposal = await _with_journal(lambda journal: journal.answer(proposal, answer))
    wanted = "approved" if is_yes else "denied"
    if done.state != wanted or done.decided_by != answer.by:
        raise NotSentError(f"Nothing was changed: proposal {done.id} is {_standing(done)}.")
    print(printable(f"{wanted}: {done.effect} to {done.customer}, by {done.decided_by}"))
    if is_yes:
        say(f"The same call with key {done.key} may now run, once, until {moment(done.expires_at)}.")
        say("The other rules of the policy, and references paid meanwhile, still hold.")
    return 0


def _standing(proposal: Proposal) -> str:
    """
    What has become of a proposal, in words.
    """
    if not proposal.decided_by or not proposal.decided_at:
        return proposal.state
    verb = "denied" if proposal.state == "denied" else "approved"
    done = f"{verb} by {proposal.decided_by} at {moment(proposal.decided_at)}"
    return {"used": f"{done}, and used", "expired": f"{done}, and expired"}.get(proposal.state, done)


async def _since(proposal: Proposal) -> list[str]:
    """
    What else was decided or paid for this customer since the proposal, and before it for the same reason.
    """
    calls: list[Call] = await _with_journal(lambda journal: journal.select(customer=proposal.customer))
    lines = []
    for call in calls:
        is_same_reason = proposal.reference is not None and call.reference == proposal.reference
        is_itself = call.key == proposal.key and call.state in {State.NOT_SENT, State.REJECTED}
        if not is_itself and (call.created_at >= proposal.asked_at or is_same_reason):
            reference = f", {call.reference}" if call.reference else ""
            lines.append(
                f"{'also':<12} {call.effect}, {call.state} at {moment(call.created_at)} (key {call.key}{reference})"
            )
    return lines


async def _find(key: str) -> Proposal:
    """
    The proposal of that ID, else the only one there is of that key.
    """
    proposals: list[Proposal] = await _with_journal(lambda journal: journal.proposals())
    found = [each for each in proposals if each.id == key] or [each for each in proposals if each.key == key]
    if not found:
        hint = "'ocp-stripe-balance approvals list --all' shows the proposals there are."
        raise NotSentError(f"The journal has no proposal {key}.", hint=hint)
    # The model chooses keys, so a key alone does not say which of several proposals a person has read.
    if len({(each.base_url, each.mode, each.account, each.tool, each.arguments) for each in found}) > 1:
        ids = ", ".join(f"{each.id} ({each.effect}, {each.mode} mode, {each.state})" for each in found)
        raise NotSentError(f"There are several proposals of key {key}: {ids}.", hint="Name one by its ID.")
    return found[-1]


async def _with_journal(work: Callable[[Any], Any]) -> Any:
    journal = open_journal()
    try:
        return await work(journal)
    finally:
        await journal.aclose()


def _facts(proposal: Proposal) -> dict[str, Any]:
    facts = {**asdict(proposal), "effect": proposal.effect, "balance_after": proposal.balance_after}
    facts["arguments"] = proposal.parameters
    for name in ("asked_at", "expires_at", "decided_at"):
        facts[name] = moment(facts[name]) if facts[name] else None
    return facts
