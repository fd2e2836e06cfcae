"""
The rules about how much and how often: limits, budgets, calls per minute, and what a person is asked about.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from ocp_stripe_balance._policy.case import Finding, Words
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import moment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from ocp_stripe_balance._domain import Intent, Money
    from ocp_stripe_balance._policy.case import Past
    from ocp_stripe_balance._policy.file import Budget, Policy


def span(seconds: float) -> str:
    """
    A span of time in words: ``10 minutes``.
    """
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if seconds % length == 0 and count and (unit, count) != ("day", 1):
            return f"{count} {unit}{'s' * (count != 1)}"
    return f"{seconds:g} second{'s' * (seconds != 1)}"


def in_units(amount: Decimal, currency: str) -> str:
    """
    An amount of the policy in words: ``20.00 usd``.
    """
    return money.to_text(to_minor(amount, currency), currency)


@cache  # of the few amounts in a policy
def to_minor(amount: Decimal, currency: str) -> int:
    """
    An amount of the policy in the smallest unit; decimals the currency does not have are dropped.
    """
    return int(amount.scaleb(money.exponent(currency)))


def limit_rule(policy: Policy, moved: Money) -> Finding:
    direction, currency = moved.direction, moved.currency
    rule, amount = policy.limit(direction, currency)

    def asked() -> str:
        return money.to_text(abs(moved.amount), currency)

    if abs(moved.amount) <= to_minor(amount, currency):

        def within() -> Words:
            limit = in_units(amount, currency)
            return Words(f"{asked()} of at most {limit} for one {direction}", limit=limit)

        return Finding("allowed", rule, within)

    def above() -> Words:
        limit = in_units(amount, currency)
        return Words(
            f"a {direction} of {asked()} is more than the {limit} allowed for one call",
            f"Amounts are integers in the smallest unit: {moved.amount} is {asked()}. If that is right, "
            f"a person must make the entry or set limits.{direction}.{currency} in the policy; do not split it.",
            limit=limit,
        )

    return Finding("refused", rule, above)


def rate_rule(limit: int, past: Past) -> Finding:
    made = past.calls_made(60.0)
    left = max(limit - made, 0)
    if left:
        return Finding(
            "allowed",
            "calls_per_minute",
            lambda: Words(f"{made} of {limit} calls within the last minute", limit=str(limit), left=str(left)),
        )
    return Finding(
        "refused",
        "calls_per_minute",
        lambda: Words(
            f"{made} calls were made within the last minute, and {limit} are allowed",
            "Wait, then call again.",
            limit=str(limit),
            left="0",
        ),
        free_at=math.ceil(past.let_through_at(limit, 60.0) + 60.0),
        next="wait_until",
    )


_WHOSE = {
    "customer": "customer {intent.customer}",
    "user": "user {intent.caller.user}",
    "agent_type": "agents of type {intent.caller.agent_type}",
    "context": "this agent's context",
    "all": "all calls",
}


def whose(budget: Budget, intent: Intent) -> str:
    """
    Whose calls a budget adds up, of which one would be *intent*.
    """
    is_nobody = (budget.per, intent.caller.user) == ("user", None)
    return "calls without a user" if is_nobody else _WHOSE[budget.per].format(intent=intent)


def budget_rule(budget: Budget, number: int, intent: Intent, moved: Money, past: Past) -> Finding:
    direction, currency = moved.direction, moved.currency
    rule = f"budgets[{number}].{direction}.{currency}"
    amount = getattr(budget, direction)[currency]
    limit_minor, asked = to_minor(amount, currency), abs(moved.amount)
    left_minor = max(limit_minor - past.spent(budget.per, budget.window), 0)

    def what() -> Words:
        limit, left = in_units(amount, currency), money.to_text(left_minor, currency)
        room = f"{direction}s for {whose(budget, intent)} within {span(budget.window)}: {left} of {limit} is left"
        return Words(room, limit=limit, left=left)

    if asked <= left_minor:
        return Finding("allowed", rule, what)
    if asked > limit_minor:
        free_at, wait = None, "Waiting does not help: it is more than the whole budget."
    else:
        room_at, is_sure = past.room_at(budget.per, budget.window, limit_minor - asked)
        free_at = math.ceil(room_at)
        wait = f"There is room for it at {moment(free_at)}." if is_sure else f"Not before {moment(free_at)}."

    def why() -> Words:
        room = what()
        return room._replace(
            message=f"{money.to_text(asked, currency)} is more than the budget has room for ({room.message})",
            hint=f"{wait} Do not split the amount or use another customer; a person can make the entry.",
        )

    return Finding("refused", rule, why, free_at=free_at, next="stop_and_tell" if free_at is None else "wait_until")


def threshold_rule(policy: Policy, moved: Money) -> Iterator[Finding]:
    if policy.approval.always:
        yield Finding("ask", "approval.always", lambda: Words("every call is put to a person"))
        return
    threshold = policy.threshold(moved.currency)
    if threshold is None:
        return
    rule, amount = threshold
    is_within = abs(moved.amount) <= to_minor(amount, moved.currency)

    def words() -> Words:
        limit, asked = in_units(amount, moved.currency), money.to_text(abs(moved.amount), moved.currency)
        where = "within" if is_within else "above"
        return Words(f"{asked} is {where} the {limit} that go without approval", limit=limit)

    yield Finding("allowed" if is_within else "ask", rule, words)
