"""
What the README shows is what happens: its snippets run, its commands exist, its tables are complete.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sdk_double
from helpers import connect, ledger

from ocp_stripe_balance import OCPAgent, Policy, Settings, errors
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.sandbox import FaultKind, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def block(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match
    return match[1]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(  # noqa: S603  our own commands
        command, capture_output=True, text=True, check=False, timeout=50, env={**os.environ, **environment}
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_demo_prints_what_the_readme_shows() -> None:
    """Line by line; only the drawn IDs differ."""

    def without_ids(text: str) -> str:
        return re.sub(r" +", " ", re.sub(r"(cus|cbtxn)_\w+", r"\1_…", text)).strip()

    assert without_ids(block("demo")) == without_ids(run(program("ocp-stripe-balance"), "demo"))


async def test_snippet_credits_a_customer(tmp_path: Path) -> None:
    """The README's program, as a file, against the sandbox."""
    (tmp_path / "credit.py").write_text(block("snippet"))
    with Sandbox() as stripe:
        customer = stripe.create_customer()
        variables = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
        for _ in range(2):  # the same reference, so the same decision
            assert "-500\n" == run(sys.executable, str(tmp_path / "credit.py"), customer, **variables)
        assert 1 == len(await ledger(stripe, customer))


async def test_host_example_runs_a_tool_call(stripe: Sandbox, customer: str) -> None:
    """Successes and errors come back as JSON for the model."""
    names: dict[str, Any] = {}
    exec(block("host"), names)  # noqa: S102  the README's own code
    async with await connect(stripe) as agent:
        tool = load_manifest().tools[0].name
        told = await names["run_tool_call"](
            agent, "c", "call_1", tool, {"customer": customer, "amount": -1, "currency": "usd"}
        )
        assert ("succeeded", False) == (told["outcome"], told["replayed"])
        assert "not_sent" == (await names["run_tool_call"](agent, "c", "call_2", tool, {}))["outcome"]


async def test_siblings_example_looks_and_undoes(stripe: Sandbox, customer: str) -> None:
    """What was credited, the sum of the ledger, and an entry undone."""
    names: dict[str, Any] = {}
    exec(block("siblings"), names)  # noqa: S102  the README's own code
    async with await connect(stripe) as agent:
        entry = {"customer": customer, "amount": -500, "currency": "usd"}
        made = await agent.call_tool(load_manifest().tools[0].name, entry)
        assert ["credit 5.00 usd"] == await names["last_credits"](agent, customer)
        assert "debit 5.00 usd" in await names["undo"](agent, made.data["id"])
        assert 0 == await names["total"](agent, customer)


