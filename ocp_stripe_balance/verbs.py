"""
What people want done, in their words: credit, debit, reverse, balance, history. Each is a call of one tool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance.errors import InvalidParametersError, NotSentError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal
    from typing import Unpack

    from ocp_stripe_balance._domain import ToolCall
    from ocp_stripe_balance.models import CustomerBalanceTransaction, ToolResult

CREATE = "postCustomersCustomerBalanceTransactions"
REVERSE = "reverseCustomerBalanceTransaction"
LIST = "getCustomersCustomerBalanceTransactions"
CUSTOMER = "getCustomersCustomer"
FIND = "getCustomers"


class Details(TypedDict, total=False):
    """
    What a credit or a debit may say besides.
    """

    reference: str | None
    """The business reason, such as a ticket; an amount is credited or debited once for it."""
    description: str | None
    """For people who read the customer's ledger."""
    metadata: Mapping[str, str] | None
    """Kept with the entry."""
    idempotency_key: str | ToolCall | None
    """The name of this one decision; drawn where it is left out."""


def amount_parameters(verb: Literal["credit", "debit"], amount: Decimal | str, currency: str) -> dict[str, Any]:
    """
    How much a credit or a debit moves, as the tool takes it, with the statement of it that a policy may demand.

    Raises:
        InvalidParametersError: it is no amount, or may be read as two.
    """
    with no_fork:
        from ocp_stripe_balance._text import money  # that only a payment needs
        from ocp_stripe_balance._text.amounts import AmountError, amount_of  # as above

    try:
        minor = amount_of(amount, currency, verb=verb)
    except AmountError as error:
        problem = Problem(path="amount", message=error.message, hint=error.hint)
        raise InvalidParametersError([problem], tool=CREATE) from None
    signed = -minor if verb == "credit" else minor
    return {"amount": signed, "currency": currency, "stated_effect": money.stated_effect(signed, currency)}


class Verbs(ABC):
    """
    The tools under the names people think in: same way, same keys, same outcomes and errors as `call_tool`.
    """

    async def credit(
        self, customer: str, amount: Decimal | str, currency: str, **details: Unpack[Details]
    ) -> ToolResult:
        """
        Give the customer credit: the next invoice is lower.

        Args:
            customer: the ID, ``cus_…``.
            amount: ``'5.00'`` or ``Decimal(5)``, in the currency and not in its smallest unit; never a float.
            currency: ISO 4217, such as ``usd``.
            details: what else the entry says, and its key; see `Details`.

        Raises:
            NotSentError: nothing was sent; see its subclasses.
            RejectedError: Stripe said no, nothing moved.
            OutcomeUnknownError: it may have moved; call again with the same key.
        """
        return await self._entry("credit", amount, {"customer": customer, "currency": currency, **details})

    async def debit(
        self, customer: str, amount: Decimal | str, currency: str, **details: Unpack[Details]
    ) -> ToolResult:
        """
        Charge the customer's balance: the next invoice is higher. Otherwise as `credit`.
        """
        return await self._entry("debit", amount, {"customer": customer, "currency": currency, **details})

    async def reverse(
        self,
        entry_id: str,
        *,
        customer: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ToolResult:
        """
        Undo an entry by its opposite, once.

        Args:
            entry_id: the entry, ``cbtxn_…``.
            customer: whose it is; may be left out for an entry in this machine's journal.
            description: for people who read the customer's ledger.
            metadata: kept with the new entry.

        Raises:
            NotSentError: nothing was sent; see its subclasses.
            RejectedError: Stripe said no, nothing moved.
            OutcomeUnknownError: it may have moved; call again with the same entry.
        """
        asked = {"transaction": entry_id, "customer": customer, "description": description, "metadata": metadata}
        return await self._run(REVERSE, asked, None)

    async def balance(self, customer: str) -> ToolResult:
        """
        The customer as Stripe has it: ``result.customer`` has balance and currency, ``result.describe()`` says them.
        """
        return await self._run(CUSTOMER, {"customer": customer}, None)

    async def history(self, customer: str, *, limit: int = 10) -> list[CustomerBalanceTransaction]:
        """
        The customer's newest entries, the newest first.

        Raises:
            NotSentError: the entries could not be read.
            RejectedError: Stripe said no.
        """
        result = await self._run(LIST, {"customer": customer, "limit": limit}, None)
        if result.transactions is None:
            message = "Nothing moved: Stripe's list has something that is no entry."
            raise NotSentError(message, tool=LIST, hint=f"Read it as it is: call_tool({LIST!r}, …).data.")
        return result.transactions

    async def _entry(
        self, verb: Literal["credit", "debit"], amount: Decimal | str, asked: dict[str, Any]
    ) -> ToolResult:
        """
        The result of a credit or a debit.
        """
        asked |= amount_parameters(verb, amount, str(asked["currency"]))
        return await self._run(CREATE, asked, asked.pop("idempotency_key", None))

    @abstractmethod
    async def _run(
        self, tool_name: str, parameters: Mapping[str, Any], idempotency_key: str | ToolCall | None
    ) -> ToolResult:
        """
        The result of that tool of ours.
        """
