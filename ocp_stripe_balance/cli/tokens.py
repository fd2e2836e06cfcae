"""
Tokens on the command line: which agents may come over HTTP, and what each may do.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from ocp_stripe_balance._text.plain import local
from ocp_stripe_balance.cli.given import as_full
from ocp_stripe_balance.cli.options import Json
from ocp_stripe_balance.cli.output import say

if TYPE_CHECKING:
    from ocp_stripe_balance.serving.tokens import Tokens

app = typer.Typer(help="Which agents may come over HTTP. Policies see each token's name as the user.")

UNGUARDED = "No token was ever made: every program of this machine may call, as you."
Name = Annotated[str, typer.Argument(metavar="NAME", help="of the caller: a to z, 0 to 9, '_' and '-'")]


@app.command()
async def create(
    ctx: typer.Context,
    name: Name,
    *,
    policy: Annotated[str | None, typer.Option(metavar="PATH", help="its own, in place of the server's")] = None,
    tools: Annotated[str | None, typer.Option(metavar="NAMES", help="only these, with commas between them")] = None,
    rate: Annotated[int | None, typer.Option(metavar="N", help="calls within a minute, at most")] = None,
    as_json: Json = False,
) -> int:
    """
    Make a token, and print it. It is kept nowhere, and cannot be printed again.
    """
    chosen = None if tools is None else [each.strip() for each in tools.split(",") if each.strip()]
    full = None if policy is None else as_full(policy)
    token = _tokens().create(name, policy=full, tools=chosen, rate=rate)
    if as_json:
        ctx.obj.print_facts({"name": name, "token": token})
    else:
        print(token)
        say(f"The header is 'Authorization: Bearer …'. Budgets per user count it as {name}.")
    return 0


@app.command("list")
async def list_(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    The tokens: name, when it was made, and what it may do.
    """
    tokens = _tokens()
    found = tokens.all()
    facts = [each._asdict() for each in found]
    rows = [
        (each.name, local(each.created_at), each.policy or "", ", ".join(each.tools or ()), str(each.rate or ""))
        for each in found
    ]
    nothing = "No token is valid; every request is refused." if tokens.is_used else UNGUARDED
    ctx.obj.show_list("tokens", facts, ("name", "made", "policy", "tools", "a minute"), rows, nothing)
    return 0


@app.command()
async def revoke(ctx: typer.Context, name: Name, *, as_json: Json = False) -> int:
    """
    Let a token be good for nothing, at once.
    """
    _tokens().revoke(name)
    if as_json:
        ctx.obj.print_facts({"name": name, "revoked": True})
    else:
        say(f"Revoked: {name}.")
    return 0


def _tokens() -> "Tokens":
    from ocp_stripe_balance.serving.tokens import Tokens  # what --help does not need
    from ocp_stripe_balance.settings import Settings  # pydantic

    return Tokens(Settings())
