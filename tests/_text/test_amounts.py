"""
Amounts as people write them: what is taken, and how a text that may mean two things is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.amounts import AmountError, amount_of


@pytest.mark.parametrize(
    ("minor", "value", "currency"),
    [
        (500, "5.00", "usd"),
        (500, "5", "USD"),
        (5, "0.05", "eur"),
        (123456, "1234.56", "usd"),
        (500, "500", "jpy"),
        (50000, "500.00", "isk"),
        (50000, "500", "ugx"),
        (500, "5.00", "huf"),
        (500, "5.0", "usd"),
        (5000, "5.00", "kwd"),
        (1230, "1.230", "kwd"),
        (5000, "5", "bhd"),
        (500, Decimal(5), "usd"),
        (550, Decimal("5.5"), "usd"),
        (500, Decimal("5.000"), "usd"),
        (50000, Decimal("5E+2"), "usd"),
        (1230, Decimal("1.23"), "kwd"),
    ],
)
def test_amounts_have_all_decimals_of_the_currency_or_none(minor: int, value: Any, currency: str) -> None:
    """A Decimal is a number, and may have fewer."""
    assert minor == amount_of(value, currency)


@pytest.mark.parametrize(
    ("value", "currency", "readings"),
    [
        ("1,234", "kwd", ("1.234 or 1234.000",)),
        ("5,00", "usd", ("5.00 or 500.00",)),
        ("5,5", "usd", ("5.50 or 55.00",)),
        ("5.5", "usd", ("5.05 or 5.50",)),
        ("1.5", "kwd", ("1.005 or 1.500",)),
        (5, "usd", ("'5.00'", "'0.05'")),
        (500, "jpy", ("'500'",)),
        ("5.50", "isk", ("'5.00'", "'6.00'")),
        ("5.50", "ugx", ("'5.00'", "'6.00'")),
        ("0.001", "kwd", ("'0.010'",)),
    ],
)
def test_what_may_mean_two_amounts_is_refused_with_both(value: Any, currency: str, readings: tuple[str, ...]) -> None:
    """Nobody guesses which of them was meant."""
    with pytest.raises(AmountError) as refused:
        amount_of(value, currency)
    said = str(refused.value)
    assert readings == tuple(each for each in readings if each in said), said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("-5.00", "for the opposite, use debit"),
        ("+5", "has a sign"),
        ("\u22125.00", "has a sign"),
        (Decimal(-5), "has a sign"),
        ("$5", "the currency stands apart"),
        ("5 usd", "the currency stands apart"),
        ("1.234,56", "more than one separator"),
        ("1,234.56", "more than one separator"),
        ("1_000", "more than one separator"),
        ("1 000", "more than one separator"),
        ("0", "is no money"),
        ("0.00", "is no money"),
        (Decimal(0), "is no money"),
        ("1e3", "'5.00'"),
        ("\u0665", "is not an amount"),
        ("\uff15.00", "is not an amount"),
        (" 5.00", "is not an amount"),
        ("5.00\n", "is not an amount"),
        ("", "is not an amount"),
        (
            "5,0",
            "'5,0' may mean 5.00 or 50.00; usd has 2 decimals: write all of them after a point, and nothing between",
        ),
        ("5.", "is not an amount"),
        (".50", "is not an amount"),
        ("NaN", "is not an amount"),
        ("1234567890123", "is not an amount"),
        (Decimal("NaN"), "is not an amount"),
        (Decimal("Infinity"), "is not an amount"),
        (Decimal("1E+999999"), "is not an amount"),
        (Decimal("5.001"), "5.001 has more decimals than the 2 of usd"),
        (Decimal("5.0000000000000000000000000000001"), "has more decimals than the 2 of usd"),
        (5.0, "pass the text '5.00' or Decimal('5.00')"),
        (float("nan"), "pass the text '5.00' or Decimal('5.00')"),
        (True, "is not an amount"),
        (None, "is not an amount"),
    ],
)
def test_what_is_no_amount_is_refused_with_what_would_be_one(value: Any, said: str) -> None:
    """Also a float, which cannot hold every amount."""
    with pytest.raises(AmountError) as refused:
        amount_of(value, "usd", verb="credit")
    assert said in str(refused.value)


@pytest.mark.parametrize(("text", "currency"), [("5.005", "usd"), ("1,234", "usd"), ("5.000", "usd"), ("5.00", "jpy"),
                                                ("5,00", "usd")])  # fmt: skip
def test_no_hint_proposes_an_amount_that_may_be_a_thousand_times_as_much(text: str, currency: str) -> None:
    with pytest.raises(AmountError) as refused:
        amount_of(text, currency)
    assert {"2"} >= set(re.findall(r"\d+", refused.value.hint))


@given(st.sampled_from(sorted(money.CURRENCIES)), st.integers(1, 999_999_999))
def test_what_money_prints_is_the_same_amount(currency: str, steps: int) -> None:
    """In every currency, to the last decimal that Stripe takes."""
    minor = steps * money.step(currency)
    printed = money.to_text(minor, currency).split()[0].replace(",", "")
    assert minor == amount_of(printed, currency) == amount_of(Decimal(printed), currency.upper())
