"""
Fixtures own lifetimes: every test has its own Stripe, its own agent and an environment without settings.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

import hypothesis
import places as places_module
import programs
import pytest
from helpers import connect
from places import Places

import ocp_stripe_balance
from ocp_stripe_balance._journal import sqlite
from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from places import Place

    from ocp_stripe_balance import OCPAgent


# A busy machine is no failure: how long an example takes is not tested.
hypothesis.settings.register_profile("ours", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ours")


# Compiled tests are kept, whatever the environment says: to compile them takes each worker seven seconds.
sys.dont_write_bytecode = False


# Tests press Ctrl-C in processes they start; a test run started in the background would hand down its deafness to it.
signal.signal(signal.SIGINT, signal.default_int_handler)

programs.be_impatient()

gc.disable()  # until all is imported and collected, which stays


_NETWORK = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Where the journals of the tests are kept that say so: each in a file, or each in a database on a server.
    """
    parser.addoption("--engine", choices=["file", "postgres"], default="file", help="where journals are kept")


def pytest_configure(config: pytest.Config) -> None:
    """
    State machines have no fixtures that would tell them the engine, and several workers share what forks programs.
    """
    places_module.usual_engine = config.getoption("engine")
    if (config.getoption("numprocesses", None) or 0) > 1:
        programs.share()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    On a server, tests of what only a file has are left out.
    """
    for item in items if config.getoption("engine") == "postgres" else ():
        if mark := item.get_closest_marker("file_only"):
            item.add_marker(pytest.mark.skip(reason=f"a file alone has this: {mark.args[0]}"))


def pytest_collection_finish() -> None:
    """
    No search for garbage looks at the hundred thousands of things again that were collected, and there are fewer.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


def pytest_report_header() -> str:
    """
    Which copy of the package is tested.
    """
    return f"testing {ocp_stripe_balance.__file__}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("STRIPE_", "OCP_")) or name.lower() in _NETWORK:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # where ``python -c`` finds no source tree, and so takes the wheel


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """
    What keeps the journals of this test.
    """
    return str(getattr(request, "param", request.config.getoption("engine")))


@pytest.fixture
def places(engine: str, tmp_path: Path) -> Iterator[Places]:
    """
    The journals of this test, by their names.
    """
    made = Places(engine, tmp_path)
    yield made
    made.close()


@pytest.fixture
def place(places: Places) -> Place:
    """
    A journal of this test.
    """
    return places("journal")


@pytest.fixture(autouse=True)
def _usual_journal(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _clean_environment: None
) -> Iterator[None]:
    """
    The journal of agents that were given no other is on the server too, where all are.
    """
    places = Places(request.config.getoption("engine"), tmp_path)
    if places.engine == "postgres" and not request.node.get_closest_marker("file_only"):
        monkeypatch.setenv("OCP_STRIPE_JOURNAL", str(places("usual")))
    yield
    places.close()


@pytest.fixture(autouse=True)
def _quick_journals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No power fails here, so nobody waits for the disk: who does is tested in the journal's room, as is how new journals
    are made, and by programs. Elsewhere they are copies of one.
    """
    is_copied = request.path.parent.name != "_journal"
    monkeypatch.setattr(sqlite, "open_database", partial(places_module.opened, is_copied=is_copied))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The Python that is started, and the command line beside it, have the imports behind them; in such a Python too.
    """
    monkeypatch.setattr(sys, "executable", str(programs.folder() / "python"))
    monkeypatch.setenv("PYTHON_AT_ONCE", sys.executable)


@pytest.fixture
async def stripe() -> AsyncIterator[Sandbox]:
    """
    An embedded Stripe in the test's own loop.
    """
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def stripe_thread() -> Iterator[Sandbox]:
    """
    An embedded Stripe in a thread of its own, for clients that are not async.
    """
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def customer(stripe: Sandbox) -> str:
    """
    The ID of a new customer.
    """
    return stripe.create_customer(name="Ada")


@pytest.fixture
async def agent(stripe: Sandbox) -> AsyncIterator[OCPAgent]:
    """
    An agent with the API registered, connected to the embedded Stripe.
    """
    async with await connect(stripe) as connected:
        yield connected
