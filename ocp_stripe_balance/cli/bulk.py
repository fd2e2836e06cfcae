"""
Many entries from one list: planned, approved once, run.
"""

import functools
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ocp_stripe_balance._text import money
from ocp_stripe_balance.cli import stopping
from ocp_stripe_balance.cli.approvals import ask_at_terminal, whoami
from ocp_stripe_balance.cli.given import fail, moment_of
from ocp_stripe_balance.cli.money import pairs_of
from ocp_stripe_balance.cli.options import TIME_HELP, Json, Yes
from ocp_stripe_balance.cli.output import say, show_fact, show_table
from ocp_stripe_balance.cli.progress import progress
from ocp_stripe_balance.cli.running import Run, command

if TYPE_CHECKING:
    from ocp_stripe_balance._domain import Money
    from ocp_stripe_balance.bulk import Plan, Status
    from ocp_stripe_balance.bulk import Run as BulkRun

app = typer.Typer(help="Many entries from one list: planned, approved once, run.")

File = Annotated[str, typer.Argument(metavar="LIST", help=".csv, .tsv, .jsonl or .xlsx; the first line names columns")]
ListFile = Annotated[str, typer.Argument(metavar="LIST", help="where to, ending in .csv; it must not be there yet")]
Amount = Annotated[str, typer.Option(metavar="AMOUNT", help="of each entry, in decimals, such as 5.00")]
CurrencyOfAll = Annotated[
    str, typer.Option("--currency", metavar="CODE", help="such as usd; who is billed in another one is left out")
]
Which = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="only customers whose metadata says so; may be repeated"),
]
CreatedSince = Annotated[str | None, typer.Option(metavar="TIME", help=f"only customers made since {TIME_HELP}")]
CreatedBefore = Annotated[str | None, typer.Option(metavar="TIME", help="only customers made before then")]
Out = Annotated[str | None, typer.Option(metavar="PLAN", help="where to; by default beside LIST, ending in .plan")]
Reference = Annotated[
    str | None, typer.Option(metavar="TEXT", help="the campaign: the reason of each row without a reference of its own")
]
Currency = Annotated[str | None, typer.Option(metavar="CODE", help="of rows without a currency, such as usd")]
Direction = Annotated[
    Literal["credit", "debit"] | None, typer.Option(metavar="VERB", help="of rows without one: credit or debit")
]
Words = Annotated[str | None, typer.Option(metavar="TEXT", help="for the ledger, of rows without one")]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="for the entries of rows without that key; may be repeated"),
]
Separator = Annotated[str | None, typer.Option(metavar="CHAR", help="between cells; by default a comma in .csv")]
Encoding = Annotated[
    Literal["utf-8", "windows-1252"], typer.Option(metavar="NAME", help="utf-8 or windows-1252, of text files")
]
Decimal = Annotated[
    Literal["point", "comma"], typer.Option(metavar="SIGN", help="point or comma, before the decimals of amounts")
]
Sheet = Annotated[str | None, typer.Option(metavar="NAME", help="of a spreadsheet that has several")]
Ignore = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="that means nothing here; may be repeated")]
Count = Annotated[int | None, typer.Option(metavar="N", help="refuse a list that has more or fewer rows")]
Total = Annotated[
    list[str] | None, typer.Option(metavar="SUM", help="refuse another one: '15000.00 usd'; may be repeated")
]

PlanFile = Annotated[str, typer.Argument(metavar="PLAN", help="what 'bulk plan' wrote")]
ReportFile = Annotated[
    str | None, typer.Option("--out", metavar="PATH", help="where to; by default beside PLAN, ending in .report.csv")
]
ReverseFile = Annotated[
    str | None, typer.Option("--out", metavar="PLAN", help="where to; by default beside PLAN, ending in .reverse")
]
HowFar = Annotated[bool, typer.Option("--dry-run", help="show how far the plan is; ask and send nothing")]
Limit = Annotated[int | None, typer.Option(metavar="N", help="send no more rows than that, as a trial")]
OnlyFailed = Annotated[bool, typer.Option("--only-failed", help="leave rows alone that were never tried")]
MaxFailed = Annotated[
    float, typer.Option(metavar="PERCENT", help="pause where more of the last hundred rows fail; 100 for never")
]


