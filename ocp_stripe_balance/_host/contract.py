"""
What a host of agents and the APIs it registers know of each other: who the agent is, and what an API can do.
"""

from __future__ import annotations

import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from ocp_stripe_balance._process.forking import no_fork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    import httpx

    from ocp_stripe_balance._domain import Context, PlanInHand
    from ocp_stripe_balance._journal import Journal
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import Answer, DryRun, Proposal, ReconcileResult, ToolResult
    from ocp_stripe_balance.settings import Settings

_MAX_HISTORY = 1000


@dataclass(slots=True, kw_only=True)
class AgentContext:
    """
    Who the agent is, and what it did lately; the fields of OCP's context object (ocp-context.json).
    """

    agent_type: str = "ai_agent"
    user: str | None = None
    workspace: str | None = None
    current_goal: str | None = None
    context_summary: str | None = None
    context_id: str = field(default_factory=lambda: f"ocp-{uuid.uuid4().hex[:16]}")
    api_specs: dict[str, str] = field(default_factory=dict)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    last_updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    history: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_MAX_HISTORY))
    """The newest interactions: ``{timestamp, action, api_endpoint, result, metadata}``, without call parameters."""
    interaction_count: int = 0

    def add_interaction(
        self,
        action: str,
        api_endpoint: str | None = None,
        result: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """
        Note what was done.
        """
        self.last_updated = datetime.now(UTC)
        self.interaction_count += 1
        self.history.append(
            {
                "timestamp": self.last_updated.isoformat(),
                "action": action,
                "api_endpoint": api_endpoint,
                "result": result,
                "metadata": metadata or {},
            }
        )

    def update_goal(self, goal: str, summary: str | None = None) -> None:
        """
        Set what the agent is after.
        """
        self.current_goal = goal
        self.context_summary = summary or self.context_summary
        self.last_updated = datetime.now(UTC)

    def to_dict(self) -> dict[str, Any]:
        """
        The context as JSON, as ocp-context.json prescribes.
        """
        return {
            "context_id": self.context_id,
            "agent_type": self.agent_type,
            "user": self.user,
            "workspace": self.workspace,
            "current_goal": self.current_goal,
            "context_summary": self.context_summary,
            "session": {
                "start_time": self.created_at.isoformat(),
                "interaction_count": self.interaction_count,
                "agent_type": self.agent_type,
            },
            "history": list(self.history),
            "api_specs": dict(self.api_specs),
            "created_at": self.created_at.isoformat(),
            "last_updated": self.last_updated.isoformat(),
        }


class SharedJournal:
    """
    The one record of an agent: an API that is registered again remembers what was paid before.
    """

    def __init__(
        self, settings: Settings, given: Journal | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        """
        Open nothing yet; *given* stands in place of the one that the settings name.
        """
        self._settings = settings
        self._clock = clock
        self._journal = given

    def is_of(self, settings: Settings) -> bool:
        """
        Whether other settings name the same one.
        """
        return self._settings.journal_place == settings.journal_place

    def opened(self) -> Journal:
        """
        The journal, made when a call first needs it.
        """
        with no_fork:  # the first calls of two event loops have one journal too
            from ocp_stripe_balance._journal import Journal  # SQLite, which only a call needs

            if self._journal is None:
                settings = self._settings
                self._journal = Journal(
                    settings.journal_place,
                    clock=self._clock,
                    patience_s=settings.timeout,
                    counts=settings.policy_in_force.counts,
                )
            return self._journal


@dataclass(frozen=True, slots=True, kw_only=True)
class APIOptions:
    """
    What an agent hands to the factory of an API.
    """

    context: Context
    settings: Settings
    base_url: str | None
    headers: Mapping[str, str] = field(repr=False)
    transport: httpx.AsyncBaseTransport | None
    journal: SharedJournal
    approver: Callable[[Proposal], Awaitable[Answer | None]] | None = None
    asks_always: bool = False
    plan: PlanInHand | None = None
    """The plan whose rows its calls are: they give way to calls that somebody waits for."""


class API(Protocol):
    """
    A registered API: what it offers, and the way to call it.
    """

    name: str
    title: str
    base_url: str
    tools: Sequence[ToolSpec]

    async def call(
        self, tool: ToolSpec, parameters: object, *, headers: Mapping[str, str] | None, idempotency_key: object
    ) -> ToolResult:
        """
        Run one tool.

        Raises:
            ToolError: with the outcome.
        """

    async def dry_run(
        self, tool: ToolSpec, parameters: object, *, headers: Mapping[str, str] | None, idempotency_key: object
    ) -> DryRun:
        """
        What the call would send, and whether it would.
        """

    def iterate(
        self, tool: ToolSpec, parameters: object, *, headers: Mapping[str, str] | None
    ) -> AsyncIterator[dict[str, Any]]:
        """
        The items of a list one by one.
        """

    def documentation(self, tool: ToolSpec) -> str:
        """
        The tool explained in Markdown.
        """

    async def resume(self, key: str) -> ToolResult:
        """
        The result of a recorded call, sent again under the same key where its outcome is open.
        """

    async def reconcile(self, progress: Callable[[int, int], None] = ...) -> list[ReconcileResult]:
        """
        Settle every call whose outcome is open by reading, without moving money.
        """

    async def aclose(self) -> None:
        """
        Close what the API opened.
        """
