"""
Clients that others wrote, against the command: TypeScript's of both lines, the inspector's, the conformance framework.

`make test-clients` installs and runs them, which takes npm and some minutes; elsewhere they are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import ledger, order, run
from programs import CLI

from ocp_stripe_balance import Settings
from ocp_stripe_balance.serving.tokens import Tokens

pytest.importorskip("mcp")
from mcp_host import CREATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocp_stripe_balance.sandbox import Sandbox

_ROOT = Path(__file__).parents[2]
_PACKAGES = _ROOT / "build" / "clients" / "node_modules"
_NODE = _PACKAGES / "node" / "bin" / "node"
_OURS = _PACKAGES / "@modelcontextprotocol"
_ASKS = '[approval]\nabove = { usd = "20.00" }\nqueue = true\nin_session = true\n'

pytestmark = [
    pytest.mark.skipif("TEST_CLIENTS" not in os.environ, reason="run by make test-clients, which installs them"),
    pytest.mark.timeout(180),
]


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(_NODE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90, cwd=_PACKAGES.parent)  # noqa: S603  installed by us


@pytest.fixture
def command(stripe_thread: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """
    The command that a host starts, whose policy lets a client ask.
    """
    (tmp_path / "policy.toml").write_text(_ASKS)
    monkeypatch.setenv("STRIPE_SECRET_KEY", stripe_thread.api_key)
    monkeypatch.setenv("STRIPE_API_BASE", stripe_thread.url)
    monkeypatch.setenv("OCP_STRIPE_POLICY", str(tmp_path / "policy.toml"))
    return [CLI, "mcp"]


@pytest.fixture
def token() -> str:
    return Tokens(Settings()).create("typescript")


@pytest.fixture
def url(command: list[str], request: pytest.FixtureRequest) -> Iterator[str]:
    """
    The same over HTTP; with a token where the test has one.
    """
    if "token" in request.fixturenames:
        request.getfixturevalue("token")
    with subprocess.Popen([*command, "--http", "--port", "0"], stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  our own
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def typescript(customer: str, says: str | None, **how: Any) -> dict[str, Any]:
    """
    What the client was told: of a call, of one that is refused, and of one that a person is asked about.
    """
    calls = [order(customer, -500, reference="t-1"), order(customer, -500_000, reference="t-2")]
    calls.append(order(customer, -2500, reference="t-3"))
    wanted = {"says": says, "calls": [[CREATE, each] for each in calls], **how}
    done = node("typescript.mjs", json.dumps(wanted))
    assert 0 == done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


_LINES: list[dict[str, Any]] = [
    {"sdk": 1},
    {"sdk": 2, "mode": "legacy"},
    {"sdk": 2, "mode": "auto"},
    {"sdk": 2, "mode": {"pin": "2026-07-28"}},
]


@pytest.mark.parametrize("line", _LINES, ids=json.dumps)
@pytest.mark.parametrize("way", ["http", "stdio"])
async def test_typescript_lists_calls_is_refused_is_asked_and_approves(
    stripe_thread: Sandbox, command: list[str], request: pytest.FixtureRequest, line: dict[str, Any], way: str
) -> None:
    customer = stripe_thread.create_customer(name="Ada")
    how: dict[str, Any] = {"command": command}
    if way == "http":
        how = {"token": request.getfixturevalue("token"), "url": request.getfixturevalue("url")}
    told = typescript(customer, "yes", **line, **how)
    assert CREATE in told["tools"]
    assert ["succeeded", "not_sent", "succeeded"] == [each["outcome"] for each in told["told"]]
    assert [False, True, False] == [each["isError"] for each in told["told"]]
    (question,) = told["asked"]
    assert "credit 25.00 usd" in question
    assert [-2500, -500] == [entry["amount"] for entry in await ledger(stripe_thread, customer)]


@pytest.mark.parametrize("says", ["no", None])
async def test_typescript_moves_nothing_without_a_yes(stripe_thread: Sandbox, url: str, says: str | None) -> None:
    customer = stripe_thread.create_customer(name="Ada")
    told = typescript(customer, says, sdk=2, mode="auto", url=url)
    assert (says is not None) is bool(told["asked"])
    assert ("policy_refused" if says else "approval_required") == told["told"][2]["error"]
    assert [-500] == [entry["amount"] for entry in await ledger(stripe_thread, customer)]


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_lists_calls_is_refused_and_waits_for_a_person(
    stripe_thread: Sandbox, url: str, era: str
) -> None:
    """It shows no forms, so a person approves on the command line; and it finds nothing in the schemas to report."""
    customer = stripe_thread.create_customer(name="Ada")
    program = str(_OURS / "inspector" / "clients" / "launcher" / "build" / "index.js")
    inspect = partial(node, program, "--cli", url, "--protocol-era", era, "--format", "json", "--method")

    def call(amount: int, reference: str) -> dict[str, Any]:
        parameters = json.dumps(order(customer, amount, reference=reference))
        done = inspect("tools/call", "--tool-name", CREATE, "--tool-args-json", parameters)
        found: dict[str, Any] = json.loads(done.stdout)["result"]
        assert (5 if found.get("isError") else 0) == done.returncode
        told: dict[str, Any] = found["structuredContent"]
        return told

    listed = inspect("tools/list", "--strict")
    assert 0 == listed.returncode, listed.stderr
    assert CREATE in {tool["name"] for tool in json.loads(listed.stdout)["result"]["tools"]}
    assert "succeeded" == call(-500, "t-1")["outcome"]
    assert "policy_refused" == call(-500_000, "t-2")["error"]
    waiting = call(-2500, "t-3")
    assert "approval_required" == waiting["error"]
    assert 0 == run("approvals", "approve", waiting["idempotency_key"], "--by", "ana", "--yes").returncode
    assert "succeeded" == call(-2500, "t-3")["outcome"]
    assert [-2500, -500] == [entry["amount"] for entry in await ledger(stripe_thread, customer)]


_SCENARIOS = [
    ("server-initialize", "2025-11-25"),
    ("server-session-lifecycle", "2025-11-25"),
    ("ping", "2025-11-25"),
    ("tools-list", "2025-11-25"),
    ("tools-list", "2026-07-28"),
    ("dns-rebinding-protection", "2025-11-25"),
    ("dns-rebinding-protection", "2026-07-28"),
    ("input-required-result-unsupported-methods", "2026-07-28"),
    ("http-header-validation", "2026-07-28"),
]
_NO_MESSAGES = {"dns-rebinding-protection", "server-session-lifecycle"}
"""Which look at statuses only."""


def test_the_scenarios_that_need_no_tools_of_their_own_pass(url: str) -> None:
    """Each with its check that every message was valid (wire-schema-valid)."""
    program = str(_OURS / "conformance" / "dist" / "index.js")
    for scenario, version in _SCENARIOS:
        done = node(program, "server", "--url", url, "--scenario", scenario, "--spec-version", version)
        assert 0 == done.returncode, done.stdout + done.stderr
        assert "0 failed, 0 warnings" in done.stdout
        assert "wire-schema-valid" in done.stdout or scenario in {
            "dns-rebinding-protection",
            "server-session-lifecycle",
        }
