"""
The commands, put together.
"""

from typing import Annotated

import typer

from ocp_stripe_balance._text.version import package_version
from ocp_stripe_balance.cli import approvals, calls, demo, doctor, mcp, money, policy, sandbox, tools

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
app.add_typer(calls.app, name="calls")
app.add_typer(approvals.app, name="approvals")
app.add_typer(policy.app, name="policy")
app.command("tools")(tools.tools)
app.add_typer(mcp.app, name="mcp")
app.command("sandbox")(sandbox.sandbox)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
