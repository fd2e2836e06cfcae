"""
Customers who were deleted, or have no currency yet: what a caller is told of them besides what Stripe says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ocp_stripe_balance._calls.endings import Failed, Repeated
from ocp_stripe_balance._policy import OF_DELETED
from ocp_stripe_balance.errors import ResourceMissingError

if TYPE_CHECKING:
    from ocp_stripe_balance._calls.endings import Ending
    from ocp_stripe_balance.models import ToolResult


def missing(ending: Ending) -> ResourceMissingError | None:
    """
    The error of a call whose customer Stripe does not find.
    """
    error = ending.error if isinstance(ending, (Failed, Repeated)) else None
    # Stripe's docs do not say which param it names here; the sentence is the same everywhere.
    if isinstance(error, ResourceMissingError) and error.message.startswith("No such customer"):
        return error
    return None


def told_of_deleted(error: ResourceMissingError, customer: str) -> ResourceMissingError:
    """
    The same error of a call whose customer was deleted, which Stripe tells only who reads the customer.
    """
    told = error.told_of(error.tool, error.idempotency_key, OF_DELETED, stops=True)
    told.args = (f"Nothing moved: customer {customer} was deleted.",)
    return told


def with_remarks(told: ToolResult, default_currency: str | None) -> ToolResult:
    """
    What was read, with a warning where it is a customer who was deleted, or has no currency yet.
    """
    customer = told.customer
    if customer is None or (customer.currency is not None and not customer.deleted):
        return told
    if customer.deleted:
        remark = OF_DELETED
    else:
        first = "The customer has no currency yet, and the first entry or invoice fixes it for good"
        use = f"use {default_currency}, which the policy names for such customers"
        remark = f"{first}: {use if default_currency else 'ask whoever wants the entry which one it is to be'}."
    return replace(told, warnings=(*told.warnings, remark))
