"""
Undoing an entry: the opposite one, made once, each naming the other in its metadata.

Stripe has no operation for it, and no link between the two: https://docs.stripe.com/billing/customer/balance
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._calls.order import Order, check_stated_effect
from ocp_stripe_balance._journal import State
from ocp_stripe_balance.errors import (
    InvalidParametersError,
    NotSentError,
    OutcomeUnknownError,
    PolicyRefusedError,
    Problem,
    RejectedError,
    ToolError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocp_stripe_balance._calls.reads import Reads
    from ocp_stripe_balance._host.contract import APIOptions
    from ocp_stripe_balance._journal import Call, Journal
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._stripe.client import Executor
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import CustomerBalanceTransaction, ToolResult
    from ocp_stripe_balance.settings import Mode

_REVERSES, _REVERSED_BY = "ocp_reverses", "ocp_reversed_by"
_LINK_TIMEOUT_S = 10.0
_FIND_OUT = "Call again with the same parameters: an entry is reversed once."
_STAYS = "Stripe keeps this answer under the reversal's key for a day. A person can make the opposite entry."
_PREFIX = "rev-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Siblings:
    """
    The tools a reversal is made of, found by where they lead.
    """

    create: ToolSpec
    list: ToolSpec
    retrieve: ToolSpec
    update: ToolSpec

    @classmethod
    def of(cls, tool: ToolSpec, tools: Sequence[ToolSpec]) -> Siblings:
        """
        Those of the same ledger as *tool*.
        """
        entries, entry = tool.path, f"{tool.path}/{{transaction}}"

        def at(path: str, method: str) -> ToolSpec:
            return next(each for each in tools if (each.path, each.method) == (path, method) and not each.reverses)

        return cls(
            create=at(entries, "POST"), list=at(entries, "GET"), retrieve=at(entry, "GET"), update=at(entry, "POST")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal:
    """
    One entry to be reversed, and who asks.
    """

    tool: ToolSpec
    siblings: Siblings
    transaction: str
    customer: str
    access: Access
    mode: Mode


class Reversals:
    """
    Reversals of one registered API.
    """

    def __init__(self, base_url: str, options: APIOptions, journal: Journal, reads: Reads, executor: Executor) -> None:
        """
        Prepare.
        """
        self._base_url = base_url
        self._options = options
        self._journal = journal
        self._reads = reads
        self._executor = executor

    async def customer_of(self, order: Order, access: Access, mode: Mode) -> str:
        """
        Whose entry it is: as the order says, else as the journal knows.

        Raises:
            InvalidParametersError: neither says so.
        """
        transaction = order.arguments["transaction"]
        customer: str | None = order.arguments.get("customer")
        if customer is None:
            account = access.account or ""
            customer = await self._journal.customer_of(transaction, base_url=self._base_url, mode=mode, account=account)
        if customer is None:
            message = f"is missing, and the journal has no call that made {transaction}"
            hint = "pass the ID of the customer on whose balance the entry is"
            raise InvalidParametersError([Problem(path="customer", message=message, hint=hint)])
        return customer

    async def opposite(self, wanted: Reversal, order: Order) -> Order:
        """
        The order for the opposite entry, or for going on with one that was begun.

        Raises:
            PolicyRefusedError: the entry was reversed already, or is none that can be.
            InvalidParametersError: the stated effect is another.
            ToolError: the entry could not be read.
        """
        account = wanted.access.account or ""
        name = json.dumps([account, wanted.mode, wanted.transaction])
        key = _PREFIX + hashlib.sha256(name.encode()).hexdigest()
        begun = await self._journal.find(key, base_url=self._base_url, mode=wanted.mode, account=account)
        if begun is not None and begun.state is State.SUCCEEDED:
            raise already(wanted, begun.transaction_id)
        if begun is not None and begun.state in {State.SENDING, State.UNKNOWN}:
            arguments = json.loads(begun.arguments)
        else:
            arguments = _opposite(await self._entry(wanted), wanted.customer, order.arguments)
            asked = await self._journal.standing(key, base_url=self._base_url, mode=wanted.mode, account=account)
            if asked is not None:  # the words that a person reads, or has read, stand
                arguments = asked.parameters
        if order.stated_effect is not None:
            check_stated_effect(wanted.tool, order.stated_effect, arguments["amount"], arguments["currency"])
        return Order(arguments=arguments, key=key, is_key_derived=True, stated_effect=order.stated_effect)

    async def link(self, wanted: Reversal, result: ToolResult) -> ToolResult:
        """
        The result, after the reversed entry was marked; where that fails, with a warning.
        """
        result = replace(result, tool=wanted.tool.name)
        key = f"{result.idempotency_key}-link"
        mark = {
            "customer": wanted.customer,
            "transaction": wanted.transaction,
            "metadata": {_REVERSED_BY: str(result.data.get("id"))},
            "idempotency_key": key,
        }
        request = self._reads.request(wanted.siblings.update, mark, wanted.access)
        timeout_s = min(self._options.settings.timeout, _LINK_TIMEOUT_S)
        try:
            await self._executor.execute(request, tool=result.tool, idempotency_key=key, timeout_s=timeout_s)
        except ToolError as error:
            why = f"{wanted.transaction} could not be marked as reversed ({error.args[0]})"
            return replace(result, warnings=(*result.warnings, f"{why}; its reversal names it all the same"))
        except asyncio.CancelledError as error:
            message = "The call was cancelled after it had succeeded; the result is in the journal."
            raise OutcomeUnknownError(
                message, tool=result.tool, idempotency_key=result.idempotency_key, hint=_FIND_OUT
            ) from error
        return result

    async def _entry(self, wanted: Reversal) -> CustomerBalanceTransaction:
        """
        The entry, if it can be reversed and was not.
        """
        at = {"customer": wanted.customer, "transaction": wanted.transaction}
        entry = (await self._reads.fetch(wanted.siblings.retrieve, at, wanted.access)).transaction
        if entry is None:
            message = (
                f"Nothing was sent: {wanted.transaction} could not be read (the answer is no balance transaction)."
            )
            hint = "Call again with the same parameters."
            raise NotSentError(message, hint=hint, retryable=True, tool=wanted.tool.name)
        marks = entry.metadata or {}
        if _REVERSED_BY in marks:
            raise already(wanted, marks[_REVERSED_BY])
        if _REVERSES in marks:
            raise _refused(wanted, f"it is itself the reversal of {marks[_REVERSES]}")
        if entry.amount == 0:
            raise _refused(wanted, "its amount is 0")
        if entry.type != "adjustment":
            raise _refused(wanted, f"it is not an adjustment but of type {entry.type}, which Stripe makes itself")
        # The mark may be missing: whoever reversed it may have been stopped before setting it.
        newer = {"customer": wanted.customer, "ending_before": wanted.transaction}
        async for other in self._reads.iterate(wanted.siblings.list, newer, wanted.access):
            if (other.get("metadata") or {}).get(_REVERSES) == wanted.transaction:
                raise already(wanted, other["id"])
        return entry


def is_reversal(call: Call) -> bool:
    """
    Whether a recorded call was made to reverse an entry.
    """
    return call.key.startswith(_PREFIX)


def reversing(tool: ToolSpec, error: ToolError) -> ToolError:
    """
    The error of a step, told as one of the reversal: its advice is not to follow with another key.
    """
    error.tool = tool.name
    if isinstance(error, OutcomeUnknownError) and error.retryable:
        error.hint = _FIND_OUT
    elif isinstance(error, RejectedError) and error.is_verdict and error.idempotency_key is not None:
        error.hint = _STAYS
    return error


def already(wanted: Reversal, by: object) -> PolicyRefusedError:
    """
    The refusal of a second reversal.
    """
    message = f"Nothing was sent: {wanted.transaction} was reversed already, by {by}."
    return PolicyRefusedError(message, rule="reverse_once", hint="Nothing is left to do.", tool=wanted.tool.name)


def _refused(wanted: Reversal, why: str) -> PolicyRefusedError:
    return PolicyRefusedError(
        f"Nothing was sent: {wanted.transaction} cannot be reversed, because {why}.",
        rule="reversible",
        hint="If an entry is needed all the same, it is a new one; say so to whoever asked.",
        tool=wanted.tool.name,
    )


def _opposite(entry: CustomerBalanceTransaction, customer: str, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "customer": customer,
        "amount": -entry.amount,
        "currency": entry.currency,
        "description": asked.get("description") or f"Reversal of {entry.id}",
        "metadata": {**(asked.get("metadata") or {}), _REVERSES: entry.id},
        # Tells it from any other entry of the same amount, and makes it one decision whoever asks.
        "reference": f"reversal of {entry.id}",
    }
