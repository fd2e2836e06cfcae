"""
Undoing an entry: the opposite one, made once, each naming the other in its metadata.

Stripe has no operation for it, and no link between the two: https://docs.stripe.com/billing/customer/balance
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._calls.call import reversal_key, reverses, scope_of
from ocp_stripe_balance._calls.endings import Failed, Invalid, Refused, Succeeded
from ocp_stripe_balance._calls.order import Order, check_stated_effect
from ocp_stripe_balance._domain import Key, Money, Origin, State
from ocp_stripe_balance._journal import READING, intent_of
from ocp_stripe_balance._stripe.evidence import marks_of
from ocp_stripe_balance._tools.manifest import tool_at
from ocp_stripe_balance.errors import (
    NotSentError,
    OutcomeUnknownError,
    PolicyRefusedError,
    Problem,
    RejectedError,
    ToolError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ocp_stripe_balance._calls.call import Call
    from ocp_stripe_balance._calls.endings import Ending
    from ocp_stripe_balance._calls.reads import Reader
    from ocp_stripe_balance._calls.service import Service
    from ocp_stripe_balance._domain import Scope
    from ocp_stripe_balance._journal import Journal
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._stripe.client import StripeClient
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import CustomerBalanceTransaction, ToolResult

_REVERSES, _REVERSED_BY = "ocp_reverses", "ocp_reversed_by"
_LINK_TIMEOUT_S, _LEAST_LINK_TIMEOUT_S = 10.0, 1.0
_MOST = 99_999_999_999
_FIND_OUT = "Call again with the same parameters: an entry is reversed once."
_STAYS = "Stripe keeps this answer under the reversal's key for a day. A person can make the opposite entry."


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
        return cls(
            create=tool_at(tools, "POST", entries),
            list=tool_at(tools, "GET", entries),
            retrieve=tool_at(tools, "GET", entry),
            update=tool_at(tools, "POST", entry),
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
    scope: Scope
    deadline: float
    """When all of it must be over, in the loop's time."""


