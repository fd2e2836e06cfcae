"""
The verbs: crediting, debiting and undoing, what a customer has, and calling a tool by its name.
"""

import functools
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ocp_stripe_balance.cli.given import fail, read_json
from ocp_stripe_balance.cli.options import Customer, Description, DryRun, Json, Key, Yes
from ocp_stripe_balance.cli.output import show_dry_run
from ocp_stripe_balance.cli.running import Run
from ocp_stripe_balance.errors import ToolError
from ocp_stripe_balance.verbs import CREATE, CUSTOMER, FIND, LIST, REVERSE, amount_parameters

if TYPE_CHECKING:
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.agent import OCPAgent

Amount = Annotated[
    str, typer.Argument(metavar="AMOUNT", help="in decimals, as the currency has them: 5.00, or 500 yen")
]
Currency = Annotated[str, typer.Argument(metavar="CURRENCY", help="three letters, such as usd")]
Reference = Annotated[str, typer.Option(metavar="TEXT", help="the business reason: the same one is paid once")]
Metadata = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="for the entry; may be repeated")]


def add_to(app: typer.Typer) -> None:
    """
    Add the verbs to the commands.
    """
    app.command("credit", help="Lower what a customer owes, once.")(_entry_of("credit"))
    app.command("debit", help="Raise what a customer owes, once.")(_entry_of("debit"))
    for verb in (reverse, balance, history, find, call):
        app.command(verb.__name__)(verb)


def _entry_of(verb: Literal["credit", "debit"]) -> Callable[..., Coroutine[Any, Any, int]]:
    async def make(
        ctx: typer.Context,
        customer: Customer,
        amount: Amount,
        currency: Currency,
        *,
        reference: Reference,
        description: Description = None,
        metadata: Metadata = None,
        idempotency_key: Key = None,
        yes: Yes = False,
        dry_run: DryRun = False,
        as_json: Json = False,
    ) -> int:
        given = {"customer": customer, **_entry(verb, amount, currency, reference, description, metadata)}
        return await _make_call(ctx.obj, CREATE, given, key=idempotency_key, yes=yes, dry_run=dry_run)

    return make


async def reverse(
    ctx: typer.Context,
    transaction: Annotated[str, typer.Argument(metavar="ENTRY", help="its ID, cbtxn_…")],
    *,
    customer: Annotated[str | None, typer.Option(metavar="ID", help="whose entry; by default as recorded")] = None,
    description: Description = None,
    stated_effect: Annotated[str | None, typer.Option(metavar="TEXT", help="what you expect: debit 5.00 USD")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """
    Undo an entry by making the opposite one, once.
    """
    given = {
        "transaction": transaction,
        "customer": customer,
        "description": description,
        "stated_effect": stated_effect,
    }
    return await _make_call(ctx.obj, REVERSE, given, yes=yes, dry_run=dry_run)


async def balance(ctx: typer.Context, customer: Customer, *, as_json: Json = False) -> int:
    """
    What a customer's balance is.
    """
    return await _make_call(ctx.obj, CUSTOMER, {"customer": customer})


async def history(
    ctx: typer.Context,
    customer: Customer,
    *,
    limit: Annotated[int, typer.Option(metavar="N", help="how many entries at most")] = 20,
    as_json: Json = False,
) -> int:
    """
    The entries of a customer's balance, newest first.
    """
    given = {"customer": customer, "limit": limit}
    return await _make_call(ctx.obj, LIST, given)


async def find(
    ctx: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="as Stripe has it, capitals included")],
    *,
    as_json: Json = False,
) -> int:
    """
    The customers that have an e-mail address.
    """
    from ocp_stripe_balance._text.placeholders import says_nothing  # that --help does not need

    if says_nothing(email):
        raise fail("EMAIL", f"{email!r} is no address", "write it as Stripe has it")
    return await _make_call(ctx.obj, FIND, {"email": email, "limit": 100})


async def call(
    ctx: typer.Context,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="a tool's name, long or short")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="a parameter; metadata[key]=value, expand[]=field"),
    ] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="print JSON; with a FILE (or -) behind it, read the parameters from there")
    ] = False,
    idempotency_key: Key = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> int:
    """
    Call a tool by its name.
    """
    source, assignments = _source(words or (), as_json=as_json)

    def parameters_of(spec: "ToolSpec") -> Any:
        return _assigned(spec, assignments) if source is None else read_json(source, "--json")

    return await _make_call(ctx.obj, tool, parameters_of, key=idempotency_key, yes=yes, dry_run=dry_run)


async def _make_call(
    run: Run,
    name: str,
    given: dict[str, Any] | Callable[["ToolSpec"], Any],
    *,
    key: str | None = None,
    yes: bool = True,
    dry_run: bool = False,
) -> int:
    from ocp_stripe_balance.agent import OCPAgent  # what --help does not need
    from ocp_stripe_balance.cli import approvals  # as above
    from ocp_stripe_balance.settings import Settings  # as above

    is_at_terminal = sys.stdin is not None and sys.stdin.isatty()
    emails: dict[str, str] = {}
    asking: dict[str, Any] = {}
    if is_at_terminal:
        ask = functools.partial(approvals.ask_at_terminal, emails=emails)
        asking = {"approver": ask, "asks_always": not yes}
    async with OCPAgent("command_line", approvals.whoami(), settings=Settings(), **asking) as agent:
        await agent.register_api("stripe")
        tool = await tool_named(agent, name)
        parameters = given if isinstance(given, dict) else given(tool)
        if key is None and isinstance(parameters, dict) and "idempotency_key" in tool.parameters:
            key = parameters.pop("idempotency_key", None)  # here it is a person's own, not a model's
        if isinstance(given, dict) and "customer" in given:
            named = await _customer_of(agent, given["customer"], emails, is_asked=is_at_terminal and not yes)
            parameters = {**parameters, "customer": named}
        if dry_run:
            return show_dry_run(await agent.call_tool(tool.name, parameters, idempotency_key=key, dry_run=True), run)
        await run.make(agent.call_tool(tool.name, parameters, idempotency_key=key))
        return 0


