"""
Amounts in words: how many minor units a currency has, and what a number of them means.

Source: https://docs.stripe.com/currencies (zero-decimal and three-decimal currencies; isk and ugx
are sent with two decimals).
"""

from __future__ import annotations

import re
from decimal import Decimal

_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
_THREE_DECIMAL = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
_WHOLE = frozenset(["isk", "ugx"])
# Two decimals at Stripe, which people do not write: those that CLDR gives none, and twd, which Stripe pays out whole.
_WRITTEN_WHOLE = frozenset(["afn", "all", "cop", "huf", "idr", "isk", "lak", "lbp", "mmk", "sos", "twd", "ugx", "yer"])

CURRENCIES = frozenset(
    re.findall(
        r"\w+",
        """
        usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf
        clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl hrk htg huf idr
        ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr
        mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd
        shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer zar
        zmw
        """,
    )
)
"""Those Stripe lists; which of them an account may use depends on its country. Only for advice, never a refusal."""


def exponent(currency: str) -> int:
    """
    The number of decimals the currency has in Stripe's API: 0, 2 or 3.
    """
    code = currency.lower()
    if code in _ZERO_DECIMAL:
        return 0
    return 3 if code in _THREE_DECIMAL else 2


def is_written_whole(currency: str) -> bool:
    """
    Whether people write its amounts without the decimals that Stripe counts.
    """
    return currency.lower() in _WRITTEN_WHOLE


def step(currency: str) -> int:
    """
    What an amount in the smallest unit is a multiple of: decimals that Stripe wants, and wants to be 0.
    """
    if currency.lower() in _WHOLE:
        return 100
    return 10 if currency.lower() in _THREE_DECIMAL else 1


def to_text(amount_minor: int, currency: str) -> str:
    """
    The amount as people write it: ``-500, "usd"`` is ``-5.00 usd``.
    """
    places = exponent(currency)
    return f"{Decimal(amount_minor).scaleb(-places):,.{places}f} {currency.lower()}"


def standing(balance_minor: int, currency: str, *, was: bool = False) -> str:
    """
    How a customer with this balance stands, or *was* standing: ``is in credit 5.00 usd``, or ``owes 5.00 usd``.
    """
    if balance_minor > 0:
        return f"{'owed' if was else 'owes'} {to_text(balance_minor, currency)}"
    verb = ("was" if was else "is") if balance_minor else ("had a balance of" if was else "has a balance of")
    return f"{verb} {balance(balance_minor, currency)}"


def balance(balance_minor: int, currency: str) -> str:
    """
    A customer's balance without a sign: ``in credit 5.00 usd``, ``owes 5.00 usd``, or ``0.00 usd``.
    """
    state = "owes " if balance_minor > 0 else "in credit " if balance_minor else ""
    return state + to_text(abs(balance_minor), currency)


def done(amount_minor: int, currency: str) -> str:
    """
    What was done to a customer by an entry of this amount: ``credited 5.00 usd`` or ``debited 5.00 usd``.
    """
    return f"{'credited' if amount_minor < 0 else 'debited'} {to_text(abs(amount_minor), currency)}"


def effect(amount_minor: int, currency: str) -> str:
    """
    What an entry of this amount does, as ``credit 5.00 usd`` or ``debit 5.00 usd``; 0 stands for no entry at all.
    """
    if amount_minor == 0:
        return "update (no money)"
    return f"{'credit' if amount_minor < 0 else 'debit'} {to_text(abs(amount_minor), currency)}"


def to_minor(text: str, currency: str) -> int | None:
    """
    The minor units a decimal text stands for, or None where it has too many decimals or is no number.
    """
    if not re.fullmatch(r"\s*[+-]?\d{1,12}(\.\d{1,6})?\s*", text, re.ASCII):
        return None
    minor = Decimal(text.strip()).scaleb(exponent(currency))
    return int(minor) if minor == minor.to_integral_value() else None


def stated_effect(amount_minor: int, currency: str) -> str:
    """
    The same as the parameter of that name takes it: without commas.
    """
    return effect(amount_minor, currency).replace(",", "")
