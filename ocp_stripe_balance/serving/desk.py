"""
The tools of one caller, over all sessions of a server, and what is decided about that caller's calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from anyio import CancelScope

from ocp_stripe_balance._policy import load_policy
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance._tools.validation import KEY_PARAMETER
from ocp_stripe_balance.agent import OCPAgent
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.errors import ConfigurationError, IdempotencyConflictError, NotSentError, PolicyRefusedError
from ocp_stripe_balance.models import shown_digest
from ocp_stripe_balance.serving.flights import Flights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Hashable, Iterable, Mapping

    from ocp_stripe_balance._journal import Journal
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import Proposal, ToolResult
    from ocp_stripe_balance.serving.flights import Flight, Work
    from ocp_stripe_balance.serving.tokens import Token
    from ocp_stripe_balance.settings import Settings

GRACE_S = 1.0
"""For calls under way where the server is ended: hosts kill it 2 s later, and then nobody is told that one was sent."""
_ANSWERING_S = 1.0
_MINUTE_S = 60.0
RATE = "token.rate"
"""The rule that refuses a call which is one too many for its token."""


class Desk:
    """
    The tools of one caller, over all sessions of a server.
    """

    def __init__(  # noqa: PLR0913  who calls, what may be called, and what is shared
        self,
        caller: str,
        settings: Settings,
        *,
        names: Iterable[str] | None = None,
        is_read_only: bool = False,
        agent_type: str = "mcp",
        journal: Journal | None = None,
        limits: Token | None = None,
    ) -> None:
        """
        Choose the tools.

        Args:
            caller: who asks, for the policy, the budgets and the audit.
            settings: of the calls.
            names: of the tools that there are, short or long; by default all.
            is_read_only: whether there are only those that change nothing.
            agent_type: what asks, for the policy, the budgets and the audit.
            journal: that several callers of one server share; by default one of its own.
            limits: of the caller's token: a policy in place of that of the settings, tools, and calls per minute.

        Raises:
            ConfigurationError: a name is that of no tool, no tool is left, or the policy cannot be read.
        """
        if limits is not None and limits.policy is not None:
            settings = settings.model_copy(update={"policy": load_policy(limits.policy)})
        self.caller, self.settings, self._journal = caller, settings, journal
        self.offered = _chosen(names, None if limits is None else limits.tools, is_read_only=is_read_only)
        self._rate = None if limits is None else limits.rate
        self._is_discreet = limits is not None  # else there is one caller, whose journal it is
        self._called_at: deque[float] = deque()
        self.tools = {name: tool for tool in self.offered for name in tool.names}
        self.agent = OCPAgent(agent_type=agent_type, user=caller, settings=settings, journal=journal)
        self.flights = Flights()
        self.joined: set[str] = set()
        """Proposals of other callers that calls of this one wait for too."""
        self.is_closed = False
        """Whether it takes no more calls, because the server ends."""
        self._requests: set[asyncio.Task[Any]] = set()

    @contextlib.asynccontextmanager
    async def open(self, _server: object) -> AsyncIterator[None]:
        """
        Be open for calls; at the end, those under way land: all where the client left, soon where the server is ended.
        """
        await self.agent.register_api("stripe")
        patience_s = None
        try:
            yield
        except asyncio.CancelledError:
            patience_s = GRACE_S
            raise
        finally:
            with CancelScope(shield=True):
                try:
                    await self.flights.land(patience_s)
                finally:
                    await self.agent.aclose()

    def received(self, request: asyncio.Task[Any]) -> None:
        """
        Know the task that answers a request.
        """
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    def count(self) -> None:
        """
        Count a call of a tool.

        Raises:
            PolicyRefusedError: it is one too many within a minute.
        """
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        while self._called_at and self._called_at[0] <= now - _MINUTE_S:
            self._called_at.popleft()
        if len(self._called_at) >= self._rate:
            raise PolicyRefusedError(
                f"Nothing was sent: {self.caller} makes at most {self._rate} calls within a minute.",
                rule=RATE,
                limit=str(self._rate),
                left="0",
                next="call_again",
                hint="Wait, then call again.",
                after_seconds=math.ceil(self._called_at[0] + _MINUTE_S - now),
            )
        self._called_at.append(now)

    def join(self, tool: ToolSpec, name: Hashable, work: Work) -> Flight:
        """
        The call of that name that is under way, or a new one.

        Raises:
            NotSentError: no more calls are taken.
        """
        if self.is_closed:
            raise _ended(tool)
        return self.flights.join(name, work)

    async def call(self, tool: ToolSpec, parameters: Mapping[str, Any], key: str | None = None) -> ToolResult:
        """
        The result of a call, which says nothing of what another caller's was.

        Raises:
            ToolError: it did not succeed.
        """
        try:
            return await self.agent.call_tool(tool.name, parameters, idempotency_key=key)
        except IdempotencyConflictError as error:
            if not self._is_discreet or await self._is_own(error.idempotency_key or ""):
                raise
        message = "Nothing was sent: the idempotency key, or the reference, belongs to a call of another caller."
        hint = "For another decision, use another key, and another reference where it has another reason."
        own_key = key or parameters.get(KEY_PARAMETER)
        raise IdempotencyConflictError(message, hint=hint, tool=tool.name, idempotency_key=own_key)

    async def _is_own(self, key: str) -> bool:
        """
        Whether nobody else has calls or proposals of that key.
        """
        try:
            async with BackOffice(self.settings, self._journal) as office:
                told = await office.pages.told(key)
        except NotSentError:
            return False
        users = {each.intent.caller.user for each in told.records} | {each.user for each in told.proposals}
        return users <= {self.caller}

    async def close(self, patience_s: float | None = None) -> None:
        """
        Take no more calls, let those under way land, and wait until each is answered, before a transport cuts them off.
        """
        self.is_closed = True
        await self.flights.land(patience_s)
        if self._requests:
            await asyncio.wait(self._requests, timeout=_ANSWERING_S)

    async def decide(self, proposal_id: str, *, decision: bool | None = None) -> Proposal:
        """
        The proposal as it stands once an answer, if there is one, is on record; the first one counts.

        Raises:
            NotSentError: the journal does not have it, or cannot be used.
            PolicyRefusedError: the caller's yes does not count.
        """
        try:
            async with BackOffice(self.settings, self._journal) as office, asyncio.timeout(self.settings.timeout):
                proposal = await office.proposal(proposal_id)
                if decision is None:
                    return proposal
                decide = proposal.approve if decision else proposal.deny
                by, shown = f"{self.caller} in the session", shown_digest(proposal)
                answer = decide(by=by, how="session", shown=shown, person=self.caller)
                return await office.decide(answer) or proposal
        except TimeoutError as error:
            message = "Nothing was sent: the journal was busy until the deadline."
            hint = f"Call again; what was decided about {proposal_id} is in the journal."
            raise NotSentError(message, hint=hint, next="call_again") from error


async def landed(flight: Flight, tool: ToolSpec) -> ToolResult:
    """
    The result of a call under way, for one of those who wait.

    Raises:
        ToolError: it did not succeed, or was not sent before the server ended.
        asyncio.CancelledError: whoever waits was cancelled.
    """
    try:
        return await flight.result()
    except asyncio.CancelledError:
        if flight.task.cancelled():  # not whoever waits: the server is ended
            raise _ended(tool) from None
        raise


def _ended(tool: ToolSpec) -> NotSentError:
    """
    What a caller is told whose call came too late.
    """
    message = "Nothing was sent: the server is being ended."
    return NotSentError(message, hint="Call again when it is back.", next="call_again", tool=tool.name)


def _chosen(names: Iterable[str] | None, allowed: Collection[str] | None, *, is_read_only: bool) -> list[ToolSpec]:
    tools = load_manifest().tools
    known = {name: tool for tool in tools for name in tool.names}
    wanted = [tool.name for tool in tools] if names is None else list(names)
    unknown = [name for name in wanted if name not in known]
    chosen = {known[name].name: known[name] for name in wanted if name in known}
    left = [
        tool
        for tool in chosen.values()
        if (tool.reads or not is_read_only) and (allowed is None or tool.name in allowed)
    ]
    if unknown or not left:
        message = f"{unknown[0]} is not a tool." if unknown else "No tool is left to offer."
        shorts = ", ".join(tool.short_name for tool in tools if tool.reads or not is_read_only)
        raise ConfigurationError(message, hint=f"The tools are {shorts}.")
    return left
