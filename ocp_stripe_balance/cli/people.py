"""
People on the command line: who may come into the console, and what they did there.
"""

import contextlib
import getpass
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocp_stripe_balance._text.plain import local, moment
from ocp_stripe_balance.cli.approvals import whoami
from ocp_stripe_balance.cli.options import Json
from ocp_stripe_balance.cli.output import say
from ocp_stripe_balance.errors import ConfigurationError
from ocp_stripe_balance.web.access.person import Role

if TYPE_CHECKING:
    from ocp_stripe_balance._journal.people import Account, Visit
    from ocp_stripe_balance.settings import Settings
    from ocp_stripe_balance.web.access.accounts import Accounts

app = typer.Typer(help="Who may come into the console.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="to sign in with: a to z, 0 to 9 and . _ @ + -")]
Roles = Annotated[
    list[Role], typer.Option("--role", metavar="sees|decides|tokens", help="what they may do; again for more")
]
_MOST, _MOST_LISTED = 200, 100_000


@app.command()
async def add(
    ctx: typer.Context,
    name: Name,
    *,
    role: Roles,
    oidc: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="what the OpenID provider calls them, instead of a password")
    ] = None,
    as_json: Json = False,
) -> int:
    """
    Make an account. The password is asked for, or read from standard input.
    """
    async with _accounts() as (accounts, settings):
        if oidc is None:
            await accounts.add(name, role, password=_password())
        elif settings.oidc_issuer is None:
            message = "No OpenID provider is set, so none can know anybody."
            raise ConfigurationError(message, hint="Set OCP_STRIPE_OIDC_ISSUER and OCP_STRIPE_OIDC_CLIENT_ID.")
        else:
            await accounts.add(name, role, known_as=(settings.oidc_issuer, oidc))
    _warn_of(role)
    return _told(ctx, as_json, "added", name)


@app.command("list")
async def list_(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    Who there is, and what each may do.
    """
    async with _accounts() as (accounts, _):
        found = await accounts.all()
    rows = [(each.name, each.roles, _how(each), "disabled" if each.disabled_at else "") for each in found]
    facts = [_facts_of(each) for each in found]
    ctx.obj.show_list("people", facts, ("name", "roles", "signs in with", ""), rows, "There is nobody yet.")
    return 0


@app.command()
async def password(ctx: typer.Context, name: Name, *, as_json: Json = False) -> int:
    """
    Set another password. Whoever is in as that person is out.
    """
    async with _accounts() as (accounts, _):
        await accounts.change_password(name, _password())
    return _told(ctx, as_json, "password_changed", name)


@app.command()
async def roles(ctx: typer.Context, name: Name, *, role: Roles, as_json: Json = False) -> int:
    """
    Set what a person may do. It is these roles and no others, from the next request on.
    """
    async with _accounts() as (accounts, _):
        await accounts.change_roles(name, role)
    _warn_of(role)
    return _told(ctx, as_json, "roles_changed", name)


@app.command()
async def disable(ctx: typer.Context, name: Name, *, as_json: Json = False) -> int:
    """
    Let a person in no more, and out at once.
    """
    async with _accounts() as (accounts, _):
        await accounts.disable(name)
    return _told(ctx, as_json, "disabled", name)


@app.command()
async def enable(ctx: typer.Context, name: Name, *, as_json: Json = False) -> int:
    """
    Let a person in again.
    """
    async with _accounts() as (accounts, _):
        await accounts.enable(name)
    return _told(ctx, as_json, "enabled", name)


@app.command()
async def log(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="only this person")] = None,
    *,
    last: Annotated[int, typer.Option(metavar="N", help="how many at most")] = _MOST,
    as_json: Json = False,
) -> int:
    """
    What people did, newest first. Who signed in or out, was refused, asked for something or was changed.
    """
    async with _accounts() as (accounts, _):
        found = await accounts.visits(name, max(1, min(last, _MOST_LISTED)))
    rows = [(local(each.at), each.name or "?", each.what, each.how, each.address, each.detail) for each in found]
    headers = ("time", "name", "what", "how", "from", "detail")
    ctx.obj.show_list("visits", [_facts_of_visit(each) for each in found], headers, rows, "Nothing was done yet.")
    return 0


@contextlib.asynccontextmanager
async def _accounts() -> AsyncIterator[tuple["Accounts", "Settings"]]:
    from ocp_stripe_balance._journal import Journal  # what --help does not need
    from ocp_stripe_balance.settings import Settings

    try:
        from ocp_stripe_balance.web.access.accounts import Accounts  # of an extra
    except ImportError as error:
        hint = "Install the extra: pip install '.[web]' in a copy of the repository."
        raise ConfigurationError(f"The packages of the server are not there: {error}.", hint=hint) from error
    settings = Settings()
    if settings.journal_place is None:
        message = "Accounts are kept in the journal, and it is switched off (OCP_STRIPE_JOURNAL=off)."
        raise ConfigurationError(message, hint="Set OCP_STRIPE_JOURNAL to a path, or unset it.")
    journal = Journal(settings.journal_place)
    try:
        yield Accounts(journal, whoami()), settings
    finally:
        await journal.aclose()


def _password() -> str:
    """
    A password: typed twice where nobody else sees it, or the first line of standard input.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    typed = getpass.getpass("Password: ")
    if typed != getpass.getpass("The same again: "):
        raise ConfigurationError("The two are not the same, so nothing was changed.", hint="Run it again.")
    return typed


def _warn_of(roles: list[Role]) -> None:
    if Role.DECIDES in roles and Role.SEES not in roles:
        say("Who decides needs the role sees too: without it no proposal can be read.")


def _told(ctx: typer.Context, as_json: bool, what: str, name: str) -> int:
    if as_json:
        ctx.obj.print_facts({"name": name, what: True})
    else:
        say(f"{what.replace('_', ' ').capitalize()}: {name}.")
    return 0


def _how(account: "Account") -> str:
    return "a password" if account.password else f"{account.issuer}: {account.subject}"


def _facts_of(account: "Account") -> dict[str, Any]:
    since = account.disabled_at
    return {
        "name": account.name,
        "roles": account.roles.split(),
        "has_password": account.password is not None,
        "issuer": account.issuer,
        "subject": account.subject,
        "made_at": moment(account.made_at),
        "disabled_at": None if since is None else moment(since),
    }


def _facts_of_visit(visit: "Visit") -> dict[str, Any]:
    return {**visit._asdict(), "at": moment(visit.at)}
