"""
A policy in sentences, for the people who answer for it.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._policy.amounts import in_units, span
from ocp_stripe_balance._policy.file import DEFAULT_LIMIT, OTHER
from ocp_stripe_balance._text.money import CURRENCIES
from ocp_stripe_balance._text.plain import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from ocp_stripe_balance._domain import Direction
    from ocp_stripe_balance._policy.file import Budget, Policy

_WHOSE = {
    "customer": "each customer",
    "user": "each user",
    "agent_type": "each type of agent",
    "context": "each agent (one run of one agent)",
    "all": "all calls together",
}


def in_words(policy: Policy, *, allow_live: bool) -> list[tuple[str, str]]:
    """
    Each rule as a topic and a sentence.

    Args:
        policy: what is explained.
        allow_live: the setting, which holds where the policy does not say.
    """
    is_live = allow_live if policy.allow_live is None else policy.allow_live
    lines = [
        ("mode", "Live-mode keys may be used." if is_live else "Live-mode keys are refused; test-mode keys work."),
        ("directions", _directions(policy)),
        ("currencies", "Any currency." if policy.currencies is None else f"Only {_list(policy.currencies)}."),
        *(
            []
            if policy.default_currency is None
            else [("currencies", f"A customer without a currency gets {policy.default_currency}.")]
        ),
        ("customers", _customers(policy)),
        *(
            []
            if policy.expand is None
            else [("expand", f"Of what an answer names, {_list(policy.expand)} may be expanded.")]
        ),
        *(("call limit", sentence) for sentence in _limits(policy)),
        *((f"budgets[{number}]", _budget(budget)) for number, budget in enumerate(policy.budgets)),
    ]
    if policy.calls_per_minute is not None:
        lines.append(("rate", f"At most {policy.calls_per_minute} calls within any minute."))
    lines.append(("duplicates", _duplicates(policy)))
    if required := _required(policy):
        lines.append(("required", f"Each call must have {_list(required)}."))
    lines += [("approval", sentence) for sentence in _approval(policy)]
    unreadable = "the call is made with a warning" if policy.unreadable_customers == "warn" else "the call is refused"
    lines.append(("unreadable", f"Where the API key may not read the customer to check its currency, {unreadable}."))
    return lines


def remarks(policy: Policy) -> list[str]:
    """
    What the policy leaves open or says in vain, a sentence each.
    """
    return [*_gaps(policy), *_in_vain(policy)]


def _directions(policy: Policy) -> str:
    if not policy.directions:
        return "Neither credits nor debits: no call is allowed."
    if len(policy.directions) == 1:
        sign = {"credit": "negative", "debit": "positive"}[policy.directions[0]]
        return f"Only {policy.directions[0]}s ({sign} amounts)."
    return "Credits (negative amounts) and debits (positive amounts)."


def _customers(policy: Policy) -> str:
    allow, deny = policy.customers.allow, policy.customers.deny
    who = "Every customer" if allow is None else f"Only {_list(allow)}" if allow else "No customer"
    return f"{who}, but never {_list(deny)}, who is denied in any case." if deny else f"{who}."


def _limits(policy: Policy) -> Iterator[str]:
    for direction in policy.directions:
        limits = getattr(policy.limits, direction)
        for currency, amount in limits.items():
            yield f"One {direction} is at most {_amount(amount, currency)}."
        missing = [currency for currency in policy.currencies or () if currency not in limits]
        if OTHER not in limits and (missing or policy.currencies is None):
            where = f"in {_list(missing)} " if missing else "in any other currency " if limits else ""
            yield f"One {direction} {where}is at most {DEFAULT_LIMIT:,} of the currency's units (the default)."


def _budget(budget: Budget) -> str:
    parts = [
        f"{in_units(amount, currency)} of {direction}s"
        for direction in ("credit", "debit")
        for currency, amount in getattr(budget, direction).items()
    ]
    return f"For {_WHOSE[budget.per]}, at most {_list(parts)} within any {span(budget.window)}."


def _duplicates(policy: Policy) -> str:
    if policy.duplicate_window is None:
        return "The same entry may be made again at once under another key."
    return (
        f"The same customer, amount and currency under another key is refused for {span(policy.duplicate_window)}, "
        "unless the two calls carry different references."
    )


def _required(policy: Policy) -> list[str]:
    require = policy.require
    names = ["stated_effect", "reference", "description"]
    required = [name.replace("_", " ") for name in names if getattr(require, name)]
    return [f"a {name}" for name in required] + [f"a value for metadata.{key}" for key in require.metadata]


def _approval(policy: Policy) -> Iterator[str]:
    approval = policy.approval
    if not _asks(policy):
        yield "Nobody is asked."
        return
    if approval.always:
        yield "A person decides on every call."
    else:
        for currency, amount in approval.above.items():
            yield f"A person decides on a call of more than {_amount(amount, currency)}."
    for currency, amount in approval.two_people_above.items():
        yield f"Two people decide on a call, or on a plan that adds up to, more than {_amount(amount, currency)}."
    yield from _largest_of_people(policy)
    if approval.not_by_requester:
        yield "Who asked for a call, or made a plan, may not approve it."
    where = (
        "Proposals wait in the journal ('ocp-stripe-balance approvals list')"
        if approval.queue
        else "There is no queue, so without an approver in the agent's code such calls are refused; a proposal waits"
    )
    yield f"{where} for at most {span(approval.expires)}."


def _asks(policy: Policy) -> bool:
    """
    Whether some rule wants a person asked.
    """
    return bool(policy.approval.always or policy.approval.above or policy.approval.two_people_above)


def _largest_of_people(policy: Policy) -> Iterator[str]:
    largest = policy.approval.largest
    for person, amounts in largest.items():
        who = "Everybody else" if person == OTHER else person
        most = [_amount(amount, currency) for currency, amount in amounts.items()]
        yield f"{who} approves {f'at most {_list(most)}' if most else 'nothing'}."
    if largest and OTHER not in largest:
        yield "Nobody else approves anything."


def _gaps(policy: Policy) -> Iterator[str]:
    if policy.currencies is None and not (policy.limits.credit.get(OTHER) and policy.limits.debit.get(OTHER)):
        yield "Any currency may be used: a call in one that no rule mentions is held by the default limit alone."
    if not policy.budgets:
        yield "There is no budget: many small calls can add up to any sum."
    else:
        for direction in policy.directions:
            budgeted = {currency for budget in policy.budgets for currency in getattr(budget, direction)}
            missing = [currency for currency in policy.currencies or () if currency not in budgeted]
            if missing or not budgeted:
                yield f"No budget covers {direction}s{f' in {_list(missing)}' if missing and budgeted else ''}."
        if all(budget.per != "all" for budget in policy.budgets):
            yield "No budget covers all calls together: each one counts by customer, user or agent only."
    approval = policy.approval
    if approval.above and OTHER not in approval.above and not approval.always:
        missing = [currency for currency in policy.currencies or () if currency not in approval.above]
        if policy.currencies is None or missing:
            yield f"Nobody is asked about calls in {_list(missing) if missing else 'other currencies'}."
    if approval.in_session:
        yield "A yes in an MCP client counts, also of a client that answers by itself."


def _in_vain(policy: Policy) -> Iterator[str]:
    sections: list[Any] = [policy.limits, *policy.budgets]
    approval = policy.approval
    tables = (approval.above, approval.two_people_above, *approval.largest.values())
    named = [currency for each in sections for currency in (*each.credit, *each.debit)] + [*chain(*tables)]
    for currency in dict.fromkeys([*(policy.currencies or ()), *named]):
        if currency not in CURRENCIES and currency != OTHER:
            near = nearest(currency, CURRENCIES)
            yield f"{currency} is no currency Stripe lists" + (f"; did you mean {' or '.join(near)}?" if near else ".")
        elif policy.currencies is not None and currency not in {*policy.currencies, OTHER}:
            yield f"What the policy says of {currency} has no effect: the currency is not allowed."
    for direction in ("credit", "debit"):
        if direction not in policy.directions and any(getattr(each, direction) for each in sections):
            yield f"What the policy says of {direction}s has no effect: they are not allowed."
    for pattern in set(policy.customers.allow or ()) & set(policy.customers.deny):
        yield f"{pattern} is both allowed and denied: it is denied."
    yield from _approval_in_vain(policy)


def _approval_in_vain(policy: Policy) -> Iterator[str]:
    approval = policy.approval
    for name in ("queue", "largest", "not_by_requester"):
        if getattr(approval, name) and not _asks(policy):
            yield f"approval.{name} has no effect: no rule wants a person asked."
    if approval.in_session and approval.not_by_requester:
        yield "approval.in_session has no effect: the client of a session answers for who asked."
    if approval.always and approval.above:
        yield "approval.above has no effect: approval.always asks about every call."
    for currency, threshold in approval.above.items():
        largest = max((_largest(policy, direction, currency) for direction in policy.directions), default=threshold)
        if currency != OTHER and threshold >= largest:
            yield (
                f"approval.above.{currency} has no effect: limits and budgets allow no call of more than "
                f"{in_units(largest, currency)} in the first place."
            )


def _largest(policy: Policy, direction: Direction, currency: str) -> Decimal:
    """
    The largest call that limits and budgets let through.
    """
    budgets: list[Decimal] = [
        amounts[currency] for each in policy.budgets if currency in (amounts := getattr(each, direction))
    ]
    return min([policy.limit(direction, currency)[1], *budgets])


def _amount(amount: Decimal, currency: str) -> str:
    if currency == OTHER:
        return f"{amount:,} of the currency's units in any currency not named"
    return in_units(amount, currency)


def _list(names: Iterable[str]) -> str:
    *most, last = list(names) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
