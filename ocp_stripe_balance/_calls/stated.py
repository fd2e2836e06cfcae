"""
Saying it twice: an effect in words is compared with the amount and currency it stands beside.

It catches what Stripe cannot see: the wrong sign, and the factor of 100 or 1000.
"""

from __future__ import annotations

import re

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.amounts import NUMBER, written
from ocp_stripe_balance._text.plain import shown
from ocp_stripe_balance.errors import Problem


def stated_effect_problem(name: str, stated: str, amount: int, currency: str) -> Problem | None:
    """
    Where *stated*, such as ``credit 5.00 USD``, is not what *amount* and *currency* do; None where it is.

    Args:
        name: of the parameter.
        stated: the effect in words.
        amount: in the smallest unit of the currency, negative for a credit.
        currency: ISO 4217, in any case.
    """
    effect = money.effect(amount, currency)
    means = f"amount {amount} with currency {currency.lower()} means {effect}"
    match = re.fullmatch(rf"(credit|debit) ({NUMBER}) ([A-Za-z]{{3}})", stated, re.ASCII)
    plain = money.stated_effect(amount, currency)
    if match is None:
        message = f"{shown(stated)} is not an effect"
        return Problem(path=name, message=message, hint=f"{means}; if you mean that, write {plain!r}")
    verb, number, said_currency = match.groups()
    minor = written(number, said_currency)
    if minor is None:
        places = money.exponent(said_currency)
        message = f"{shown(stated)} does not have the {places} decimals of {said_currency.lower()}"
        return Problem(path=name, message=message, hint=f"{means}; if you mean that, write {plain!r}")
    said = -minor if verb == "credit" else minor
    if (said, said_currency.lower()) == (amount, currency.lower()):
        return None
    would = f"for {verb} {number} {said_currency.lower()}, pass amount {said} and currency {said_currency.lower()}"
    return Problem(path=name, message=f"says {shown(stated)}, but {means}", hint=f"{would}; find out which is right")
