"""
What each rule says of a call. Pure: what was spent before comes from a `History`, the customer from Stripe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from ocp_stripe_balance._text import money

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from decimal import Decimal
    from typing import Any

    from ocp_stripe_balance._calls.customers import Customer
    from ocp_stripe_balance._journal import Call, Decision
    from ocp_stripe_balance._policy.file import Budget, Direction, Per, Policy


class History(Protocol):
    """
    What the journal knows around one call, in that call's account and mode.
    """

    @property
    def now(self) -> float:
        """
        Seconds since the Unix epoch.
        """

    def spent(self, per: Per, direction: Direction, window_s: float) -> int:
        """
        Minor units that moved, or may have, within the window, by other calls in this call's currency.
        """

    def room_at(self, per: Per, direction: Direction, window_s: float, at_most: int) -> float:
        """
        When no more than *at_most* minor units are left in the window.
        """

    def started(self, window_s: float) -> list[float]:
        """
        When calls were let through within the window, oldest first; the same key again counts again.
        """

    def counts(self, window_s: float) -> bool:
        """
        Whether the call itself is on record and counts within the window.
        """

    def alike(self, window_s: float) -> Call | None:
        """
        The newest other call within the window to the same customer with the same amount and currency.

        It moved money or may have, and its reference does not tell the two apart.
        """

    def denied(self) -> Decision | None:
        """
        A person's no to the same business reason or the same amount for this customer, under another key.
        """

    def in_another_currency(self) -> Call | None:
        """
        Another call for this customer in another currency that moved money or may have.
        """


class Case(NamedTuple):
    """
    What the rules look at.
    """

    call: Call
    arguments: Mapping[str, Any]
    """The validated parameters."""
    has_stated_effect: bool
    allow_live: bool
    """The setting."""
    customer: Customer | None = None
    """As Stripe has it, or None where it was not read."""
    is_unreadable: bool = False
    """Whether the API key may not read it."""
    asks_always: bool = False
    """Whether a person is asked about every call, whatever the policy says."""
    explains: bool = False
    """Whether rules that allow the call say so too; their words take longer than the rest of the call."""

    @property
    def direction(self) -> Direction:
        """
        Credit or debit.
        """
        return "credit" if self.call.amount < 0 else "debit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    What one rule says of a call.
    """

    verdict: Literal["allowed", "refused", "ask"]
    rule: str
    """The key in the policy."""
    message: str
    """A sentence without its full stop: what the rule demands, and what the call has."""
    hint: str = ""
    limit: str | None = None
    """Of a rule about amounts or numbers: how much it allows."""
    left: str | None = None
    """How much of that is left."""
    free_at: float | None = None
    """When the rule would let the same call through."""
    is_temporary: bool = False
    """Whether waiting is all it takes. Not for a suspected duplicate: who just waits pays twice."""


def decide(found: Iterable[Finding | None]) -> Finding | None:
    """
    The first refusal, else the first rule that wants a person asked, else None: the call is allowed.
    """
    question = None
    for finding in found:
        if finding is None:
            continue
        if finding.verdict == "refused":
            return finding
        if finding.verdict == "ask" and question is None:
            question = finding
    return question


def findings(policy: Policy, case: Case, history: History) -> Iterator[Finding | None]:
    """
    What every rule says of the call, the cheap ones first; lazily, because the first refusal ends it.

    A rule that allows the call says nothing unless the case `explains`.
    """
    yield from standing(policy, case.call, allow_live=case.allow_live, explains=case.explains)
    if case.call.moves_money:
        yield from _of_entries(policy, case, history)
    if policy.calls_per_minute is not None:
        yield _rate(policy.calls_per_minute, case, history)
    if case.call.moves_money:
        for number, budget in enumerate(policy.budgets):
            if case.call.currency in getattr(budget, case.direction):
                yield _budget(budget, number, case, history)
        yield from _threshold(policy, case)
    yield from _denied_before(history)
    if case.asks_always:
        yield Finding(verdict="ask", rule="ask_always", message="every call is put to the approver here")


def standing(policy: Policy, call: Call, *, allow_live: bool, explains: bool = False) -> Iterator[Finding | None]:
    """
    What the rules say that hold for every call, also for one that only reads.
    """
    if call.mode == "live" or explains:
        yield live(policy, call.mode, allow_live=allow_live)
    if policy.customers.deny or policy.customers.allow is not None:
        yield from _customers(policy, call.customer)