def test_sdk_example_credits_a_customer(stripe_thread: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without an event loop; the double stands in for the SDK."""
    monkeypatch.setitem(sys.modules, "ocp_agent", sdk_double)
    monkeypatch.setenv("STRIPE_SECRET_KEY", stripe_thread.api_key)
    monkeypatch.setenv("STRIPE_API_BASE", stripe_thread.url)
    names: dict[str, Any] = {}
    exec(block("sdk"), names)  # noqa: S102  the README's own code
    customer = stripe_thread.create_customer()
    assert -400 == asyncio.run(names["in_async_code"](customer))
    assert -700 == names["in_plain_code"](customer)


def test_tools_table_has_every_tool() -> None:
    """Each by its name, and no other."""
    named = re.findall(r"^\| `(\w+)` \|", table("The tools"), re.MULTILINE)
    assert {tool.name for tool in load_manifest().tools} == set(named)


def test_sandbox_example_prints_what_it_says(tmp_path: Path) -> None:
    """And so does the other one."""
    (tmp_path / "example.py").write_text(block("sandbox"))
    printed = run(sys.executable, str(tmp_path / "example.py"))
    assert f"prints `{printed.strip()}`" in README


def test_policy_worth_copying_says_what_is_shown(tmp_path: Path) -> None:
    """The README's policy is valid, and its explanation is the one printed."""
    (tmp_path / "policy.toml").write_text(block("policy"))
    done = subprocess.run(  # noqa: S603  our own commands
        [program("ocp-stripe-balance"), "policy", "check", "policy.toml"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert block("check").strip() == done.stdout.strip()


def test_explained_call_is_told_what_is_shown(tmp_path: Path) -> None:
    """Rule by rule, by the policy worth copying."""
    (tmp_path / "policy.toml").write_text(block("policy"))
    (tmp_path / "call.json").write_text(block("call"))
    done = subprocess.run(  # noqa: S603  our own commands
        [program("ocp-stripe-balance"), "policy", "explain", "call.json", "--policy", "policy.toml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (2, block("explain").strip()) == (done.returncode, done.stdout.strip())


def test_policy_table_has_every_key() -> None:
    """Each key of the file, and no other."""
    named = set()
    for keys in re.findall(r"^\| (`[a-z_.`, ]+`) \|", table("Guardrails"), re.MULTILINE):
        first = ""
        for key in re.findall(r"`([a-z_.]+)`", keys):
            first = key.partition(".")[0] or first
            named.add(first + key if key.startswith(".") else key)
    expected = set()
    for name, field in Policy.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        expected |= {f"{name}.{key}" for key in inner} if inner else {name}
    assert expected == named


async def test_approver_example_decides(stripe: Sandbox) -> None:
    """The README's approver sends after a yes only."""
    answers = ["yes", "no"]
    names: dict[str, Any] = {"input": lambda _: answers.pop(0)}
    exec(block("approver"), names)  # noqa: S102  the README's own code
    settings = Settings(api_key=stripe.api_key, api_base=stripe.url, policy={"approval": {"always": True}})
    async with OCPAgent(settings=settings, approver=names["approver"]) as agent:
        await agent.register_api("stripe")
        order = {"amount": -500, "currency": "usd"}
        tool = load_manifest().tools[0].name
        assert (await agent.call_tool(tool, {"customer": stripe.create_customer(), **order})).ok
        with pytest.raises(errors.PolicyRefusedError, match="not our fault"):
            await agent.call_tool(tool, {"customer": stripe.create_customer(), **order})


def commands() -> Iterator[str]:
    for text in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        yield from (line[2:] for line in text.splitlines() if line.startswith("$ "))


def test_make_targets_are_there() -> None:
    """The commands of README, CONTRIBUTING and docs/performance.md are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    pages = ROOT / "CONTRIBUTING.md", ROOT / "docs" / "performance.md"
    text = README + "".join(page.read_text("utf-8") for page in pages)
    targets = set(re.findall(r"^(?:\$ |\| `|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "check", "bench", "bench-compare"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


async def test_shown_command_lines_run() -> None:
    """Every ocp-stripe-balance command shown runs as it is written; the sandbox until it is stopped."""
    shown = [line.removeprefix(".venv/bin/") for line in commands() if "ocp-stripe-balance" in line]
    assert 3 == len(shown)
    with Sandbox() as stripe:
        customer = stripe.create_customer()
        variables = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
        for line in shown:
            name, *arguments = line.replace("$CUSTOMER", customer).split()
            if arguments[0] != "sandbox":  # tests/test_cli.py runs that one
                run(program(name), *arguments, **variables)
        assert 1 == len(await ledger(stripe, customer))


def table(heading: str) -> str:
    match = re.search(rf"^## {heading}\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    assert match
    return match[1]


def test_parameter_table_has_every_parameter() -> None:
    """Name and place, as published."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", table("Parameters"), re.MULTILINE)
    parameters = load_manifest().tools[0].parameters
    assert rows == [(name, spec["location"]) for name, spec in parameters.items()]


def test_error_table_has_every_error() -> None:
    """Each class in the row of its outcome."""
    told = {
        name: outcome
        for outcome, names in re.findall(r"^\| `(\w+)` \| (`.*?`) \|", table("When a call fails"), re.MULTILINE)
        for name in re.findall(r"\w+", names)
    }
    classes = {
        name: cls.outcome
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, errors.ToolError) and cls is not errors.ToolError
    }
    assert classes == told


def test_settings_table_has_every_setting() -> None:
    """Each field with its default."""
    rows = re.findall(r"^\| `\w+`.*? \| `(\w+)` \| `?(.*?)`? \|", table("Settings"), re.MULTILINE)
    settings = Settings()
    defaults = {name: getattr(settings, name) for name in type(settings).model_fields}
    expected = {
        name: {None: "none", True: "true", False: "false", 60.0: "60"}.get(value, str(value))
        for name, value in defaults.items()
    }
    assert expected == dict(rows)


def test_fault_table_has_every_fault() -> None:
    """docs/sandbox.md lists what the sandbox can break."""
    text = (ROOT / "docs" / "sandbox.md").read_text("utf-8")
    assert [str(kind) for kind in FaultKind] == re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]


@pytest.mark.parametrize(
    "page", [*PAGES, "docs/sandbox.md", "docs/formats.md", "docs/performance.md", "docs/deployment.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    """Relative links point at files of the repository."""
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target
