"""
What the policy leaves to a caller before it asks for anything: a sentence for each limit, question and budget.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._policy.amounts import budget_rule, limit_rule, rate_rule, span, threshold_rule, to_minor, whose
from ocp_stripe_balance._policy.file import OTHER
from ocp_stripe_balance._policy.people import two_people_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ocp_stripe_balance._domain import Direction, Intent
    from ocp_stripe_balance._policy.case import Past
    from ocp_stripe_balance._policy.file import Budget, Limits, Policy


def what_is_left(
    policy: Policy, intent: Intent, past: Callable[[Intent], Past], currencies: Iterable[str]
) -> Iterator[str]:
    """
    What one more call may do.

    Args:
        policy: that is in force.
        intent: of the caller; what it moves does not matter.
        past: what is known around a call.
        currencies: to speak of, besides those that the policy names.
    """
    sections: list[Limits | Budget] = [policy.limits, *policy.budgets]
    named = [*chain(*((*each.credit, *each.debit) for each in sections)), *policy.approval.above]
    allowed = policy.currencies or dict.fromkeys([*currencies, *named])
    for currency in sorted(set(allowed) - {OTHER}):
        for direction in policy.directions:
            moved = Money(-1 if direction == "credit" else 1, currency)
            yield f"One {direction} is at most {limit_rule(policy, moved).words().limit}."
            for number, budget in enumerate(policy.budgets):
                is_for_one = budget.per != "customer" or intent.customer is not None
                if currency in getattr(budget, direction) and is_for_one:
                    asked = intent._replace(money=moved)
                    yield f"Of {budget_rule(budget, number, asked, moved, past(asked)).words().message}."
        if not policy.approval.always:
            limits = [rule.words().limit for rule in threshold_rule(policy, Money(1, currency))]
            yield from (f"More than {limit} at once waits for a person." for limit in limits)
        for rule in two_people_rule(policy, [Money(1, currency)]):
            yield f"More than {rule.words().limit} at once waits for two people."
    if policy.approval.always:
        yield "Every call waits for a person."
    if policy.calls_per_minute is not None:
        yield f"{rate_rule(policy.calls_per_minute, past(intent)).words().message}."


class BudgetUsed(NamedTuple):
    """
    How much of a budget is used, by all or by one.
    """

    what: str
    """As ``credits for customer cus_… within 24 hours``."""
    direction: Direction
    currency: str
    limit: int
    """In the smallest unit, as `used` is."""
    used: int


def budgets_used(
    policy: Policy,
    who: Callable[[Budget, Money], Iterable[Intent]],
    past: Callable[[Intent], Past],
) -> Iterator[BudgetUsed]:
    """
    How much of each budget is used.

    Args:
        policy: that is in force.
        who: for whom a budget is looked at.
        past: what is known around a call.
    """
    for budget in policy.budgets:
        for direction in policy.directions:
            for currency, amount in getattr(budget, direction).items():
                moved = Money(-1 if direction == "credit" else 1, currency)
                for intent in who(budget, moved):
                    what = f"{direction}s for {whose(budget, intent)} within {span(budget.window)}"
                    used = past(intent).spent(budget.per, budget.window)
                    yield BudgetUsed(what, direction, currency, to_minor(amount, currency), used)
