"""
The verbs for scripts: an agent without ``await``, over one event loop in the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ocp_stripe_balance._host.background import run
from ocp_stripe_balance.agent import OCPAgent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal
    from typing import Any, Unpack

    from ocp_stripe_balance._domain import ToolCall
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import CustomerBalanceTransaction, ToolResult
    from ocp_stripe_balance.verbs import Details


class SyncAgent:
    """
    An agent for plain code; works from several threads, and where a loop already runs, as in a notebook.

    Use it as ``with SyncAgent() as agent``, or call `close` at the end. After Ctrl-C, a call that may have
    been sent ends as `OutcomeUnknownError`, and one that was not as `KeyboardInterrupt`.
    """

    def __init__(self, agent: OCPAgent | None = None) -> None:
        """
        Wrap *agent*, by default a new one with the settings of the environment.

        Raises:
            ConfigurationError: a setting is misspelt or impossible.
        """
        self.agent = OCPAgent() if agent is None else agent

    def credit(self, customer: str, amount: Decimal | str, currency: str, **details: Unpack[Details]) -> ToolResult:
        """
        As `OCPAgent.credit`.
        """
        return run(self.agent.credit(customer, amount, currency, **details))

    def debit(self, customer: str, amount: Decimal | str, currency: str, **details: Unpack[Details]) -> ToolResult:
        """
        As `OCPAgent.debit`.
        """
        return run(self.agent.debit(customer, amount, currency, **details))

    def reverse(
        self,
        entry_id: str,
        *,
        customer: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ToolResult:
        """
        As `OCPAgent.reverse`.
        """
        return run(self.agent.reverse(entry_id, customer=customer, description=description, metadata=metadata))

    def balance(self, customer: str) -> ToolResult:
        """
        As `OCPAgent.balance`.
        """
        return run(self.agent.balance(customer))

    def history(self, customer: str, *, limit: int = 10) -> list[CustomerBalanceTransaction]:
        """
        As `OCPAgent.history`.
        """
        return run(self.agent.history(customer, limit=limit))

    def list_tools(self) -> list[ToolSpec]:
        """
        The tools for a model; `ocp_stripe_balance.exports.export_tools` has them as each provider's API takes them.
        """
        run(self.agent.register_api("stripe"))
        return self.agent.list_tools()

    def call_tool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | ToolCall | None = None,
    ) -> ToolResult:
        """
        As `OCPAgent.call_tool`.
        """
        return run(self.agent.call_tool(tool_name, parameters, idempotency_key=idempotency_key))

    def close(self) -> None:
        """
        Close all connections; the agent may be used again, and then opens new ones.
        """
        self.agent.close()

    def __enter__(self) -> Self:
        """
        The agent itself.
        """
        return self

    def __exit__(self, *_: object) -> None:
        """
        Close all connections.
        """
        self.close()
