"""
What a tool does to whom is data: the code asks `x-effect`, and knows no parameter's name.
"""

from __future__ import annotations

import json

import httpx
import pytest
from helpers import scripted

from ocp_stripe_balance import PolicyRefusedError
from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._tools.manifest import ToolSpec, load_manifest

TOOLS = {tool.name: tool for tool in load_manifest().tools}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=list(TOOLS))
def test_each_tool_names_parameters_that_it_has(tool: ToolSpec) -> None:
    """And what moves money says how much, in which currency, and for whom."""
    effect = tool.effect
    named = [name for name in (effect.subject, effect.amount, effect.currency) if name is not None]
    assert set(named) <= set(tool.parameters)
    assert (effect.kind == "read") == (tool.method == "GET")
    if effect.kind == "entry":
        assert 3 == len(named)
        assert {effect.subject, effect.amount, effect.currency} <= {
            name for name, spec in tool.parameters.items() if spec["required"]
        }


def test_an_entry_is_read_by_the_names_its_effect_gives() -> None:
    """The amount as an integer, the currency in lower case, whatever the parameters are called."""
    tool = ToolSpec(name="t", description="", method="POST", path="/v1/x", parameters={}, response_schema={})
    effect = {"kind": "entry", "subject": "who", "amount": "cents", "currency": "unit"}
    object.__setattr__(tool, "parameters_json_schema", {"x-effect": effect})
    arguments = {"who": "cus_1", "cents": -5.0, "unit": "USD"}
    assert (Money(-5, "usd"), "cus_1") == (tool.money_of(arguments), tool.customer_of(arguments))


async def test_a_tool_about_nobody_needs_no_new_code() -> None:
    """An operation that names no customer is called, previewed and paged like any other."""
    customers = [{"id": f"cus_{n}", "object": "customer", "email": "ada@example.com", "phone": "+1"} for n in range(2)]
    pages = [
        {"object": "list", "url": "/v1/customers", "has_more": has_more, "data": [customer]}
        for customer, has_more in zip(customers, (True, False), strict=True)
    ]
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=pages[len(sent) - 1])

    async with await scripted(handler) as agent:
        found = await agent.call_tool("getCustomers", {"email": "ada@example.com", "limit": 2})
    assert ["/v1/customers?email=ada%40example.com&limit=2", "/v1/customers?email=ada%40example.com&limit=1"] == [
        str(request.url).removeprefix("https://api.stripe.com").partition("&starting_after")[0] for request in sent
    ]
    told = json.dumps(found.to_dict())
    assert ("2 customers", False) == (found.describe(), "phone" in told)
    assert ["cus_0", "cus_1"] == [customer.id for customer in found.customers or ()]


async def test_a_policy_for_some_customers_lets_no_list_of_all_through() -> None:
    """A list would tell of those that the policy keeps from the agent."""
    for customers in ({"allow": ["cus_1"]}, {"deny": ["cus_2"]}):
        async with await scripted(lambda _: httpx.Response(500), policy={"customers": customers}) as agent:
            with pytest.raises(PolicyRefusedError, match="names none"):
                await agent.call_tool("getCustomers", {"email": "ada@example.com"})
