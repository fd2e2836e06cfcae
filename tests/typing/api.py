"""
Checked by mypy, never run: what a typed program may say.
"""

from decimal import Decimal
from typing import Any, assert_type

from ocp_agent import OCPAgent

from ocp_stripe_balance import (
    ApprovalRequiredError,
    CustomerBalanceTransaction,
    DryRun,
    InvalidParametersError,
    OutcomeUnknownError,
    Policy,
    PolicyRefusedError,
    Proposal,
    Settings,
    SyncAgent,
    ToolResult,
)
from ocp_stripe_balance.errors import Problem
from ocp_stripe_balance.models import Answer


async def approver(proposal: Proposal) -> Answer:
    assert_type(proposal.balance_after, int | None)
    return proposal.approve(by="Ana") if proposal.amount > -2500 else proposal.deny(by="Ana", reason="too much")


async def program() -> None:
    settings = Settings(timeout=5, policy=Policy(directions=["credit"]))
    async with OCPAgent("ai_agent", settings=settings, approver=approver) as agent:
        api = await agent.register_api("stripe")
        assert_type(api.base_url, str)
        result = await agent.call_tool("t", {"customer": "cus_1"}, idempotency_key="k")
        assert_type(result, ToolResult)
        assert_type(result.transaction, CustomerBalanceTransaction | None)
        assert_type(result.data, dict[str, Any])
        assert_type(await agent.call_tool("t", dry_run=True), DryRun)
        assert_type(await agent.credit("cus_1", "5.00", "usd", reference="r"), ToolResult)
        assert_type(await agent.debit("cus_1", Decimal(5), "usd", idempotency_key="k"), ToolResult)
        assert_type(await agent.reverse("cbtxn_1"), ToolResult)
        assert_type(await agent.balance("cus_1"), ToolResult)
        assert_type(await agent.history("cus_1", limit=3), list[CustomerBalanceTransaction])
        await agent.credit("cus_1", 5.0, "usd")  # type: ignore[arg-type]  # a float is never exact
        try:
            await agent.call_tool("t")
        except InvalidParametersError as error:
            assert_type(error.problems, tuple[Problem, ...])
        except ApprovalRequiredError as error:
            assert_type(error.proposal_id, str)
        except PolicyRefusedError as error:
            assert_type(error.free_at, str | None)
        except OutcomeUnknownError as error:
            assert_type(error.idempotency_key, str | None)


def script() -> None:
    with SyncAgent() as agent:
        assert_type(agent.credit("cus_1", "5.00", "usd"), ToolResult)
        assert_type(agent.debit("cus_1", Decimal(5), "usd"), ToolResult)
        assert_type(agent.reverse("cbtxn_1"), ToolResult)
        assert_type(agent.balance("cus_1"), ToolResult)
        assert_type(agent.call_tool("getCustomers", {"limit": 1}), ToolResult)
        assert_type(agent.history("cus_1"), list[CustomerBalanceTransaction])
