"""
The calls on record: list, show, reconcile, resume, export, backup, copy and prune.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ocp_stripe_balance._domain import State
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import local
from ocp_stripe_balance.cli.given import moment_of
from ocp_stripe_balance.cli.options import SUM_HELP, TIME_HELP, Json, OfCustomer, Since
from ocp_stripe_balance.cli.output import say, show_fact, show_table, show_text
from ocp_stripe_balance.cli.progress import progress

if TYPE_CHECKING:
    from ocp_stripe_balance.backoffice import Decision

_OUTCOMES = f"only this one of {', '.join(State)}; may be repeated"
Key = Annotated[str, typer.Argument(metavar="KEY", help="its idempotency key")]

app = typer.Typer(help="The calls on record: what became of each.")


@app.command("list")
async def list_calls(
    ctx: typer.Context,
    *,
    outcome: Annotated[list[State] | None, typer.Option(metavar="OUTCOME", help=_OUTCOMES)] = None,
    since: Since = None,
    customer: OfCustomer = None,
    as_json: Json = False,
) -> int:
    """
    The calls, oldest first.
    """
    from ocp_stripe_balance.backoffice import BackOffice, facts_of_call  # what --help does not need

    states = outcome or ()
    after = moment_of(since, "--since") if since else 0.0
    async with BackOffice() as office:
        calls = await office.calls(states=states, since=after, customer=customer)
    facts = [facts_of_call(call) for call in calls]
    rows = [
        (local(call.created_at), str(call.state), call.intent.effect, call.intent.customer or "", call.key)
        for call in calls
    ]
    ctx.obj.show_list("calls", facts, ("time", "outcome", "effect", "customer", "key"), rows, "No calls.")
    return 0


@app.command()
async def show(ctx: typer.Context, key: Key, *, as_json: Json = False) -> int:
    """
    All there is on one call.
    """
    from ocp_stripe_balance.backoffice import BackOffice, facts_of_call, facts_of_decision  # what --help does not need

    async with BackOffice() as office:
        calls, decided = await office.call(key)
    if as_json:
        facts = [facts_of_decision(each) for each in decided]
        ctx.obj.print_list("calls", [{**facts_of_call(call), "decisions": facts} for call in calls])
        return 0
    for call in calls:
        times = {"created_at": local(call.created_at), "updated_at": local(call.updated_at)}
        for name, value in {**facts_of_call(call), **times}.items():
            if value not in (None, ""):
                show_fact(name, value if isinstance(value, str) else json.dumps(value))
    for each in decided:
        show_fact("decision", f"{local(each.at)}  {each.decision}  by {_by(each)}")
    if not calls:
        say("No call of that key was sent.")
    return 0


@app.command()
async def decisions(
    ctx: typer.Context, *, since: Since = None, customer: OfCustomer = None, as_json: Json = False
) -> int:
    """
    What the policy and people decided, oldest first.
    """
    from ocp_stripe_balance.backoffice import BackOffice, facts_of_decision  # what --help does not need

    after = moment_of(since, "--since") if since else 0.0
    async with BackOffice() as office:
        found = await office.decisions(since=after, customer=customer)
    facts = [facts_of_decision(each) for each in found]
    rows = [(local(each.at), each.decision, each.effect, each.customer, _by(each), each.key) for each in found]
    headers = ("time", "decision", "effect", "customer", "by", "key")
    ctx.obj.show_list("decisions", facts, headers, rows, "No decisions.")
    return 0


def _by(decision: "Decision") -> str:
    return f"{decision.who} ({decision.rule}{f': {decision.reason}' if decision.reason else ''})"


@app.command()
async def sums(
    ctx: typer.Context,
    *,
    by: Annotated[list[str] | None, typer.Option(metavar="WHAT", help=f"{SUM_HELP}; may be repeated")] = None,
    since: Since = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help=f"only before {TIME_HELP}")] = None,
    as_json: Json = False,
) -> int:
    """
    What was credited and debited, added up.
    """
    from ocp_stripe_balance.backoffice import BackOffice  # what --help does not need

    wanted = by or []
    until = moment_of(before, "--before") if before else math.inf
    async with BackOffice() as office:
        found = await office.sums(wanted, since=moment_of(since, "--since") if since else 0.0, before=until)
    facts = [{**dict(zip(wanted, each.group, strict=True)), **each.facts()} for each in found]
    rows = [
        (*each.group, each.mode, f"{each.number:,}", money.effect(each.moved.amount, each.moved.currency))
        for each in found
    ]
    ctx.obj.show_list("sums", facts, (*wanted, "mode", "entries", "effect"), rows, "No entries.")
    return 0


@app.command()
async def reconcile(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    Settle open calls by reading Stripe; moves no money.
    """
    from ocp_stripe_balance.backoffice import BackOffice, facts_of_finding  # what --help does not need

    async with BackOffice() as office:
        with progress("calls") as show_done:
            findings = await office.reconcile(show_done)
        elsewhere = await office.open_elsewhere()
    rows = []
    for finding in findings:
        found = f"transaction {finding.transaction['id']}" if finding.transaction else finding.advice
        told = {"not_sent": "never applied; nothing moved"}.get(finding.outcome, found)
        rows.append((finding.outcome, finding.key, finding.customer, told))
    facts = [facts_of_finding(finding) for finding in findings]
    nothing = f"No call is open at {office.settings.api_base} in this mode."
    ctx.obj.show_list("findings", facts, ("outcome", "key", "customer", "found"), rows, nothing)
    for server, number in elsewhere.items():
        say(f"{number} open {'call belongs' if number == 1 else 'calls belong'} to {server}.")
    return 0 if all(finding.outcome != "unknown" for finding in findings) else 4


