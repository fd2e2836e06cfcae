"""
Checked by mypy, never run: what a typed program may say.
"""

from typing import Any, assert_type

from ocp_agent import OCPAgent

from ocp_stripe_balance import (
    CustomerBalanceTransaction,
    InvalidParametersError,
    OutcomeUnknownError,
    Settings,
    ToolResult,
)
from ocp_stripe_balance.errors import Problem


async def program() -> None:
    async with OCPAgent("ai_agent", settings=Settings(timeout=5)) as agent:
        api = await agent.register_api("stripe")
        assert_type(api.base_url, str)
        result = await agent.call_tool("t", {"customer": "cus_1"}, idempotency_key="k")
        assert_type(result, ToolResult)
        assert_type(result.transaction, CustomerBalanceTransaction | None)
        assert_type(result.data, dict[str, Any])
        try:
            await agent.call_tool("t")
        except InvalidParametersError as error:
            assert_type(error.problems, tuple[Problem, ...])
        except OutcomeUnknownError as error:
            assert_type(error.idempotency_key, str | None)