@app.command("customers")
async def choose(
    ctx: typer.Context,
    path: ListFile,
    *,
    amount: Amount,
    currency: CurrencyOfAll,
    metadata: Which = None,
    created_since: CreatedSince = None,
    created_before: CreatedBefore = None,
    as_json: Json = False,
) -> int:
    """
    Write a list of customers, where there is none; sends nothing.
    """
    from ocp_stripe_balance._domain import Money  # what --help does not need
    from ocp_stripe_balance._text.amounts import AmountError, amount_of  # as above
    from ocp_stripe_balance.bulk import Bulk, Where  # as above

    try:
        each = Money(amount_of(amount, currency), currency.lower())
    except AmountError as error:
        raise fail("--amount", error.message, error.hint) from None
    where = Where(
        metadata=pairs_of(metadata),
        since=moment_of(created_since, "--created-since") if created_since else 0.0,
        before=moment_of(created_before, "--created-before") if created_before else math.inf,
    )
    with progress("customers") as show_done:
        async with Bulk(user=whoami(), progress=lambda number: show_done(number, None)) as bulk:
            found = await bulk.choose(Path(path), each, where)
    if ctx.obj.as_json:
        ctx.obj.print_facts({"list": path, **found._asdict()})
        return 0
    show_fact("list", f"{path}, {found.number:,} customers")
    if found.without_currency:
        show_fact(
            "currency", f"{found.without_currency:,} of them have none yet, and would get {each.currency} for good"
        )
    if found.left_out:
        show_fact("left out", f"{found.left_out:,} who are billed in another currency")
    say("Look it through; then plan it:")
    say(f"{command('bulk', 'plan', path)} --direction credit --reference …")
    return 0


@app.command()
async def plan(
    ctx: typer.Context,
    file: File,
    *,
    out: Out = None,
    reference: Reference = None,
    currency: Currency = None,
    direction: Direction = None,
    description: Words = None,
    metadata: Metadata = None,
    separator: Separator = None,
    encoding: Encoding = "utf-8",
    decimal: Decimal = "point",
    sheet: Sheet = None,
    ignore: Ignore = None,
    expect_count: Count = None,
    expect_total: Total = None,
    as_json: Json = False,
) -> int:
    """
    Check a list, and write what would be sent; sends nothing.
    """
    from ocp_stripe_balance.bulk import Bulk, Common, Expected, Form  # what --help does not need

    if separator is not None and len(separator) != 1:
        raise fail("--separator", f"{separator!r} is not one character", "pass one, such as ';'")
    source = Path(file)
    form = Form(separator=separator, encoding=encoding, decimal=decimal, sheet=sheet, ignored=frozenset(ignore or ()))
    common = Common(
        reference=reference,
        currency=currency,
        direction=direction,
        description=description,
        metadata=pairs_of(metadata),
        decimal=decimal,
    )
    expected = Expected(expect_count, tuple(_total(each) for each in expect_total or ()))
    with progress("rows") as show_done:
        async with Bulk(user=whoami(), progress=lambda number: show_done(number, None)) as bulk:
            target = Path(out) if out else source.with_name(f"{source.name}.plan")
            made = await bulk.plan(source, target, form=form, common=common, expected=expected)
            lasts = bulk.duration(made)
    _tell_plan(ctx.obj, made, lasts)
    return 0


