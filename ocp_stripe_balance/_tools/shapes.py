"""
What a model reads of an answer: an entry, a customer, or a list as rows, without what is empty, times as dates.

Each takes what `trimmed` leaves of Stripe's object, which was found to be of that kind before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import moment

if TYPE_CHECKING:
    from collections.abc import Sequence

_OURS = "ocp_"
_LINKS = ("invoice", "credit_note", "checkout_session")
_ENTRY_COLUMNS = ("id", "at", "effect", "balance_after", "description", "reference", "note")
_CUSTOMER_COLUMNS = ("id", "name", "balance", "currency")


def filled(value: Any) -> Any:
    """
    The same without what is empty, at every depth.
    """
    if isinstance(value, dict):
        kept = {name: filled(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item not in (None, "", [], {})}
    return [filled(item) for item in value] if isinstance(value, list) else value


def entry(facts: dict[str, Any]) -> dict[str, Any]:
    """
    One entry, and how the customer stood after it.
    """
    metadata = facts.get("metadata") or {}
    told = {
        "id": facts["id"],
        "effect": money.effect(facts["amount"], facts["currency"]),
        "amount": facts["amount"],
        "currency": facts["currency"],
        "customer": facts["customer"],
        "at": moment(facts["created"]),
        "type": None if facts["type"] == "adjustment" else facts["type"],
        "description": facts.get("description"),
        "reference": metadata.get("ocp_reference"),
        "reverses": metadata.get("ocp_reverses"),
        "reversed_by": metadata.get("ocp_reversed_by"),
        "metadata": {name: text for name, text in metadata.items() if not name.startswith(_OURS)},
        **{name: facts.get(name) for name in _LINKS},
    }
    return {"entry": filled(told), "balance": money.balance(facts["ending_balance"], facts["currency"])}


def entries(listed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    Entries as rows.
    """
    return {"columns": list(_ENTRY_COLUMNS), "rows": [_row(facts) for facts in listed]}


def _row(facts: dict[str, Any]) -> list[str]:
    told = entry(facts)
    it = told["entry"]
    links = {"reverses": "reverses", "reversed_by": "reversed by"}
    notes = [it.get("type", ""), *(f"{word} {it[name]}" for name, word in links.items() if name in it)]
    texts = (it["id"], it["at"], it["effect"], told["balance"], it.get("description", ""), it.get("reference", ""))
    return [*texts, "; ".join(filter(None, notes))]


def customer(facts: dict[str, Any]) -> dict[str, Any]:
    """
    One customer, and how it stands.
    """
    by_currency = facts.get("invoice_credit_balance") or {}  # there, positive is a credit
    told = {
        **{name: facts.get(name) for name in ("id", "name", "currency", "deleted")},
        "balances": {code: money.balance(-credit, code) for code, credit in by_currency.items()},
        "metadata": facts.get("metadata"),
    }
    has_balance = facts.get("balance") is not None and facts.get("currency") is not None
    return {
        "customer": filled({name: value for name, value in told.items() if value is not False}),
        "balance": money.balance(facts["balance"], facts["currency"]) if has_balance else None,
    }


def record(facts: dict[str, Any]) -> dict[str, Any]:
    """
    What the journal has.
    """
    return {name: filled(value) for name, value in facts.items() if name != "object" and value is not False}


def customers(listed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    Customers as rows.
    """
    rows = []
    for facts in listed:
        told = customer(facts)
        it = told["customer"]
        rows.append([it["id"], it.get("name", ""), told["balance"] or "", it.get("currency", "none yet")])
    return {"columns": list(_CUSTOMER_COLUMNS), "rows": rows}
