"""
What each rule says of a call. Pure: what was spent before comes from a `Past`, the customer from Stripe.

Every rule answers about every call; the words of an answer are made when somebody reads them.
"""

from __future__ import annotations

import json
import math
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from ocp_stripe_balance._policy.amounts import budget_rule, limit_rule, rate_rule, span, threshold_rule
from ocp_stripe_balance._policy.case import Finding, Words, decide
from ocp_stripe_balance._policy.people import two_people_rule
from ocp_stripe_balance._text.placeholders import is_unfilled
from ocp_stripe_balance._text.plain import escaped, moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ocp_stripe_balance._domain import Intent, Money
    from ocp_stripe_balance._policy.case import Case, EarlierDenial, Past
    from ocp_stripe_balance._policy.file import Policy


OF_DELETED = (
    "Stripe makes no more entries for a deleted customer. Tell whoever asked; do not use another customer in its place."
)


def findings(policy: Policy, case: Case, past: Past) -> Iterator[Finding]:
    """
    What every rule says of the call, the cheap ones first; lazily, because the first refusal ends it.
    """
    yield from check(policy, case)
    yield from remembered(policy, case, past)


def check(policy: Policy, case: Case) -> Iterator[Finding]:
    """
    What the rules say that need no memory.
    """
    yield from standing(policy, case.intent, allow_live=case.allow_live)
    if case.intent.money is not None:
        yield _direction(policy, case.intent.money)
        if policy.currencies is not None:
            yield _currency(policy.currencies, case.intent.money)
        yield from _requirements(policy, case)
        yield limit_rule(policy, case.intent.money)


def remembered(policy: Policy, case: Case, past: Past) -> Iterator[Finding]:
    """
    What the rules say that look at the customer, at other calls, or at what people decided.
    """
    moved, denial = case.intent.money, past.denial()
    if denial is not None and denial.key == case.intent.key.text:
        yield denied(denial.who, denial.reason)
    if moved is not None:
        yield from _customer_as_read(policy, case, moved, past)
        if policy.duplicate_window is not None:
            yield _duplicate(policy.duplicate_window, case.intent, past)
    if policy.calls_per_minute is not None:
        yield rate_rule(policy.calls_per_minute, past)
    if moved is not None:
        yield from budgeted(policy, case.intent, past)
        yield from threshold_rule(policy, moved)
        yield from two_people_rule(policy, [moved])
    if denial is not None:
        yield _denied_before(denial)
    if case.asks_always:
        yield Finding("ask", "ask_always", lambda: Words("every call is put to the approver here"))


def budgeted(policy: Policy, intent: Intent, past: Past, *, per_customer: bool | None = None) -> Iterator[Finding]:
    """
    What the budgets say; with *per_customer*, only those that are for each customer, or only the others.
    """
    moved = intent.money
    for number, budget in enumerate(policy.budgets if moved is not None else ()):
        is_wanted = per_customer in {None, budget.per == "customer"}
        if moved is not None and is_wanted and moved.currency in getattr(budget, moved.direction):
            yield budget_rule(budget, number, intent, moved, past)


def resumed(policy: Policy, case: Case, past: Past) -> Finding | None:
    """
    Why a call that may have been sent may not be sent again now: the policy has changed, or its place was given away.

    What a call must come with, and a person's yes, it had when it was sent first.
    """
    moved = case.intent.money
    found = [*standing(policy, case.intent, allow_live=case.allow_live)]
    if moved is not None:
        found += [_direction(policy, moved), limit_rule(policy, moved)]
        found += [_currency(policy.currencies, moved)] if policy.currencies is not None else []
    found += [rate_rule(policy.calls_per_minute, past)] if policy.calls_per_minute is not None else []
    if moved is not None:
        found += [
            budget_rule(budget, number, case.intent, moved, past)
            for number, budget in enumerate(policy.budgets)
            if moved.currency in getattr(budget, moved.direction) and not past.includes_this_call(budget.window)
        ]
    return decide(found)


def standing(policy: Policy, intent: Intent, *, allow_live: bool) -> Iterator[Finding]:
    """
    What the rules say that hold for every call, also for one that only reads.
    """
    yield live(policy, intent.scope.mode, allow_live=allow_live)
    if policy.customers.deny or policy.customers.allow is not None:
        yield from _customers(policy, intent.customer)
    if policy.expand is not None:
        yield _expand(policy.expand, intent)


