"""
The host: registration, discovery, context and lifetimes.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TEST_KEY, TOOL, TOOLS, answered, client, ledger, order, scripted

from ocp_stripe_balance import (
    APINotFound,
    ConfigurationError,
    InvalidParametersError,
    OCPAgent,
    RejectedError,
    Settings,
    ToolError,
)
from ocp_stripe_balance._host import contract

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox


async def test_the_snippet_credits_a_customer(stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the catalogue promises, word for word, from the environment alone."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", stripe.api_key)
    monkeypatch.setenv("STRIPE_API_BASE", stripe.url)
    agent = OCPAgent()
    await agent.register_api("stripe")
    result = await agent.call_tool(
        "postCustomersCustomerBalanceTransactions", {"customer": customer, "amount": -500, "currency": "usd"}
    )
    assert result.transaction
    assert -500 == result.transaction.ending_balance
    assert ("succeeded", 200, True, 1, False) == (
        result.outcome,
        result.status_code,
        result.ok,
        result.attempts,
        result.replayed,
    )
    assert [f"{customer} had no currency, and this entry made it usd for good"] == list(result.warnings)
    assert result.json() == result.data == (await ledger(stripe, customer))[0]
    assert result.request_id == result.headers["REQUEST-ID"]
    await agent.aclose()


async def test_registration_and_discovery_need_no_key() -> None:
    """An agent can look before anyone gave it a key."""
    async with OCPAgent() as agent:
        api = await agent.register_api(" Stripe ")
        assert ("stripe", "Stripe customer balance", "https://api.stripe.com") == (api.name, api.title, api.base_url)
        assert TOOLS == [tool.name for tool in agent.list_tools("STRIPE")]
        assert api is await agent.register_api("stripe")
        tool = agent.get_tool(TOOL)
        assert tool is not None
        assert ("POST", "/v1/customers/{customer}/balance_transactions") == (tool.method, tool.path)
        assert agent.get_tool("nope") is None


@pytest.mark.parametrize(
    "query",
    [
        "credit a customer",
        "credit",
        "debit balance",
        "CUSTOMER",
        "balance transactions",
        "refund credit",
        "",
    ],
)
async def test_search_finds_the_tool(query: str) -> None:
    """Any word of the query counts, and the best match comes first; words that no tool has do no harm."""
    async with OCPAgent() as agent:
        await agent.register_api("stripe")
        assert TOOL == agent.search_tools(query)[0].name


@pytest.mark.parametrize(
    ("query", "tool"),
    [
        ("list the ledger of a customer", "getCustomersCustomerBalanceTransactions"),
        ("what is a customer's name and email", "getCustomersCustomer"),
        ("update the description of a transaction", "postCustomersCustomerBalanceTransactionsTransaction"),
        ("undo a credit", "reverseCustomerBalanceTransaction"),
        ("reverse a credit", "reverseCustomerBalanceTransaction"),
        ("retrieve one transaction by its ID", "getCustomersCustomerBalanceTransactionsTransaction"),
    ],
)
async def test_search_tells_the_tools_apart(query: str, tool: str) -> None:
    """By what each is for."""
    async with OCPAgent() as agent:
        await agent.register_api("stripe")
        assert tool == agent.search_tools(query)[0].name


async def test_search_finds_nothing_for_foreign_words() -> None:
    """No word in common, no tool."""
    async with OCPAgent() as agent:
        await agent.register_api("stripe")
        assert [] == agent.search_tools("weather forecast")


async def test_search_ranks_names_before_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best match comes first."""
    async with OCPAgent() as agent:
        api = await agent.register_api("stripe")
        listing = replace(api.tools[0], name="getCredit", description="Show a thing.", tags=(), parameters={})
        monkeypatch.setattr(api, "tools", (api.tools[0], listing))
        assert ["getCredit", TOOL] == [tool.name for tool in agent.search_tools("get credit")]
        assert [TOOL, "getCredit"] == [tool.name for tool in agent.search_tools("credit customer")]


