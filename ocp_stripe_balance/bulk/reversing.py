"""
A plan that takes back what another one paid: an opposite entry for each, planned, approved and run as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocp_stripe_balance._calls.call import reversal_key
from ocp_stripe_balance._calls.reversal import opposite_of
from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._text import money
from ocp_stripe_balance.bulk.draft import Draft
from ocp_stripe_balance.bulk.mistakes import Mistakes
from ocp_stripe_balance.bulk.plan import PlannedRow, refuse_existing
from ocp_stripe_balance.bulk.planning import BATCH, facts_of, foresee, write_known
from ocp_stripe_balance.bulk.report import standings
from ocp_stripe_balance.bulk.rows import Row
from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.verbs import CREATE, REVERSE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ocp_stripe_balance._domain import Scope
    from ocp_stripe_balance.bulk.plan import Plan
    from ocp_stripe_balance.plugin import StripeAPI


async def plan_reversal(api: StripeAPI, plan: Plan, out: Path, metadata: Mapping[str, str]) -> Plan:
    """
    The plan of the opposites of all entries that *plan* made and that still stand, written to *out*; nothing is sent.

    Raises:
        InvalidFileError: the policy would refuse some.
        NotSentError: there are none, it is itself a plan of reversals, the journal cannot be read, or the plan not be
            written.
    """
    refuse_existing(out)
    if plan.tool != CREATE:
        raise _unfit(plan, "takes entries back itself", "To pay them anew, plan the list with another reference.")
    mistakes, is_reversed = Mistakes(), False
    with Draft() as draft:
        async for standing in standings(api.many, plan):
            is_reversed |= standing.reversed_by is not None
            if standing.entry and not standing.reversed_by:
                draft.add(_opposite(standing.row, standing.entry, metadata))
        if not len(draft) and is_reversed:
            raise _unfit(plan, "has nothing left to take back", "To pay anew, plan the list with another reference.")
        if not len(draft):
            raise _unfit(plan, "has made no entries", "'ocp-stripe-balance bulk status' shows how far it is.")
        await foresee(api, draft, mistakes)
        mistakes.raise_any(why="the entries cannot all be taken back here", hint="")
        facts = facts_of(plan.path.name, None, draft, draft.sums())
        facts |= {"reverses": plan.digest, "campaign": plan.facts["reference"]}
        return await write_known(api, out, facts, _planned(draft, api.scope), REVERSE)


def _opposite(row: PlannedRow, entry: str, metadata: Mapping[str, str]) -> Row:
    parameters = opposite_of(entry, row.customer, row.moved, {})
    parameters["metadata"] = dict(metadata)  # without a mark that no caller may set
    said = {"stated_effect": money.stated_effect(parameters["amount"], parameters["currency"])}
    return Row(row.line, parameters | said)


def _planned(draft: Draft, scope: Scope) -> Iterator[PlannedRow]:
    for batch in draft.batches(BATCH):
        for row in batch:
            given, entry = row.parameters, _entry(row.parameters)
            yield PlannedRow(
                line=row.line,
                key=reversal_key(scope, entry),
                customer=given["customer"],
                moved=Money(given["amount"], given["currency"]),
                reference=given["reference"],
                parameters={
                    "customer": given["customer"],
                    "transaction": entry,
                    "stated_effect": given["stated_effect"],
                    **({"metadata": given["metadata"]} if given["metadata"] else {}),
                },
                is_billed=True,  # the entry is in that currency
            )


def _entry(parameters: dict[str, str]) -> str:
    return parameters["reference"].rpartition(" ")[2]


def _unfit(plan: Plan, why: str, hint: str) -> NotSentError:
    return NotSentError(f"Nothing was planned: the plan {plan.path} {why}.", hint=hint, next="stop_and_tell")
