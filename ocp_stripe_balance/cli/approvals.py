"""
Approval by a person: at the terminal, and over the queue in the journal.
"""

import contextlib
import getpass
import shlex
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ocp_stripe_balance._text.plain import escaped, local
from ocp_stripe_balance.cli import stopping
from ocp_stripe_balance.cli.options import Json
from ocp_stripe_balance.cli.output import FACT_INDENT, fitted, printable, say, show_fact, show_text
from ocp_stripe_balance.cli.running import Run
from ocp_stripe_balance.errors import NotSentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocp_stripe_balance.backoffice import BackOffice
    from ocp_stripe_balance.models import Answer, Proposal

_YES, _NO = {"y", "yes"}, {"n", "no"}

Id = Annotated[str, typer.Argument(metavar="ID", help="the proposal's ID (ap_…), or the call's idempotency key")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="who decides; by default the user and host")]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask: needed where there is no terminal")]

app = typer.Typer(help="The calls that wait for a person.")


@app.command("list")
async def list_proposals(
    ctx: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="also what is decided or over")] = False,
    as_json: Json = False,
) -> int:
    """
    What waits, oldest first.
    """
    from ocp_stripe_balance.backoffice import BackOffice, facts_of_proposal  # what --help does not need

    async with BackOffice() as office:
        proposals = await office.proposals()
    shown = [each for each in proposals if everything or each.state == "waiting"]
    facts = [facts_of_proposal(each) for each in shown]
    rows = [
        (each.id, each.state, each.effect, each.customer, local(each.asked_at), each.reference or "") for each in shown
    ]
    headers = ("proposal", "state", "effect", "customer", "asked", "reference")
    ctx.obj.show_list("proposals", facts, headers, rows, "Nothing waits for approval.")
    return 0


@app.command()
async def show(ctx: typer.Context, name: Id, *, as_json: Json = False) -> int:
    """
    One proposal.
    """
    from ocp_stripe_balance.backoffice import BackOffice, facts_of_proposal  # what --help does not need

    async with BackOffice() as office:
        proposal = await office.proposal(name)
        if as_json:
            ctx.obj.print_facts(facts_of_proposal(proposal))
            return 0
        show_fact("proposal", f"{proposal.id}, {_standing(proposal)}")
        show_text(proposal.describe(), FACT_INDENT, keep="\n")
        for vote in filter(None, (*proposal.approvals, proposal.denial)):
            said = "no" if vote is proposal.denial else "yes"
            shown = f", shown {vote.shown[:16]}…" if vote.shown else ""
            show_fact(said, f"{escaped(vote.describe())}{shown}{f': {escaped(vote.reason)}' if vote.reason else ''}")
        for line in await _since(office, proposal):
            show_fact("also", line)
    return 0


@app.command()
async def approve(
    ctx: typer.Context,
    name: Id,
    *,
    by: By = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="for the agent and the audit")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """
    Let the call run, once.
    """
    return await _decide(ctx.obj, name, is_yes=True, by=by, reason=reason, is_sure=yes)


@app.command()
async def deny(
    ctx: typer.Context,
    name: Id,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="for the agent and the audit")],
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """
    Stop the call.
    """
    return await _decide(ctx.obj, name, is_yes=False, by=by, reason=reason, is_sure=yes)


async def ask_at_terminal(proposal: "Proposal", emails: "Mapping[str, str]") -> "Answer | None":
    """
    The answer of whoever sits at the terminal; None where that is neither a yes nor a no.
    """
    address = emails.get(proposal.customer)
    email = f"\n{'e-mail':<11} {escaped(address)}" if address else ""
    from ocp_stripe_balance.models import shown_digest  # what --help does not need

    me = whoami()
    if any(vote.person == me for vote in proposal.approvals):
        say("You have said yes to it already, and somebody else has to as well.")
        return None
    proven = {"by": f"{me} at the terminal", "how": "shell", "shown": shown_digest(proposal), "person": me}
    is_own_command = proposal.rule == "ask_always"
    choices = "[y/N]" if is_own_command else "(y: yes; n: no, and that stands; Enter: not decided)"
    if is_own_command:
        proposal = replace(proposal, why="you are at a terminal and gave no --yes")
    try:
        said = ask_at(f"{proposal.describe()}{email}\nSend it? {choices}")
    except KeyboardInterrupt:
        from asyncio import CancelledError  # which a task can end with

        raise CancelledError from None
    if said in _YES:
        return proposal.approve(**proven)
    return proposal.deny(**proven) if said in _NO or is_own_command else None