async def test_documentation_says_what_a_model_must_know() -> None:
    """Sign, unit, an example for each kind of currency, every parameter and every outcome."""
    async with OCPAgent() as agent:
        await agent.register_api("stripe")
        text = agent.get_tool_documentation(TOOL)
        assert "Tool 'nope' not found" == agent.get_tool_documentation("nope")
    for words in (
        "Negative credits the customer, who then owes less; positive debits",
        "smallest unit of the currency",
        "-500 with usd is a credit of 5.00 usd",
        "-500 with jpy is a credit of 500 jpy",
        "-500 with kwd is a credit of 0.500 kwd",
        "**customer** (string, required, path)",
        "**idempotency_key** (string, optional, header)",
        "**ending_balance** (integer)",
        "`unknown`",
    ):
        assert words in text


async def test_an_unknown_api_names_the_near_ones() -> None:
    """A slip of the finger is mended, and OpenAPI discovery is sent to the SDK."""
    agent = OCPAgent()
    with pytest.raises(APINotFound, match="Did you mean stripe") as caught:
        await agent.register_api("strip")
    assert ["stripe"] == caught.value.suggestions
    with pytest.raises(APINotFound, match="use the OCP SDK"):
        await agent.register_api("github", spec_url="https://api.github.test/openapi.json")
    with pytest.raises(APINotFound, match="use the OCP SDK"):
        await agent.register_api("stripe", spec_url="https://stripe.test/openapi.json")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("postCustomersCustomerBalanceTransaction", f"did you mean {TOOL} or "),
        (TOOL.lower(), f"did you mean {TOOL} or "),
        ("make_refund", "the tools are create_balance_transaction, "),
        ("list_balance_cals", "did you mean list_balance_calls"),
        ("makeRefund", f"the tools are {', '.join(TOOLS)}"),
        ("", f"the tools are {', '.join(TOOLS)}"),
        (None, f"the tools are {', '.join(TOOLS)}"),
        (5, f"the tools are {', '.join(TOOLS)}"),
        ("x" * 100_000, f"the tools are {', '.join(TOOLS)}"),
    ],
)
async def test_an_unknown_tool_names_the_near_ones(name: Any, hint: str) -> None:
    """A wrong tool name is refused like wrong parameters."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        with pytest.raises(InvalidParametersError) as caught:
            await agent.call_tool(name, order())
    assert caught.value.problems[0].hint.startswith(hint)
    assert len(str(caught.value)) < 1000


async def test_calling_registers_where_nothing_is_registered(stripe: Sandbox, customer: str) -> None:
    """The likeliest slip of all is none; but nothing is listed before, and no other API appears."""
    settings = Settings(api_key=stripe.api_key, api_base=stripe.url)
    for api_name in (None, "stripe"):
        async with OCPAgent(settings=settings) as agent:
            assert [] == agent.list_tools()
            assert (await agent.call_tool(TOOL, {**order(), "customer": customer, "reference": "r"}, api_name)).ok
            assert TOOL in [tool.name for tool in agent.list_tools()]
    assert 1 == len(await ledger(stripe, customer))
    async with OCPAgent(settings=settings) as agent:
        assert [] == await agent.reconcile()
        assert ["stripe"] == list(agent.context.api_specs)
    async with OCPAgent(settings=settings) as agent:
        assert 1 == len([item async for item in agent.iterate_tool(TOOLS[1], {"customer": customer})])


async def test_an_api_that_is_not_registered_is_told() -> None:
    agent = OCPAgent()
    with pytest.raises(InvalidParametersError, match="'github' is not registered"):
        await agent.call_tool(TOOL, order(), "github")
    with pytest.raises(InvalidParametersError, match="5 is not registered"):
        await agent.call_tool(TOOL, order(), 5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="Unknown API"):
        agent.list_tools("github")


async def test_options_show_no_key() -> None:
    """What a factory is handed may be printed."""
    agent = OCPAgent(settings=Settings())
    api: Any = await agent.register_api("stripe", headers={"Authorization": f"Bearer {TEST_KEY}"})
    assert TEST_KEY not in repr(api._options) + repr(api._access)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "1.2.3.4"},
        {"Host": "evil.test"},
        {"Content-Type": "application/json"},
        {"OCP-Session": "x"},
        {"Cookie": "a=b"},
        {"Authorization": "Basic c2s6"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer sk_test_a\r\nX-Evil: 1"},
        {"Authorization": "Bearer pk_test_publishable"},
        {"Stripe-Account": ""},
        {"Stripe-Account": "acct_1\r\nX-Evil: 1"},
        {"Stripe-Version": "2026-10-28 endive"},
        {"Authorization": None},
        {1: "x"},
        {"Stripe-Account": "acct_1", "stripe-account": "acct_2"},
        "abc",
        [("Stripe-Account", "acct_1")],
    ],
)
async def test_headers_that_may_not_be_set_are_refused(headers: Any) -> None:
    """Four headers, with values that cannot become another header; at registration and at the call."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        with pytest.raises(ConfigurationError):
            await agent.call_tool(TOOL, order(), headers=headers)
        with pytest.raises(ConfigurationError) as caught:
            await agent.register_api("stripe", headers=headers)
    assert "sk_test_a" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameter", "argument", "header"), [("a", "b", None), ("a", None, "b"), (None, "a", "b"), ("a", "a", "b")]
)
async def test_two_keys_for_one_call_are_refused(
    parameter: str | None, argument: str | None, header: str | None
) -> None:
    """One decision has one key; which of two was meant is not ours to choose."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        with pytest.raises(InvalidParametersError, match="given twice"):
            await agent.call_tool(
                TOOL,
                order(idempotency_key=parameter),
                idempotency_key=argument,
                headers={"Idempotency-Key": header} if header else None,
            )


@pytest.mark.parametrize("key", ["", "k\n", "ü", "k" * 256, 5])
async def test_a_bad_key_argument_is_refused_like_a_bad_parameter(key: Any) -> None:
    """The argument and the header obey the parameter's rule."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        for more in ({"idempotency_key": key}, {"headers": {"Idempotency-Key": key}}):
            with pytest.raises(InvalidParametersError, match="idempotency_key"):
                await agent.call_tool(TOOL, order(), **more)


