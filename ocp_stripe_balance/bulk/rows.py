"""
A line of cells as the parameters of one entry; what cannot be one is a mistake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.amounts import AmountError, amount_of
from ocp_stripe_balance._text.placeholders import is_unfilled, says_nothing
from ocp_stripe_balance._text.plain import shown
from ocp_stripe_balance.bulk.reading import METADATA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from ocp_stripe_balance._domain import Direction
    from ocp_stripe_balance.bulk.mistakes import Mistakes
    from ocp_stripe_balance.bulk.reading import Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """
    What holds for every row of a file that does not say otherwise.
    """

    reference: str | None = None
    """The campaign: the business reason that all rows have. With a column ``key``, each row's is both."""
    currency: str | None = None
    direction: Direction | None = None
    description: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Such as a reason code and the link to the evidence, where the policy demands them."""
    decimal: Literal["point", "comma"] = "point"


class Row(NamedTuple):
    """
    One entry that somebody wants.
    """

    line: int
    parameters: dict[str, Any]
    """As the tool takes them, but for the customer, who may be named by an e-mail address."""


def row_of(line: int, cells: Cells, common: Common, mistakes: Mistakes) -> Row | None:
    """
    The entry of a line, None where something is wrong with it.
    """
    before = mistakes.number
    texts = {name: _text(line, name, cell, mistakes) for name, cell in cells.items() if name != "amount"}

    def given(name: str, default: str | None, hint: str) -> str:
        value = texts.get(name) or default
        if not value and name not in cells:
            mistakes.note(line, name, "is empty", hint)
        return value or ""

    customer = given("customer", None, "write the customer's ID, cus_…, or the e-mail address of one customer")
    currency = given("currency", common.currency, "write a currency such as usd, or pass --currency usd").lower()
    said = given("direction", common.direction, "write credit or debit, or pass --direction credit").lower()
    reference = _reference(line, texts, common, mistakes)
    if currency and not re.fullmatch("[a-z]{3}", currency, re.ASCII):
        hint = "write three letters such as usd"
        mistakes.note(line, "currency", f"{shown(texts.get('currency', currency))} is not a currency", hint)
        currency = ""
    if said and said not in {"credit", "debit"}:
        hint = "write credit, which lowers what the customer owes, or debit, which raises it"
        mistakes.note(line, "direction", f"{shown(texts['direction'])} is no direction", hint)
        said = ""
    if customer and customer.count("@") > 1:
        mistakes.note(line, "customer", f"{shown(customer)} is no e-mail address", "write one address, or the ID")
    amount = 0
    if currency and said:
        try:
            amount = _amount(cells.get("amount"), currency, "credit" if said == "credit" else "debit", common.decimal)
        except AmountError as error:
            mistakes.note(line, "amount", error.message, error.hint)
    if mistakes.number > before:
        return None
    own = {name[len(METADATA) :]: text for name, text in texts.items() if name.startswith(METADATA)}
    metadata = {**common.metadata, **own}
    description = texts.get("description") or common.description
    parameters: dict[str, Any] = {
        "customer": customer,
        "amount": -amount if said == "credit" else amount,
        "currency": currency,
        "reference": reference,
        # Whoever wrote the row said it in words: a policy may demand that.
        "stated_effect": money.stated_effect(-amount if said == "credit" else amount, currency),
    }
    parameters |= {"description": description} if description else {}
    return Row(line, parameters | ({"metadata": metadata} if metadata else {}))


def _text(line: int, name: str, cell: str | Decimal, mistakes: Mistakes) -> str:
    """
    The text of a cell; of a spreadsheet's number only where that is a whole one, as of an order.
    """
    if isinstance(cell, str):
        return cell
    if cell != cell.to_integral_value():
        mistakes.note(line, name, f"{cell} is a number", "give the column the format 'text', and type it anew")
    return f"{cell:.0f}"


def _reference(line: int, texts: dict[str, str], common: Common, mistakes: Mistakes) -> str:
    """
    The business reason: the row's own, else the campaign, with the row's key behind it where it has one.
    """
    own, key = texts.get("reference"), texts.get("key")
    if own and is_unfilled(own, "reference"):
        mistakes.note(line, "reference", f"{shown(own)} is no reason", "write the business reason, such as ticket-812")
    if key and says_nothing(key):
        mistakes.note(line, "key", f"{shown(key)} names nothing", "write what tells this row from others")
    if own or (common.reference and not key):
        return own or common.reference or ""
    if common.reference:
        return f"{common.reference} {key}"
    hint = "write the business reason, such as ticket-812, or pass --reference for all rows"
    mistakes.note(line, "reference", "is empty", hint)
    return ""


def _amount(cell: str | Decimal | None, currency: str, verb: Direction, sign: Literal["point", "comma"]) -> int:
    """
    The amount of a cell, in the smallest unit.

    Raises:
        AmountError: it is none, or can be read in more than one way.
    """
    if cell is None:
        raise AmountError("is empty", "write an amount such as 5.00")
    if isinstance(cell, str) and sign == "comma":
        if "." in cell:
            hint = "with --decimal comma, write a comma before the decimals and nothing between thousands: 1234,56"
            raise AmountError(f"{shown(cell)} has a point", hint)
        cell = cell.replace(",", ".")
    try:
        return amount_of(cell, currency, verb=verb)
    except AmountError as error:
        if not isinstance(cell, str) or "," not in cell:
            raise
        hint = f"{error.hint}; where a comma stands before the decimals in all rows, pass --decimal comma"
        raise AmountError(error.message, hint) from None