@app.command("run")
async def run_plan(
    ctx: typer.Context,
    path: PlanFile,
    *,
    limit: Limit = None,
    only_failed: OnlyFailed = False,
    max_failed: MaxFailed = 10.0,
    yes: Yes = False,
    dry_run: HowFar = False,
    as_json: Json = False,
) -> int:
    """
    Send what a plan says; run it again to go on.
    """
    import asyncio  # what --help does not need

    from ocp_stripe_balance.bulk import Bulk, open_plan  # as above

    made = open_plan(Path(path))
    if made.has_another_list():
        say(f"warning: {made.facts['source']} has changed since the plan was made of it; what is sent is the plan.")
    asking: dict[str, Any] = {}
    if sys.stdin is not None and sys.stdin.isatty():
        asking = {"approver": functools.partial(ask_at_terminal, emails={}), "asks_always": not yes}
    async with Bulk(user=whoami()) as bulk:
        before = await bulk.status(made)
        if dry_run:
            _tell_status(ctx.obj, made, before)
            say("Nothing was sent.")
            return 0
        run = await bulk.run(made, limit=limit, only_failed=only_failed, max_failed=max_failed / 100, **asking)
        ctx.obj.calling = asyncio.ensure_future(_follow(run, before))
        await ctx.obj.calling
        ctx.obj.calling = None
        ctx.obj.done = (
            f"in this run: {', '.join(f'{number:,} {ended}' for ended, number in run.done.items()) or 'nothing'}"
        )
        after = await bulk.status(made)
    _tell_status(ctx.obj, made, after, run)
    ctx.obj.flush()
    if run.stopped:
        say(f"Stopped: {run.stopped.rstrip('.')}.")
    if after.left:
        say("To go on: the same command again. What is paid is not paid again.")
    return _exit_code(after, run)


@app.command()
async def status(ctx: typer.Context, path: PlanFile, *, as_json: Json = False) -> int:
    """
    How far a plan is.
    """
    from ocp_stripe_balance.bulk import Bulk, open_plan  # what --help does not need

    made = open_plan(Path(path))
    async with Bulk(user=whoami()) as bulk:
        _tell_status(ctx.obj, made, await bulk.status(made))
    return 0


@app.command()
async def report(ctx: typer.Context, path: PlanFile, *, out: ReportFile = None, as_json: Json = False) -> int:
    """
    Write what became of each row, as CSV.
    """
    from ocp_stripe_balance.bulk import Bulk, open_plan  # what --help does not need

    made = open_plan(Path(path))
    target = Path(out) if out else made.path.with_name(f"{made.path.name}.report.csv")
    async with Bulk(user=whoami()) as bulk:
        found = await bulk.report(made, target)
    _tell_status(ctx.obj, made, found, report=str(target))
    say(f"Written to {target}.")
    return 0


@app.command()
async def reverse(
    ctx: typer.Context,
    path: PlanFile,
    *,
    out: ReverseFile = None,
    metadata: Metadata = None,
    as_json: Json = False,
) -> int:
    """
    Plan the opposite of each entry of a plan; sends nothing.
    """
    from ocp_stripe_balance.bulk import Bulk, open_plan  # what --help does not need

    made = open_plan(Path(path))
    target = Path(out) if out else made.path.with_name(f"{made.path.name}.reverse")
    async with Bulk(user=whoami()) as bulk:
        opposite = await bulk.reverse(made, target, metadata=pairs_of(metadata))
        lasts = bulk.duration(opposite)
    _tell_plan(ctx.obj, opposite, lasts)
    return 0


async def _follow(run: "BulkRun", before: "Status") -> None:
    """
    Wait for all results, with a bar that says how many there are, how much was moved, and what failed.
    """
    moved = Counter[str]()

    def words() -> str:
        said = [money.effect(amount, currency) for currency, amount in moved.items() if amount]
        said += [f"{number:,} {outcome}" for outcome, number in run.done.items() if outcome != "succeeded"]
        said += [f"waits {run.waits_s:.0f} s for the policy's calls_per_minute"] if run.waits_s else []
        return ", ".join(said)

    with progress("rows", words) as show_done:
        async for result in run:
            if result.outcome == "succeeded":
                moved[result.row.moved.currency] += result.row.moved.amount
            show_done(run.done.total(), before.left)


def _tell_plan(run: Run, made: "Plan", lasts: float | None) -> None:
    """
    Print a plan, and how it is sent.
    """
    if run.as_json:
        run.print_facts({"plan": str(made.path), "digest": made.digest, "seconds": lasts, **_told(made)})
        return
    _show(made, lasts)
    say("Nothing was sent. To send it:")
    say(command("bulk", "run", str(made.path)))


