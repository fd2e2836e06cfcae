"""
From a list to a plan: everything that is wrong is told at once, and nothing is sent.

    1 read        each line as the parameters of an entry
    2 customers   as Stripe has them; e-mail addresses become IDs
    3 twins       the same customer and reason twice
    4 foresee     each row against the schema, the journal and the policy; then their sums against the budgets
    5 expect      how many rows and how much there should be, where the caller says so
    6 write       the head, and the rows as they will be sent
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._calls.customers import KnownCustomer
from ocp_stripe_balance._calls.preview import Foreseen
from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance._tools.manifest import tool_named
from ocp_stripe_balance.bulk.customers import read_customers
from ocp_stripe_balance.bulk.draft import Draft, DraftRow
from ocp_stripe_balance.bulk.mistakes import Mistakes
from ocp_stripe_balance.bulk.plan import Plan, PlannedRow, digest_of, question_of, refuse_existing, write_plan
from ocp_stripe_balance.bulk.reading import Form, rows_of
from ocp_stripe_balance.bulk.rows import Common, row_of
from ocp_stripe_balance.verbs import CREATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ocp_stripe_balance._calls.endings import Invalid
    from ocp_stripe_balance.bulk.draft import Sum
    from ocp_stripe_balance.plugin import StripeAPI

BATCH = 200  # rows in one look into the journal, which nobody else writes in meanwhile: some 50 ms
_MAX_NAMED = 10

# What the rules themselves advise is for a model that has made a call.
_RAISE = "take the line out, or let whoever owns the policy change it"
_HINTS = {
    "approval": "accept the decision, and take the line out",
    "customer_check": "work the amount out in the other currency with whoever wrote the list",
    "default_currency": "work the amount out in the other currency with whoever wrote the list",
    "duplicate_window": "look whether that was the same decision; if not, plan it when the time is over",
    "require": "fill a column of that name, or say it for all rows",
}


class Expected(NamedTuple):
    """
    What a list should say in all; another one is refused.
    """

    rows: int | None = None
    totals: tuple[Money, ...] = ()
    """How much in each currency, without a sign."""


class Wanted(NamedTuple):
    """
    How a list is to be understood.
    """

    form: Form
    common: Common
    expected: Expected


async def plan_file(api: StripeAPI, source: Path, out: Path, wanted: Wanted, progress: Callable[[int], None]) -> Plan:
    """
    The plan of a list, written to *out*. Nothing is sent; customers are read.

    Raises:
        InvalidFileError: the list has mistakes, all of which are named.
        NotSentError: *out* is there, Stripe or the journal cannot be read, or the plan not be written.
    """
    refuse_existing(out)
    form, common, expected = wanted
    mistakes = Mistakes()
    digest = digest_of(source)  # before it is read: a change meanwhile is one afterwards
    with Draft() as draft:
        lines = rows_of(source, form, mistakes)
        # Calls may be under way in this loop, and a list may have millions of empty lines before its next row.
        while batch := await asyncio.to_thread(
            lambda: [row_of(*each, common, mistakes) for each in islice(lines, BATCH)]
        ):
            for row in filter(None, batch):
                progress(draft.add(row))
        are_all_read = not mistakes.number
        if not len(draft) and are_all_read:
            mistakes.note(0, "", "has no rows", "below the names of the columns, write a line for each entry")
        all_readable = await read_customers(api, draft, mistakes)
        for line, customer, first in await asyncio.to_thread(list, draft.twins()):
            hint = "take one out, or give each row a reason of its own in a column reference or key"
            mistakes.note(line, "customer", f"{customer} stands on line {first} for the same reason", hint)
        await foresee(api, draft, mistakes)
        sums = await asyncio.to_thread(draft.sums)
        if are_all_read:  # else nobody knows yet how many there are, and how much
            _compare(expected, len(draft), sums, mistakes)
        mistakes.raise_any()
        facts = facts_of(source.name, common.reference, draft, sums, all_readable=all_readable)
        facts |= {"source_path": _way(source, out), "source_sha256": digest}
        return await write_known(api, out, facts, _planned(draft))


async def write_known(
    api: StripeAPI, out: Path, facts: dict[str, Any], rows: Iterable[PlannedRow], tool: str = CREATE
) -> Plan:
    """
    Write a plan, and note in the journal that it was made: of one that was not, a run takes nothing for granted.

    Raises:
        NotSentError: it cannot be written, or not be noted.
    """
    plan = await asyncio.to_thread(write_plan, out, api.scope, facts, rows, tool)
    try:
        await api.many.note(question_of(plan), "planned")
    except BaseException:
        plan.discard()
        raise
    return plan


def _way(source: Path, out: Path) -> str:
    """
    The way from a plan to its list, which still leads there where both are moved together.
    """
    try:
        return os.path.relpath(source, out.parent)
    except ValueError:  # on another drive of Windows
        return str(source.absolute())


async def foresee(api: StripeAPI, draft: Draft, mistakes: Mistakes) -> None:
    """
    Look what would become of each row, and of all together.
    """
    create = tool_named(api.tools, CREATE)
    for batch in draft.batches(BATCH):
        found = await api.many.foresee(create, [(row.parameters, _known(row)) for row in batch])
        judged = []
        for row, foreseen in zip(batch, found, strict=True):
            if isinstance(foreseen, Foreseen):
                judged.append((row.number, foreseen.key, foreseen.is_paid))
            _note(row, foreseen, mistakes)
        draft.judge(judged)
    for per_customer in (False, True):
        for sums in draft.totals(BATCH, per_customer=per_customer):
            for refused in await api.many.over_budget(create, sums, per_customer=per_customer):
                hint = "plan fewer rows, or let whoever owns the policy raise it"
                mistakes.note(0, "all rows", f"{refused.words().message} ({refused.rule})", hint)


def _known(row: DraftRow) -> KnownCustomer | None:
    named = row.customer
    if named is None:
        return None
    return KnownCustomer(name=None, currency=named.currency, balance=None, is_deleted=named.is_deleted)


def _note(row: DraftRow, foreseen: Foreseen | Invalid, mistakes: Mistakes) -> None:
    """
    Why a row would not be sent, where it would not: a person's approval is for all of them.
    """
    if not isinstance(foreseen, Foreseen):
        for problem in foreseen.problems:
            mistakes.note(row.line, problem.path, problem.message, problem.hint)
    elif foreseen.rule == "directions":
        kind = f"{Money(row.parameters['amount'], row.parameters['currency']).direction}s"
        hint = f"a person can plan and run them under a policy that allows {kind}"
        mistakes.note(0, kind, "the policy allows none (directions)", hint)
    elif foreseen.why:
        hint = _HINTS.get(foreseen.rule.partition(".")[0], _RAISE) if foreseen.rule else foreseen.hint
        mistakes.note(row.line, "", f"would be refused: {foreseen.why.rstrip('.')}", hint)


def _compare(expected: Expected, number: int, sums: Sequence[Sum], mistakes: Mistakes) -> None:
    """
    Hold the list against what it should say in all.
    """
    if expected.rows is not None and expected.rows != number:
        mistakes.note(
            0, "", f"has {number:,} rows, and {expected.rows:,} were expected", "look what is missing, or too much"
        )
    for wanted in expected.totals:
        found = sum(abs(each.moved.amount) for each in sums if each.moved.currency == wanted.currency)
        if found != wanted.amount:
            has, should = money.to_text(found, wanted.currency), money.to_text(wanted.amount, wanted.currency)
            mistakes.note(0, "", f"adds up to {has}, and {should} were expected", "look which amount is wrong")


def total_of(text: str) -> Money:
    """
    A sum as people write it: ``15000.00 usd``.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(\d[\d.]*) ?([A-Za-z]{3})", text.strip(), re.ASCII)
    minor = money.to_minor(match[1], match[2]) if match else None
    if match is None or minor is None:
        raise ValueError(text)
    return Money(minor, match[2].lower())


