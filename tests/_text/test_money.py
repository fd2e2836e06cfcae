"""
Minor units in words, and back.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocp_stripe_balance._text import money


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (-500, "usd", "-5.00 usd"),
        (-500, "JPY", "-500 jpy"),
        (-500, "kwd", "-0.500 kwd"),
        (500, "ugx", "5.00 ugx"),
        (100, "isk", "1.00 isk"),
        (100, "huf", "1.00 huf"),
        (123456789, "usd", "1,234,567.89 usd"),
        (1, "bhd", "0.001 bhd"),
    ],
)
def test_amounts_read_as_people_write_them(amount: int, currency: str, text: str) -> None:
    """None, two or three decimals, as Stripe's currency page says."""
    assert text == money.to_text(amount, currency)


def test_effect_names_the_direction() -> None:
    """Negative credits, positive debits."""
    assert "credit 5.00 usd" == money.effect(-500, "usd")
    assert "debit 5.00 usd" == money.effect(500, "usd")


@given(st.integers(-99999999999, 99999999999), st.sampled_from(["usd", "jpy", "kwd"]))
def test_words_lead_back_to_the_amount(amount: int, currency: str) -> None:
    """Nothing is rounded away."""
    assert amount == money.to_minor(money.to_text(amount, currency).split()[0].replace(",", ""), currency)


@pytest.mark.parametrize("text", ["", "x", "1.005", "NaN", "Infinity", "1e999999999999999999", "1,5"])
def test_what_is_no_amount_is_none(text: str) -> None:
    """Too many decimals and nonsense are not guessed at."""
    assert money.to_minor(text, "usd") is None