def _tell_status(run: Run, made: "Plan", found: "Status", ran: "BulkRun | None" = None, **more: Any) -> None:
    """
    Print how far a plan is.
    """
    amounts = [
        {"outcome": became, "direction": direction, "currency": currency, "amount": amount}
        for (became, direction, currency), amount in sorted(found.amounts.items())
    ]
    if run.as_json:
        facts: dict[str, Any] = {
            "plan": str(made.path),
            "digest": made.digest,
            "rows": dict(found.rows),
            "amounts": amounts,
            "taken_back": found.taken_back,
            **more,
        }
        run.print_facts(facts | ({"stopped": ran.stopped, "this_run": dict(ran.done)} if ran else {}))
        return
    show_fact("plan", f"{made.path}, {made.number:,} rows")
    for became, number in sorted(found.rows.items()):
        show_fact(became.replace("_", " "), f"{number:,} ({found.sums(became)})")
    if found.taken_back:
        show_fact("taken back", f"{found.taken_back:,} of those that succeeded")


def _exit_code(found: "Status", run: "BulkRun") -> int:
    """
    Of what went worst: 4 where something is unknown, 3 where Stripe said no, 2 where something was not sent.
    """
    if found.rows["unknown"] or found.rows["under_way"]:
        return stopping.exit_code(4)
    if found.rows["rejected"]:
        return 3
    return stopping.exit_code(2) if run.stopped or found.rows.total() > found.rows["succeeded"] else 0


def _total(text: str) -> "Money":
    from ocp_stripe_balance.bulk.planning import total_of  # as above

    try:
        return total_of(text)
    except ValueError:
        raise fail("--expect-total", f"{text!r} is no sum", "write such as '15000.00 usd'") from None


def _told(plan: "Plan") -> dict[str, Any]:
    """
    The head of a plan, without what only proves its rows.
    """
    return {name: value for name, value in plan.facts.items() if name not in {"kind", "format", "blocks"}}


def _show(plan: "Plan", lasts: float | None) -> None:
    """
    What a plan does, for a person who decides whether it is meant.
    """
    from ocp_stripe_balance.bulk.plan import currency_fixed_by, taken_back_by  # as above

    facts = plan.facts
    show_fact("plan", f"{plan.path} ({plan.scope.mode} mode, {plan.scope.account or 'account of the API key'})")
    if back := taken_back_by(plan):
        show_fact("takes back", back)
    for each in facts["sums"]:
        currency = each["currency"]
        number = f"{each['number']:,} {'entry' if each['number'] == 1 else 'entries'}"
        show_fact("in all", f"{money.effect(each['amount'], currency)} in {number}")
        words = [f"{name} {money.to_text(each[name], currency)}" for name in ("smallest", "median", "largest")]
        show_fact("amounts", ", ".join(words))
        show_table(("from", "to", "entries", ""), list(_bars(each)))
    show_fact("customers", f"{facts['customers']:,}" + _of_them(facts["customers_twice"], "more than once"))
    if not facts["customers_read"]:
        show_fact("not read", "the API key may not read all customers, so their currency could not be checked")
    if fixed := currency_fixed_by(plan):
        show_fact("currency", fixed)
    if facts["paid_already"]:
        show_fact("paid", f"{facts['paid_already']:,} are paid already, and will not be paid again")
    for each in facts["far_from_median"]:
        effect = money.effect(each["amount"], each["currency"])
        show_fact("unusual", f"line {each['line']}: {effect} for {each['customer']}")
    if facts["outliers"] > len(facts["far_from_median"]):
        show_fact("unusual", f"{facts['outliers']:,} amounts in all are far from the median")
    if lasts is not None:
        show_fact("takes", f"about {_span(lasts)} at the rate that is kept to")
    show_fact("digest", plan.digest)


def _of_them(number: int, what: str) -> str:
    return f", {number:,} of them {what}" if number else ""


def _bars(facts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    most = max(count for _, _, count in facts["bars"])
    for first, last, count in facts["bars"]:
        ends = [money.to_text(each, facts["currency"]) for each in (first, last)]
        yield (*ends, f"{count:,}", "#" * max(round(count * 30 / most), 1))


def _span(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    rounded = max(round(seconds), 1)
    return f"{rounded} second{'s' * (rounded != 1)}"
