"""
Who may say yes, and how many have to: two people from an amount on, a largest amount for each, never who asked. Pure.

One person is one name up to an ``@``, in upper or lower case: kim, Kim@laptop and kim@example.com are one. So who has
an account here and a login there does not count as two.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._policy.amounts import in_units, to_minor
from ocp_stripe_balance._policy.case import Finding, Words
from ocp_stripe_balance._policy.file import OTHER, one_person
from ocp_stripe_balance._text import money

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from ocp_stripe_balance._domain import Money
    from ocp_stripe_balance._policy.file import Policy

_ANOTHER = "Somebody else has to decide; it waits until then."


class Asked(NamedTuple):
    """
    What people decide on.
    """

    by: str | None
    """Who asks for it; None where nobody is named."""
    moved: tuple[Money, ...]
    """What it moves: of a plan, in each currency and direction."""


def two_people_rule(policy: Policy, moved: Iterable[Money]) -> Iterator[Finding]:
    """
    What the policy says of amounts on which two people decide; a plan counts with its sum in each currency.
    """
    for currency, total in _sums(moved).items():
        threshold = policy.two_people_above(currency)
        if threshold is None:
            continue
        rule, amount = threshold
        is_within = total <= to_minor(amount, currency)
        yield Finding(
            "allowed" if is_within else "ask", rule, partial(_of_two, total, currency, amount, is_within=is_within)
        )


def _of_two(total: int, currency: str, amount: Decimal, *, is_within: bool) -> Words:
    limit, asked = in_units(amount, currency), money.to_text(total, currency)
    where = f"within the {limit} that one person decides on" if is_within else f"above {limit}, and needs two people"
    return Words(f"{asked} is {where}", limit=limit)


def people_needed(policy: Policy, asked: Asked) -> int:
    """
    How many people have to say yes.
    """
    return 2 if any(finding.verdict == "ask" for finding in two_people_rule(policy, asked.moved)) else 1


def without_requester(policy: Policy, asked: Asked) -> Finding | None:
    """
    The refusal of what nobody could decide on, because nobody knows who asks.
    """
    if asked.by or not policy.approval.not_by_requester:
        return None
    return Finding(
        "refused",
        "approval.not_by_requester",
        lambda: Words(
            "who asks must not be who approves, and nobody is named who asks",
            "A person must name the agent's user: OCPAgent(user=…), or a token of the server for each caller.",
        ),
    )


def barred(policy: Policy, asked: Asked, person: str, others: Iterable[str] = ()) -> Finding | None:
    """
    Why that person's yes does not count, beside those of *others*; None where it does.
    """
    name, approval = one_person(person), policy.approval
    is_limited = approval.not_by_requester or approval.largest or people_needed(policy, asked) > 1
    if is_limited and not name:
        return _refused("approval", "nobody is named who says yes")
    if approval.not_by_requester and (not asked.by or name == one_person(asked.by)):
        why = f"{person} asked for it, and who asks may not approve"
        return _refused("approval.not_by_requester", why if asked.by else "nobody is named who asked for it")
    if name in map(one_person, others):
        return _refused("approval.two_people_above", f"{person} has said yes to it already")
    return next(_too_large(policy, asked, person), None)


def _too_large(policy: Policy, asked: Asked, person: str) -> Iterator[Finding]:
    largest, name = policy.approval.largest, one_person(person)
    if not largest:
        return
    whose = name if name in largest and name != OTHER else OTHER
    if whose not in largest:
        yield _refused(f"approval.largest.{name}", f"{person} is not among those who may approve")
        return
    for currency, total in _sums(asked.moved).items():
        key = currency if currency in largest[whose] else OTHER
        rule, amount = f"approval.largest.{whose}.{key}", largest[whose].get(key)
        if amount is None:
            yield _refused(rule, f"{person} may approve nothing in {currency}")
        elif total > to_minor(amount, currency):
            asked_for, limit = money.to_text(total, currency), in_units(amount, currency)
            yield _refused(rule, f"{asked_for} is more than the {limit} that {person} may approve", limit)


def _refused(rule: str, why: str, limit: str | None = None) -> Finding:
    return Finding("refused", rule, lambda: Words(why, _ANOTHER, limit=limit))


def _sums(moved: Iterable[Money]) -> Counter[str]:
    """
    What is moved in each currency, credits and debits together: one does not make up for the other.
    """
    sums = Counter[str]()
    for amount, currency in moved:
        sums[currency] += abs(amount)
    return sums