def _of_entries(policy: Policy, case: Case, history: History) -> Iterator[Finding | None]:
    """
    What the rules say that are about one entry.
    """
    yield _direction(policy, case)
    if policy.currencies is not None:
        yield _currency(policy.currencies, case)
    yield from _requirements(policy, case)
    yield _limit(policy, case)
    yield from _customer_as_read(policy, case, history)
    if policy.duplicate_window is not None:
        yield _duplicate(policy.duplicate_window, case, history)


def resumed(policy: Policy, case: Case, history: History) -> Finding | None:
    """
    Why a call that may have been sent may not be sent again now: the policy has changed, or its place was given away.

    What a call must come with, and a person's yes, it had when it was sent first.
    """
    found = [*standing(policy, case.call, allow_live=case.allow_live)]
    if case.call.moves_money:
        found += [_direction(policy, case), _limit(policy, case)]
        found += [_currency(policy.currencies, case)] if policy.currencies is not None else []
    found += [_rate(policy.calls_per_minute, case, history)] if policy.calls_per_minute is not None else []
    if (stop := decide(found)) is not None:
        return stop
    for number, budget in enumerate(policy.budgets):
        if case.call.currency in getattr(budget, case.direction) and not history.counts(budget.window):
            finding = _budget(budget, number, case, history)
            if finding is not None and finding.verdict == "refused":
                return finding
    return None


