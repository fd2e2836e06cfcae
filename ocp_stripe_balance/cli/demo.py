"""
The demo: an agent credits a customer of the sandbox, repeats itself and makes mistakes.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import typer

from ocp_stripe_balance.cli.options import Json
from ocp_stripe_balance.cli.output import wrap
from ocp_stripe_balance.errors import InvalidParametersError, PolicyRefusedError
from ocp_stripe_balance.verbs import CREATE

if TYPE_CHECKING:
    from ocp_stripe_balance.agent import OCPAgent

_MISTAKES: list[dict[str, Any]] = [
    {"amount": "5.00"},
    {"currncy": "usd"},
    {"amount": -50000, "stated_effect": "credit 5.00 USD"},
    {"amount": -500000},
]


async def demo(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    An agent credits a customer of the sandbox; needs no key.
    """
    steps = []
    async for title, lines in _steps():
        steps.append({"title": title, "lines": lines})
        if not as_json:
            print(wrap(f"{len(steps)}. {title}", "\n" if len(steps) > 1 else ""))
            for line in lines:
                print(wrap(line, "   ", "       "))
    if as_json:
        ctx.obj.print_facts({"steps": steps})
    return 0


async def _steps() -> AsyncIterator[tuple[str, list[str]]]:
    from ocp_stripe_balance.agent import OCPAgent  # what --help does not need
    from ocp_stripe_balance.sandbox import Sandbox  # a server that few commands need
    from ocp_stripe_balance.settings import Settings  # pydantic

    async with Sandbox() as stripe:
        customer = stripe.create_customer(name="Ada Lovelace")
        settings = Settings(api_key=stripe.api_key, api_base=stripe.url, account=None, journal="off", policy=None)
        yield "An embedded Stripe listens on loopback; Ada is its first customer.", [customer]
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            tool = agent.search_tools("credit a customer")[0]
            lines = [
                "await agent.register_api('stripe')",
                "agent.search_tools('credit a customer')[0]",
                f"-> {tool.name}",
            ]
            for name, spec in tool.parameters.items():
                lines.append(f"     {name:<16}{spec['type']:<9}{'required' if spec['required'] else 'optional'}")
            yield "An agent registers the API and finds the tool.", lines
            order = {"customer": customer, "amount": -500, "currency": "usd", "description": "Sorry for the delay"}
            first = await agent.call_tool(CREATE, order, idempotency_key="call_1")
            lines = [f"{first.outcome}: {first.describe()}"]
            yield "It credits 5.00 usd: amount -500, in the smallest unit.", lines
            again = await agent.call_tool(CREATE, order, idempotency_key="call_1")
            same = "the same" if first.data["id"] == again.data["id"] else "ANOTHER"
            lines = [f"{again.outcome}: {same} transaction, replayed={again.replayed}"]
            yield "It repeats the call with the same key, as agents do after a timeout.", lines
            yield "It makes mistakes, and is told what to do.", [line async for line in _told(agent, order)]
            yield "Ada's ledger has one entry.", [each.describe() for each in await agent.history(customer)]


async def _told(agent: "OCPAgent", order: dict[str, Any]) -> AsyncIterator[str]:
    for mistake in _MISTAKES:
        yield str(mistake)
        try:
            await agent.call_tool(CREATE, {**order, **mistake})
        except InvalidParametersError as error:
            for problem in error.problems:
                yield f"  {error.outcome}: {problem}"
        except PolicyRefusedError as error:
            yield f"  {error.outcome}: {error.args[0]} {error.hint}"
