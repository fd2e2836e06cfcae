"""
Finding out what became of a call by reading the customer's ledger. Reading moves no money.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._stripe.evidence import MARK, marks_of
from ocp_stripe_balance.errors import ToolError
from ocp_stripe_balance.models import ReconcileResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from ocp_stripe_balance._journal import Record
    from ocp_stripe_balance.errors import Outcome

# Until then a request that is still on its way could be executed: https://docs.stripe.com/api/idempotent_requests
_KEY_LIFE_S = 24 * 3600
_CLOCK_SKEW_S = 24 * 3600


async def look_for(
    record: Record, ledger: AsyncGenerator[Any, None], known_keys: Collection[str], now: float
) -> ReconcileResult:
    """
    Search the customer's entries for the one this call made.

    Args:
        record: whose outcome is open.
        ledger: all entries of the customer, newest first: absence is proved by all of them, whatever our clock says.
        known_keys: of all recorded calls for the customer; an entry tagged with another may have been edited.
        now: seconds since the Unix epoch.
    """
    suspects: list[str] = []
    try:
        async with contextlib.aclosing(ledger):
            async for entry in ledger:
                tag = marks_of(entry).get(MARK)
                is_alike = (entry["amount"], entry["currency"]) == record.intent.money
                if tag == record.key and is_alike:
                    return _settled(record, "succeeded", transaction=entry)
                is_recent = entry["created"] > record.created_at - _CLOCK_SKEW_S
                if tag == record.key or (tag not in known_keys and is_alike and is_recent):
                    suspects.append(str(entry["id"]))
    except (ToolError, LookupError, TypeError, AttributeError) as error:
        why = error.why if isinstance(error, ToolError) else "what was answered is no ledger."
        said = f"The ledger could not be read, so the outcome is still unknown: {why}"
        return open_still(record, f"{said} Reconcile again, or look in the Dashboard.")
    if suspects:
        return open_still(record, f"Check whether one of these is it, a {record.intent.effect}: {', '.join(suspects)}.")
    if not record.payload.is_tagged:
        return open_still(record, "The call carried no ocp_call in its metadata, so its entry cannot be told apart.")
    if now < max(record.created_at, record.updated_at) + _KEY_LIFE_S:
        return open_still(
            record,
            "No entry so far, which proves nothing yet: a request may still be running. Make the same call again under "
            "its key, or look again 24 hours after its last attempt, when absence is proof.",
        )
    return _settled(record, "not_sent")


def open_still(record: Record, advice: str) -> ReconcileResult:
    """
    That nothing is settled yet, and what to do.
    """
    return _settled(record, "unknown", advice=advice)


def _settled(
    record: Record, outcome: Outcome, *, transaction: dict[str, Any] | None = None, advice: str = ""
) -> ReconcileResult:
    return ReconcileResult(
        key=record.key,
        customer=record.intent.customer or "",
        outcome=outcome,
        transaction=transaction,
        advice=advice,
    )