def moment(seconds: float) -> str:
    """
    A time as ISO 8601 in UTC.
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """
    A span of time in words: ``10 minutes``.
    """
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if seconds % length == 0 and count and (unit, count) != ("day", 1):
            return f"{count} {unit}{'s' * (count != 1)}"
    return f"{seconds:g} second{'s' * (seconds != 1)}"


def _denied_before(history: History) -> Iterator[Finding]:
    denied = history.denied()
    if denied is not None:
        reason = f": {denied.reason}" if denied.reason else ""
        yield Finding(
            verdict="ask",
            rule="denied before",
            message=f"{denied.who} denied {denied.effect} for this customer at {moment(denied.at)}{reason}",
        )


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


def live(policy: Policy, mode: str, *, allow_live: bool) -> Finding:
    """
    Whether a call in that mode may go at all.
    """
    if mode != "live":
        return Finding(verdict="allowed", rule="allow_live", message="the API key is a test-mode key")
    if allow_live if policy.allow_live is None else policy.allow_live:
        return Finding(verdict="allowed", rule="allow_live", message="live mode is switched on")
    return Finding(
        verdict="refused",
        rule="allow_live",
        message="the API key is a live-mode key, and live mode is not switched on",
        hint=(
            "A person must set OCP_STRIPE_ALLOW_LIVE=true (or allow_live = true in the policy), or use a test-mode "
            "key (sk_test_… or rk_test_…)."
        ),
    )


def _direction(policy: Policy, case: Case) -> Finding | None:
    if case.direction in policy.directions and not case.explains:
        return None
    allowed = " and ".join(f"{name}s" for name in policy.directions) or "nothing"
    if case.direction in policy.directions:
        return Finding(verdict="allowed", rule="directions", message=f"a {case.direction}, and {allowed} are allowed")
    return Finding(
        verdict="refused",
        rule="directions",
        message=f"amount {case.call.amount} is a {case.direction}, and the policy allows {allowed} only",
        hint="A negative amount credits the customer, a positive one debits. If the sign is right, a person must act.",
    )


def _currency(allowed: tuple[str, ...], case: Case) -> Finding | None:
    if case.call.currency in allowed and not case.explains:
        return None
    if case.call.currency in allowed:
        return Finding(verdict="allowed", rule="currencies", message=f"{case.call.currency} is allowed")
    return Finding(
        verdict="refused",
        rule="currencies",
        message=f"{case.call.currency} is not among the currencies the policy allows ({', '.join(allowed) or 'none'})",
        hint="Use the customer's own currency if it is one of these; otherwise a person must do it.",
    )


def _customers(policy: Policy, customer: str) -> Iterator[Finding]:
    allow, deny = policy.customers.allow, policy.customers.deny
    by_hand = "Do not try another customer in its place; a person must decide."
    if deny:
        if any(fnmatchcase(customer, pattern) for pattern in deny):
            message = f"the policy denies calls for customer {customer}"
            yield Finding(verdict="refused", rule="customers.deny", message=message, hint=by_hand)
        else:
            yield Finding(verdict="allowed", rule="customers.deny", message=f"{customer} is not denied")
    if allow is not None:
        if any(fnmatchcase(customer, pattern) for pattern in allow):
            yield Finding(verdict="allowed", rule="customers.allow", message=f"{customer} is allowed")
        else:
            message = f"customer {customer} is not among those the policy allows"
            yield Finding(verdict="refused", rule="customers.allow", message=message, hint=by_hand)


def _requirements(policy: Policy, case: Case) -> Iterator[Finding]:
    require, arguments = policy.require, case.arguments
    if not (require.stated_effect or require.reference or require.description or require.metadata):
        return
    metadata = arguments.get("metadata") or {}
    demands = [
        (
            require.stated_effect,
            "stated_effect",
            case.has_stated_effect,
            "the effect you were asked for, in the form 'credit 5.00 USD'",
        ),
        (require.reference, "reference", case.call.reference, "the business reason, such as 'ticket-812'"),
        (require.description, "description", (arguments.get("description") or "").strip(), "a text for the ledger"),
        *((True, f"metadata.{key}", str(metadata.get(key) or "").strip(), "a value") for key in require.metadata),
    ]
    missing = {name: example for is_demanded, name, given, example in demands if is_demanded and not given}
    for is_demanded, name, given, _ in demands:
        if is_demanded and given:
            yield Finding(verdict="allowed", rule=f"require.{name}", message=f"{name} is given")
    if missing:
        examples = "; ".join(f"{name}: {example}" for name, example in missing.items())
        yield Finding(
            verdict="refused",
            rule=", ".join(f"require.{name}" for name in missing),
            message=f"the policy demands {' and '.join(missing)}, which the call does not have",
            hint=f"Call again with {examples}. Say what is true.",
        )


def _limit(policy: Policy, case: Case) -> Finding | None:
    call = case.call
    rule, amount = policy.limit(case.direction, call.currency)
    if not case.explains and abs(call.amount) <= to_minor(amount, call.currency):
        return None
    limit, asked = in_units(amount, call.currency), money.to_text(abs(call.amount), call.currency)
    if abs(call.amount) <= to_minor(amount, call.currency):
        message = f"{asked} of at most {limit} for one {case.direction}"
        return Finding(verdict="allowed", rule=rule, message=message, limit=limit)
    return Finding(
        verdict="refused",
        rule=rule,
        message=f"amount {call.amount} is a {case.direction} of {asked}, more than the {limit} allowed for one call",
        hint=(
            f"Amounts are integers in the smallest unit: {_example(call.currency)}. If the amount is right, a person "
            f"must make the entry or set limits.{case.direction}.{call.currency} in the policy; do not split it."
        ),
        limit=limit,
    )


def _example(currency: str) -> str:
    minor = 5 * 10 ** money.exponent(currency)
    return f"{minor} is {money.to_text(minor, currency)}"


def _customer_as_read(policy: Policy, case: Case, history: History) -> Iterator[Finding]:
    call, customer = case.call, case.customer
    if customer is None and case.is_unreadable and policy.unreadable_customers == "refuse":
        yield Finding(
            verdict="refused",
            rule="unreadable_customers",
            message=f"the API key may not read customer {call.customer}, so its currency cannot be checked",
            hint="A person must give this tool a key that may read customers.",
        )
    if customer is None:
        return
    if customer.is_deleted:
        yield Finding(
            verdict="refused",
            rule="customer_check",
            message=f"customer {call.customer} was deleted",
            hint="Check the customer's ID; do not guess another.",
        )
        return
    other = history.in_another_currency() if customer.currency is None else None
    if customer.currency not in {None, call.currency}:
        why = (
            f"customer {call.customer} is billed in {customer.currency}, and an entry in {call.currency} would land "
            "in a balance that no invoice of theirs uses"
        )
    elif other is not None:
        why = (
            f"customer {call.customer} has no currency yet, and a call in {other.currency} (key {other.key}), which "
            "fixes it for good, is under way or was just made"
        )
    else:
        if case.explains:
            message = _currency_of(customer.currency, call.currency)
            yield Finding(verdict="allowed", rule="customer_check", message=message)
        return
    yield Finding(
        verdict="refused",
        rule="customer_check",
        message=why,
        hint=(
            f"Work the amount out in {customer.currency or getattr(other, 'currency', '')} with whoever asked for it, "
            "then call with that currency. A person can switch this check off (OCP_STRIPE_CUSTOMER_CHECK=off)."
        ),
    )


def _currency_of(fixed: str | None, currency: str) -> str:
    return f"the customer is billed in {currency}" if fixed else f"this entry makes {currency} the customer's currency"


def _duplicate(window_s: float, case: Case, history: History) -> Finding | None:
    first = history.alike(window_s)
    if first is None and not case.explains:
        return None
    if first is None:
        message = f"no call like it within {span(window_s)}"
        return Finding(verdict="allowed", rule="duplicate_window", message=message)
    effect = case.call.effect
    transaction = f", transaction {first.transaction_id}" if first.transaction_id else ""
    if first.reference is None:
        instead = "The first call carries no reference, so the two cannot be told apart before the time is up."
    else:
        instead = "If this has another business reason, call again with that reason as reference."
    return Finding(
        verdict="refused",
        rule="duplicate_window",
        message=(
            f"{effect} to {first.customer} was asked for already at {moment(first.created_at)} (outcome {first.state}, "
            f"key {first.key}{transaction}), less than {span(window_s)} ago"
        ),
        hint=(
            f"If it is the same decision, it is done or under way: call with idempotency_key {first.key!r} and the "
            f"same parameters to have its result. {instead}"
        ),
        free_at=math.ceil(first.created_at + window_s),
    )


def _rate(limit: int, case: Case, history: History) -> Finding | None:
    started = history.started(60.0)
    left = max(limit - len(started), 0)
    if left and not case.explains:
        return None
    if left:
        message = f"{len(started)} of {limit} calls within the last minute"
        return Finding(verdict="allowed", rule="calls_per_minute", message=message, limit=str(limit), left=str(left))
    return Finding(
        verdict="refused",
        rule="calls_per_minute",
        message=f"{len(started)} calls were made within the last minute, and {limit} are allowed",
        hint="Wait, then call again.",
        limit=str(limit),
        left="0",
        free_at=math.ceil(started[-limit] + 60.0),
        is_temporary=True,
    )


_WHOSE = {
    "customer": "customer {call.customer}",
    "user": "user {call.user}",
    "agent_type": "agents of type {call.agent_type}",
    "context": "this agent's context",
    "all": "all calls",
}


def _budget(budget: Budget, number: int, case: Case, history: History) -> Finding | None:
    call, rule = case.call, f"budgets[{number}].{case.direction}.{case.call.currency}"
    amount = getattr(budget, case.direction)[call.currency]
    limit_minor, asked = to_minor(amount, call.currency), abs(call.amount)
    spent = history.spent(budget.per, case.direction, budget.window)
    left_minor = max(limit_minor - spent, 0)
    if asked <= left_minor and not case.explains:
        return None
    limit, left = in_units(amount, call.currency), money.to_text(left_minor, call.currency)
    whose = (
        "calls without a user" if (budget.per, call.user) == ("user", None) else _WHOSE[budget.per].format(call=call)
    )
    what = f"{case.direction}s for {whose} within {span(budget.window)}: {left} of {limit} is left"
    if asked <= left_minor:
        return Finding(verdict="allowed", rule=rule, message=what, limit=limit, left=left)
    if asked > limit_minor:
        free_at, wait = None, "Waiting does not help: it is more than the whole budget."
    else:
        free_at = math.ceil(history.room_at(budget.per, case.direction, budget.window, limit_minor - asked))
        wait = f"There is room for it at {moment(free_at)}."
    return Finding(
        verdict="refused",
        rule=rule,
        message=f"{money.to_text(asked, call.currency)} is more than the budget has room for ({what})",
        hint=f"{wait} Do not split the amount or use another customer; a person can make the entry.",
        limit=limit,
        left=left,
        free_at=free_at,
        is_temporary=free_at is not None,
    )


def _threshold(policy: Policy, case: Case) -> Iterator[Finding]:
    call = case.call
    if policy.approval.always:
        yield Finding(verdict="ask", rule="approval.always", message="every call is put to a person")
        return
    threshold = policy.threshold(call.currency)
    if threshold is None:
        return
    rule, amount = threshold
    if not case.explains and abs(call.amount) <= to_minor(amount, call.currency):
        return
    limit, asked = in_units(amount, call.currency), money.to_text(abs(call.amount), call.currency)
    if abs(call.amount) <= to_minor(amount, call.currency):
        yield Finding(
            verdict="allowed", rule=rule, message=f"{asked} is within the {limit} that go without approval", limit=limit
        )
    else:
        yield Finding(
            verdict="ask", rule=rule, message=f"{asked} is above the {limit} that go without approval", limit=limit
        )
