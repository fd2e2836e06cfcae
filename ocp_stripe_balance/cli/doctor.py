"""
The doctor: what is in force, and what a person should change.
"""

import sys
from typing import TYPE_CHECKING, Any

import typer

from ocp_stripe_balance.cli.options import Json
from ocp_stripe_balance.cli.output import beside, fitted, mark, printable, say
from ocp_stripe_balance.errors import ConfigurationError, RejectedError, ToolError

if TYPE_CHECKING:
    from ocp_stripe_balance._journal.inspection import Server
    from ocp_stripe_balance.settings import Settings

_NO_KEY = "none: set STRIPE_SECRET_KEY or STRIPE_API_KEY; without a Stripe account, try ocp-stripe-balance sandbox"
_NEEDED = ("may_read_customers", "calls_allowed", "journal_usable")
_PATHS = ("policy", "journal")
_UNSET = "Set that, or unset what is not meant for this program."
_VERIFY = "sslmode=verify-full in the URL prevents that"
_MAX_AHEAD_S = 60.0
_WORDS = {True: "yes", False: "no", None: "not known"}


async def doctor(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    What is in force, whether Stripe answers, and what to change.
    """
    from ocp_stripe_balance._stripe.network import Network, advice  # pydantic
    from ocp_stripe_balance.settings import Settings, mode_of  # pydantic

    settings = Settings()
    key = settings.api_key
    findings: dict[str, Any] = {
        "api_key": f"from {settings.key_source()}" if key else _NO_KEY,
        "mode": mode_of(key.get_secret_value()) if key else None,
        "calls_allowed": _are_calls_allowed(settings),
        "policy": settings.policy_source() or "the defaults",
        "journal": _journal(settings),
        **await _try_journal(settings),
        **await _try_server(settings),
        "api_base": settings.api_base,
        "api_version": settings.api_version,
        "account": settings.account or "the key's own",
        "reaches_stripe": None,
        "may_read_customers": None,
    }
    findings["reaches_stripe"], findings["may_read_customers"] = await _try_reading(settings)
    if ignored := Network.of(settings).ignored():
        findings["environment"] = f"{advice(ignored)} {_UNSET}"
    stops = [name for name in _NEEDED if findings[name] is not True]
    # Many systems set those of certificates for every program; a proxy is set where nothing goes without it.
    faults = {*stops, *["environment"] * any("PROXY" in name.upper() for name in ignored)}
    wrong = [name for name, value in findings.items() if name in faults or _is_no(value)]
    if as_json:
        ctx.obj.print_facts({**findings, "to_change": wrong})
        return 2 if stops else 0
    for name, value in findings.items():
        text = _WORDS[value] if value is None or isinstance(value, bool) else str(value)
        label, text = f"  {_words(name):<18} ", printable(text)
        line = beside(label, text) if name in _PATHS else fitted(label + text, sys.stdout, " " * 21)
        print(mark(is_good=name not in wrong) + line[1:])
    say(f"To change: {', '.join(map(_words, wrong))}." if wrong else "Calls can be made.")
    return 2 if stops else 0


def _words(name: str) -> str:
    return name.replace("_", " ")


def _is_no(value: object) -> bool:
    return value == _NO_KEY or str(value).startswith("no: ")


def _journal(settings: "Settings") -> str:
    try:
        return str(settings.journal_place or "off: kept in memory only")
    except ConfigurationError:
        return "nowhere"


async def _try_journal(settings: "Settings") -> dict[str, Any]:
    """
    Whether the journal can be used, or why not, and how many calls are open in it.
    """
    from ocp_stripe_balance.backoffice import BackOffice, State  # what --help does not need

    found: dict[str, Any] = {"journal_usable": True, "open_calls": None}
    if settings.journal == "off":
        return found
    try:
        async with BackOffice(settings) as office:
            await office.check()
            found["open_calls"] = len(await office.calls(states=(State.UNKNOWN, State.SENDING)))
    except ToolError as error:
        found["journal_usable"] = f"no: {error}"
    return found


async def _try_server(settings: "Settings") -> dict[str, Any]:
    """
    How the journal's server is, where it is on one that can be asked.
    """
    from ocp_stripe_balance._text.database_url import is_database_url  # what --help does not need
    from ocp_stripe_balance.backoffice import BackOffice  # as above

    server = await BackOffice(settings).server() if is_database_url(_journal(settings)) else None
    return {} if server is None else _facts_of_server(server)


def _facts_of_server(server: "Server") -> dict[str, Any]:
    from ocp_stripe_balance.settings import is_loopback  # pydantic

    is_remote = not server.host.startswith("/") and not is_loopback(server.host)
    clear_text = (
        f"no: whoever is on the way to {server.host} reads it; {_VERIFY}" if is_remote else "not on this machine"
    )
    rights = "more than are needed: a superuser's" if server.is_superuser else "those that are needed"
    clock = f"{abs(server.ahead_s):.1f} s {'ahead of' if server.ahead_s > 0 else 'behind'} this machine's"
    return {
        "server": f"PostgreSQL {server.version} at {server.host}, database {server.database}, user {server.user}",
        "server_encrypted": (server.is_verified or f"yes, to whoever answers; {_VERIFY}")
        if server.is_encrypted
        else clear_text,
        "server_durable": f"no: a crash loses calls ({', '.join(server.unsafe)} off)" if server.unsafe else True,
        "server_rights": f"no: {server.user} lacks {', '.join(server.lacks)}" if server.lacks else rights,
        "server_format": server.format,
        "server_clock": f"{'no: ' * (abs(server.ahead_s) > _MAX_AHEAD_S)}{clock}",
    }


def _are_calls_allowed(settings: "Settings") -> bool | str:
    from ocp_stripe_balance._policy import live  # pydantic
    from ocp_stripe_balance.settings import mode_of  # as above

    if settings.api_key is None:
        return "no: there is no API key"
    mode = mode_of(settings.api_key.get_secret_value())
    finding = live(settings.policy_in_force, mode, allow_live=settings.allow_live)
    return True if finding.verdict == "allowed" else f"no: {finding.words().hint}"


async def _try_reading(settings: "Settings") -> tuple[bool | str | None, bool | str | None]:
    """
    Whether Stripe answers, and whether the key may read customers; a sentence where not, None where nobody knows.
    """
    from ocp_stripe_balance._stripe.client import StripeClient  # that only a call needs
    from ocp_stripe_balance._stripe.evidence import expected_of  # as above
    from ocp_stripe_balance._stripe.network import Network  # as above
    from ocp_stripe_balance._stripe.request import Request  # as above
    from ocp_stripe_balance._tools.manifest import load_manifest, tool_at  # as above

    headers = {"Stripe-Version": settings.api_version}
    if settings.account:
        headers["Stripe-Account"] = settings.account
    url = f"{settings.api_base}/v1/customers?limit=1"
    expected = expected_of(tool_at(load_manifest().tools, "GET", "/v1/customers"), {})
    request = Request(method="GET", url=url, body=b"", headers=headers, api_key=settings.api_key, expected=expected)
    client = StripeClient(timeout_s=min(settings.timeout, 10.0), max_attempts=1, network=Network.of(settings))
    try:
        await client.execute(request, tool="doctor", idempotency_key=None)
    except RejectedError as error:
        return True if error.request_id else None, f"no: HTTP {error.status}: {error.message}"
    except ToolError as error:
        return f"no: {error.why}", None
    finally:
        await client.aclose()
    return True, True