def ask_at(question: str) -> str:
    """
    What the person at the terminal says, in lower case; Ctrl-C and its relatives interrupt.

    Raises:
        KeyboardInterrupt: one of them came.
    """
    with stopping.stopped_by(stopping.interrupt), contextlib.suppress(OSError):  # a terminal that is gone says nothing
        _forget_typed_ahead()
        said = fitted(printable(question, keep="\n"), sys.stderr, FACT_INDENT)
        print(said, end=" ", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower()
    return ""


def _forget_typed_ahead() -> None:
    """
    Let a ``y`` that was typed before the question was there be no answer to it.
    """
    if sys.platform == "win32":
        import msvcrt  # only there

        while msvcrt.kbhit():
            msvcrt.getwch()
    else:
        import termios  # everywhere else

        with contextlib.suppress(termios.error):
            termios.tcflush(sys.stdin, termios.TCIFLUSH)


def whoami() -> str:
    """
    The user and host, as the operating system has them.
    """
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user, in a container say
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


async def _decide(run: Run, name: str, *, is_yes: bool, by: str | None, reason: str, is_sure: bool) -> int:
    from ocp_stripe_balance.backoffice import BackOffice, facts_of_proposal  # what --help does not need
    from ocp_stripe_balance.models import shown_digest  # as above

    async with BackOffice() as office:
        proposal = await office.proposal(name)
        if not is_sure and not await _is_meant(office, proposal, is_yes=is_yes):
            say("Nothing was decided.")
            return 2
        decide = proposal.approve if is_yes else proposal.deny
        # Who it is, the operating system says; a name that was given is a claim.
        proven = {"how": "shell", "shown": "" if is_sure else shown_digest(proposal), "person": whoami()}
        answer = decide(by=by or whoami(), reason=reason, **proven)
        done = await office.decide(answer) or proposal
    wanted = "approved" if is_yes else "denied"
    is_first = is_yes and done.state == "waiting" and [each.by for each in done.approvals][-1:] == [answer.by]
    if not is_first and (done.state != wanted or done.decided_by != answer.by):
        raise NotSentError(f"Nothing was changed: proposal {done.id} is {_standing(done)}.")
    whose = f" for {done.customer}" if done.customer else ""
    run.done = f"{wanted}: {done.effect}{whose}, by {answer.by}"
    if run.as_json:
        run.print_facts(facts_of_proposal(done))
    else:
        show_text(run.done)
    run.flush()
    if is_first:
        say(f"Somebody else has to say yes too, until {local(done.expires_at)}: {done.needed} people are needed.")
    elif is_yes and done.is_plan:
        say(f"The plan may now be run until {local(done.expires_at)}: ocp-stripe-balance bulk run PLAN")
        say("Of each row, the other rules of the policy still hold.")
    elif is_yes:
        # A key that is derived names no call where somebody gives it.
        again = "" if done.key_origin.is_derived else f", with --idempotency-key {shlex.quote(done.key)}"
        say(f"The same call may now run, once, until {local(done.expires_at)}.")
        say("The other rules of the policy, and references paid meanwhile, still hold.")
        say(f"To run it: the same call by the agent, or the same command again{again}")
    return 0


async def _is_meant(office: "BackOffice", proposal: "Proposal", *, is_yes: bool) -> bool:
    """
    Whether the person at the terminal, who has read the proposal, says yes.

    Raises:
        NotSentError: there is no terminal.
    """
    say(proposal.describe(), FACT_INDENT, keep="\n")
    for line in await _since(office, proposal):
        say(f"{'also':<11} {line}", FACT_INDENT)
    if sys.stdin is None or not sys.stdin.isatty():
        raise NotSentError("Nothing was decided: there is no terminal to ask at.", hint="Read it, then add --yes.")
    return ask_at(f"{'Approve' if is_yes else 'Deny'} it? [y/N]") in _YES


def _standing(proposal: "Proposal") -> str:
    """
    What has become of a proposal, in words.
    """
    if not proposal.decided_by or not proposal.decided_at:
        so_far = f", {len(proposal.approvals)} of {proposal.needed} people said yes"
        return proposal.state + (so_far if proposal.needed > 1 and proposal.state == "waiting" else "")
    verb = "denied" if proposal.state == "denied" else "approved"
    done = f"{verb} by {proposal.decided_by} at {local(proposal.decided_at)}"
    return {"used": f"{done}, and used", "expired": f"{done}, and expired"}.get(proposal.state, done)


async def _since(office: "BackOffice", proposal: "Proposal") -> list[str]:
    """
    What else was paid for this customer since the proposal, and before it for the same reason.
    """
    lines = []
    for call in await office.related(proposal):
        reference = f", {call.intent.reference}" if call.intent.reference else ""
        lines.append(f"{call.intent.effect}, {call.state} at {local(call.created_at)} (key {call.key}{reference})")
    return lines
