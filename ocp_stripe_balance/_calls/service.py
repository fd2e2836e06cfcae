"""
The way of a call, straight down: each step returns a value, and nothing calls back into a door.

    1 take_order   the schema, then the stated effect                    Invalid
    2 prepare      key, money, bytes: fixed here, and never again
    3 customers    the customer as Stripe has it, where it is not known  Failed
    4 admit        one transaction: the call it repeats, every rule,     Refused | Waiting | Repeated | Busy | ...
                   the proposal, and the row that reserves the call
    5 deliver      the bytes to Stripe, under one key, until settled;    Succeeded | Failed | Interrupted
                   then the outcome on record
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from ocp_stripe_balance._calls import approvers
from ocp_stripe_balance._calls.call import Call, prepare, scope_of
from ocp_stripe_balance._calls.endings import (
    Busy,
    Cancelled,
    Conflict,
    CustomerWanted,
    Failed,
    Interrupted,
    Invalid,
    Ready,
    Refused,
    Waiting,
)
from ocp_stripe_balance._calls.order import Order, take_order
from ocp_stripe_balance._domain import Caller, Origin, Outcome, State
from ocp_stripe_balance._journal import READING
from ocp_stripe_balance._tools.validation import parameter_validator
from ocp_stripe_balance.errors import NotSentError, ResourceMissingError, ToolError

if TYPE_CHECKING:
    from ocp_stripe_balance._calls.admission import Admission, Admitted
    from ocp_stripe_balance._calls.customers import CustomerDirectory, SeenCustomer
    from ocp_stripe_balance._calls.delivery import Delivery
    from ocp_stripe_balance._calls.endings import Ending
    from ocp_stripe_balance._domain import Context, Mode
    from ocp_stripe_balance._journal import Book, Journal
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.settings import Settings

_POLL_S = 0.02
_MAX_POLL_S = 0.25
# What is put on record after the call is over is waited for no longer; it is written all the same.
_AFTERWARDS_S = 1.0


class Service:
    """
    The calls of one registered API.
    """

    def __init__(  # noqa: PLR0913  what it is composed of
        self,
        *,
        server: str,
        settings: Settings,
        context: Context,
        journal: Journal,
        admission: Admission,
        customers: CustomerDirectory,
        delivery: Delivery,
    ) -> None:
        """
        Compose; nothing is opened before the first call.

        Args:
            server: the name of the one that answers, within which keys and budgets are counted.
            settings: of the agent.
            context: of the agent, as it is when a call is made.
            journal: the record of calls.
            admission: whether a call may go.
            customers: the customers as Stripe has them.
            delivery: the way to Stripe, and the outcome on record.
        """
        self._server = server
        self._settings = settings
        self._context = context
        self._journal = journal
        self._admission = admission
        self._customers = customers
        self._delivery = delivery

    async def call(self, call: Call, deadline: float) -> Ending:
        """
        What becomes of a prepared call by *deadline*, in the loop's time: sent, or answered from the one it repeats.
        """
        loop = asyncio.get_running_loop()
        seen = self._customers.seen(call)
        try:
            admitted = await self._admit(call, seen, deadline)
            while isinstance(admitted, CustomerWanted):
                seen = await self._look_at_customer(call, seen, deadline)
                if loop.time() >= deadline:  # of a call that may have been sent before, no customer is wanted
                    message = "Nothing was sent: the call's deadline had passed before it could be."
                    raise NotSentError(message, hint="Call again with the same parameters.", next="call_again")
                admitted = await self._admit(call, seen, deadline)
        except ToolError as error:
            return Failed(error.told_of(call.intent.tool, call.intent.key.text), error.__cause__)
        if not isinstance(admitted, Ready):
            return admitted
        notes = (*seen.warnings, *_fixed_currency(admitted, seen))
        ready = replace(admitted, notes=(*notes, *admitted.notes)) if notes else admitted
        return await self._delivery.deliver(call, ready, max(deadline - loop.time(), 0.001))

    def take(
        self, tool: ToolSpec, parameters: object, access: Access, idempotency_key: object = None
    ) -> Order | Invalid:
        """
        The order that *parameters* make, or all that is wrong with them.
        """
        return take_order(
            tool,
            parameter_validator(tool),
            parameters,
            (access.idempotency_key, idempotency_key),
            tags_calls=self._settings.tag_calls,
            api_key=access.api_key,
        )

    async def recognised(self, order: Order, access: Access) -> Order:
        """
        The order, without a key of the model's that nobody was told.

        Raises:
            NotSentError: the journal cannot be read.
        """
        key = order.key
        if key is None or key.origin is not Origin.MODEL:
            return order
        scope, now = scope_of(access, self._server), self._journal.now

        def tools(book: Book) -> set[str]:
            record, proposal = book.find_key(key.text, scope), book.standing_proposal(key.text, scope, now())
            return {record.intent.tool if record else "", proposal.tool if proposal else ""}

        return order if order.tool.name in await self._journal.run(tools) else order.without_key()

    def prepare(self, order: Order, access: Access, mode: Mode | None = None) -> Call:
        """
        The call that an order makes, in the mode of the API key or in *mode*.
        """
        user = self._context.user
        caller = Caller(self._context.context_id, self._context.agent_type, None if user is None else str(user))
        scope = scope_of(access, self._server, mode)
        return prepare(order, access, scope, caller, tags_calls=self._settings.tag_calls)

    async def _admit(
        self, call: Call, seen: SeenCustomer, deadline: float
    ) -> Admitted | Cancelled | Interrupted | Failed:
        """
        Step 4; where another caller is sending this very call, its outcome is waited for until the deadline.

        Raises:
            NotSentError: the journal cannot be used.
        """
        loop, poll_s = asyncio.get_running_loop(), _POLL_S

        def work(book: Book) -> Admitted:
            now = self._journal.now()
            lease = self._journal.leases.new(now + self._settings.timeout)
            return self._admission.admit(book, call, seen, lease, now)

        while True:
            try:
                admitted, stop = await self._journal.finish(work, deadline, self._journal.reach(call.intent))
            except asyncio.CancelledError as error:
                return _cancelled_unread(call, error)
            if stop is not None:
                return await self._give_up(call, admitted, stop)
            if not isinstance(admitted, Busy):
                return admitted
            poll_s = min(poll_s * 1.5, _MAX_POLL_S, max(deadline - loop.time(), 0.0))
            try:
                await asyncio.sleep(poll_s)
            except asyncio.CancelledError as error:
                return Interrupted(admitted.record.intent, error)
            if loop.time() >= deadline:
                return admitted

    async def _give_up(
        self, call: Call, admitted: Admitted, stop: asyncio.CancelledError | NotSentError
    ) -> Cancelled | Interrupted | Failed:
        """
        What a caller is told who was cancelled meanwhile, or whose row others may not see.

        That nothing was sent only where nothing can have moved.
        """
        if isinstance(admitted, Ready):
            record, now = admitted.record, self._journal.now
            state = State.UNKNOWN if admitted.is_resumed else State.NOT_SENT
            outcome = Outcome(state, note="stopped before it was sent")
            deadline = asyncio.get_running_loop().time() + _AFTERWARDS_S
            reach = self._journal.reach(record.intent)
            written = await self._journal.owe(lambda book: book.settle(record, outcome, now()), deadline, reach)
            is_nothing_sent = written.result is not False and not admitted.is_resumed
        else:
            if isinstance(admitted, Waiting) and admitted.is_new:
                await approvers.take_back(admitted, self._journal, "approval", "the question was cancelled")
            is_nothing_sent = isinstance(admitted, Conflict | Refused | Waiting | CustomerWanted)
        found = getattr(admitted, "record", None)
        intent = call.intent if found is None else found.intent
        if isinstance(stop, asyncio.CancelledError):
            return Cancelled(stop) if is_nothing_sent else Interrupted(intent, stop)
        if is_nothing_sent:
            return Failed(stop.told_of(intent.tool, intent.key.text), stop.__cause__)
        return Interrupted(
            intent, stop, "The journal cannot be used, and the call repeats one that may have been sent."
        )

    async def _look_at_customer(self, call: Call, seen: SeenCustomer, deadline: float) -> SeenCustomer:
        """
        Step 3. Where it was known and only its balance was to be read, what is known is enough.

        Raises:
            ToolError: there is no such customer, or it could not be read.
        """
        known = self._customers.seen(call)
        if seen.customer is None and known.customer is not None:
            return known  # it was read meanwhile, for another call
        try:
            return await self._customers.read(call, deadline)
        except ToolError as error:
            if seen.customer is not None and not isinstance(error, ResourceMissingError):
                return seen._replace(is_of_now=True)
            await self._note_refusal(call, "customer_check", str(error.args[0]))
            raise

    async def stop_at_gate(self, call: Call, *, is_preview: bool = False) -> Refused | None:
        """
        Why a call in this mode and for this customer may not go at all, whatever else it is; None where it may.
        """
        stop = self._admission.gate(call.intent)
        if stop is not None and not is_preview:
            await self._note_refusal(call, stop.finding.rule, stop.finding.words().message)
        return stop

    async def _note_refusal(self, call: Call, rule: str, reason: str) -> None:
        """
        Put a refusal in the audit; it holds also where that fails.
        """
        now, deadline = self._journal.now, asyncio.get_running_loop().time() + _AFTERWARDS_S
        written = await self._journal.owe(
            lambda book: book.note(call.intent, "refused", now(), rule=rule, reason=reason), deadline, READING
        )
        if written.cancelled is not None:
            raise written.cancelled


def _fixed_currency(ready: Ready, seen: SeenCustomer) -> tuple[str, ...]:
    """
    What is told where an entry gives its customer a currency, which nothing changes afterwards.
    """
    moved, customer = ready.record.intent.money, seen.customer
    if moved is None or customer is None or customer.currency is not None or ready.is_resumed:
        return ()
    return (f"{ready.record.intent.customer} had no currency, and this entry made it {moved.currency} for good",)


def _cancelled_unread(call: Call, error: asyncio.CancelledError) -> Cancelled | Interrupted:
    """
    What a caller is told who was cancelled before the journal could be asked whether the call was sent before.
    """
    if call.intent.key.origin is Origin.DRAWN:  # it was never told to anybody
        return Cancelled(error)
    return Interrupted(
        call.intent,
        error,
        "The call was cancelled and sent nothing, but the journal could not be asked whether it was sent before.",
    )
