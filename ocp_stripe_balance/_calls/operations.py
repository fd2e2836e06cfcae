"""
Everything a registered API can do, composed of the rooms; imported only when the first of it is asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._calls import approvers
from ocp_stripe_balance._calls.admission import Admission
from ocp_stripe_balance._calls.call import Approval, Call
from ocp_stripe_balance._calls.customers import CustomerDirectory
from ocp_stripe_balance._calls.delivery import Delivery
from ocp_stripe_balance._calls.endings import Failed, Invalid, Noted, Succeeded, Waiting
from ocp_stripe_balance._calls.lookout import Lookout
from ocp_stripe_balance._calls.many import Many
from ocp_stripe_balance._calls.order import Order
from ocp_stripe_balance._calls.preview import Previews
from ocp_stripe_balance._calls.reads import Reader
from ocp_stripe_balance._calls.recovery import Recovery
from ocp_stripe_balance._calls.remarks import missing, told_of_deleted, with_remarks
from ocp_stripe_balance._calls.reversal import Reversals
from ocp_stripe_balance._calls.service import Service
from ocp_stripe_balance._stripe.client import StripeClient
from ocp_stripe_balance._stripe.network import Network
from ocp_stripe_balance._stripe.pace import pace_of
from ocp_stripe_balance._tools.manifest import tool_at
from ocp_stripe_balance.errors import (
    ConfigurationError,
    InvalidParametersError,
    Problem,
    ResourceMissingError,
    ToolError,
)
from ocp_stripe_balance.settings import server_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from ocp_stripe_balance._calls.endings import Ending
    from ocp_stripe_balance._domain import Mode
    from ocp_stripe_balance._host.contract import APIOptions
    from ocp_stripe_balance._policy import Finding
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import DryRun, ReconcileResult

_HOW_TO_GIVE_A_KEY = (
    "A person must give an API key in one of three ways: set STRIPE_SECRET_KEY, set STRIPE_API_KEY, or in code pass "
    "headers={'Authorization': 'Bearer sk_test_…'} to register_api or call_tool."
)
_WITHOUT_ACCOUNT = (
    "To try the tool without a Stripe account, run 'ocp-stripe-balance sandbox' and set the two variables it prints."
)
_CUSTOMER = "/v1/customers/{customer}"


class Operations:
    """
    The calls of one registered API.
    """

    def __init__(self, base_url: str, tools: Sequence[ToolSpec], options: APIOptions) -> None:
        """
        Compose; nothing is opened before the first call.
        """
        server = server_of(base_url)
        settings, context, approver = options.settings, options.context, options.approver
        self._server, self._context, self._policy = server, context, settings.policy_in_force
        self._timeout_s = settings.timeout
        self._default_currency = settings.policy_in_force.default_currency
        self.journal = options.journal.opened()
        if self._policy.counts:  # it may have been opened for another policy
            self.journal.count()
        self._approver = approver
        self._client = StripeClient(
            timeout_s=settings.timeout,
            max_attempts=settings.max_attempts,
            network=Network.of(settings),
            transport=options.transport,
            has_details=settings.trace_details,
            pace=pace_of(settings.rate_limit, server, self.journal.part_of, gives_way=options.plan is not None),
        )
        self._reader = Reader(base_url, context, settings, self._client)
        self._retrieve_customer = tool_at(tools, "GET", _CUSTOMER)
        self._customers = CustomerDirectory(self._read_customer, is_on=settings.customer_check == "on")
        admission = Admission(
            settings, can_ask=approver is not None, asks_always=options.asks_always, plan=options.plan
        )
        delivery = Delivery(base_url, self.journal, self._client, context, shares_context=settings.share_context)
        self._service = Service(
            server=server,
            settings=settings,
            context=context,
            journal=self.journal,
            admission=admission,
            customers=self._customers,
            delivery=delivery,
        )
        self._previews = Previews(self.journal, admission, self._customers, delivery, self._reader)
        self._recovery = Recovery(tools, server, self.journal, self._reader, timeout_s=settings.timeout)
        self._lookout = Lookout(settings.policy_in_force, self.journal, self._recovery)
        self._reversals = Reversals(
            tools=tools,
            server=server,
            journal=self.journal,
            service=self._service,
            reader=self._reader,
            client=self._client,
        )

    async def call(self, tool: ToolSpec, parameters: object, access: Access, idempotency_key: object) -> Ending:
        """
        How a call ends; where it waits for a person and there is an approver, after that one decided.
        """
        order = await self._take(tool, parameters, access, idempotency_key)
        if not isinstance(order, Order):
            return order
        ending = await self._unless_deleted(order, access, await self._carry_out(order, access))
        return Noted(ending, order.notes) if order.notes else ending

    async def _carry_out(self, order: Order, access: Access) -> Ending:
        tool, deadline = order.tool, self._deadline()
        if tool.reads:
            return await self._read(order, access, deadline)
        if not tool.reverses:
            return await self._make(self._service.prepare(order, access), deadline)
        begun = await self._reversals.begin(order, access, deadline)
        if not isinstance(begun, tuple):
            return begun
        opposite, wanted = begun
        return await self._reversals.finish(wanted, await self._make(opposite, deadline))

    async def iterate(self, tool: ToolSpec, parameters: object, access: Access) -> AsyncGenerator[Any, None]:
        """
        The items of a list one by one, a page at a time.

        Raises:
            InvalidParametersError: the call breaks the schema, or the tool does not list.
            ToolError: the policy does not allow it, or a page could not be read.
        """
        order = await self._take(tool, parameters, access, None)
        if not isinstance(order, Order):
            raise order.error
        if tool.page_size is None:
            message, hint = f"{tool.name} does not return a list", "call it with call_tool"
            raise InvalidParametersError([Problem(path="tool_name", message=message, hint=hint)])
        stop = await self._service.stop_at_gate(self._service.prepare(order, access))
        if stop is not None:
            raise stop.error
        try:
            async for item in self._reader.iterate(tool, order.arguments, access):
                yield item
        except ResourceMissingError as error:
            (await self._unless_deleted(order, access, Failed(error, error.__cause__))).result()

    async def preview(self, tool: ToolSpec, parameters: object, access: Access, idempotency_key: object) -> DryRun:
        """
        What `call` would send, and whether it would. Moves nothing and records nothing, though the customer is read.

        Raises:
            ToolError: it would not come so far that a rule is asked.
        """
        order, deadline = await self._take(tool, parameters, access, idempotency_key), self._deadline()
        if not isinstance(order, Order):
            raise order.error
        if tool.reverses:
            begun = await self._reversals.begin(order, access, deadline, is_preview=True)
            if not isinstance(begun, tuple):
                raise begun.error
            call = begun[0]
        else:
            call = self._service.prepare(order, access)
        foreseen = await self._previews.preview(call, deadline)
        return replace(foreseen, warnings=(*order.notes, *foreseen.warnings))

    async def explain(
        self, tool: ToolSpec, parameters: object, access: Access, mode: Mode
    ) -> tuple[list[Finding], DryRun]:
        """
        What every rule says of a call in that mode, and what would become of it. No key is needed.

        Raises:
            InvalidParametersError: the call breaks the schema.
            NotSentError: the journal cannot be read.
        """
        key = parameters.get("idempotency_key") if isinstance(parameters, dict) else None  # of whoever asks: a person
        order = self._service.take(tool, parameters, access, key)
        if isinstance(order, Invalid):
            raise order.error
        said, foreseen = await self._previews.explain(self._service.prepare(order, access, mode))
        return said, replace(foreseen, warnings=(*order.notes, *foreseen.warnings))

    def many(self, access: Access) -> Many:
        """
        Many calls at once.
        """
        return Many(
            server=self._server,
            access=access,
            context=self._context,
            policy=self._policy,
            journal=self.journal,
            service=self._service,
            previews=self._previews,
            customers=self._customers,
        )

    async def resume(self, key: str, access: Access) -> Ending:
        """
        How the recorded call of that key ends, sent again under the same key where its outcome is open.
        """
        if access.api_key is None:
            return _no_key("resume")
        deadline = self._deadline()
        found = await self._recovery.find(key, access, deadline)
        return await self._make(found, deadline) if isinstance(found, Call) else found

    async def reconcile(self, access: Access, progress: Callable[[int, int], None]) -> list[ReconcileResult]:
        """
        Settle every unknown or interrupted call by reading Stripe; moves no money.

        Raises:
            NotSentError: there is no API key, or the journal cannot be used.
        """
        if access.api_key is None:
            raise _no_key("reconcile").error
        return await self._recovery.reconcile(access, progress)

    async def aclose(self) -> None:
        """
        Give up reads that are under way, close the connections and the journal.
        """
        await self._customers.aclose()
        await self._client.aclose()
        await self.journal.aclose()

    async def _take(
        self, tool: ToolSpec, parameters: object, access: Access, idempotency_key: object
    ) -> Order | Invalid | Failed:
        order = self._service.take(tool, parameters, access, idempotency_key)
        if isinstance(order, Invalid):
            return order
        if access.api_key is None:
            return _no_key(tool.name)
        try:
            return await self._service.recognised(order, access)
        except ToolError as error:
            return Failed(error.told_of(tool.name, None if order.key is None else order.key.text), error.__cause__)

    def _deadline(self) -> float:
        """
        When what begins now must be over, its reads included, in the loop's time.
        """
        return asyncio.get_running_loop().time() + self._timeout_s

    async def _make(self, call: Call, deadline: float) -> Ending:
        while True:
            ending = await self._service.call(call, deadline)
            if self._approver is None or not isinstance(ending, Waiting):
                return ending
            has_said_yes = call.approval is not None and call.approval.proposal.id == ending.proposal.id
            if has_said_yes and self._policy.approval.queue:  # where somebody else says it too
                return ending
            said = await approvers.ask(self._approver, ending, self.journal, self._policy)
            if isinstance(said, Approval):
                call, deadline = call._replace(approval=said), self._deadline()  # a person's time is not the call's
            elif said is not None:
                return said

    async def _read(self, order: Order, access: Access, deadline: float) -> Ending:
        call = self._service.prepare(order, access)
        stop = await self._service.stop_at_gate(call)
        if stop is not None:
            return stop
        try:
            if order.tool.effect.source == "journal":
                return await self._lookout.look(call, deadline)
            told = await self._reader.fetch(order.tool, order.arguments, access, deadline)
            return Succeeded(with_remarks(told, self._default_currency))
        except ToolError as error:
            return Failed(error, error.__cause__)

    async def _unless_deleted(self, order: Order, access: Access, ending: Ending) -> Ending:
        """
        How a call ended, which says so where the customer that Stripe does not find was deleted.
        """
        try:
            error = missing(ending)
            if error is None or order.tool is self._retrieve_customer:
                return ending
            deadline = self._deadline()
            if order.tool.reverses:
                customer = await self._reversals.customer_of(order, access, deadline)
            else:
                customer = order.tool.customer_of(order.arguments)
            if customer is None:
                return ending
            at = {"customer": customer}
            found = (await self._reader.fetch(self._retrieve_customer, at, access, deadline)).customer
        except ToolError:
            return ending
        return Failed(told_of_deleted(error, customer)) if found is not None and found.deleted else ending

    async def _read_customer(self, call: Call) -> Any:
        at = {"customer": call.intent.customer}
        return (await self._reader.fetch(self._retrieve_customer, at, call.access, self._deadline())).data


def _no_key(tool: str) -> Failed:
    message = "Nothing was sent: there is no API key."
    return Failed(ConfigurationError(message, hint=_HOW_TO_GIVE_A_KEY, for_people=_WITHOUT_ACCOUNT, tool=tool))
