"""
What endpoints are told, in Stripe's own nouns: its approval requests do not cover customers' balances, and these do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance.models import PLAN

if TYPE_CHECKING:
    from ocp_stripe_balance._domain import Money, Scope
    from ocp_stripe_balance._journal import Decision, Record
    from ocp_stripe_balance._policy import Budget
    from ocp_stripe_balance.models import Proposal, Vote

TYPES = (
    "approval_request.created",
    "approval_request.approved",
    "approval_request.rejected",
    "approval_request.expired",
    "customer_balance_transaction.unknown",
    "budget.nearly_spent",
)
PING = "ping"
_OF_RULING = {
    "asked": ("approval_request.created", "requires_review"),
    "approved": ("approval_request.approved", "approved"),
    "denied": ("approval_request.rejected", "rejected"),
    "expired": ("approval_request.expired", "expired"),
}


class Event(NamedTuple):
    """
    What happened.
    """

    kind: str
    at: float
    """Seconds since the Unix epoch."""
    data: dict[str, Any]
    path: str
    """Of the page of the console that shows it."""
    text: str
    """The same in a sentence, without words of a model's."""


def of_decision(decision: Decision, proposal: Proposal | None) -> Event | None:
    """
    What a decision tells; None where it tells nothing: of two yes, the second is the one that counts.
    """
    if proposal is None or decision.decision not in _OF_RULING:
        return None
    kind, status = _OF_RULING[decision.decision]
    if status == "approved" and decision.at != proposal.decided_at:
        return None
    what = "the plan" if proposal.tool == PLAN else proposal.customer
    amount = f"{proposal.effect} for {what}"
    by = " and ".join(each.by for each in proposal.approvals) if status == "approved" else decision.who
    text = {
        "requires_review": f"Waiting for approval: {amount}, asked for by {proposal.user or 'no named user'}",
        "approved": f"Approved by {by}: {amount}",
        "rejected": f"Denied by {by}: {amount}",
        "expired": f"Nobody decided in time, or used the approval: {amount}",
    }[status]
    return Event(kind, decision.at, _request(proposal, status), f"/console/proposals/{proposal.id}", text)


def of_unknown(record: Record) -> Event:
    """
    That the outcome of a call is open.
    """
    intent = record.intent
    amount, currency = intent.money or (None, None)
    data = {
        "object": "customer_balance_transaction",
        "id": record.transaction_id,
        "status": "unknown",
        "idempotency_key": record.key,
        "customer": intent.customer,
        "amount": amount,
        "currency": currency,
        "reference": intent.reference,
        **_scope(intent.scope),
        "created": moment(record.created_at),
    }
    text = f"Not known whether it was made: {intent.effect} for {intent.customer}. Reconcile finds out"
    path = f"/console/calls/{quote(record.key, safe='')}"  # a caller chose it, and it stands in a link
    return Event("customer_balance_transaction.unknown", record.updated_at, data, path, text)


def of_budget(budget: Budget, number: int, limit: Money, spent: int, whose: str, scope: Scope, now: float) -> Event:  # noqa: PLR0913, PLR0917  what a budget is
    """
    That most of a budget is spent.
    """
    data = {
        "object": "budget",
        "rule": f"budgets[{number}].{limit.direction}.{limit.currency}",
        "per": budget.per,
        "whose": whose,
        "window_s": budget.window,
        "direction": limit.direction,
        "currency": limit.currency,
        "limit": abs(limit.amount),
        "spent": spent,
        **_scope(scope),
    }
    of = f" of {budget.per} {whose}" if whose else ""
    spent_of = f"{money.to_text(spent, limit.currency)} of {money.to_text(abs(limit.amount), limit.currency)}"
    text = f"The budget for {limit.direction}s{of} is nearly spent: {spent_of}"
    return Event("budget.nearly_spent", now, data, "/console/overview", text)


def of_ping(now: float) -> Event:
    """
    That somebody tries the endpoint.
    """
    return Event(PING, now, {"object": "ping"}, "/console", "This is a test of ocp-stripe-balance")


def _request(proposal: Proposal, status: str) -> dict[str, Any]:
    review = proposal.denial or (proposal.approvals[-1] if proposal.approvals else None)
    return {
        "object": "approval_request",
        "id": proposal.id,
        "status": status,
        "action": "plan.run" if proposal.tool == PLAN else "customer_balance_transaction.create",
        "effect": proposal.effect,
        "customer": proposal.customer or None,
        "amount": proposal.amount if proposal.moves_money else None,
        "currency": proposal.currency or None,
        "reference": proposal.reference,
        "idempotency_key": proposal.key,
        "reason": proposal.why,
        "rule": proposal.rule,
        "requested_by": proposal.user,
        "approvals_needed": proposal.needed,
        "approvals": [_vote(each) for each in proposal.approvals],
        "review": None if review is None or status == "requires_review" else _vote(review),
        **_scope(proposal.scope),
        "created": moment(proposal.asked_at),
        "expires_at": moment(proposal.expires_at),
    }


def _vote(vote: Vote) -> dict[str, Any]:
    return {"by": vote.by, "how": vote.how, "at": moment(vote.at), "reason": vote.reason or None}


def _scope(scope: Scope) -> dict[str, Any]:
    return {"livemode": scope.mode == "live", "account": scope.account or None}
