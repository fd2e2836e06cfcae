"""
Guardrails: what is stopped here, or waits for a person, although Stripe would do it.

A call is sent only where every rule allows it, so a rule can only narrow what the others leave.
"""

from ocp_stripe_balance._policy.file import Direction, Per, Policy, load_policy
from ocp_stripe_balance._policy.rules import (
    Case,
    Finding,
    History,
    decide,
    findings,
    live,
    moment,
    resumed,
    span,
    standing,
)
from ocp_stripe_balance._policy.words import in_words, remarks

__all__ = [
    "Case",
    "Direction",
    "Finding",
    "History",
    "Per",
    "Policy",
    "decide",
    "findings",
    "in_words",
    "live",
    "load_policy",
    "moment",
    "remarks",
    "resumed",
    "span",
    "standing",
]
