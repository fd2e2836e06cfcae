"""
The loops of docs/agents.md: each begins in a process that is killed while a call waits for a person, and goes on here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest
from frameworks import LOOPS, PACKAGES, PAGE, RUNNERS, begin, go
from helpers import ledger
from pages import names_of

from ocp_stripe_balance.backoffice import BackOffice

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

POLICY = """
[require]
reference = {}

[approval]
above = {{ usd = "4.00" }}
queue = true
"""


async def amounts(stripe: Sandbox, customer: str) -> list[int]:
    return sorted(entry["amount"] for entry in await ledger(stripe, customer))


async def decide(amount: int, is_yes: dict[str, bool]) -> None:
    """
    A person decides on that amount for each customer, with the page's program.
    """
    async with BackOffice() as office:
        waiting = {each.customer: each for each in await office.proposals() if each.amount == -amount}
    for customer, said in is_yes.items():
        await names_of(PAGE, "decide")["decide"](waiting[customer].id, "ana@example.com", said)


def begin_elsewhere(*arguments: str) -> NoReturn:
    """
    Begin in another thread, because an event loop runs in this one.
    """
    beginning = threading.Thread(target=asyncio.run, args=(begin(*arguments),))
    beginning.start()
    beginning.join()
    os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of systems with forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("loop", LOOPS)
async def test_an_approval_outlives_the_process(
    loop: str, stripe: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved goes on as often as it likes: the call of a yes is made once, that of a no never."""
    pytest.importorskip(PACKAGES.get(loop, loop))
    (tmp_path / "policy.toml").write_text(POLICY.format(str(loop in RUNNERS).lower()))
    for name, value in {
        "STRIPE_SECRET_KEY": stripe.api_key,
        "STRIPE_API_BASE": stripe.url,
        "OCP_STRIPE_JOURNAL": str(tmp_path / "journal.sqlite3"),
        "OCP_STRIPE_POLICY": str(tmp_path / "policy.toml"),
    }.items():
        monkeypatch.setenv(name, value)
    yes, no = stripe.create_customer(), stripe.create_customer()

    first = os.fork()
    if first == 0:  # as a process that has imported the framework, which takes longer than all the rest
        begin_elsewhere(loop, yes, no)
    _, status = await asyncio.to_thread(os.waitpid, first, 0)
    assert -signal.SIGKILL == os.waitstatus_to_exitcode(status)

    await decide(500, {yes: True, no: False})
    for customer, second in ((yes, "succeeded"), (no, "policy_refused")):
        too_early, _ = await go(loop, customer)
        assert too_early == (f"succeeded, {second}, approval_required" if loop in RUNNERS else None)
    assert [[-500, -100], [-100]] == [await amounts(stripe, customer) for customer in (yes, no)]

    await decide(600, {yes: True, no: False})
    for _ in range(2):
        said, _ = await go(loop, yes)
        assert "succeeded, succeeded, succeeded" == said
    said, told = await go(loop, no)
    assert "succeeded, policy_refused, policy_refused" == said
    assert "ana@example.com" in told[-1]["message"]
    assert [[-600, -500, -100], [-100]] == [await amounts(stripe, customer) for customer in (yes, no)]