def denied(who: str, reason: str) -> Finding:
    """
    The refusal that a person's no to this very key stands for.
    """
    return Finding(
        "refused",
        "approval",
        lambda: Words(
            escaped(f"{who} denied it" + (f": {reason}" if reason else "")),
            "Accept the decision: do not ask again with other words or another key. A person can take it up.",
        ),
    )


def live(policy: Policy, mode: str, *, allow_live: bool) -> Finding:
    """
    Whether a call in that mode may go at all.
    """
    if mode != "live":
        return _IN_TEST_MODE
    if allow_live if policy.allow_live is None else policy.allow_live:
        return Finding("allowed", "allow_live", lambda: Words("live mode is switched on"))
    return Finding(
        "refused",
        "allow_live",
        lambda: Words(
            "the API key is a live-mode key, and live mode is not switched on",
            "A person must set OCP_STRIPE_ALLOW_LIVE=true (or allow_live = true in the policy), or use a test-mode "
            "key (sk_test_… or rk_test_…).",
        ),
    )


_IN_TEST_MODE = Finding("allowed", "allow_live", lambda: Words("the API key is a test-mode key"))


def _direction(policy: Policy, moved: Money) -> Finding:
    direction = moved.direction

    def allowed() -> str:
        return " and ".join(f"{name}s" for name in policy.directions) or "nothing"

    if direction in policy.directions:
        return Finding("allowed", "directions", lambda: Words(f"a {direction}, and {allowed()} are allowed"))
    return Finding(
        "refused",
        "directions",
        lambda: Words(
            f"amount {moved.amount} is a {direction}, and the policy allows {allowed()} only",
            "A negative amount credits the customer, a positive one debits. Call again with the other sign only if "
            "that is what you were asked for; otherwise a person must act.",
        ),
    )


def _currency(allowed: tuple[str, ...], moved: Money) -> Finding:
    currency = moved.currency
    if currency in allowed:
        return Finding("allowed", "currencies", lambda: Words(f"{currency} is allowed"))
    return Finding(
        "refused",
        "currencies",
        lambda: Words(
            f"{currency} is not among the currencies the policy allows ({', '.join(allowed) or 'none'})",
            "Use the customer's own currency if it is one of these; otherwise a person must do it.",
        ),
    )


def _customers(policy: Policy, customer: str | None) -> Iterator[Finding]:
    allow, deny = policy.customers.allow, policy.customers.deny
    by_hand = "Do not try another customer in its place; a person must decide."
    if customer is None:
        rule = "customers.deny" if allow is None else "customers.allow"
        message = "the policy is for some customers only, and this call names none"
        yield Finding("refused", rule, lambda: Words(message, "Ask whoever wants it for the customer's ID."))
        return
    if deny:
        if any(fnmatchcase(customer, pattern) for pattern in deny):
            message = f"the policy denies calls for customer {customer}"
            yield Finding("refused", "customers.deny", lambda: Words(message, by_hand))
        else:
            yield Finding("allowed", "customers.deny", lambda: Words(f"{customer} is not denied"))
    if allow is not None:
        if any(fnmatchcase(customer, pattern) for pattern in allow):
            yield Finding("allowed", "customers.allow", lambda: Words(f"{customer} is allowed"))
        else:
            yield Finding(
                "refused",
                "customers.allow",
                lambda: Words(f"customer {customer} is not among those the policy allows", by_hand),
            )


def _expand(allowed: tuple[str, ...], intent: Intent) -> Finding:
    # Of a list, what is expanded is in its data. What is expanded in an invoice has its own name: invoice.customer.
    asked = [field.removeprefix("data.") for field in json.loads(intent.arguments).get("expand") or ()]
    known = {field.removeprefix("data.") for field in allowed}
    denied_fields = [field for field in dict.fromkeys(asked) if field not in known]
    if not denied_fields:
        return Finding("allowed", "expand", lambda: Words("nothing is expanded that may not be"))
    message = f"the policy does not let {' and '.join(denied_fields)} be expanded"
    hint = "Call again without it: the ID is in the answer."
    return Finding("refused", "expand", lambda: Words(message, hint), next="mend_and_call_again")


