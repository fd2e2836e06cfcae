"""
The verbs in Python, async and for scripts: they are the tools under other names.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TOOL, UNGUARDED, connect, ledger, ledger_page, order, scripted
from programs import started

from ocp_stripe_balance import (
    InvalidParametersError,
    NotSentError,
    OCPAgent,
    OutcomeUnknownError,
    RejectedError,
    Settings,
    SyncAgent,
)
from ocp_stripe_balance._host import background

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox


def unregistered(stripe: Sandbox) -> OCPAgent:
    return OCPAgent(settings=Settings(api_key=stripe.api_key, api_base=stripe.url, rate_limit="off", **UNGUARDED))


async def test_the_verbs_move_money_and_tell_of_it(stripe: Sandbox, customer: str) -> None:
    """Without a word of registration; a credit is negative in Stripe's ledger, a debit positive."""
    async with unregistered(stripe) as agent:
        credited = await agent.credit(
            customer, "5.00", "usd", reference="ticket-812", description="Late", metadata={"team": "care"}
        )
        debited = await agent.debit(customer, Decimal(2), "USD")
        assert debited.transaction
        reversed_ = await agent.reverse(debited.transaction.id, description="Mistake")
        assert "debit 2.00 usd" == debited.transaction.effect
        assert reversed_.transaction
        assert "credit 2.00 usd" == reversed_.transaction.effect
        assert [-200, 200, -500] == [entry.amount for entry in await agent.history(customer)]
        assert [-200] == [entry.amount for entry in await agent.history(customer, limit=1)]
        found = (await agent.balance(customer)).customer
        assert found
        assert (-500, "usd") == (found.balance, found.currency)
    first = (await ledger(stripe, customer))[-1]
    assert ("Late", "care", credited.data["id"]) == (first["description"], first["metadata"]["team"], first["id"])


async def test_a_verb_says_the_effect_that_a_policy_demands(stripe: Sandbox, customer: str) -> None:
    """The verb and the decimals are that statement."""
    settings = Settings(api_key=stripe.api_key, api_base=stripe.url, policy={"require": {"stated_effect": True}})
    async with OCPAgent(settings=settings) as agent:
        await agent.credit(customer, "500.00", "usd", reference="a")
        await agent.debit(customer, "5.00", "USD", reference="b")
    assert [500, -50000] == [entry["amount"] for entry in await ledger(stripe, customer)]


async def test_a_verb_is_the_tool_under_the_same_key(stripe: Sandbox, customer: str, agent: OCPAgent) -> None:
    """One decision, whichever way it was put: by key, and by reference."""
    by_tool = await agent.call_tool(TOOL, order(customer), idempotency_key="k-1")
    assert by_tool.data == (await agent.credit(customer, "5.00", "usd", idempotency_key="k-1")).data
    by_verb = await agent.credit(customer, "7", "usd", reference="ticket-812")
    assert by_verb.data == (await agent.call_tool(TOOL, order(customer, -700, reference="ticket-812"))).data
    assert 2 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("amount", [5.0, 5, "5.5", "-5.00", "1,234", None])
async def test_an_amount_that_is_none_never_leaves(stripe: Sandbox, customer: str, amount: Any) -> None:
    """The refusal is that of every call, and names the amount."""
    async with await connect(stripe) as agent:
        with pytest.raises(InvalidParametersError) as refused:
            await agent.credit(customer, amount, "usd")
    assert ["amount"] == [problem.path for problem in refused.value.problems]
    assert [] == await ledger(stripe, customer)


async def test_other_parameters_are_refused_as_by_the_tool(agent: OCPAgent) -> None:
    """The schema is the tool's."""
    with pytest.raises(InvalidParametersError) as refused:
        await agent.debit("../charges", "5.00", "dollars")
    assert {"customer", "currency"} == {problem.path for problem in refused.value.problems}
    with pytest.raises(RejectedError, match="No such customer"):
        await agent.credit("cus_nobody", "5.00", "usd")


async def test_a_list_of_something_else_is_no_history() -> None:
    """An empty history would say that nothing happened."""
    page = ledger_page({"id": "cbtxn_1", "object": "customer_balance_transaction"})
    async with await scripted(lambda _: httpx.Response(200, json=page)) as agent:
        with pytest.raises(NotSentError):
            await agent.history("cus_1")