class Reversals:
    """
    Reversals of one registered API.
    """

    def __init__(  # noqa: PLR0913  what it is composed of
        self,
        *,
        tools: Sequence[ToolSpec],
        server: str,
        journal: Journal,
        service: Service,
        reader: Reader,
        client: StripeClient,
    ) -> None:
        """
        Prepare.
        """
        self._tools = tools
        self._server = server
        self._journal = journal
        self._service = service
        self._reader = reader
        self._client = client

    async def begin(
        self, order: Order, access: Access, deadline: float, *, is_preview: bool = False
    ) -> tuple[Call, Reversal] | Invalid | Refused | Failed:
        """
        The call that makes the opposite entry, and what it reverses; or why there is none.
        """
        try:
            wanted = await self._wanted(order, access, deadline)
            if isinstance(wanted, Invalid):
                return wanted
            named = replace(order, arguments={**order.arguments, "customer": wanted.customer})
            stop = await self._service.stop_at_gate(self._service.prepare(named, access), is_preview=is_preview)
            if stop is not None:
                return stop
            opposite = await self._opposite(wanted, order)
        except ToolError as error:
            return Failed(told_as_reversal(order.tool, error), error.__cause__)
        return (self._service.prepare(opposite, access), wanted) if isinstance(opposite, Order) else opposite

    async def finish(self, wanted: Reversal, ending: Ending) -> Ending:
        """
        How the call of a reversal ended, with the reversed entry marked where it succeeded.
        """
        try:
            result = ending.result()
        except ToolError as error:
            return Failed(told_as_reversal(wanted.tool, error), error.__cause__)
        return await self._link(wanted, result)

    async def customer_of(self, order: Order, access: Access, deadline: float) -> str | None:
        """
        The customer on whose balance the entry is, as the order says or the journal knows.

        Raises:
            NotSentError: the journal cannot be read.
        """
        named, transaction = order.tool.customer_of(order.arguments), order.arguments["transaction"]
        scope = scope_of(access, self._server)
        return named or await self._journal.run(lambda book: book.customer_of(transaction, scope), deadline, READING)

    async def _wanted(self, order: Order, access: Access, deadline: float) -> Reversal | Invalid:
        """
        What is to be reversed: whose entry it is says the order, else the journal.

        Raises:
            NotSentError: the journal cannot be read.
        """
        transaction, scope = order.arguments["transaction"], scope_of(access, self._server)
        customer = await self.customer_of(order, access, deadline)
        if customer is None:
            message = f"is missing, and the journal has no call that made {transaction}"
            hint = "pass the ID of the customer on whose balance the entry is"
            return Invalid([Problem(path="customer", message=message, hint=hint)], tool=order.tool.name)
        return Reversal(
            tool=order.tool,
            siblings=Siblings.of(order.tool, self._tools),
            transaction=transaction,
            customer=customer,
            access=access,
            scope=scope,
            deadline=deadline,
        )

    async def _opposite(self, wanted: Reversal, order: Order) -> Order | Invalid:
        """
        The order for the opposite entry, or for going on with one that was begun.

        Raises:
            ToolError: the entry could not be read, it was reversed already, or is none that can be.
        """
        scope = wanted.scope
        key = reversal_key(scope, wanted.transaction)
        begun = await self._journal.run(lambda book: book.find_key(key, scope), wanted.deadline, READING)
        if begun is not None and not reverses(begun.intent, wanted.customer):
            begun = None  # another call, which admission will name
        if begun is not None and begun.state is State.SUCCEEDED:
            raise already(wanted, begun.transaction_id)
        if begun is not None and begun.state.is_open:
            arguments = json.loads(begun.intent.arguments)
        else:
            entry = await self._entry(wanted)
            arguments = opposite_of(entry.id, wanted.customer, Money(entry.amount, entry.currency), order.arguments)
            now = self._journal.now()
            asked = await self._journal.run(
                lambda book: book.standing_proposal(key, scope, now), wanted.deadline, READING
            )
            is_standing = asked is not None and asked.state in {"waiting", "approved"}
            if asked is not None and is_standing and reverses(intent_of(asked), wanted.customer):
                arguments = asked.parameters  # the words that a person reads, or has read, stand
        if order.stated_effect is not None:
            moved = Money(arguments["amount"], arguments["currency"])
            wrong = check_stated_effect(wanted.tool, order.stated_effect, moved)
            if wrong is not None:
                return wrong
        return Order(
            tool=wanted.siblings.create,
            arguments=arguments,
            key=Key(key, Origin.REVERSAL),
            stated_effect=order.stated_effect,
        )

    async def _link(self, wanted: Reversal, result: ToolResult) -> Ending:
        """
        The result, after the reversed entry was marked; where that fails, with a warning.
        """
        if result.attempts == 0:  # another caller's, just now
            return Failed(already(wanted, result.data.get("id")))
        result = replace(result, tool=wanted.tool.name)
        key = f"{result.idempotency_key}-link"
        mark = {
            "customer": wanted.customer,
            "transaction": wanted.transaction,
            # Of an answer that is cut off, the ID may be what is missing.
            "metadata": {_REVERSED_BY: str(result.data.get("id") or result.idempotency_key)},
            "idempotency_key": key,
        }
        request = self._reader.request(wanted.siblings.update, mark, wanted.access)
        left_s = wanted.deadline - asyncio.get_running_loop().time()
        timeout_s = min(max(left_s, _LEAST_LINK_TIMEOUT_S), _LINK_TIMEOUT_S)
        try:
            await self._client.execute(request, tool=result.tool, idempotency_key=key, timeout_s=timeout_s)
        except ToolError as error:
            why = f"{wanted.transaction} could not be marked as reversed ({error.why.rstrip('.')})"
            warning = f"{why}; its reversal names it all the same"
            return Succeeded(replace(result, warnings=(*result.warnings, warning)))
        except asyncio.CancelledError as error:
            message = "The call was cancelled after it had succeeded; the result is in the journal."
            unknown = OutcomeUnknownError(
                message, tool=result.tool, idempotency_key=result.idempotency_key, hint=_FIND_OUT
            )
            return Failed(unknown, error)
        return Succeeded(result)

    async def _entry(self, wanted: Reversal) -> CustomerBalanceTransaction:
        """
        The entry, if it can be reversed and was not.
        """
        at = {"customer": wanted.customer, "transaction": wanted.transaction}
        entry = (await self._reader.fetch(wanted.siblings.retrieve, at, wanted.access, wanted.deadline)).transaction
        if entry is None or not _is_money(entry):
            message = (
                f"Nothing was sent: {wanted.transaction} could not be read (the answer is no balance transaction)."
            )
            hint = "Call again with the same parameters."
            raise NotSentError(message, hint=hint, next="call_again", tool=wanted.tool.name)
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
        async for other in self._reader.iterate(wanted.siblings.list, newer, wanted.access, wanted.deadline):
            if marks_of(other).get(_REVERSES) == wanted.transaction:
                raise already(wanted, other["id"])
        return entry


def _is_money(entry: CustomerBalanceTransaction) -> bool:
    """
    Whether an entry has an amount and a currency that one of ours could have.
    """
    return re.fullmatch("[a-z]{3}", entry.currency, re.ASCII) is not None and abs(entry.amount) <= _MOST


def told_as_reversal(tool: ToolSpec, error: ToolError) -> ToolError:
    """
    The error of a step, told as one of the reversal: its advice is not to follow with another key.
    """
    hint, stops = None, False
    if isinstance(error, OutcomeUnknownError) and error.next == "call_again":
        hint = _FIND_OUT
    elif isinstance(error, RejectedError) and error.is_verdict and error.idempotency_key is not None:
        hint, stops = _STAYS, True
    return error.told_of(tool.name, error.idempotency_key, hint, stops=stops)


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


def opposite_of(entry: str, customer: str, moved: Money, asked: Mapping[str, Any]) -> dict[str, Any]:
    """
    The parameters of the entry that takes back *entry*, with the words that were *asked* for.
    """
    return {
        "customer": customer,
        "amount": -moved.amount,
        "currency": moved.currency,
        "description": asked.get("description") or f"Reversal of {entry}",
        "metadata": {**(asked.get("metadata") or {}), _REVERSES: entry},
        # Tells it from any other entry of the same amount, and makes it one decision whoever asks.
        "reference": f"reversal of {entry}",
    }