def _requirements(policy: Policy, case: Case) -> Iterator[Finding]:
    require, arguments = policy.require, case.arguments
    if not (require.stated_effect or require.reference or require.description or require.metadata):
        return
    metadata = arguments.get("metadata") or {}
    demands = [
        (
            require.stated_effect,
            "stated_effect",
            case.intent.has_stated_effect,
            "the effect you were asked for, in the form 'credit 5.00 USD'",
        ),
        (require.reference, "reference", case.intent.reference, "the business reason, such as 'ticket-812'"),
        (require.description, "description", _says(arguments, "description"), "a text for the ledger"),
        *((True, f"metadata.{key}", _says(metadata, key), "a value that says something") for key in require.metadata),
    ]
    missing = {}
    for is_demanded, name, given, example in demands:
        if is_demanded and given:
            yield Finding("allowed", f"require.{name}", partial(Words, f"{name} is given"))
        elif is_demanded:
            missing[name] = example
    if missing:
        examples = "; ".join(f"{name}: {example}" for name, example in missing.items())
        yield Finding(
            "refused",
            ", ".join(f"require.{name}" for name in missing),
            lambda: Words(
                f"the policy demands {' and '.join(missing)}, which the call does not have",
                f"Call again with {examples}. Say what is true.",
            ),
            next="mend_and_call_again",
        )


def _says(texts: Mapping[str, object], name: str) -> bool:
    text = texts.get(name)
    return text is not None and not is_unfilled(str(text), name)


def _customer_as_read(policy: Policy, case: Case, moved: Money, past: Past) -> Iterator[Finding]:
    customer, name = case.customer, case.intent.customer
    if customer is None:
        if case.is_unreadable and policy.unreadable_customers == "refuse":
            message = f"the API key may not read customer {name}, so its currency cannot be checked"
            hint = "A person must give this tool a key that may read customers."
            yield Finding("refused", "unreadable_customers", lambda: Words(message, hint))
        return
    if customer.is_deleted:
        yield Finding("refused", "customer_check", lambda: Words(f"customer {name} was deleted", OF_DELETED))
        return
    fixed = customer.currency
    if fixed not in {None, moved.currency}:
        why = (
            f"customer {name} is billed in {fixed}, and an entry in {moved.currency} would land "
            "in a balance that no invoice of theirs uses"
        )
        yield _other_currency(why, str(fixed))
        return
    other = past.in_another_currency() if fixed is None else None
    if other is not None:
        theirs = other.intent.money.currency if other.intent.money else ""
        why = (
            f"customer {name} has no currency yet, and a call in {theirs} (key {other.key}), which "
            "fixes it for good, is under way or was just made"
        )
        yield _other_currency(why, theirs)
        return
    usual = policy.default_currency
    if fixed is None and usual not in {None, moved.currency}:
        why = f"customer {name} has no currency yet, and the policy gives such customers {usual}, not {moved.currency}"
        yield _other_currency(why, str(usual))._replace(rule="default_currency")
        return
    yield Finding(
        "allowed",
        "customer_check",
        lambda: Words(
            f"the customer is billed in {moved.currency}"
            if fixed
            else f"this entry makes {moved.currency} the customer's currency"
        ),
    )


def _other_currency(why: str, currency: str) -> Finding:
    hint = f"Work the amount out in {currency} with whoever asked for it, then call with that currency."
    return Finding("refused", "customer_check", lambda: Words(why, hint))


def _duplicate(window_s: float, intent: Intent, past: Past) -> Finding:
    first = past.duplicate_of(window_s)
    if first is None:
        return Finding("allowed", "duplicate_window", lambda: Words(f"no call like it within {span(window_s)}"))

    def words() -> Words:
        transaction = f", transaction {first.transaction_id}" if first.transaction_id else ""
        if first.intent.reference is None:
            repeat = f"idempotency_key {first.key!r} and the same parameters, without a reference,"
            instead = "The first call carries no reference, so the two cannot be told apart before the time is up."
        else:
            repeat = f"reference {first.intent.reference!r} and the same parameters"
            instead = "If this has another business reason, call again with that reason as reference."
        return Words(
            f"{intent.effect} for {intent.customer} was asked for already at {moment(first.created_at)} "
            f"(outcome {first.state}, key {first.key}{transaction}), less than {span(window_s)} ago",
            f"If it is the same decision, it is done or under way: call with {repeat} to have its result. {instead}",
        )

    free_at = math.ceil(first.created_at + window_s)
    return Finding("refused", "duplicate_window", words, free_at=free_at, next="mend_and_call_again")


def _denied_before(denial: EarlierDenial) -> Finding:
    reason = f": {escaped(denial.reason)}" if denial.reason else ""
    message = f"{escaped(denial.who)} denied {denial.effect} for this customer at {moment(denial.at)}{reason}"
    return Finding("ask", "denied before", lambda: Words(message))
