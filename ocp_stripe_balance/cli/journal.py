"""
The journal on the command line: list, show, reconcile, resume, export, backup and prune.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._policy import span
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance.backoffice import (
    BackOffice,
    Decision,
    State,
    facts_of_call,
    facts_of_decision,
    facts_of_finding,
)
from ocp_stripe_balance.cli.output import print_json, printable, say, sentence_of, show_result
from ocp_stripe_balance.errors import InvalidParametersError, Problem

if TYPE_CHECKING:
    import argparse

_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TIME_HELP = "a date (2026-11-01), a time (2026-11-01T12:00Z) or a span back from now (90m, 24h, 7d)"


def add_parser(commands: Any) -> None:
    """
    Add ``journal`` and its commands.
    """
    journal = commands.add_parser("journal", help="the durable record of calls")
    actions = journal.add_subparsers(dest="action", required=True, metavar="COMMAND")

    lister = actions.add_parser("list", help="calls, oldest first")
    lister.add_argument("--outcome", choices=[str(state) for state in State], action="append", help="only this outcome")
    lister.add_argument("--since", metavar="TIME", help=_TIME_HELP)
    lister.add_argument("--customer", metavar="ID", help="only this customer")
    lister.add_argument("--json", dest="as_json", action="store_true", help="as a JSON list")

    show = actions.add_parser("show", help="all there is on one call")
    show.add_argument("key", metavar="KEY", help="its idempotency key")
    show.add_argument("--json", dest="as_json", action="store_true", help="as JSON")

    decisions = actions.add_parser("decisions", help="what the policy and people decided, oldest first")
    decisions.add_argument("--since", metavar="TIME", help=_TIME_HELP)
    decisions.add_argument("--customer", metavar="ID", help="only this customer")
    decisions.add_argument("--json", dest="as_json", action="store_true", help="as a JSON list")

    actions.add_parser("check", help="whether the totals that budgets count with are what the calls add up to")

    reconcile = actions.add_parser("reconcile", help="settle open calls by reading Stripe; moves no money")
    reconcile.add_argument("--json", dest="as_json", action="store_true", help="the findings as JSON")

    resume = actions.add_parser("resume", help="send an open call again under its own key")
    resume.add_argument("key", metavar="KEY", help="its idempotency key")
    resume.add_argument("--json", dest="as_json", action="store_true", help="the result as JSON")

    actions.add_parser("export", help="every call and every decision as a line of JSON")

    backup = actions.add_parser("backup", help="a whole copy in a new file, also while calls are made")
    backup.add_argument("file", metavar="FILE", type=Path, help="where to; it must not be there yet")

    prune = actions.add_parser("prune", help="delete settled calls")
    prune.add_argument("--before", required=True, metavar="TIME", help=_TIME_HELP)
    prune.add_argument(
        "--with-references",
        action="store_true",
        help="also paid calls with a reference, which could then be paid again",
    )


async def run(options: argparse.Namespace) -> int:
    """
    Run one journal command and return its exit code.
    """
    return await _ACTIONS[options.action](options)


async def _list(options: argparse.Namespace) -> int:
    states = [State(name) for name in options.outcome or ()]
    since = _moment(options.since, "--since") if options.since else 0.0
    async with BackOffice() as office:
        calls = await office.calls(states=states, since=since, customer=options.customer)
    if options.as_json:
        print_json([facts_of_call(call) for call in calls])
        return 0
    for call in calls:
        row = (moment(call.created_at), call.state, call.intent.effect, call.intent.customer or "", call.key)
        print(printable("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (20, 9, 20, 20, 0), strict=True))))
    if not calls:
        say("No calls.")
    return 0


async def _show(options: argparse.Namespace) -> int:
    async with BackOffice() as office:
        calls, decisions = await office.call(options.key)
    if options.as_json:
        decided = [facts_of_decision(each) for each in decisions]
        print_json([{**facts_of_call(call), "decisions": decided} for call in calls])
        return 0
    for call in calls:
        for name, value in facts_of_call(call).items():
            if value not in (None, ""):
                text = value if isinstance(value, str) else json.dumps(value)
                print(f"{name:<12} {printable(text)}")
    for each in decisions:
        print(printable(f"{'decision':<12} {_decision_line(each)}"))
    if not calls:
        say("No call of that key was sent.")
    return 0


async def _decisions(options: argparse.Namespace) -> int:
    since = _moment(options.since, "--since") if options.since else 0.0
    async with BackOffice() as office:
        found = await office.decisions(since=since, customer=options.customer)
    if options.as_json:
        print_json([facts_of_decision(each) for each in found])
        return 0
    for each in found:
        print(printable(f"{_decision_line(each)}  {each.effect}  {each.customer}  {each.key}"))
    if not found:
        say("No decisions.")
    return 0


def _decision_line(decision: Decision) -> str:
    reason = f": {decision.reason}" if decision.reason else ""
    return f"{moment(decision.at)}  {decision.decision:<8}  by {decision.who} ({decision.rule}{reason})"


async def _reconcile(options: argparse.Namespace) -> int:
    async with BackOffice() as office:
        findings = await office.reconcile(_progress)
    if options.as_json:
        print_json([facts_of_finding(finding) for finding in findings])
        return 0
    for finding in findings:
        found = f"transaction {finding.transaction['id']}" if finding.transaction else finding.advice
        told = {"not_sent": "never applied; nothing moved"}.get(finding.outcome, found)
        print(printable(f"{finding.outcome:<10} {finding.key}  {finding.customer}  {told}"))
    if not findings:
        say(f"No call is open at {office.settings.api_base} in this mode.")
    return 0 if all(finding.outcome != "unknown" for finding in findings) else 4


async def _resume(options: argparse.Namespace) -> int:
    async with BackOffice() as office:
        options.calling = asyncio.ensure_future(office.resume(options.key))
        result = await options.calling
        options.done = sentence_of(result)
        show_result(result, as_json=options.as_json)
        sys.stdout.flush()
    return 0


async def _export(_options: argparse.Namespace) -> int:
    async with BackOffice() as office:
        await office.proposals()  # which notes those that have expired
        calls, decisions = await office.calls(), await office.decisions()
    for call in calls:
        print(json.dumps({"record": "call", **facts_of_call(call)}))
    for decision in decisions:
        print(json.dumps({"record": "decision", **facts_of_decision(decision)}))
    return 0


async def _backup(options: argparse.Namespace) -> int:
    async with BackOffice() as office:
        made = await office.backup(options.file)
    say(f"Copied to {made}.")
    return 0


async def _check(_options: argparse.Namespace) -> int:
    async with BackOffice() as office:
        wrong = await office.check_totals()
        number, path = len(await office.calls()), office.settings.journal_path
    for each in wrong:
        kind = "calls let through" if each.per == "calls" else f"{each.per} {each.whose}".strip()
        where = " ".join(part for part in (each.mode, each.account, each.currency) if part)
        by = f"{abs(each.excess)} too {'high' if each.excess > 0 else 'low'}"
        print(printable(f"{kind} within {span(each.window_s)} ({where}): {by}"))
    if wrong:
        say("These totals were not what the calls add up to. They are made anew from the calls.")
        return 1
    say(f"Every total is what the calls add up to: {number} calls in {path}.")
    return 0


async def _prune(options: argparse.Namespace) -> int:
    before = _moment(options.before, "--before")
    async with BackOffice() as office:
        deleted = await office.prune(before, with_references=options.with_references)
    stay = "open ones" if options.with_references else "open ones, and paid ones with a reference,"
    say(f"Deleted {deleted} settled calls; {stay} stay, and so does what the rules of a policy still count.")
    return 0


_ACTIONS = {
    "list": _list,
    "show": _show,
    "decisions": _decisions,
    "check": _check,
    "reconcile": _reconcile,
    "resume": _resume,
    "export": _export,
    "backup": _backup,
    "prune": _prune,
}


def _moment(text: str, option: str) -> float:
    span = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if span:
        return time.time() - int(span[1]) * _SPANS[span[2]]
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        problem = Problem(path=option, message=f"{text!r} is not a time", hint=f"pass {_TIME_HELP}")
        raise InvalidParametersError([problem]) from None


def _progress(done: int, total: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            print(f"\r{done} of {total} calls", end="\n" if done == total else "", file=sys.stderr, flush=True)
