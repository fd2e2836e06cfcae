"""
Approval by a person: at the terminal, and over the queue in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import socket
import sys
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance.backoffice import BackOffice, facts_of_proposal
from ocp_stripe_balance.cli import stopping
from ocp_stripe_balance.cli.output import print_json, printable, say
from ocp_stripe_balance.errors import NotSentError

if TYPE_CHECKING:
    import argparse

    from ocp_stripe_balance.models import Answer, Proposal


_YES, _NO = {"y", "yes"}, {"n", "no"}


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
    async with BackOffice() as office:
        proposal = await office.proposal(options.key)
        if options.action != "show":
            return await _decide(office, proposal, options)
        print(printable(f"{'proposal':<12} {proposal.id}, {_standing(proposal)}"))
        print(printable(proposal.describe(), keep="\n"))
        for line in await _since(office, proposal):
            print(printable(line))
        return 0


async def ask_at_terminal(proposal: Proposal) -> Answer | None:
    """
    The answer of whoever sits at the terminal; None where that is neither a yes nor a no.
    """
    by = f"{whoami()} at the terminal"
    is_own_command = proposal.rule == "ask_always"
    choices = "[y/N]" if is_own_command else "(y: yes; n: no, and that stands; Enter: not decided)"
    try:
        said = ask_at(f"{proposal.describe()}\nSend it? {choices} ")
    except KeyboardInterrupt:
        raise asyncio.CancelledError from None  # which a task can end with
    if said in _YES:
        return proposal.approve(by=by)
    return proposal.deny(by=by) if said in _NO or is_own_command else None


def ask_at(question: str) -> str:
    """
    What the person at the terminal says, in lower case; Ctrl-C and its relatives interrupt.

    Raises:
        KeyboardInterrupt: one of them came.
    """
    with stopping.stopped_by(stopping.interrupt), contextlib.suppress(OSError):  # a terminal that is gone says nothing
        print(printable(question, keep="\n"), end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower()
    return ""


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
    async with BackOffice() as office:
        proposals = await office.proposals()
    shown = [each for each in proposals if options.all or each.state == "waiting"]
    if options.as_json:
        print_json([facts_of_proposal(each) for each in shown])
        return 0
    for each in shown:
        row = (each.id, each.state, moment(each.asked_at), each.effect, each.customer, each.key)
        print(printable("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (15, 8, 20, 18, 20, 0), strict=True))))
    if not shown:
        say("Nothing waits for approval.")
    return 0


async def _decide(office: BackOffice, proposal: Proposal, options: argparse.Namespace) -> int:
    is_yes = options.action == "approve"
    is_at_terminal = sys.stdin is not None and sys.stdin.isatty()
    if not options.yes:
        say(proposal.describe(), keep="\n")
        for line in await _since(office, proposal):
            say(line)
        if not is_at_terminal:
            raise NotSentError("Nothing was decided: there is no terminal to ask at.", hint="Read it, then add --yes.")
        if ask_at(f"{'Approve' if is_yes else 'Deny'} it? [y/N] ") not in _YES:
            say("Nothing was decided.")
            return 2
    decide = proposal.approve if is_yes else proposal.deny
    answer = decide(by=options.by or whoami(), reason=options.reason)
    done = await office.decide(answer) or proposal
    wanted = "approved" if is_yes else "denied"
    if done.state != wanted or done.decided_by != answer.by:
        raise NotSentError(f"Nothing was changed: proposal {done.id} is {_standing(done)}.")
    options.done = f"{wanted}: {done.effect} to {done.customer}, by {done.decided_by}"
    print(printable(options.done))
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


async def _since(office: BackOffice, proposal: Proposal) -> list[str]:
    """
    What else was paid for this customer since the proposal, and before it for the same reason.
    """
    lines = []
    for call in await office.related(proposal):
        reference = f", {call.intent.reference}" if call.intent.reference else ""
        done = f"{call.intent.effect}, {call.state} at {moment(call.created_at)} (key {call.key}{reference})"
        lines.append(f"{'also':<12} {done}")
    return lines
