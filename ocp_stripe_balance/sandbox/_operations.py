"""
The operations of the embedded Stripe: path, method, parameters, and what each does to the ledger.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance.sandbox._errors import StripeError, missing
from ocp_stripe_balance.sandbox._form import Param
from ocp_stripe_balance.sandbox._ledger import (
    Customer,
    Ledger,
    Transaction,
    expanded_customer,
    expanded_transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance.sandbox._form import Form

_DEFAULT_LIMIT = 10
_EXPAND = Param(kind="expand")
_METADATA = Param(kind="metadata")
_PAGE = {
    "created": Param(kind="range"),
    "ending_before": Param(kind="string"),
    "expand": _EXPAND,
    "limit": Param(kind="limit"),
    "starting_after": Param(kind="string"),
}
_CUSTOMER = {
    "balance": Param(kind="integer"),
    "description": Param(kind="emptyable"),
    "email": Param(kind="emptyable", max_length=512),
    "expand": _EXPAND,
    "metadata": _METADATA,
    "name": Param(kind="emptyable", max_length=256),
    "phone": Param(kind="emptyable", max_length=20),
}
_ENTRY = {"description": Param(kind="string", max_length=350), "expand": _EXPAND, "metadata": _METADATA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    One thing the API does.
    """

    method: str
    path: re.Pattern[str]
    params: dict[str, Param]
    run: Callable[..., dict[str, Any]]
    """Called with the ledger, the checked form and the IDs in the path."""


def _create_customer(ledger: Ledger, form: Form) -> dict[str, Any]:
    customer = ledger.create_customer(form)
    return expanded_customer(customer, form.get("expand", []))


def _retrieve_customer(ledger: Ledger, form: Form, customer: str) -> dict[str, Any]:
    return expanded_customer(ledger.customer(customer), form.get("expand", []))


def _update_customer(ledger: Ledger, form: Form, customer: str) -> dict[str, Any]:
    found = ledger.living_customer(customer, "id")
    ledger.update_customer(found, form)
    return expanded_customer(found, form.get("expand", []))


def _delete_customer(ledger: Ledger, _form: Form, customer: str) -> dict[str, Any]:
    ledger.delete_customer(ledger.living_customer(customer, "id"))
    return expanded_customer(ledger.customer(customer), [])


def _list_customers(ledger: Ledger, form: Form) -> dict[str, Any]:
    found = [c for c in ledger.customers() if "email" not in form or c.facts["email"] == form["email"]]
    return _page(found, form, "/v1/customers", "customer", expanded_customer)


def _create_transaction(ledger: Ledger, form: Form, customer: str) -> dict[str, Any]:
    found = ledger.living_customer(customer)
    _check_expand(form)
    return expanded_transaction(ledger.create_transaction(found, form), form.get("expand", []))


def _retrieve_transaction(ledger: Ledger, form: Form, customer: str, transaction: str) -> dict[str, Any]:
    entry = ledger.transaction(ledger.living_customer(customer), transaction)
    return expanded_transaction(entry, form.get("expand", []))


def _update_transaction(ledger: Ledger, form: Form, customer: str, transaction: str) -> dict[str, Any]:
    entry = ledger.transaction(ledger.living_customer(customer), transaction)
    _check_expand(form)
    ledger.update_transaction(entry, form)
    return expanded_transaction(entry, form.get("expand", []))


def _list_transactions(ledger: Ledger, form: Form, customer: str) -> dict[str, Any]:
    entries = list(reversed(ledger.living_customer(customer).transactions))
    if "invoice" in form:
        entries = []  # no entry here comes from an invoice
    url = f"/v1/customers/{customer}/balance_transactions"
    return _page(entries, form, url, "customer balance transaction", expanded_transaction)


def _check_expand(form: Form) -> None:
    """
    Refuse a wrong expand before anything changes.
    """
    someone = Customer(id="", created=0, facts={}, metadata={})
    entry = Transaction(
        id="",
        amount=0,
        created=0,
        currency="",
        customer=someone,
        ending_balance=0,
        type="adjustment",
        description=None,
        metadata={},
    )
    expanded_transaction(entry, form.get("expand", []))


def _page(items: list[Any], form: Form, url: str, noun: str, show: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """
    One page, newest first: https://docs.stripe.com/api/pagination
    """
    after, before = form.get("starting_after"), form.get("ending_before")
    if after and before:
        message = "Received both starting_after and ending_before parameters. Please pass in only one."
        raise StripeError(400, message)
    limit = form.get("limit", _DEFAULT_LIMIT)
    if "created" in form:
        items = [item for item in items if _is_within(item.created, form["created"])]
    cursor: str = after or before or ""
    place = next((number for number, item in enumerate(items) if item.id == cursor), None) if cursor else -1
    if place is None:
        raise missing(noun, cursor, "starting_after" if after else "ending_before", status=400)
    if before:
        page, has_more = items[max(place - limit, 0) : place], place > limit
    else:
        page, has_more = items[place + 1 : place + 1 + limit], len(items) > place + 1 + limit
    paths = []
    for path in form.get("expand", []):
        head, _, rest = path.partition(".")
        if head != "data" or not rest:
            message = f"This property cannot be expanded ({path}). You may want to try expanding 'data.{path}' instead."
            raise StripeError(400, message)
        paths.append(rest)
    return {
        "object": "list",
        "data": [show(item, paths, prefix="data.") for item in page],
        "has_more": has_more,
        "url": url,
    }


def _is_within(moment: int, bounds: dict[str, int]) -> bool:
    return (
        moment > bounds.get("gt", -1)
        and moment >= bounds.get("gte", 0)
        and moment < bounds.get("lt", moment + 1)
        and moment <= bounds.get("lte", moment)
    )


_CUSTOMERS = r"/v1/customers"
_ONE_CUSTOMER = rf"{_CUSTOMERS}/(?P<customer>[^/]+)"
_ENTRIES = rf"{_ONE_CUSTOMER}/balance_transactions"
_ONE_ENTRY = rf"{_ENTRIES}/(?P<transaction>[^/]+)"

OPERATIONS = tuple(
    Operation(method=method, path=re.compile(path), params=params, run=run)
    for method, path, params, run in (
        ("POST", _CUSTOMERS, _CUSTOMER, _create_customer),
        ("GET", _CUSTOMERS, {**_PAGE, "email": Param(kind="string", max_length=512)}, _list_customers),
        ("GET", _ONE_CUSTOMER, {"expand": _EXPAND}, _retrieve_customer),
        ("POST", _ONE_CUSTOMER, _CUSTOMER, _update_customer),
        ("DELETE", _ONE_CUSTOMER, {}, _delete_customer),
        (
            "POST",
            _ENTRIES,
            {
                "amount": Param(kind="integer", required=True),
                "currency": Param(kind="currency", required=True),
                **_ENTRY,
            },
            _create_transaction,
        ),
        ("GET", _ENTRIES, {**_PAGE, "invoice": Param(kind="string")}, _list_transactions),
        ("GET", _ONE_ENTRY, {"expand": _EXPAND}, _retrieve_transaction),
        ("POST", _ONE_ENTRY, _ENTRY, _update_transaction),
    )
)
