"""
The demo: an agent credits a customer of the sandbox, repeats itself and makes mistakes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._text import money
from ocp_stripe_balance.cli.output import wrap
from ocp_stripe_balance.errors import InvalidParametersError, PolicyRefusedError
from ocp_stripe_balance.verbs import CREATE

if TYPE_CHECKING:
    from ocp_stripe_balance.agent import OCPAgent


async def demo() -> int:
    """
    An agent credits a customer of the sandbox; needs no key.
    """
    from ocp_stripe_balance.agent import OCPAgent  # what --help does not need
    from ocp_stripe_balance.sandbox import Sandbox  # a server that few commands need
    from ocp_stripe_balance.settings import Settings  # pydantic

    async with Sandbox() as stripe:
        customer = stripe.create_customer(name="Ada Lovelace")
        settings = Settings(api_key=stripe.api_key, api_base=stripe.url, account=None, journal="off")
        _step("1. An embedded Stripe listens on loopback; Ada is its first customer.")
        print(f"   {customer}")
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            _step("2. An agent registers the API and finds the tool.")
            print("   await agent.register_api('stripe')\n   agent.search_tools('credit a customer')[0]")
            tool = agent.search_tools("credit a customer")[0]
            print(f"   -> {tool.name}")
            for name, spec in tool.parameters.items():
                print(f"        {name:<16}{spec['type']:<9}{'required' if spec['required'] else 'optional'}")
            order = {"customer": customer, "amount": -500, "currency": "usd", "description": "Sorry for the delay"}
            await _demo_calls(agent, order)
        await _demo_ledger(stripe.url, stripe.api_key, customer)
    return 0


async def _demo_calls(agent: OCPAgent, order: dict[str, Any]) -> None:
    _step("3. It credits 5.00 usd: amount -500, in the smallest unit.")
    first = await agent.call_tool(CREATE, order, idempotency_key="call_1")
    print(f"   {first.outcome}: {first.describe()}")
    _step("4. It repeats the call with the same key, as agents do after a timeout.")
    again = await agent.call_tool(CREATE, order, idempotency_key="call_1")
    same = first.data["id"] == again.data["id"]
    print(f"   {again.outcome}: {'the same' if same else 'ANOTHER'} transaction, replayed={again.replayed}")
    _step("5. It makes mistakes, and is told what to do.")
    for mistake in (
        {"amount": "5.00"},
        {"currncy": "usd"},
        {"amount": -50000, "stated_effect": "credit 5.00 USD"},
        {"amount": -500000},
    ):
        print(f"   {mistake}")
        try:
            await agent.call_tool(CREATE, {**order, **mistake})
        except InvalidParametersError as error:
            for problem in error.problems:
                print(wrap(f"{error.outcome}: {problem}", "     "))
        except PolicyRefusedError as error:
            print(wrap(f"{error.outcome}: {error}".partition(" (idempotency")[0], "     "))


async def _demo_ledger(url: str, api_key: str, customer: str) -> None:
    import httpx

    _step("6. Ada's ledger has one entry.")
    async with httpx.AsyncClient(base_url=url, auth=(api_key, "")) as stripe:
        entries = (await stripe.get(f"/v1/customers/{customer}/balance_transactions")).json()["data"]
    rows = [("transaction", "effect", "balance after", "description")]
    for entry in entries:
        done = money.effect(entry["amount"], entry["currency"])
        balance = money.to_text(entry["ending_balance"], entry["currency"])
        rows.append((entry["id"], done, balance, entry["description"]))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("   " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _step(title: str) -> None:
    print(f"\n{title}" if title[0] != "1" else title)