@app.command()
async def resume(ctx: typer.Context, key: Key, *, as_json: Json = False) -> int:
    """
    Send an open call again under its own key.
    """
    from ocp_stripe_balance.backoffice import BackOffice  # what --help does not need

    async with BackOffice() as office:
        await ctx.obj.make(office.resume(key))
    return 0


@app.command()
async def export() -> int:
    """
    Every call and every decision as a line of JSON.
    """
    from ocp_stripe_balance.backoffice import BackOffice, facts_of_call, facts_of_decision  # what --help does not need

    async with BackOffice() as office:
        await office.proposals()  # which notes those that have expired
        calls, decided = await office.calls(), await office.decisions()
    with progress("calls") as show_done:
        for number, call in enumerate(calls, 1):
            print(json.dumps({"record": "call", **facts_of_call(call)}))
            show_done(number, len(calls))
    for decision in decided:
        print(json.dumps({"record": "decision", **facts_of_decision(decision)}))
    return 0


@app.command()
async def backup(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="where to; it must not be there yet")],
    *,
    as_json: Json = False,
) -> int:
    """
    A whole copy in a new file, also while calls are made.
    """
    from ocp_stripe_balance.backoffice import BackOffice  # what --help does not need

    async with BackOffice() as office:
        made = await office.backup(Path(file))
    if as_json:
        ctx.obj.print_facts({"file": str(made)})
    say(f"Copied to {made}.")
    return 0


@app.command()
async def copy(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FROM", help="the journal to copy: a file, or the URL of a server")],
    target: Annotated[str, typer.Argument(metavar="TO", help="a file or the URL of a database without calls")],
    *,
    as_json: Json = False,
) -> int:
    """
    A journal into another one, a file or a server each.
    """
    from ocp_stripe_balance.backoffice import copy_journal, facts_of_proof  # what --help does not need

    with progress("records") as show_done:
        proof = await copy_journal(source, target, show_done)
    if as_json:
        ctx.obj.print_facts(facts_of_proof(proof))
    headers = ("records", "mode", "currency", "outcome", "number", "amount")
    rows = [
        (*kind, *(str(a) if a == b else f"{a} and {b}" for a, b in zip(*pair, strict=True)))
        for kind, pair in proof.sums.items()
    ]
    if not as_json:
        show_table(headers, rows)
    if not proof.is_whole:
        say("The copy is not whole: two numbers are those of FROM and of TO. Copy into a place that is empty.")
        return 1
    say(f"All {proof.records} records are in the copy: every number and amount is the same on both sides.")
    say("From now on every process must use the copy: two journals would pay one decision twice.")
    return 0


@app.command()
async def check(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    Whether the totals of budgets are true.
    """
    from ocp_stripe_balance._policy import span  # what --help does not need
    from ocp_stripe_balance.backoffice import BackOffice  # as above

    async with BackOffice() as office:
        with progress("calls"):
            wrong = await office.check_totals()
        number, path = len(await office.calls()), office.settings.journal_place
    lines = []
    for each in wrong:
        kind = "calls let through" if each.per == "calls" else f"{each.per} {each.whose}".strip()
        where = " ".join(part for part in (each.mode, each.account, each.currency) if part)
        by = f"{abs(each.excess)} too {'high' if each.excess > 0 else 'low'}"
        lines.append(f"{kind} within {span(each.window_s)} ({where}): {by}")
    if as_json:
        ctx.obj.print_facts({"calls": number, "journal": str(path), "wrong": lines})
    for line in () if as_json else lines:
        show_text(line)
    if wrong:
        say("These totals were not what the calls add up to. They are made anew from the calls.")
        return 1
    say(f"Every total is what the calls add up to: {number} calls in {path}.")
    return 0


@app.command()
async def prune(
    ctx: typer.Context,
    *,
    before: Annotated[str, typer.Option(metavar="TIME", help=TIME_HELP)],
    with_references: Annotated[
        bool, typer.Option("--with-references", help="also paid calls with a reference, which could then be paid again")
    ] = False,
    as_json: Json = False,
) -> int:
    """
    Delete settled calls.
    """
    from ocp_stripe_balance.backoffice import BackOffice  # what --help does not need

    until = moment_of(before, "--before")
    async with BackOffice() as office:
        deleted = await office.prune(until, with_references=with_references)
    if as_json:
        ctx.obj.print_facts({"deleted": deleted})
    stay = "open ones" if with_references else "open ones, and paid ones with a reference,"
    say(f"Deleted {deleted} settled calls; {stay} stay, and so does what the rules of a policy still count.")
    return 0
