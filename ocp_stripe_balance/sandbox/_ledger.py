"""
One account's customers, their balances per currency and the entries that made them. Pure state, no HTTP.

Rules: https://docs.stripe.com/billing/customer/balance and the API reference of both objects.
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance.sandbox._errors import StripeError, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DEFAULT_CURRENCY = "usd"
_MAX_METADATA_KEYS = 50
# The account supports what Stripe's US accounts are documented to support, as far as this domain needs it.
_CODES = """
usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf clp
cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils inr isk
jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn
nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd std
szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer zar zmw
"""
CURRENCIES = frozenset(_CODES.split())
_ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str, length: int) -> str:
    """
    An ID as Stripe makes them.
    """
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(length))


@dataclass(slots=True, kw_only=True)
class Transaction:
    """
    One entry; only description and metadata ever change.
    """

    id: str
    amount: int
    created: int
    currency: str
    customer: Customer
    ending_balance: int
    type: str
    description: str | None
    metadata: dict[str, str]


@dataclass(slots=True, kw_only=True, eq=False)
class Customer:
    """
    A customer with one balance per currency; `currency` is set for good by the first entry.
    """

    id: str
    created: int
    facts: dict[str, Any]
    metadata: dict[str, str]
    currency: str | None = None
    balances: dict[str, int] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    """Oldest first."""
    is_deleted: bool = False


_CUSTOMER_FIELDS = ("id", "created", "facts", "metadata", "currency", "balances", "is_deleted")
_ENTRY_FIELDS = ("id", "amount", "created", "currency", "ending_balance", "type", "description", "metadata")


class Ledger:
    """
    The state of one Stripe account.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """
        Start empty; *now* gives the time in seconds since the Unix epoch.
        """
        self._now = now
        self._customers: dict[str, Customer] = {}

    def dump(self) -> list[dict[str, Any]]:
        """
        All customers and their entries as JSON.
        """
        return [
            {
                **{name: getattr(customer, name) for name in _CUSTOMER_FIELDS},
                "transactions": [
                    {name: getattr(entry, name) for name in _ENTRY_FIELDS} for entry in customer.transactions
                ],
            }
            for customer in self._customers.values()
        ]

    def load(self, dumped: list[dict[str, Any]]) -> None:
        """
        Take up what was dumped.
        """
        for values in dumped:
            customer = Customer(**{name: values[name] for name in _CUSTOMER_FIELDS})
            customer.transactions = [Transaction(customer=customer, **entry) for entry in values["transactions"]]
            self._customers[customer.id] = customer

    def create_customer(self, values: dict[str, Any]) -> Customer:
        """
        Add a customer; a balance that is not 0 makes an entry of type initial.
        """
        customer = Customer(
            id=new_id("cus_", 14),
            created=int(self._now()),
            facts={name: values.get(name) for name in ("description", "email", "name", "phone")},
            metadata=_merge_metadata({}, values.get("metadata", {})),
        )
        if values.get("balance"):
            self._add(customer, values["balance"], _DEFAULT_CURRENCY, kind="initial")
        self._customers[customer.id] = customer
        return customer

    def customer(self, customer_id: str, param: str = "id") -> Customer:
        """
        The customer, deleted or not.

        Raises:
            StripeError: 404.
        """
        if customer_id not in self._customers:
            raise missing("customer", customer_id, param)
        return self._customers[customer_id]

    def living_customer(self, customer_id: str, param: str = "customer") -> Customer:
        """
        The customer, unless it was deleted.

        Raises:
            StripeError: 404.
        """
        customer = self.customer(customer_id, param)
        if customer.is_deleted:
            raise missing("customer", customer_id, param)
        return customer

    def customers(self) -> list[Customer]:
        """
        Living customers, newest first.
        """
        return [customer for customer in reversed(self._customers.values()) if not customer.is_deleted]

    def update_customer(self, customer: Customer, values: dict[str, Any]) -> None:
        """
        Change what *values* names; ``balance`` sets the balance and enters the difference.
        """
        metadata = _merge_metadata(customer.metadata, values.get("metadata", {}))
        customer.facts.update({name: values[name] for name in customer.facts if name in values})
        customer.metadata = metadata
        if "balance" in values:
            currency = customer.currency or _DEFAULT_CURRENCY
            difference = values["balance"] - customer.balances.get(currency, 0)
            if difference:
                self._add(customer, difference, currency)

    def delete_customer(self, customer: Customer) -> None:
        """
        Mark the customer as deleted, which cannot be undone.
        """
        customer.is_deleted = True

    def create_transaction(self, customer: Customer, values: dict[str, Any]) -> Transaction:
        """
        Add to the balance in the given currency.

        Raises:
            StripeError: 400, the currency is not supported.
        """
        currency = values["currency"]
        if currency not in CURRENCIES:
            listed = ", ".join(sorted(CURRENCIES))
            message = f"Invalid currency: {currency}. Stripe currently supports these currencies: {listed}"
            raise StripeError(400, message, param="currency", is_stored=True)
        metadata = _merge_metadata({}, values.get("metadata", {}))
        return self._add(customer, values["amount"], currency, description=values.get("description"), metadata=metadata)

    def transaction(self, customer: Customer, transaction_id: str) -> Transaction:
        """
        An entry of that customer.

        Raises:
            StripeError: 404.
        """
        for entry in customer.transactions:
            if entry.id == transaction_id:
                return entry
        raise missing("customer balance transaction", transaction_id, "transaction")

    def update_transaction(self, entry: Transaction, values: dict[str, Any]) -> None:
        """
        Change description and metadata; nothing else of an entry changes.
        """
        entry.metadata = _merge_metadata(entry.metadata, values.get("metadata", {}))
        entry.description = values.get("description", entry.description)

    def _add(  # noqa: PLR0913  the columns of the ledger
        self,
        customer: Customer,
        amount: int,
        currency: str,
        *,
        kind: str = "adjustment",
        description: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Transaction:
        customer.currency = customer.currency or currency
        balance = customer.balances.get(currency, 0) + amount
        customer.balances[currency] = balance
        entry = Transaction(
            id=new_id("cbtxn_", 24),
            amount=amount,
            created=int(self._now()),
            currency=currency,
            customer=customer,
            ending_balance=balance,
            type=kind,
            description=description,
            metadata=metadata or {},
        )
        customer.transactions.append(entry)
        return entry


def _merge_metadata(old: dict[str, str], new: dict[str, str] | None) -> dict[str, str]:
    """
    Keys are merged, an empty value unsets its key, and None unsets all: https://docs.stripe.com/api/metadata
    """
    if new is None:
        return {}
    merged = {key: value for key, value in {**old, **new}.items() if value != ""}
    if len(merged) > _MAX_METADATA_KEYS:
        message = f"Metadata can have up to {_MAX_METADATA_KEYS} keys, but you've set {len(merged)}"
        raise StripeError(400, message, param="metadata")
    return merged


def customer_object(customer: Customer) -> dict[str, Any]:
    """
    The customer as Stripe shows it.
    """
    if customer.is_deleted:
        return {"id": customer.id, "object": "customer", "deleted": True}
    return {
        "id": customer.id,
        "object": "customer",
        "address": None,
        "balance": customer.balances.get(customer.currency or "", 0),
        "created": customer.created,
        "currency": customer.currency,
        "default_source": None,
        "delinquent": False,
        "discount": None,
        **customer.facts,
        "livemode": False,
        "metadata": dict(customer.metadata),
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def transaction_object(entry: Transaction) -> dict[str, Any]:
    """
    The entry as Stripe shows it.
    """
    return {
        "id": entry.id,
        "object": "customer_balance_transaction",
        "amount": entry.amount,
        "checkout_session": None,
        "created": entry.created,
        "credit_note": None,
        "currency": entry.currency,
        "customer": entry.customer.id,
        "customer_account": None,
        "description": entry.description,
        "ending_balance": entry.ending_balance,
        "invoice": None,
        "livemode": False,
        "metadata": dict(entry.metadata),
        "type": entry.type,
    }


def expanded_transaction(entry: Transaction, paths: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """
    The entry with the named fields as whole objects.

    Raises:
        StripeError: 400, a field that cannot be expanded.
    """
    shown = transaction_object(entry)
    below = []
    for path in paths:
        head, _, rest = path.partition(".")
        if head == "customer":
            below += [rest] if rest else []
            shown["customer"] = expanded_customer(entry.customer, below, prefix=f"{prefix}customer.")
        elif head not in {"invoice", "credit_note", "checkout_session"}:  # these are always null here
            raise _not_expandable(prefix + path)
    return shown


def expanded_customer(customer: Customer, paths: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """
    The customer with the named fields included.

    Raises:
        StripeError: 400, a field that cannot be expanded.
    """
    shown = customer_object(customer)
    for path in paths:
        if path == "invoice_credit_balance":
            # Documented with the opposite sign of balance: positive is a credit.
            if not customer.is_deleted:
                shown[path] = {currency: -balance for currency, balance in customer.balances.items()}
        elif path not in {"default_source", "test_clock"}:
            raise _not_expandable(prefix + path)
    return shown


def _not_expandable(path: str) -> StripeError:
    return StripeError(400, f"This property cannot be expanded ({path}).")
