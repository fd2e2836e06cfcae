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

_EFFECT = re.compile(rf"(credit|debit) ({NUMBER}) ([A-Za-z]{{3}})", re.ASCII)


def stated_effect_problem(name: str, stated: str, amount: int, currency: str) -> Problem | None:
    """
    Where *stated*, such as ``credit 5.00 USD``, is not what *amount* and *currency* do; None where it is.

    Args:
        name: of the parameter.
        stated: the effect in words.
        amount: in the smallest unit of the currency, negative for a credit.
        currency: ISO 4217, in any case.
    """
    match = _EFFECT.fullmatch(stated)
    if match is None:
        hint = "write credit or debit, the amount in the currency's own units, and the currency"
        return Problem(path=name, message=f"{shown(stated)} is not an effect", hint=hint)
    verb, number, said_currency = match.groups()
    places = money.exponent(said_currency)
    is_whole = money.is_written_whole(said_currency) and "." not in number
    minor = int(number) * 10**places if is_whole else written(number, said_currency)
    if minor is None:
        message = f"{shown(stated)} does not have the {places} decimals of {said_currency.lower()}"
        return Problem(path=name, message=message, hint="write all of them")
    said = -minor if verb == "credit" else minor
    differences = _differences(said, said_currency.lower(), amount, currency.lower())
    if not differences:
        return None
    message = f"says {shown(stated)}, and amount and currency do something else: {' and '.join(differences)}"
    return Problem(path=name, message=message, hint=_WHICH)


_UNITS = {0: "whole units", 2: "hundredths", 3: "thousandths"}
# The words that would pass are not told: who only copies them has checked nothing.
_WHICH = "find out from what you were asked to do which is wrong, and mend that one; do not fit the words to the amount"


def _differences(said: int, said_currency: str, amount: int, currency: str) -> list[str]:
    """
    How an amount and a currency differ from those that were said.
    """
    if said_currency != currency:
        return [f"the currency is {currency}"]
    found = []
    if (said < 0) != (amount < 0):
        found.append(f"the amount {'credits' if amount < 0 else 'debits'}")
    if abs(said) != abs(amount):
        size = "larger" if abs(amount) > abs(said) else "smaller"
        found.append(f"the amount is {size} (amounts in {currency} count {_UNITS[money.exponent(currency)]})")
    return found
