"""
Amounts as people write them: a decimal number with the currency's own decimals, and nothing that can be read two ways.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Literal

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import clip, kind_of, shown

NUMBER = r"\d{1,12}(?:\.\d{1,6})?"
"""A plain number as a pattern; to be used with `re.ASCII`."""
_DIGITS = 40
_OTHER = {"credit": "debit", "debit": "credit"}


class AmountError(ValueError):
    """
    What was given is no amount, or could be more than one; `hint` says what would be right.
    """

    def __init__(self, message: str, hint: str) -> None:
        """
        Say what is wrong and what would be right.
        """
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """
        Both in one line.
        """
        return f"{self.message}; {self.hint}"


def amount_of(value: object, currency: str, *, verb: Literal["credit", "debit"] | None = None) -> int:
    """
    The amount in the currency's smallest unit, always positive: ``'5.00', 'usd'`` is 500.

    A text has all decimals of the currency, or none but zeros. A Decimal is a number, so ``Decimal('5.5')`` is 5.50.

    Args:
        value: a text or a Decimal.
        currency: ISO 4217, in any case.
        verb: what is to be done with it; a refused sign then names the other one.

    Raises:
        AmountError: it is something else, has a sign, is zero, or can be read in more than one way.
    """
    if isinstance(value, Decimal):
        number = _plain(value, currency)
    elif isinstance(value, str):
        number = value
    else:
        raise _of_type(value, currency)
    if re.match(r"\s*[-+\u2212]", number):
        other = f"; for the opposite, use {_OTHER[verb]}" if verb else ""
        hint = f"credit and debit say the direction, so write a number such as {_example(currency)}{other}"
        raise AmountError(f"{_shown(value)} has a sign", hint)
    whole, _, decimals = number.partition(".")
    is_whole = len(decimals) < money.exponent(currency) and not decimals.strip("0") and not number.endswith(".")
    minor = written(_padded(whole, currency) if is_whole else number, currency)
    if minor is None:
        raise _of_text(number, currency)
    if minor == 0:
        raise AmountError(f"{_shown(value)} is no money", f"write an amount such as {_example(currency)}")
    step = money.step(currency)
    if minor % step:
        rule = f"in {currency.lower()}, Stripe takes amounts that end in {'0' * (len(str(step)) - 1)}"
        below = minor - minor % step
        near = " or ".join(repr(_decimals(each, currency)) for each in (below, below + step) if each)
        raise AmountError(f"{_shown(value)} is too fine: {rule}", f"write {near}")
    return minor


def written(number: str, currency: str) -> int | None:
    """
    The minor units of a plain number that has all decimals of the currency, or None where it has not.
    """
    if not re.fullmatch(NUMBER, number, re.ASCII):
        return None
    whole, _, decimals = number.partition(".")
    return int(whole + decimals) if len(decimals) == money.exponent(currency) else None


def _plain(value: Decimal, currency: str) -> str:
    """
    The number as text with the currency's decimals.
    """
    if not value.is_finite() or abs(value.adjusted()) > _DIGITS:  # 1E+999999999 would fill the memory
        raise _no_amount(value, currency)
    places = money.exponent(currency)
    number = _in_places(f"{value:f}", places)
    if len(number.partition(".")[2]) > places:
        message = f"{_shown(value)} has more decimals than the {places} of {currency.lower()}"
        raise AmountError(message, f"round it yourself, to such as {_example(currency)}")
    return number


def _padded(whole: str, currency: str) -> str:
    places = money.exponent(currency)
    return f"{whole}.{'0' * places}" if places else whole


def _decimals(minor: int, currency: str) -> str:
    return money.to_text(minor, currency).split()[0].replace(",", "")


def _shown(value: object) -> str:
    return clip(str(value), _DIGITS) if isinstance(value, Decimal) else shown(value)


def _example(currency: str) -> str:
    return repr(_padded("5", currency))


def _no_amount(value: object, currency: str) -> AmountError:
    return AmountError(f"{_shown(value)} is not an amount", f"write a plain number such as {_example(currency)}")


def _of_type(value: object, currency: str) -> AmountError:
    """
    Why no other type is taken: a float is never exact, and an integer may be of dollars or of cents.
    """
    places = money.exponent(currency)
    if type(value) is int and value > 0 and value < 10**12:
        units = _padded(str(value), currency)
        readings = dict.fromkeys([units, _decimals(value, currency)])
        return AmountError(
            f"{value} is an integer, which may be of {currency.lower()} or of its smallest unit",
            f"pass the text {' or '.join(map(repr, readings))}, or a Decimal",
        )
    is_near = isinstance(value, float) and math.isfinite(value) and 0 < value < 10**12
    text = f"{value:.{places}f}" if is_near else _padded("5", currency)
    return AmountError(f"{kind_of(value)} is not an amount", f"pass the text {text!r} or Decimal({text!r})")


def _of_text(text: str, currency: str) -> AmountError:
    """
    Why a text is refused, with what it may mean.
    """
    code, places = currency.lower(), money.exponent(currency)
    one = re.fullmatch(r"(\d{1,12})([.,])(\d{1,12})", text, re.ASCII)
    if one is None:
        if re.fullmatch(r"\d+(?:[.,' _]\d+)+", text, re.ASCII):
            hint = f"write a point before the decimals and nothing between thousands, such as {_example(currency)}"
            return AmountError(f"{shown(text)} has more than one separator", hint)
        if re.search(r"[A-Za-z$£€¥]", text) and re.search(r"\d", text):
            hint = f"the currency stands apart, so write a plain number such as {_example(currency)}"
            return AmountError(f"{shown(text)} is more than a number", hint)
        return _no_amount(text, currency)
    whole, separator, decimals = one.groups()
    rule = f"{code} has {places or 'no'} decimals"
    hint = f"{rule}: write {'all of them after a point' if places else 'no point'}, and nothing between thousands"
    if len(decimals) > places:  # of which none is proposed: it may be of thousands
        return AmountError(f"{shown(text)} has {len(decimals)} digits after its separator", hint)
    padded = f"{whole}.{decimals:0<{places}}"
    is_point = separator == "."
    small, large = (f"{whole}.{decimals:0>{places}}", padded) if is_point else (padded, _padded(whole + decimals, code))
    return AmountError(f"{shown(text)} may mean {small} or {large}", hint)


def _in_places(number: str, places: int) -> str:
    """
    The number with that many decimals, or as it is where it has more.
    """
    whole, _, decimals = number.partition(".")
    decimals = decimals.rstrip("0").ljust(places, "0")
    return f"{whole}.{decimals}" if decimals else whole
