"""
One call of a tool in a session: joined where it is made twice, and put to a person in the client.

A proposal is a row of the journal, and so is what was decided about it. The client only carries the question and the
answer: after it, the same call is made again, and goes on where a yes is on record.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from mcp_types import ElicitRequest, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ocp_stripe_balance._calls.call import in_one_spelling
from ocp_stripe_balance._tools.validation import KEY_PARAMETER, parameter_validator
from ocp_stripe_balance.errors import ApprovalRequiredError
from ocp_stripe_balance.mcp.questions import decision_in, question
from ocp_stripe_balance.serving.desk import landed

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from mcp.server import ServerRequestContext
    from mcp_types import CallToolRequestParams

    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import Proposal, ToolResult
    from ocp_stripe_balance.serving.desk import Desk
    from ocp_stripe_balance.serving.flights import Flight

ANSWER_WITHIN_S = 600.0
"""How long a client may take to answer; the proposal waits on in the queue."""
_APPROVAL = "approval"
_TICK_S = 5.0


class AskedError(Exception):
    """
    The call waits for an answer that the client brings with the same call.
    """

    def __init__(self, proposal: Proposal) -> None:
        """
        Ask about *proposal*.
        """
        super().__init__(proposal.id)
        asked = ElicitRequest(params=question(proposal))
        self.result = InputRequiredResult(input_requests={_APPROVAL: asked}, request_state=proposal.id)


class Visit:
    """
    One request to call a tool, as the agent that `run_tool_call` calls through.
    """

    def __init__(self, desk: Desk, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> None:
        """
        Take the request; its state is one that this server sealed, or None.
        """
        self._desk = desk
        self._ctx = ctx
        self._state, self._answers = params.request_state, params.input_responses
        # Who answered is not asked again.
        is_on = desk.settings.policy_in_force.approval.hears_clients
        self._may_ask = is_on and self._state is None and _shows_forms(ctx)

    def list_tools(self) -> list[ToolSpec]:
        """
        The tools there are.
        """
        return self._desk.offered

    def get_tool(self, tool_name: str) -> ToolSpec | None:
        """
        The tool of that name, short or long, or None.
        """
        return self._desk.tools.get(tool_name)

    async def call_tool(
        self, tool_name: str, parameters: Mapping[str, Any], *, idempotency_key: object = None
    ) -> ToolResult:
        """
        Call a tool once, together with the same call of this session where that is under way.

        Raises:
            ToolError: it did not succeed.
            AskedError: the client is asked.
        """
        del idempotency_key  # JSON-RPC's IDs name no decision
        tool = self._desk.tools[tool_name]
        self._desk.count()
        if self._state is not None:
            decision = decision_in((self._answers or {}).get(_APPROVAL))
            proposal = await self._desk.decide(self._state, decision=decision)
            parameters = _again(tool, parameters, proposal)
        flight = self._desk.join(tool, self._name_of(tool, parameters), partial(self._make, tool, parameters))
        ticks = asyncio.create_task(self._tick(flight))
        try:
            return await landed(flight, tool)
        finally:
            ticks.cancel()

    async def _make(self, tool: ToolSpec, parameters: Mapping[str, Any], flight: Flight) -> ToolResult:
        try:
            return await self._desk.call(tool, parameters)
        except ApprovalRequiredError as waiting:
            if not self._may_ask:
                raise
            proposal = await self._desk.decide(waiting.proposal_id)
        if self._ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            raise AskedError(proposal)
        flight.is_asking = True
        decision = await self._decision_on(proposal)
        flight.is_asking = False
        proposal = await self._desk.decide(proposal.id, decision=decision)
        return await self._desk.call(tool, _again(tool, parameters, proposal))

    async def _decision_on(self, proposal: Proposal) -> bool | None:
        """
        What the client answers while the call waits; None where that is nothing, or nothing in time.
        """
        asked, session = question(proposal), self._ctx.session
        with contextlib.suppress(Exception):  # a client that fails, or sends what is no answer, has not approved
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = await session.elicit_form(asked.message, asked.requested_schema, self._ctx.request_id)
            return decision_in(answer)
        return None

    async def _tick(self, flight: Flight) -> None:
        """
        Tell the client every few seconds that the call is under way, where it wants to know.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._ctx.meta and "progress_token" in self._ctx.meta:
            await asyncio.sleep(_TICK_S)
            doing = "waiting for a person" if flight.is_asking else "waiting for its turn"
            doing = "sent, waiting for Stripe's answer" if flight.sent.is_set() else doing
            with contextlib.suppress(Exception):  # the client is gone, which the call itself will notice
                await self._ctx.session.report_progress(round(loop.time() - began, 3), message=doing)

    def _name_of(self, tool: ToolSpec, parameters: Mapping[str, Any]) -> Hashable:
        """
        What makes two calls of a session the same; a call that is not valid is like no other.
        """
        arguments, problems = parameter_validator(tool).check(parameters)
        if problems:
            return object()
        headers = getattr(self._ctx.request, "headers", {})  # of HTTP, where a server has many sessions
        return headers.get("mcp-session-id"), self._may_ask, tool.name, in_one_spelling(tool, arguments)


def _again(tool: ToolSpec, parameters: Mapping[str, Any], proposal: Proposal) -> dict[str, Any]:
    """
    The same call, by the name of what was decided.
    """
    return {**parameters, KEY_PARAMETER: proposal.key} if KEY_PARAMETER in tool.parameters else dict(parameters)


def _shows_forms(ctx: ServerRequestContext[Any, Any]) -> bool:
    """
    Whether the client says that it can ask a person; before there were links, forms were not named.
    """
    capabilities = ctx.session.client_capabilities
    asks = capabilities.elicitation if capabilities else None
    return asks is not None and (asks.form is not None or asks.url is None)
