"""
At home with an agent of the OCP SDK: with a double of it, and with the SDK itself where it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import httpx
import ocp_agent
import pytest
import sdk_double
from helpers import TEST_KEY, TOOL, TOOLS, UNGUARDED, answered, ledger, order
from places import look
from programs import started

from ocp_stripe_balance import (
    ConfigurationError,
    InvalidParametersError,
    NotSentError,
    OCPAgent,
    PolicyRefusedError,
    Proposal,
    Settings,
    ToolError,
    register,
)
from ocp_stripe_balance._host import background
from ocp_stripe_balance._journal.postgres import _number
from ocp_stripe_balance.errors import ResourceMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from places import Place

    from ocp_stripe_balance.sandbox import Sandbox
    from ocp_stripe_balance.sdk import Registration

MODULES: list[Any] = [sdk_double]
if hasattr(ocp_agent, "OCPRegistry"):
    MODULES.append(ocp_agent)
NAME = "stripe"


@pytest.fixture(params=MODULES, ids=lambda module: str(module.__name__))
def sdk(request: pytest.FixtureRequest) -> Any:
    return request.param


def known(sdk: Any, agent: Any) -> None:
    """
    Let the agent know an API of its own.
    """
    tool = sdk.OCPTool("getWeather", "The weather.", "GET", "/weather", {}, None)
    agent.known_apis["weather"] = sdk.OCPAPISpec("http://127.0.0.1:9", "Weather", "1", "", [tool], {}, "weather")


def settings_of(stripe: Sandbox, **more: Any) -> Settings:
    return Settings(api_key=stripe.api_key, api_base=stripe.url, **{**UNGUARDED, **more})


async def test_an_sdk_agent_credits_a_customer(sdk: Any, stripe: Sandbox, customer: str) -> None:
    """Registered, found by the SDK's own methods, and called."""
    agent = sdk.OCPAgent("support", "ann")
    async with register(agent, settings=settings_of(stripe)):
        assert [] == agent.list_tools()
        api = await agent.register_api(" Stripe ")
        assert api is agent.register_api(NAME)
        assert (NAME, "Stripe customer balance", stripe.url) == (api.name, api.title, api.base_url)
        assert TOOLS == [tool.name for tool in agent.list_tools()] == [tool.name for tool in agent.list_tools("STRIPE")]
        assert TOOL in [tool.name for tool in agent.search_tools("credit")]
        assert "takes it back" in agent.get_tool_documentation(TOOL)
        assert agent.get_tool(TOOL).parameters["amount"]["required"] is True
        result = await agent.call_tool(TOOL, order(customer), idempotency_key="call_1")
        assert (200, "OK", True) == (result.status_code, result.reason, result.ok)
        assert result.transaction.ending_balance == -500
        assert json.loads(result.content) == result.json()
        again = await agent.call_tool(TOOL, order(customer), api_name="STRIPE", idempotency_key="call_1")
        assert again.replayed
        dry = await agent.call_tool(TOOL, order(customer), dry_run=True)
        assert "send" == dry.verdict
    assert 1 == len(await ledger(stripe, customer))
    headers = {name.lower(): value for name, value in stripe.requests[-2].headers}
    assert ("support", agent.context.context_id) == (headers["ocp-agent-type"], headers["ocp-context-id"])
    assert "ocp-session" not in headers