def test_a_script_needs_no_await(stripe_thread: Sandbox) -> None:
    """The same verbs, and the agent may be used again after it was closed."""
    customer = stripe_thread.create_customer()
    with SyncAgent(unregistered(stripe_thread)) as agent:
        credited = agent.credit(customer, "5.00", "usd", reference="ticket-812")
        debited = agent.debit(customer, Decimal(2), "usd", idempotency_key="k-1")
    assert credited.transaction
    agent.reverse(credited.transaction.id)
    assert [500, 200, -500] == [entry.amount for entry in agent.history(customer)]
    assert "200" in str(agent.balance(customer).data["balance"])
    assert debited.data == agent.debit(customer, "2.00", "usd", idempotency_key="k-1").data
    agent.close()
    with SyncAgent(unregistered(stripe_thread)) as agent:
        again = agent.call_tool(TOOL, {"customer": customer, "amount": 200, "currency": "usd"}, idempotency_key="k-1")
        assert (debited.data, TOOL) == (again.data, agent.list_tools()[0].name)


async def test_a_notebooks_loop_does_not_mind(stripe_thread: Sandbox) -> None:
    """A loop runs in this very thread."""
    customer = stripe_thread.create_customer()
    assert asyncio.get_running_loop().is_running()
    with SyncAgent(unregistered(stripe_thread)) as agent:
        assert agent.credit(customer, "5.00", "usd").ok


def test_threads_share_an_agent(stripe_thread: Sandbox) -> None:
    """Each call is made once, whichever thread makes it; the same key from all of them is one call."""
    customer = stripe_thread.create_customer()
    with SyncAgent(unregistered(stripe_thread)) as agent, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: agent.credit(customer, "1", "usd", reference=f"ticket-{n}"), range(8)))
        list(threads.map(lambda _: agent.credit(customer, "1", "usd", idempotency_key="k-1"), range(8)))
        assert 9 == len(agent.history(customer, limit=50))


PROGRAM = """
import sys
from ocp_stripe_balance import SyncAgent
with SyncAgent() as agent:
    try:
        agent.credit(sys.argv[1], "5.00", "usd")
    except BaseException as error:
        print(type(error).__name__, getattr(error, "outcome", None), flush=True)
"""


@pytest.mark.parametrize(
    ("is_executed", "path", "told"),
    [
        (True, "balance_transactions$", "OutcomeUnknownError unknown\n"),
        (False, "customers/[^/]+$", "KeyboardInterrupt None\n"),
    ],
)
def test_ctrl_c_in_a_script_tells_what_may_have_moved(
    stripe_thread: Sandbox, tmp_path: Path, is_executed: bool, path: str, told: str
) -> None:
    """Under way it is unknown; while the customer is still looked up, it is a plain interrupt."""
    customer = stripe_thread.create_customer()
    stripe_thread.faults.add("stall", executed=is_executed, path=path, seconds=30)
    variables = {
        "STRIPE_SECRET_KEY": stripe_thread.api_key,
        "STRIPE_API_BASE": stripe_thread.url,
        "OCP_STRIPE_JOURNAL": str(tmp_path / "journal"),
    }
    with subprocess.Popen(  # noqa: S603  our own program
        [*started(), "-c", PROGRAM, customer],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        assert process.stdout is not None
        while not stripe_thread.faults.met["stall"]:
            threading.Event().wait(0.02)
        process.send_signal(signal.SIGINT)
        assert told == process.stdout.readline()


SLOW = """
import asyncio
from ocp_stripe_balance import OutcomeUnknownError
from ocp_stripe_balance._host.background import run

async def call():
    print('begun', flush=True)
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        print('cancelled', flush=True)
        await asyncio.sleep(0.5)
        raise OutcomeUnknownError('it may have moved') from None

try:
    run(call())
except BaseException as error:
    print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize(("is_begun", "told"), [(True, OutcomeUnknownError), (False, KeyboardInterrupt)])
def test_ctrl_c_while_a_call_begins_hides_nothing_either(
    monkeypatch: pytest.MonkeyPatch,
    is_begun: bool,
    told: type[BaseException],
) -> None:
    """Right after the loop was told to begin it, or right before."""
    loop = background._Loop()
    schedule, interrupts = loop._loop.call_soon_threadsafe, [KeyboardInterrupt()]
    begun = threading.Event()

    def interrupted(work: Callable[[], object]) -> None:
        if is_begun or not interrupts:
            schedule(work)
            assert not is_begun or begun.wait(5)
        if interrupts:
            raise interrupts.pop()

    async def call() -> None:
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise OutcomeUnknownError("it may have moved") from None

    monkeypatch.setattr(loop._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(told):
        loop.run(call())
    assert begun.is_set() is is_begun


def test_a_second_ctrl_c_does_not_hide_what_may_have_moved() -> None:
    """The call that the first one cancelled is waited for, however often the person presses."""
    with subprocess.Popen([*started(), "-c", SLOW], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        assert "begun\n" == process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "cancelled\n" == process.stdout.readline()
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            threading.Event().wait(0.05)
        assert "OutcomeUnknownError\n" == process.stdout.readline()
