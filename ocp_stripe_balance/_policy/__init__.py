"""
Guardrails: what is stopped here, or waits for a person, although Stripe would do it.

A call is sent only where every rule allows it, so a rule can only narrow what the others leave.
"""

from ocp_stripe_balance._policy.amounts import span, threshold_rule, to_minor
from ocp_stripe_balance._policy.case import Case, Finding, Past, Words, decide
from ocp_stripe_balance._policy.file import Budget, Per, Policy, load_policy
from ocp_stripe_balance._policy.left import BudgetUsed, budgets_used, what_is_left
from ocp_stripe_balance._policy.people import (
    Asked,
    barred,
    people_needed,
    two_people_rule,
    without_requester,
)
from ocp_stripe_balance._policy.rules import (
    OF_DELETED,
    budgeted,
    check,
    denied,
    findings,
    live,
    remembered,
    resumed,
    standing,
)
from ocp_stripe_balance._policy.words import in_words, remarks

__all__ = [
    "OF_DELETED",
    "Asked",
    "Budget",
    "BudgetUsed",
    "Case",
    "Finding",
    "Past",
    "Per",
    "Policy",
    "Words",
    "barred",
    "budgeted",
    "budgets_used",
    "check",
    "decide",
    "denied",
    "findings",
    "in_words",
    "live",
    "load_policy",
    "people_needed",
    "remarks",
    "remembered",
    "resumed",
    "span",
    "standing",
    "threshold_rule",
    "to_minor",
    "two_people_rule",
    "what_is_left",
    "without_requester",
]