async def tool_named(agent: "OCPAgent", name: str) -> "ToolSpec":
    tool = agent.get_tool(name)
    if tool is None:
        await agent.call_tool(name)  # raises, naming the near ones
        raise AssertionError
    return tool


async def _customer_of(
    agent: "OCPAgent", customer: str | None, emails: dict[str, str], *, is_asked: bool
) -> str | None:
    """
    The ID of a customer, who may be named by an e-mail address; *emails* gets the address, for the question.

    Raises:
        InvalidParametersError: none has that address, or several have.
    """
    if customer is not None and "@" in customer:
        listed = await agent.call_tool(FIND, {"email": customer, "limit": 10})
        # What is no address may have been left out.
        found = [each for each in listed.customers or () if each.email == customer]
        if len(found) != 1:
            ids = "".join(f"{', ' if number else ': '}{each.describe()}" for number, each in enumerate(found))
            number = f"more than {len(found)}" if listed.data.get("has_more") else len(found) or "no"
            raise fail(
                "CUSTOMER",
                f"{number} customers have the e-mail address {customer!r}{ids}",
                "pass the ID of the one you mean" if found else "capitals count; pass the customer's ID, cus_…",
            )
        customer = found[0].id
        emails[customer] = found[0].email or ""
    elif customer is not None and is_asked:
        try:
            seen = (await agent.call_tool(CUSTOMER, {"customer": customer})).customer
        except ToolError:  # the call itself says what is wrong
            return customer
        emails[customer] = (seen.email if seen else None) or ""
    return customer


def _entry(
    verb: Literal["credit", "debit"],
    amount: str,
    currency: str,
    reference: str,
    description: str | None,
    metadata: list[str] | None,
) -> dict[str, Any]:
    """
    The parameters of an entry; what does not fit is left to the validation.
    """
    from ocp_stripe_balance._text.placeholders import is_unfilled  # that only a payment needs

    if is_unfilled(reference, "reference"):
        raise fail("--reference", f"{reference!r} is no reason", "write the business reason, such as ticket-812")
    given = {"reference": reference, "description": description, "metadata": pairs_of(metadata) or None}
    return {**amount_parameters(verb, amount, currency), **given}


def pairs_of(metadata: list[str] | None) -> dict[str, str]:
    """
    The keys and values of --metadata.
    """
    pairs: dict[str, str] = {}
    for pair in metadata or ():
        name, equals, value = pair.partition("=")
        if not equals or name in pairs:
            raise fail("--metadata", f"{pair!r} is not a new KEY=VALUE", "write each key once: --metadata order=1")
        pairs[name] = value
    return pairs


def _source(words: Sequence[str], *, as_json: bool) -> tuple[str | None, Sequence[str]]:
    """
    The file that --json reads parameters from, if there is one, and the KEY=VALUE words.
    """
    if not as_json:
        return None, words
    files = [word for word in words if "=" not in word or (len(words) == 1 and Path(word).exists())]
    if files and len(words) > 1:
        raise fail("--json", "there are both a JSON source and KEY=VALUE parameters", "pass one of the two")
    return (files[0], ()) if files else (None, words)


def _assigned(tool: "ToolSpec", assignments: Sequence[str]) -> dict[str, Any]:
    """
    Parameters from KEY=VALUE, typed as the tool's schema says; what does not fit is left to the validation.
    """
    parameters: dict[str, Any] = {}
    for assignment in assignments:
        target, equals, value = assignment.partition("=")
        match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", target)
        if not equals or match is None:
            raise fail(repr(assignment), "is not a parameter", "write KEY=VALUE, metadata[key]=value or expand[]=field")
        name, key = match[1], match[2]
        kind = tool.parameters.get(name, {}).get("type")
        is_json = kind in {"array", "object"} and value[:1] in {"[", "{"} and key is None
        is_twin = name in parameters and (is_json or kind != "array")
        if is_twin and (key is None or not isinstance(parameters[name], dict) or key in parameters[name]):
            raise fail(name, "is given twice", "pass it once")
        if is_json:
            parameters[name] = _json_value(name, value)
        elif kind == "array":
            parameters.setdefault(name, []).extend(value.split(",") if key is None else [value])
        elif kind == "object" and key is not None and isinstance(parameters.get(name, {}), dict):
            part = _part(tool, name, key)
            parameters.setdefault(name, {})[key] = int(value) if part == "integer" and _is_integer(value) else value
        elif _is_integer(value) and (kind == "integer" or _part(tool, name, None) == "integer"):
            parameters[name] = int(value)
        else:
            parameters[target] = value
    return parameters


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII) is not None


def _part(tool: "ToolSpec", name: str, key: str | None) -> str | None:
    """
    The type of a parameter's key, or of an alternative to an object, where the schema knows it.
    """
    for branch in tool.parameters.get(name, {}).get("schema", {}).get("anyOf", ()):
        spec = branch.get("properties", {}).get(key, {}) if key is not None else branch
        if "type" in spec and spec["type"] != "object":
            return str(spec["type"])
    return None


def _json_value(name: str, text: str) -> Any:
    from ocp_stripe_balance._text.parsing import parsed  # that little needs

    try:
        return parsed(text)
    except (ValueError, RecursionError) as error:
        raise fail(
            name, f"{text[:60]!r} is not JSON ({error})", "write metadata[key]=value or expand[]=field"
        ) from error