async def test_registering_again_with_headers_replaces_the_api() -> None:
    """A new key is used, not silently dropped."""
    keys = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Authorization"])
        return answered(request)

    async with await scripted(handler) as agent:
        await agent.call_tool(TOOL, order())
        await agent.register_api("stripe", headers={"Authorization": "Bearer sk_test_new"})
        await agent.call_tool(TOOL, order())
    assert [f"Bearer {TEST_KEY}", "Bearer sk_test_new"] == keys


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.stripe.com",
        "ftp://127.0.0.1",
        "api.stripe.com",
        "https://",
        "https://u:p@h.test",
        "https://h.test/?a=b",
        "https://h.test?",
        "https://h.test#",
        "https://h.test/{customer}",
        "https://1.2.3.999",
        "https://a..b",
        "https://xn--a",
        "https://" + "a" * 70,
        "",
    ],
)
async def test_a_base_url_that_could_leak_is_refused(base_url: str) -> None:
    """The API key goes out over https, or stays on this machine."""
    with pytest.raises(ConfigurationError, match="base_url"):
        await OCPAgent(settings=Settings(api_key=TEST_KEY)).register_api("stripe", base_url=base_url)


async def test_base_url_keeps_its_path() -> None:
    """A gateway in front of Stripe may have a prefix."""
    urls = []

    def handler(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        return answered(request)

    async with await scripted(handler) as agent:
        await agent.register_api("stripe", base_url="https://gateway.test/stripe/")
        await agent.call_tool(TOOL, order())
    assert ["https://gateway.test/stripe/v1/customers/cus_1/balance_transactions"] == urls


async def test_history_has_no_parameters_and_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context remembers that calls were made and how they ended, not what they said."""
    assert 1000 == contract._MAX_HISTORY
    monkeypatch.setattr(contract, "_MAX_HISTORY", 100)
    async with await scripted(answered, journal="off") as agent:
        for _ in range(110):
            await agent.call_tool(TOOL, order("cus_secret", description="private"))
        with pytest.raises(ToolError):
            await agent.call_tool(TOOL, order("cus_secret/"))
        told = agent.context.to_dict()
    assert 100 == len(told["history"])
    assert "not_sent" == told["history"][-1]["result"]
    assert 112 == told["session"]["interaction_count"]
    assert "cus_secret" not in json.dumps(told)
    assert TEST_KEY not in json.dumps(told)


async def test_context_is_what_ocp_prescribes() -> None:
    """Names and forms of ocp-context.json."""
    agent = OCPAgent("ide_assistant", "alice", "shop", "be kind", "https://registry.test", enable_cache=False)
    agent.update_goal("be fair", "after a talk")
    told = agent.context.to_dict()
    assert told["context_id"].startswith("ocp-")
    assert int(told["context_id"][4:], 16)
    assert (
        "ide_assistant",
        "alice",
        "shop",
        "be fair",
        "after a talk",
    ) == tuple(told[name] for name in ("agent_type", "user", "workspace", "current_goal", "context_summary"))
    assert {"start_time", "interaction_count", "agent_type"} == set(told["session"])


@pytest.mark.parametrize("agent_type", ["", "a b", "a\r\nX: y", "ä", "x" * 129])
def test_an_agent_type_that_is_no_header_is_refused(agent_type: str) -> None:
    """OCP-Agent-Type has a pattern, and no way out of its header."""
    with pytest.raises(ConfigurationError, match="agent_type"):
        OCPAgent(agent_type)


async def test_closing_twice_and_calling_again_is_fine(stripe: Sandbox, customer: str) -> None:
    """An agent that was closed opens new connections when it is needed again."""
    agent = OCPAgent(settings=Settings(api_key=stripe.api_key, api_base=stripe.url))
    await agent.register_api("stripe")
    for amount in (-1, -2):
        await agent.call_tool(TOOL, order(customer, amount))
        await agent.aclose()
        await agent.aclose()
    assert 2 == len(await ledger(stripe, customer))


async def test_the_restricted_key_may_not_write(stripe: Sandbox, customer: str, agent: OCPAgent) -> None:
    """Stripe's own refusal reaches the caller with the permission it names, the key masked."""
    headers = {"Authorization": f"Bearer {stripe.read_only_key}"}
    with pytest.raises(RejectedError, match="rak_customer_write") as caught:
        await agent.call_tool(TOOL, order(customer), headers=headers)
    assert 403 == caught.value.status
    assert stripe.read_only_key not in str(caught.value)


async def test_proxies_and_netrc_are_ignored(
    stripe: Sandbox, customer: str, agent: OCPAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The API key goes where the settings say, and no other credentials in its place."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login evil password evil\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert (await agent.call_tool(TOOL, order(customer))).ok
    assert f"Bearer {stripe.api_key}" == stripe.requests[-1].header("Authorization")


async def test_connected_accounts_are_apart(stripe: Sandbox, customer: str, agent: OCPAgent) -> None:
    """Stripe-Account acts on that account's customers only."""
    with pytest.raises(RejectedError, match="No such customer"):
        await agent.call_tool(TOOL, order(customer), headers={"Stripe-Account": "acct_1"})
    async with client(stripe) as http:
        made = await http.post("/v1/customers", headers={"Stripe-Account": "acct_1"})
    result = await agent.call_tool(TOOL, order(made.json()["id"]), headers={"Stripe-Account": "acct_1"})
    assert result.ok


def test_importing_is_cheap_and_late() -> None:
    """What the first call does not need is not imported before it: import time is mostly others' code."""
    program = (
        "import sys, asyncio, ocp_stripe_balance as o\n"
        "from ocp_stripe_balance.agent import OCPAgent\n"
        "heavy = ['pydantic', 'httpx', 'aiohttp', 'jsonschema', 'jsonschema_rs']\n"
        "assert not [m for m in heavy if m in sys.modules], 'at import'\n"
        "agent = OCPAgent()\n"
        "asyncio.run(agent.register_api('stripe'))\n"
        "assert not [m for m in heavy[1:] if m in sys.modules], 'at registration'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603
    assert (0, "") == (done.returncode, done.stderr)


def test_an_agent_can_be_made_outside_a_loop() -> None:
    """Module-level agents are common in small programs."""
    agent = OCPAgent()
    assert "stripe" == asyncio.run(agent.register_api("stripe")).name