def test_a_sync_program_credits_a_customer(sdk: Any, stripe_thread: Sandbox) -> None:
    """Without an event loop: results and errors come plainly."""
    customer = stripe_thread.create_customer()
    agent = sdk.OCPAgent()
    with register(agent, sync=True, settings=settings_of(stripe_thread)):
        api = agent.register_api(NAME)
        assert NAME == api.name
        result = agent.call_tool(TOOL, order(customer))
        assert result.transaction.ending_balance == -500
        with pytest.raises(InvalidParametersError, match=r"smallest unit: 500 for 5\.00 usd"):
            agent.call_tool(TOOL, order(customer, "5.00"))
        with pytest.raises(ResourceMissingError) as caught:
            agent.call_tool("getCustomersCustomer", {"customer": "cus_none"})
        assert "resource_missing" == caught.value.reason
        results: list[Any] = []
        threads = [
            threading.Thread(target=lambda n=n: results.append(agent.call_tool(TOOL, order(customer, -1 - n))))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 8 == len({each.data["id"] for each in results})


async def test_everything_else_is_as_it_was(sdk: Any, stripe: Sandbox, customer: str) -> None:
    """Other APIs, tools and names go to the SDK; afterwards so does all."""
    agent = sdk.OCPAgent()
    known(sdk, agent)
    before = dict(vars(agent))
    registration = register(agent, settings=settings_of(stripe))
    await agent.register_api(NAME)
    assert agent.known_apis["weather"] is agent.register_api("weather")
    with pytest.raises(ValueError, match="'nope' not found"):
        agent.call_tool("nope")
    with pytest.raises(ValueError, match="not found"):
        agent.call_tool(TOOL, order(customer), "weather")
    with pytest.raises(ValueError, match="Unknown API"):
        agent.call_tool(TOOL, order(customer), "elsewhere")
    registration.unregister()
    registration.unregister()
    assert before == vars(agent)
    assert ["weather"] == list(agent.known_apis)
    assert NAME not in agent.context.api_specs
    with pytest.raises(ValueError, match="not found"):
        agent.call_tool(TOOL, order(customer))
    await registration.aclose()
    assert [] == await ledger(stripe, customer)


async def test_what_the_agent_knew_as_stripe_comes_back(sdk: Any, stripe: Sandbox) -> None:
    """The catalogue's own entry, which cannot work, is set aside and put back."""
    agent = sdk.OCPAgent()
    theirs = sdk.OCPAPISpec("https://api.stripe.com", "Theirs", "1", "", [], {}, NAME)
    agent.known_apis[NAME] = theirs
    agent.context.api_specs[NAME] = "registry:stripe"
    async with register(agent, settings=settings_of(stripe)):
        assert "Stripe customer balance" == (await agent.register_api(NAME)).title
    assert theirs is agent.known_apis[NAME]
    assert "registry:stripe" == agent.context.api_specs[NAME]


async def test_a_tool_of_the_same_name_stays_theirs(sdk: Any, stripe: Sandbox, customer: str) -> None:
    """Ours is called where the agent itself finds ours."""
    agent = sdk.OCPAgent()
    async with register(agent, settings=settings_of(stripe)):
        await agent.register_api(NAME)
        known(sdk, agent)
        agent.known_apis["weather"].tools[0].name = TOOL
        agent.known_apis = {name: agent.known_apis[name] for name in ("weather", NAME)}
        if sdk is sdk_double:
            assert b"{}" == agent.call_tool(TOOL).content
        assert (await agent.call_tool(TOOL, order(customer), NAME)).transaction.amount == -500


async def test_the_history_has_no_parameters(sdk: Any, stripe: Sandbox, customer: str) -> None:
    """What was called and what became of it; neither the customer nor the amount nor the words."""
    agent = sdk.OCPAgent()
    async with register(agent, settings=settings_of(stripe, policy={"directions": ["credit"]})):
        await agent.register_api(NAME)
        await agent.call_tool(TOOL, order(customer, -4321, description="for ada@example.com"))
        with pytest.raises(PolicyRefusedError):
            await agent.call_tool(TOOL, order(customer, 4321))
        with pytest.raises(InvalidParametersError):
            await agent.call_tool(TOOL, order(customer, "4321"))
    actions = [(each["action"], each["result"]) for each in agent.context.history[-6:]]
    assert [
        (f"tool_call:{TOOL}", "executing"),
        (f"tool_response:{TOOL}", "200 OK"),
        (f"tool_call:{TOOL}", "executing"),
        (f"tool_error:{TOOL}", "Error: policy_refused"),
        (f"tool_call:{TOOL}", "executing"),
        (f"tool_error:{TOOL}", "Error: invalid_parameters"),
    ] == actions
    told = json.dumps(agent.context.history)
    for word in (customer, "4321", "ada@example.com", stripe.api_key):
        assert word not in told


async def test_headers_and_base_url_given_at_registration_hold(sdk: Any) -> None:
    """They are not dropped, as the SDK drops them for an API it knows."""
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    agent = sdk.OCPAgent("any text\r\n", "ann")
    settings = Settings(api_key=TEST_KEY, **UNGUARDED)
    async with register(agent, settings=settings, transport=httpx.MockTransport(handler)):
        await agent.register_api(NAME)
        await agent.call_tool(TOOL, order())
        api = await agent.register_api(NAME, None, "http://localhost:9", {"Authorization": "Bearer sk_test_other"})
        assert "http://localhost:9" == api.base_url == agent.known_apis[NAME].base_url
        await agent.call_tool(TOOL, order())
        await agent.call_tool(TOOL, order(), headers={"Stripe-Account": "acct_1"})
        with pytest.raises(ConfigurationError, match="cannot be set"):
            await agent.register_api(NAME, headers={"X-Other": "1"})
    assert [f"Bearer {TEST_KEY}", "Bearer sk_test_other", "Bearer sk_test_other"] == [
        each.headers["Authorization"] for each in sent
    ]
    assert "acct_1" == sent[2].headers["Stripe-Account"]
    assert "any-text--" == sent[0].headers["OCP-Agent-Type"]


async def test_registering_twice_replaces_the_first(sdk: Any, stripe: Sandbox, customer: str) -> None:
    """One registration per agent; the last one's settings hold."""
    agent = sdk.OCPAgent()
    first = register(agent, settings=Settings(api_key="sk_test_wrong", api_base=stripe.url, **UNGUARDED))
    await agent.register_api(NAME)
    async with register(agent, settings=settings_of(stripe)):
        await agent.register_api(NAME)
        assert (await agent.call_tool(TOOL, order(customer))).ok
    assert "call_tool" not in vars(agent)
    await first.aclose()


@pytest.mark.promise("once.one-reason")
async def test_an_agent_remembers_what_it_paid_over_registrations(sdk: Any, stripe: Sandbox, customer: str) -> None:
    """Also where the journal is in memory: with other headers, after the first was given up, or closed."""
    agent, settings = sdk.OCPAgent(), settings_of(stripe, journal="off")
    is_replayed: list[bool] = []

    async def pay() -> None:
        result = await agent.call_tool(TOOL, order(customer, reference="ticket-1"), idempotency_key=f"{is_replayed}")
        is_replayed.append(result.replayed)

    async with register(agent, settings=settings):
        agent.register_api(NAME)
        await pay()
        agent.register_api(NAME, headers={"Stripe-Version": "2026-10-28.endive"})
        await pay()
    async with register(agent, settings=settings):
        await agent.register_api(NAME)
        await pay()
        async with register(agent, settings=settings_of(stripe, journal="off")):
            await agent.register_api(NAME)
            await pay()
    assert [False, True, True, True] == is_replayed
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.promise("closed.budget")
@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
async def test_a_budget_that_comes_with_a_later_registration_waits_for_other_hosts(
    stripe: Sandbox, customer: str, place: Place
) -> None:
    """The journal is still the first one's; a call of theirs that is under way may be in the budget's total."""
    budget = {"per": "all", "window": "1h", "credit": {"usd": "10.00"}}
    agent: Any = sdk_double.OCPAgent()
    name = str(place)
    async with register(agent, settings=settings_of(stripe, journal=name)):
        await agent.register_api(NAME)
        await agent.call_tool(TOOL, order(customer))
        stricter = settings_of(stripe, journal=name, policy={"budgets": [budget]}, timeout=0.5)
        async with register(agent, settings=stricter):
            await agent.register_api(NAME)
            with look(place) as other:
                other.execute("BEGIN")
                other.execute(f"SELECT pg_advisory_xact_lock_shared({_number('totals')})")
                with pytest.raises(NotSentError, match="lock"):
                    await agent.call_tool(TOOL, order(customer, -400))
    assert 1 == len(await ledger(stripe, customer))


async def test_an_approver_decides_for_the_sdks_agent_too(sdk: Any, stripe: Sandbox, customer: str) -> None:
    """The proposal names the SDK agent's user."""
    users: list[str | None] = []

    async def approver(proposal: Proposal) -> Any:
        users.append(proposal.user)
        return proposal.deny(by="Ana", reason="no")

    agent = sdk.OCPAgent("support", "ann")
    policy = {"approval": {"always": True}}
    async with register(agent, settings=settings_of(stripe, policy=policy), approver=approver):
        await agent.register_api(NAME)
        with pytest.raises(PolicyRefusedError, match="Ana denied it: no"):
            await agent.call_tool(TOOL, order(customer))
    assert ["ann"] == users


def test_what_is_no_agent_of_the_sdk_is_refused() -> None:
    """Our own host needs no registration, and anything else has no place for one."""
    with pytest.raises(ConfigurationError, match="needs no registration"):
        register(OCPAgent())
    with pytest.raises(ConfigurationError, match="A Python dict is not an OCPAgent"):
        register({})


def test_a_sync_call_from_within_another_is_refused(stripe_thread: Sandbox) -> None:
    """It would wait for itself for ever."""
    customer = stripe_thread.create_customer()
    agent = sdk_double.OCPAgent()

    async def approver(proposal: Proposal) -> Any:
        agent.call_tool(TOOL, order(customer))
        return proposal.approve(by="Ana")

    policy = {"approval": {"always": True}}
    with register(agent, sync=True, settings=settings_of(stripe_thread, policy=policy), approver=approver):
        agent.register_api(NAME)
        with pytest.raises(PolicyRefusedError, match=r"the approver failed \(RuntimeError\)"):
            agent.call_tool(TOOL, order(customer))


PROGRAM = """
import sys
import sdk_double
from ocp_stripe_balance import register
agent = sdk_double.OCPAgent()
register(agent, sync=True)
agent.register_api("stripe")
print("ready", flush=True)
try:
    agent.call_tool(sys.argv[1], {"customer": sys.argv[2], "amount": -5, "currency": "usd"})
except BaseException as error:
    print(type(error).__name__, getattr(error, "outcome", None), flush=True)
"""


def test_ctrl_c_in_a_sync_program_tells_what_may_have_moved(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """The request was under way, so the interrupt is no bare KeyboardInterrupt."""
    customer = stripe_thread.create_customer()
    stripe_thread.faults.add("stall", executed=True, path="balance_transactions$", seconds=30)
    variables = {
        "STRIPE_SECRET_KEY": stripe_thread.api_key,
        "STRIPE_API_BASE": stripe_thread.url,
        "OCP_STRIPE_JOURNAL": str(tmp_path / "journal"),
    }
    with subprocess.Popen(  # noqa: S603  our own program
        [*started(), "-c", PROGRAM, TOOL, customer],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        while not stripe_thread.faults.met["stall"]:
            threading.Event().wait(0.02)
        process.send_signal(signal.SIGINT)
        assert "OutcomeUnknownError unknown\n" == process.stdout.readline()


def test_ctrl_c_before_a_call_is_begun_says_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pressed at the first moment at which it is heard."""

    @contextlib.contextmanager
    def pressed(stop: Callable[[], object]) -> Iterator[list[int]]:
        stop()
        yield [signal.SIGINT]

    async def call(number: int) -> int:
        return number

    monkeypatch.setattr(background, "_ctrl_c", pressed)
    with pytest.raises(KeyboardInterrupt):
        background.run(call(1))
    monkeypatch.undo()
    assert 2 == background.run(call(2))
    assert "" == caplog.text


SLOW = """
import os, signal, sys, threading, time
import sdk_double
from ocp_stripe_balance import register
begun, rung = threading.Event(), threading.Event()
def ring(*_):
    threading.Timer(0.5, rung.set).start()
    raise TimeoutError("too slow")
signal.signal(signal.SIGALRM, ring)
agent = sdk_double.OCPAgent()
registration = register(agent, sync=True)
agent.register_api("stripe")
if sys.argv[3] == "busy":
    from ocp_stripe_balance._host.background import run
    async def block():
        begun.set()
        rung.wait()
    threading.Thread(target=run, args=(block(),)).start()
    begun.wait()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
print(os.getpid(), flush=True)
try:
    agent.call_tool(sys.argv[1], {"customer": sys.argv[2], "amount": -5, "currency": "usd"})
except BaseException as error:
    print(type(error).__name__, getattr(error, "outcome", None), flush=True)
time.sleep(0.5)
registration.close()
"""


@pytest.mark.parametrize(
    ("state", "told", "entries"),
    [("busy", "TimeoutError None\n", 0), ("stalled", "OutcomeUnknownError unknown\n", 1)],
)
async def test_an_alarm_in_a_sync_program_leaves_no_call_running(
    stripe_thread: Sandbox, tmp_path: Path, state: str, told: str, entries: int
) -> None:
    """Before the loop has begun the call, it is not sent; after it was sent, the caller is told so."""
    customer = stripe_thread.create_customer()
    if state == "stalled":
        stripe_thread.faults.add("stall", executed=True, path="balance_transactions$", seconds=30)
    variables = {
        "STRIPE_SECRET_KEY": stripe_thread.api_key,
        "STRIPE_API_BASE": stripe_thread.url,
        "OCP_STRIPE_JOURNAL": str(tmp_path / "journal"),
        "OCP_STRIPE_CUSTOMER_CHECK": "off",
    }
    with subprocess.Popen(  # noqa: S603  our own program
        [*started(), "-c", SLOW, TOOL, customer, state],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        if state == "stalled":
            while not stripe_thread.faults.met["stall"]:
                await asyncio.sleep(0.01)
            os.kill(pid, signal.SIGALRM)
        assert (told, "") == program.communicate(timeout=30)
    assert entries == len(await ledger(stripe_thread, customer))


def test_errors_can_be_read_by_the_sdks_code() -> None:
    """One word each, for its history."""
    for error in (ToolError("x"), InvalidParametersError([])):
        assert error.reason == error.code_for_model


def test_two_loops_do_not_meet(stripe_thread: Sandbox, sdk: Any) -> None:
    """An agent that is used in one event loop after another, as scripts do."""
    customer = stripe_thread.create_customer()
    agent = sdk.OCPAgent()
    registration: Registration = register(agent, settings=settings_of(stripe_thread))
    agent.register_api(NAME)

    async def once() -> Any:
        result = await agent.call_tool(TOOL, order(customer))
        await registration.api.aclose()
        return result.ok

    runs: list[Callable[[], Any]] = [once, once]
    assert all(asyncio.run(run()) for run in runs)
    registration.unregister()
