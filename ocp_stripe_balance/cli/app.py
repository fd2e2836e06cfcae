"""
The commands, put together.
"""

from functools import cache
from typing import Annotated, Any

import typer

from ocp_stripe_balance._text.version import package_version
from ocp_stripe_balance.cli import (
    approvals,
    bulk,
    calls,
    console,
    demo,
    doctor,
    mcp,
    money,
    people,
    policy,
    sandbox,
    serve,
    tokens,
    tools,
    webhooks,
)

# No Rich in help and errors: they are read in pipes too, and importing it takes as long as all the rest.
app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="exit codes: 0 succeeded, 2 not sent, 3 rejected by Stripe, 4 outcome unknown",
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"ocp-stripe-balance {package_version()}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print it")
    ] = False,
) -> None:
    """
    Credit or debit a Stripe customer's balance: once per decision, with the outcome always told.
    """


money.add_to(app)
app.add_typer(bulk.app, name="bulk")
app.add_typer(calls.app, name="calls")
app.add_typer(approvals.app, name="approvals")
app.add_typer(policy.app, name="policy")
app.command("tools")(tools.tools)
app.add_typer(mcp.app, name="mcp")
app.command("serve")(serve.serve)
app.add_typer(people.app, name="people")
app.add_typer(tokens.app, name="tokens")
app.add_typer(webhooks.app, name="webhooks")
app.command("sandbox")(sandbox.sandbox)
app.command("demo")(demo.demo)
app.command("console")(console.console)
app.command("doctor")(doctor.doctor)


@cache
def program() -> Any:
    """
    The commands as Typer runs them, put together once: that takes longer than to run most of them.
    """
    made: Any = typer.main.get_command(app)
    _drop_types(made)
    return made


def _drop_types(command: Any) -> None:
    """
    Let the help of an argument be its word and what it means, without the <str> that Typer puts between them.
    """
    for each in command.params:
        if each.param_type_name == "argument":
            each.display_type_rich = lambda ctx: None  # noqa: ARG005  Typer's name
    for inner in getattr(command, "commands", {}).values():
        _drop_types(inner)
