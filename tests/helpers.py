"""
Builders the tests share.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import threading
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import httpx
import programs

from ocp_stripe_balance import OCPAgent, Policy, Proposal, Settings
from ocp_stripe_balance._calls import voting
from ocp_stripe_balance._calls.admission import Admission
from ocp_stripe_balance._calls.call import Call
from ocp_stripe_balance._calls.customers import SeenCustomer
from ocp_stripe_balance._domain import Caller, Intent, Key, Money, Origin, Outcome, Payload, Scope, State
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._stripe.access import Access
from ocp_stripe_balance._tools.manifest import load_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ocp_stripe_balance._journal import Decision, Record
    from ocp_stripe_balance.models import Answer
    from ocp_stripe_balance.sandbox import Sandbox

# Reading the certificates takes 30 ms each time, and the sandbox speaks plain HTTP.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

TOOL = "postCustomersCustomerBalanceTransactions"
TOOLS = [tool.name for tool in load_manifest().tools]
TEST_KEY = "sk_test_planted0key"
# Stripe's, and of nobody else's answers.
STRIPES = {"Request-Id": "req_1", "Content-Type": "application/json"}
# For tests of everything but the guardrails: the defaults would stop the many like calls they make.
_ANY = {"other": "999999999.999"}
ANYTHING = Policy(duplicate_window="off", limits={"credit": _ANY, "debit": _ANY})
UNGUARDED: dict[str, Any] = {"policy": ANYTHING, "customer_check": "off"}


def client(stripe: Sandbox) -> httpx.AsyncClient:
    """
    A plain HTTP client with the sandbox's secret key.
    """
    return httpx.AsyncClient(base_url=stripe.url, auth=(stripe.api_key, ""), verify=NO_AUTHORITIES)


async def ledger(stripe: Sandbox, customer: str) -> list[dict[str, Any]]:
    """
    The customer's entries, newest first.
    """
    async with client(stripe) as http:
        path = f"/v1/customers/{customer}/balance_transactions"
        entries: list[dict[str, Any]] = (await http.get(path, params={"limit": 100})).json()["data"]
        return entries


def run(*arguments: str, stripe: Sandbox | None = None, stdin: str = "", **environment: str) -> Any:
    """
    A command of our own program, as it ended.
    """
    if stripe is not None:
        environment = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url, **environment}
    done = programs.run(*arguments, stdin=stdin, environment={**os.environ, **environment})
    assert "Traceback" not in done.stderr
    if stripe is not None:
        assert stripe.api_key not in done.stdout + done.stderr
    return done


async def connect(
    stripe: Sandbox, *, opened: Journal | None = None, seams: dict[str, Any] | None = None, **settings: Any
) -> OCPAgent:
    """
    An agent with the API registered, without guardrails unless *settings* say otherwise.

    *opened* is a journal in place of the settings' own, *seams* are further arguments of the agent.
    """
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "rate_limit": "off", **UNGUARDED, **settings}
    agent = OCPAgent(settings=Settings(**values), journal=opened, **(seams or {}))
    await agent.register_api("stripe")
    return agent


async def scripted(
    handler: Callable[[httpx.Request], httpx.Response],
    *,
    headers: dict[str, str] | None = None,
    opened: Journal | None = None,
    seams: dict[str, Any] | None = None,
    **settings: Any,
) -> OCPAgent:
    """
    An agent whose requests go to *handler* instead of a network, without guardrails unless *settings* say otherwise.
    """
    values = {"api_key": TEST_KEY, "rate_limit": "off", **UNGUARDED, **settings}
    transport = httpx.MockTransport(handler)
    agent = OCPAgent(settings=Settings(**values), transport=transport, journal=opened, **(seams or {}))
    await agent.register_api("stripe", headers=headers)
    return agent


@cache
def _new_journal() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        open_database(path).close()
        return path.read_bytes()


def put_journal(path: Path) -> None:
    """
    A new journal where none is, copied: to make one takes ten times as long.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copied = path.with_name(f"{path.name}.{threading.get_ident()}")
        copied.write_bytes(_new_journal())
        copied.chmod(0o600)
        copied.rename(path)


# A journal without an agent: what a call finds there, and what becomes of it.


_ADMISSIONS: dict[tuple[int, float], Admission] = {}