def facts_of(
    source: str, reference: str | None, draft: Draft, sums: Sequence[Sum], *, all_readable: bool = True
) -> dict[str, Any]:
    """
    What the head of a plan says of its rows.
    """
    repeated, customers = draft.repeated()
    far, named = draft.outliers(sums, _MAX_NAMED)
    return {
        "made_at": moment(time.time()),
        "source": source,
        "reference": reference,
        "customers": customers,
        "customers_twice": repeated,
        "customers_read": all_readable,
        "customers_without_currency": draft.fixing(),
        "paid_already": draft.paid(),
        "sums": [_total_of(each) for each in sums],
        "outliers": far,
        "far_from_median": [{"line": line, "customer": who, **moved._asdict()} for line, who, moved in named],
    }


def _total_of(total: Sum) -> dict[str, Any]:
    facts = total._asdict()
    return {**facts.pop("moved")._asdict(), **facts}


def _planned(draft: Draft) -> Iterator[PlannedRow]:
    for batch in draft.batches(BATCH):
        for row in batch:
            given = row.parameters
            is_billed = row.customer is not None and row.customer.currency == given["currency"]
            yield PlannedRow(
                line=row.line,
                key=row.key or "",
                customer=given["customer"],
                moved=Money(given["amount"], given["currency"]),
                reference=given["reference"],
                parameters=given,
                is_billed=is_billed,
            )
