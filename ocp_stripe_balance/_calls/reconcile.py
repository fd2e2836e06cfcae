"""
Finding out what became of a call by reading the customer's ledger. Reading moves no money.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance.errors import Outcome, RejectedError, ToolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from ocp_stripe_balance._journal import Call

    ReadPage = Callable[[str, str], Awaitable[Any]]

# Until then a request that is still on its way could be executed: https://docs.stripe.com/api/idempotent_requests
_KEY_LIFE_S = 24 * 3600
_CLOCK_SKEW_S = 24 * 3600
_TAG = b"metadata%5Bocp_call%5D="


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """
    What the ledger says of one call.
    """

    key: str
    customer: str
    outcome: Outcome
    """succeeded, not_sent (it was never applied) or still unknown."""
    transaction: dict[str, Any] | None = None
    advice: str = ""
    """What a person should check, where it is still unknown."""


async def look_for(call: Call, read_page: ReadPage, known_keys: Collection[str]) -> Settlement:
    """
    Search the customer's entries for the one this call made.

    Args:
        call: whose outcome is open.
        read_page: GETs a path for an account and returns the JSON.
        known_keys: of all recorded calls for the customer; an entry tagged with another may have been edited.
    """
    suspects: list[str] = []
    try:
        async for entry in _entries(call, read_page):
            tag = (entry.get("metadata") or {}).get("ocp_call")
            is_alike = (entry["amount"], entry["currency"]) == (call.amount, call.currency)
            if tag == call.key and is_alike:
                return Settlement(key=call.key, customer=call.customer, outcome="succeeded", transaction=entry)
            is_recent = entry["created"] > call.created_at - _CLOCK_SKEW_S
            if tag == call.key or (tag not in known_keys and is_alike and is_recent):
                suspects.append(str(entry["id"]))
    except (ToolError, LookupError, TypeError, AttributeError) as error:
        why = f"HTTP {error.status}" if isinstance(error, RejectedError) else type(error).__name__
        return open_still(
            call, f"The customer's ledger could not be read ({why}). Reconcile again, or look in the Dashboard."
        )
    if suspects:
        return open_still(call, f"Check whether one of these is it, a {call.effect}: {', '.join(suspects)}.")
    if _TAG not in call.body:
        return open_still(call, "The call carried no ocp_call in its metadata, so its entry cannot be told apart.")
    if time.time() < max(call.created_at, call.updated_at) + _KEY_LIFE_S:
        return open_still(
            call,
            "No entry so far; a request may still be running. Resume it (ocp-stripe-balance journal resume KEY), or "
            "reconcile again 24 hours after its last attempt, when absence is proof.",
        )
    return Settlement(key=call.key, customer=call.customer, outcome="not_sent")


def open_still(call: Call, advice: str) -> Settlement:
    """
    That nothing is settled yet, and what to do.
    """
    return Settlement(key=call.key, customer=call.customer, outcome="unknown", advice=advice)


async def _entries(call: Call, read_page: ReadPage) -> AsyncIterator[dict[str, Any]]:
    """
    All entries of the customer, newest first: absence is proved by the whole ledger, whatever our clock says.
    """
    path = f"{call.path}?limit=25"
    while True:
        page = await read_page(call.account, path)
        for entry in page["data"]:
            yield entry
        if not page["has_more"]:
            return
        path = f"{call.path}?limit=25&starting_after={page['data'][-1]['id']}"
