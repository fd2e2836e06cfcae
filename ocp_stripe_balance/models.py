"""
What a successful call returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ocp_stripe_balance import _units

if TYPE_CHECKING:
    from collections.abc import Mapping


class CustomerBalanceTransaction(BaseModel):
    """
    One entry of a customer's balance: https://docs.stripe.com/api/customer_balance_transactions/object

    Fields that Stripe adds later are kept, and values it adds to its lists are accepted.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    id: str
    object: Literal["customer_balance_transaction"]
    amount: int
    """Smallest currency unit; negative is a credit, positive a debit."""
    currency: str
    """ISO 4217 code in lower case."""
    customer: str | dict[str, Any]
    """The customer's ID, or the whole customer where it was expanded."""
    ending_balance: int
    """The customer's balance after this entry; negative lowers the next invoice."""
    created: int
    """Seconds since the Unix epoch."""
    livemode: bool
    type: str
    """``adjustment`` for entries made through the API."""
    description: str | None = None
    metadata: dict[str, str] | None = None
    invoice: str | dict[str, Any] | None = None
    credit_note: str | dict[str, Any] | None = None
    checkout_session: str | dict[str, Any] | None = None
    customer_account: str | None = None

    @property
    def customer_id(self) -> str:
        """
        The customer's ID, expanded or not.
        """
        return self.customer if isinstance(self.customer, str) else str(self.customer.get("id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """
    Stripe's answer to a call that succeeded, and how it came about.
    """

    data: dict[str, Any]
    """The JSON object as Stripe sent it; empty where the body was not one (see `warnings`)."""
    status_code: int
    headers: Mapping[str, str]
    """Response headers, looked up without regard to case."""
    idempotency_key: str
    """The key the call was made under; the same key again returns the same transaction."""
    request_id: str | None
    """Stripe's ``req_…``."""
    attempts: int
    """How many times the request was sent, or tried to be."""
    replayed: bool
    """Whether Stripe answered from the first request under this key instead of moving money again."""
    warnings: tuple[str, ...]
    """What was surprising about the answer. The call succeeded all the same."""
    outcome: Literal["succeeded"] = "succeeded"

    @property
    def ok(self) -> bool:
        """
        True: a call that did not succeed raises.
        """
        return True

    @property
    def transaction(self) -> CustomerBalanceTransaction | None:
        """
        The transaction as a typed model, or None where Stripe sent something else (see `warnings`).
        """
        try:
            return CustomerBalanceTransaction.model_validate(self.data)
        except ValidationError:
            return None

    def json(self) -> dict[str, Any]:
        """
        The same as `data`.
        """
        return self.data

    def describe(self) -> str:
        """
        What happened in a sentence, such as ``credit 5.00 usd to cus_…; the balance is now -5.00 usd``.
        """
        entry = self.transaction
        if entry is None:
            return "the call succeeded, but the answer is not a balance transaction"
        now = _units.to_text(entry.ending_balance, entry.currency)
        again = " (the stored result of the first request under this key)" if self.replayed else ""
        done = _units.effect(entry.amount, entry.currency)
        return f"{done} to {entry.customer_id}; the balance is now {now}{again}"

    def to_dict(self) -> dict[str, Any]:
        """
        The result as JSON for the model.
        """
        return {
            "outcome": self.outcome,
            "summary": self.describe(),
            "data": self.data,
            "idempotency_key": self.idempotency_key,
            "request_id": self.request_id,
            "attempts": self.attempts,
            "replayed": self.replayed,
            "warnings": list(self.warnings),
        }
