"""
No fork cuts in two what we import late, or make once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._process.once import Once
from ocp_stripe_balance._tools.validation import ResponseValidator

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of systems with forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_waits_until_another_thread_has_imported() -> None:
    """And the child can import itself: the lock is free there."""
    done: list[str] = []
    is_importing, is_forking = threading.Event(), threading.Event()

    def imports() -> None:
        with no_fork:
            is_importing.set()
            is_forking.wait(30)
            time.sleep(0.2)  # the fork would be over by then
            done.append("imported")

    def imports_at_once() -> None:
        with no_fork:
            os._exit(0)

    thread = threading.Thread(target=imports)
    thread.start()
    is_importing.wait(30)
    is_forking.set()
    child = os.fork()
    if child == 0:
        threading.Thread(target=imports_at_once, daemon=True).start()
        time.sleep(30)
        os._exit(1)
    done.append("forked")
    thread.join()
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ["imported", "forked"] == done


LOGS_WHILE_IT_IS_FORKED = """
import os, sys, threading
from ocp_stripe_balance._process.forking import no_fork
assert "logging" not in sys.modules
is_held, done = threading.Event(), threading.Event()
def first_call():
    with no_fork:
        import logging
        is_held.set()
        done.wait(0.3)  # the other thread forks meanwhile
        logging.getLogger("a.new.one")
thread = threading.Thread(target=first_call)
thread.start()
is_held.wait()
if os.fork() == 0:
    os._exit(0)
thread.join()
os.wait()
print("over")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of systems with forks")
def test_who_forks_and_who_calls_never_wait_for_each_other() -> None:
    """Python's own modules have locks that a fork takes: in a program that imports them after us, too."""
    words = [sys.executable, "-W", "ignore", "-c", LOGS_WHILE_IT_IS_FORKED]
    done = subprocess.run(words, check=False, capture_output=True, timeout=50)  # noqa: S603  our own program
    assert b"over\n" == done.stdout, done.stderr


class Slow:
    """
    An object of which something is worked out once.
    """

    def __init__(self, begun: threading.Event, go: threading.Event) -> None:
        self.begun, self.go, self.times = begun, go, 0

    @Once
    def value(self) -> int:
        """
        What takes until it may go on.
        """
        self.begun.set()
        self.go.wait(30)
        self.times += 1
        return self.times


def test_what_is_worked_out_once_holds_no_lock() -> None:
    """A child that is forked meanwhile would wait for it for ever; here another thread stands for that child."""
    begun, go, free = threading.Event(), threading.Event(), threading.Event()
    free.set()
    slow, other = Slow(begun, go), Slow(begun, free)
    told: list[int] = []
    threads = [threading.Thread(target=lambda: told.append(slow.value))]
    threads[0].start()
    begun.wait(30)
    threads.append(threading.Thread(target=lambda: told.append(other.value + other.value), daemon=True))
    threads[1].start()
    threads[1].join(50)
    assert [2] == told
    go.set()
    threads[0].join(50)
    assert [2, 1] == told
    assert 1 == other.times


FIRST_CALLS = """
import asyncio, sys
from ocp_stripe_balance import OCPAgent, ToolError
from ocp_stripe_balance._process.forking import no_fork

url, customer = sys.argv[1:]
uncovered = []

async def call(url, amount):
    async with OCPAgent() as agent:
        await agent.register_api('stripe', base_url=url)
        call = {'customer': customer, 'amount': amount, 'currency': 'usd'}
        try:
            return (await agent.call_tool('create_balance_transaction', call)).outcome
        except ToolError as error:
            return error.reason

async def calls():
    is_held = no_fork._lock._is_owned
    sys.addaudithook(lambda event, facts: event == 'import' and not is_held() and uncovered.append(facts[0]))
    # one that looks a host up, one that pays, one that is refused
    return [await call(*each) for each in (('https://localhost:9', -5), (url, -5), (url, 'x'))]

print(*asyncio.run(calls()), *uncovered)
"""


def test_a_first_call_imports_only_what_no_fork_cuts_in_two(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """Also what Python imports by itself, such as the code page of a text; a refusal explains itself by much code."""
    stripe = stripe_thread
    settings = {"STRIPE_SECRET_KEY": stripe.api_key, "OCP_STRIPE_JOURNAL": str(tmp_path / "journal")}
    done = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", FIRST_CALLS, stripe.url, stripe.create_customer()],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env={**os.environ, **settings, "OCP_STRIPE_MAX_ATTEMPTS": "1"},
    )
    assert ("not_sent succeeded invalid_parameters", "") == (done.stdout.strip(), done.stderr)


def test_a_validator_is_first_used_where_no_fork_cuts_that_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it takes a lock of its own, which a child that is forked meanwhile would keep for ever."""
    covered: list[bool] = []

    class Validator:
        def __init__(self, _: object) -> None:
            pass

        def is_valid(self, _: object) -> bool:
            covered.append(no_fork._lock._is_owned())  # type: ignore[attr-defined]  # of every RLock
            return True

    monkeypatch.setattr("jsonschema_rs.Draft202012Validator", Validator)
    assert [] == ResponseValidator({}).warnings({})
    assert [True, False] == covered
