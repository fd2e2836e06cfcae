"""
Builders the tests share.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import httpx

from ocp_stripe_balance import OCPAgent, Policy, Settings
from ocp_stripe_balance._tools.manifest import load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

TOOL = "postCustomersCustomerBalanceTransactions"
TOOLS = [tool.name for tool in load_manifest().tools]
TEST_KEY = "sk_test_planted0key"
# For tests of everything but the guardrails: the defaults would stop the many like calls they make.
_ANY = {"other": "999999999.999"}
ANYTHING = Policy(duplicate_window="off", limits={"credit": _ANY, "debit": _ANY})
UNGUARDED: dict[str, Any] = {"policy": ANYTHING, "customer_check": "off"}


def client(stripe: Sandbox) -> httpx.AsyncClient:
    """
    A plain HTTP client with the sandbox's secret key.
    """
    return httpx.AsyncClient(base_url=stripe.url, auth=(stripe.api_key, ""))


async def ledger(stripe: Sandbox, customer: str) -> list[dict[str, Any]]:
    """
    The customer's entries, newest first.
    """
    async with client(stripe) as http:
        path = f"/v1/customers/{customer}/balance_transactions"
        entries: list[dict[str, Any]] = (await http.get(path, params={"limit": 100})).json()["data"]
        return entries


async def connect(stripe: Sandbox, **settings: Any) -> OCPAgent:
    """
    An agent with the API registered, without guardrails unless *settings* say otherwise.
    """
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "rate_limit": "off", **UNGUARDED, **settings}
    agent = OCPAgent(settings=Settings(**values))
    await agent.register_api("stripe")
    return agent


async def scripted(
    handler: Callable[[httpx.Request], httpx.Response], *, headers: dict[str, str] | None = None, **settings: Any
) -> OCPAgent:
    """
    An agent whose requests go to *handler* instead of a network, without guardrails unless *settings* say otherwise.
    """
    values = {"api_key": TEST_KEY, "rate_limit": "off", **UNGUARDED, **settings}
    agent = OCPAgent(settings=Settings(**values), transport=httpx.MockTransport(handler))
    await agent.register_api("stripe", headers=headers)
    return agent


def age(path: Path, seconds: float) -> None:
    """
    Let everything in a journal have happened earlier.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as db:
        db.execute(
            "UPDATE calls SET created_at = created_at - :s, updated_at = updated_at - :s, spent_at = spent_at - :s",
            {"s": seconds},
        )
        db.execute("UPDATE decisions SET at = at - ?", (seconds,))


def order(customer: Any = "cus_1", amount: Any = -500, currency: Any = "usd", **more: Any) -> dict[str, Any]:
    return {"customer": customer, "amount": amount, "currency": currency, **more}


def transaction(**fields: Any) -> dict[str, Any]:
    """
    A balance transaction as Stripe's documentation shows it.
    """
    return {
        "id": "cbtxn_1MrU9qLkdIwHu7ixhdjxGBgI",
        "object": "customer_balance_transaction",
        "amount": -500,
        "created": 1680216086,
        "credit_note": None,
        "currency": "usd",
        "customer": "cus_1",
        "description": None,
        "ending_balance": -500,
        "invoice": None,
        "livemode": False,
        "metadata": {},
        "type": "adjustment",
        **fields,
    }
