"""
Where word gets out: endpoints that are told what waits, what was decided, and what nobody knows.
"""

import contextlib
import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocp_stripe_balance.cli.options import Json
from ocp_stripe_balance.cli.output import say, show_text
from ocp_stripe_balance.errors import NotSentError

if TYPE_CHECKING:
    from ocp_stripe_balance._journal import Journal
    from ocp_stripe_balance.settings import Settings
    from ocp_stripe_balance.web.hooks.endpoints import Endpoints

Name = Annotated[str, typer.Argument(metavar="NAME", help="the endpoint's name")]

app = typer.Typer(help="Who is told what waits for a person, and what was decided.")


@app.command()
async def add(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="https://…, or http:// on this machine")],
    *,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="what it is called here")] = None,
    event: Annotated[list[str] | None, typer.Option(metavar="TYPE", help="only this event; again for more")] = None,
    slack: Annotated[bool, typer.Option("--slack", help="send a text with a link, as Slack takes it")] = False,
    private: Annotated[bool, typer.Option("--private", help="its name may lead to a private address")] = False,
    console: Annotated[
        str, typer.Option(metavar="URL", help="where people reach the console, for links")
    ] = "http://127.0.0.1:8766",
    as_json: Json = False,
) -> int:
    """
    Tell an endpoint from now on. The secret that its messages are signed with is printed.
    """
    from ocp_stripe_balance.web.hooks.endpoints import Endpoint  # what --help does not need

    name = name or f"hook-{secrets.token_hex(3)}"
    more: dict[str, Any] = {"is_slack": slack, "is_private": private, "console": console}
    made = _opened()[1].add(Endpoint(name=name, url=url, events=tuple(event or ()), **more))
    if as_json:
        ctx.obj.print_facts({"name": made.name, "secret": made.secret})
        return 0
    if slack:
        show_text(f"{made.name} is told from now on.")
    else:
        show_text(made.secret)
        say(f"That is the secret of {made.name}, by which it knows our messages.")
    say("'ocp-stripe-balance serve' tells it, or 'webhooks deliver', once.")
    return 0


@app.command("list")
async def list_endpoints(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    Which endpoints there are. It says how it stands with what each is told, too.
    """
    from ocp_stripe_balance._journal.deliveries import DELIVERIES, Deliveries  # what --help does not need

    _, endpoints, journal = _opened()
    found = endpoints.all()
    async with contextlib.aclosing(journal):
        now = journal.now()
        standings = await journal.run(
            lambda book: [Deliveries(book, now).standing(each.name) for each in found], reach=DELIVERIES
        )
    facts = [
        {"name": each.name, "host": each.host, "events": list(each.events), "slack": each.is_slack, **one._asdict()}
        for each, one in zip(found, standings, strict=True)
    ]
    rows = [
        (each.name, each.host, str(one.waiting), str(one.delivered), str(one.given_up), one.last_failure or "")
        for each, one in zip(found, standings, strict=True)
    ]
    headers = ("endpoint", "host", "waiting", "delivered", "given up", "last failure")
    ctx.obj.show_list("endpoints", facts, headers, rows, "Nobody is told anything.")
    return 0


@app.command()
async def remove(ctx: typer.Context, name: Name, *, as_json: Json = False) -> int:
    """
    Tell an endpoint nothing more, what has not arrived yet neither.
    """
    from ocp_stripe_balance._journal.deliveries import DELIVERIES, Deliveries  # what --help does not need

    _, endpoints, journal = _opened()
    endpoints.remove(name)
    async with contextlib.aclosing(journal):
        await journal.run(lambda book: Deliveries(book, journal.now()).give_up(name), reach=DELIVERIES)
    if as_json:
        ctx.obj.print_facts({"name": name, "removed": True})
    else:
        say(f"Removed: {name}.")
    return 0


@app.command("test")
async def try_out(ctx: typer.Context, name: Name, *, as_json: Json = False) -> int:
    """
    Send an endpoint one message. It is of the type ping, and whether it arrived is told.
    """
    from ocp_stripe_balance.web.hooks.courier import ping  # what --help does not need

    settings, endpoints, _ = _opened()
    endpoint = endpoints.one(name)
    sent = await ping(settings, endpoint)
    if sent.note:
        raise NotSentError(f"{name} at {endpoint.host} did not take it: {sent.note}.")
    if as_json:
        ctx.obj.print_facts({"name": name, "status": sent.status})
    else:
        show_text(f"{name} at {endpoint.host} took it ({sent.status}).")
    return 0


@app.command()
async def deliver(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    Tell every endpoint once what is due. 'serve' does so all the time; this is for a timer of the system's.
    """
    from ocp_stripe_balance.web.hooks.courier import Courier  # what --help does not need

    settings, endpoints, journal = _opened()
    async with contextlib.aclosing(journal):
        arrived, failed = await Courier(settings, journal, endpoints).deliver()
    if as_json:
        ctx.obj.print_facts({"arrived": arrived, "failed": failed})
    else:
        show_text(f"{arrived} arrived, {failed} did not, and are sent again later.")
    return 0


def _opened() -> "tuple[Settings, Endpoints, Journal]":
    from ocp_stripe_balance._journal import Journal  # what --help does not need
    from ocp_stripe_balance.settings import Settings  # pydantic
    from ocp_stripe_balance.web.hooks.endpoints import Endpoints  # as above

    settings = Settings()
    return settings, Endpoints(settings), Journal(settings.journal_place)