def draft(
    key: str,
    amount: int = 1,
    reference: str | None = None,
    *,
    customer: str = "cus_1",
    user: str | None = None,
    origin: Origin = Origin.CALLER,
    base_url: str = "https://s.test",
    mode: str = "test",
    arguments: str | None = None,
    currency: str = "usd",
) -> Call:
    """
    A call of the create tool, prepared.
    """
    return Call(
        tool=next(tool for tool in load_manifest().tools if tool.name == TOOL),
        intent=Intent(
            scope=Scope(base_url, mode, ""),
            caller=Caller("c", "", user),
            key=Key(key, origin),
            tool=TOOL,
            customer=customer,
            money=Money(amount, currency),
            reference=reference,
            arguments=json.dumps({"amount": amount, "reference": reference}) if arguments is None else arguments,
        ),
        payload=Payload("/p", b"", "v", is_tagged=True),
        arguments={},
        access=Access(api_key=None, account=None, api_version="v"),
    )


async def admit(journal: Journal, call: Call, policy: Policy = ANYTHING, *, timeout_s: float = 60) -> Any:
    """
    What a call finds in the journal: its ending so far, whose `sentence` names the verdict.
    """
    # Settings take longer than an admission, and some tests ask a thousand times. It holds the policy, whose ID stays.
    admission = _ADMISSIONS.get((id(policy), timeout_s))
    if admission is None:
        settings = Settings(policy=policy, customer_check="off", timeout=timeout_s)
        admission = Admission(settings, can_ask=False, asks_always=False)
        assert admission.policy is policy
        _ADMISSIONS[id(policy), timeout_s] = admission
    lease = journal.leases.new(journal.now() + timeout_s)
    reach = journal.reach(call.intent)
    return await journal.run(
        lambda book: admission.admit(book, call, SeenCustomer(), lease, journal.now()), reach=reach
    )


def verdict(admitted: Any) -> str:
    """
    What a dry run would call it.
    """
    return str(admitted.sentence().verdict)


async def settle(journal: Journal, record: Record, state: State, *, is_final: bool | None = None) -> bool:
    """
    Record an outcome; by default a success is final, and so is a rejection where *is_final* says so.
    """
    is_final = state is State.SUCCEEDED if is_final is None else is_final
    outcome = Outcome(state, is_final=is_final)
    reach = journal.reach(record.intent)
    return await journal.run(lambda book: book.settle(record, outcome, journal.now()), reach=reach)


@contextlib.asynccontextmanager
async def usual_journal() -> AsyncIterator[Journal]:
    """
    The journal of agents that were given no other.
    """
    journal = Journal(Settings().journal_place)
    try:
        yield journal
    finally:
        await journal.aclose()


async def records(journal: Journal) -> list[Record]:
    return await journal.run(lambda book: book.calls())


async def decisions(journal: Journal) -> list[Decision]:
    return await journal.run(lambda book: book.decisions())


async def proposals(journal: Journal) -> list[Proposal]:
    return await journal.run(lambda book: book.proposals(journal.now()))


async def decide(journal: Journal, answer: Answer) -> Proposal:
    """
    The proposal as it stands after a person's decision.
    """
    found = await journal.run(lambda book: voting.vote(book, Policy(), answer, journal.now()))
    assert isinstance(found, Proposal)
    return found


def order(customer: Any = "cus_1", amount: Any = -500, currency: Any = "usd", **more: Any) -> dict[str, Any]:
    return {"customer": customer, "amount": amount, "currency": currency, **more}


def answered(request: httpx.Request, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    """
    Stripe's answer to a request for an entry: the one that was asked for, in the key's mode, but for *fields*.
    """
    said = {"livemode": "_live_" in request.headers.get("authorization", ""), **fields}
    return httpx.Response(200, json=entry_of(request.url.raw_path, request.content, **said), headers=headers)


def entry_of(target: bytes, body: bytes, **fields: Any) -> dict[str, Any]:
    """
    The entry that a request to that target asks for, but for *fields*.
    """
    asked = dict(parse_qsl(body.decode()))
    customer, _, transaction_id = target.decode().partition("/customers/")[2].partition("/balance_transactions")
    facts: dict[str, Any] = {"customer": unquote(customer), "description": asked.get("description")}
    facts["metadata"] = {name[9:-1]: value for name, value in asked.items() if name.startswith("metadata[") and value}
    facts |= {"amount": int(asked["amount"]), "currency": asked["currency"]} if "amount" in asked else {}
    facts |= {"id": transaction_id[1:]} if transaction_id[1:] else {}
    return transaction(**{**facts, **fields})


def ledger_page(*items: Any, customer: str = "cus_1", has_more: bool = False, **fields: Any) -> dict[str, Any]:
    """
    A page of a customer's ledger.
    """
    url = f"/v1/customers/{customer}/balance_transactions"
    return {"object": "list", "url": url, "has_more": has_more, "data": [*items], **fields}


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
