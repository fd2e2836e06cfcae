"""
The table of doors, cell by cell: each door leads to the same way of a call.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import sdk_double
from helpers import TOOL, TOOLS, decide, ledger, order, proposals, run

from ocp_stripe_balance import OCPAgent, Settings, ToolError, register
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance.exports import export_tools, langchain_tools, run_tool_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ocp_stripe_balance import Proposal
    from ocp_stripe_balance.sandbox import Sandbox

FRAMEWORKS = (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text("utf-8")
POLICY = {"approval": {"above": {"usd": "4.00"}, "queue": True}, "duplicate_window": "off"}
TOML = 'duplicate_window = "off"\n[approval]\nabove = { usd = "4.00" }\nqueue = true\n'


class Door(Protocol):
    """
    What every door can do: name the tools, and make a call, told as JSON.
    """

    async def discover(self) -> list[str]: ...
    async def call(self, arguments: dict[str, Any], key: str | None) -> dict[str, Any]: ...
    async def close(self) -> None: ...


def settings_of(stripe: Sandbox, path: Path, **policy: Any) -> Settings:
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "journal": str(path / "journal")}
    return Settings(**values, policy=policy or POLICY)


class OwnHost:
    def __init__(self, stripe: Sandbox, path: Path) -> None:
        self.agent = OCPAgent(settings=settings_of(stripe, path))

    async def discover(self) -> list[str]:
        await self.agent.register_api("stripe")
        assert TOOL == self.agent.search_tools("credit a customer")[0].name
        assert self.agent.get_tool(TOOL) is not None
        return [tool.name for tool in self.agent.list_tools()]

    async def call(self, arguments: dict[str, Any], key: str | None) -> dict[str, Any]:
        await self.agent.register_api("stripe")
        try:
            return (await self.agent.call_tool(TOOL, arguments, idempotency_key=key)).to_dict()
        except ToolError as error:
            return error.to_dict()

    async def close(self) -> None:
        await self.agent.aclose()


class Sdk:
    is_sync = False

    def __init__(self, stripe: Sandbox, path: Path) -> None:
        self.agent = sdk_double.OCPAgent()
        self.registration = register(self.agent, sync=self.is_sync, settings=settings_of(stripe, path))
        self.agent.register_api("stripe")

    async def discover(self) -> list[str]:
        assert TOOL in [tool.name for tool in self.agent.search_tools("credit")]
        assert self.agent.get_tool(TOOL) is not None
        return [tool.name for tool in self.agent.list_tools()]

    async def call(self, arguments: dict[str, Any], key: str | None) -> dict[str, Any]:
        agent: Any = self.agent
        try:
            return dict((await agent.call_tool(TOOL, arguments, idempotency_key=key)).to_dict())
        except ToolError as error:
            return error.to_dict()

    async def close(self) -> None:
        await self.registration.aclose()


class SyncSdk(Sdk):
    is_sync = True

    async def call(self, arguments: dict[str, Any], key: str | None) -> dict[str, Any]:
        agent: Any = self.agent
        try:
            return dict((await asyncio.to_thread(agent.call_tool, TOOL, arguments, idempotency_key=key)).to_dict())
        except ToolError as error:
            return error.to_dict()

    async def close(self) -> None:
        await asyncio.to_thread(self.registration.close)


class Formats(OwnHost):
    async def discover(self) -> list[str]:
        return [tool["name"] for tool in export_tools("openai")]

    async def call(self, arguments: dict[str, Any], key: str | None) -> dict[str, Any]:
        await self.agent.register_api("stripe")
        made = {"call_id": key, "name": TOOL, "arguments": json.dumps(arguments)}
        return dict(json.loads((await run_tool_call("openai", self.agent, made))["output"]))


class LangChain(OwnHost):
    async def discover(self) -> list[str]:
        return [tool.name for tool in langchain_tools(self.agent)]

    async def call(self, arguments: dict[str, Any], key: str | None) -> dict[str, Any]:
        await self.agent.register_api("stripe")
        (tool,) = langchain_tools(self.agent, [TOOL])
        message = await tool.ainvoke({"type": "tool_call", "id": key or "c", "name": TOOL, "args": arguments})
        told = json.loads(message.content)
        assert ("error" in told) is (message.status == "error")
        return dict(told)


class CommandLine:
    def __init__(self, stripe: Sandbox, path: Path) -> None:
        self.stripe = stripe
        (path / "policy.toml").write_text(TOML)
        self.variables = {
            "OCP_STRIPE_JOURNAL": str(path / "journal"),
            "OCP_STRIPE_POLICY": str(path / "policy.toml"),
        }

    async def discover(self) -> list[str]:
        assert TOOL in (await asyncio.to_thread(run, "tools")).stdout
        done = await asyncio.to_thread(run, "tools", "--format", "anthropic")
        return [tool["name"] for tool in json.loads(done.stdout)]

    async def call(self, arguments: dict[str, Any], key: str | None) -> dict[str, Any]:
        named = ("--idempotency-key", key) if key else ()
        text = json.dumps(arguments)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.variables.items():
                patch.setenv(name, value)
            done = await asyncio.to_thread(run, "call", TOOL, "--json", "-", *named, stripe=self.stripe, stdin=text)
        assert (done.returncode == 0) is bool(done.stdout)
        return dict(json.loads(done.stdout or done.stderr))

    async def close(self) -> None: ...


DOORS: dict[str, Callable[[Sandbox, Path], Door]] = {
    "`OCPAgent` of this package": OwnHost,
    "the OCP SDK, async": Sdk,
    "the OCP SDK, sync": SyncSdk,
    "models' formats": Formats,
    "LangChain": LangChain,
    "the command line": CommandLine,
}


def through(name: str, stripe: Sandbox, path: Path) -> Door:
    if name == "LangChain":
        pytest.importorskip("langchain_core")
    return DOORS[name](stripe, path)


def test_the_table_has_these_doors_and_columns() -> None:
    """Neither more nor fewer, and no empty cell; the MCP server, where a client names no key, has tests of its own."""
    match = re.search(r"^## All the doors\n(.*?)^## ", FRAMEWORKS, re.DOTALL | re.MULTILINE)
    assert match
    head, _, *rows = [line for line in match[1].splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert ["door", "discover", "call", "error shown", "idempotency key", "approval"] == columns
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert list(DOORS) == [row[0] for row in cells if row[0] != "[the MCP server](mcp.md)"]
    assert all(len(row) == len(columns) and all(row) for row in cells)


@pytest.mark.parametrize("name", DOORS)
async def test_each_door_discovers(name: str, stripe_thread: Sandbox, tmp_path: Path) -> None:
    """All tools, by their names."""
    door = through(name, stripe_thread, tmp_path)
    assert TOOLS == await door.discover()
    await door.close()


CALL_ID = "call_Jq7xR2vKpW9sTzB4mXcD8LfG"


@pytest.mark.parametrize("name", DOORS)
async def test_each_door_calls_once_per_key(name: str, stripe_thread: Sandbox, tmp_path: Path) -> None:
    """The same key is the same call, given beside the parameters or as one of them; wrong calls are told so."""
    customer = stripe_thread.create_customer()
    door = through(name, stripe_thread, tmp_path)
    first = await door.call(order(customer, -300), CALL_ID)
    again = await door.call(order(customer, -300), CALL_ID)
    named = await door.call(order(customer, -300, idempotency_key=CALL_ID), None if name != "LangChain" else "c")
    assert ["succeeded"] * 3 == [told["outcome"] for told in (first, again, named)]
    assert (CALL_ID, [False, True, True]) == (
        first["idempotency_key"],
        [told["replayed"] for told in (first, again, named)],
    )
    wrong = await door.call(order(customer, "3.00"), "call_2")
    assert ("not_sent", "invalid_parameters", "amount") == (
        wrong["outcome"],
        wrong["error"],
        wrong["problems"][0]["path"],
    )
    await door.close()
    assert 1 == len(await ledger(stripe_thread, customer))


@pytest.mark.parametrize("name", DOORS)
async def test_each_door_waits_for_approval(name: str, stripe_thread: Sandbox, tmp_path: Path) -> None:
    """The call is told that it waits; once a person approved, the same call with the key it was told runs."""
    customer = stripe_thread.create_customer()
    door = through(name, stripe_thread, tmp_path)
    waiting = await door.call(order(customer, -500), CALL_ID)
    assert ("not_sent", "approval_required", CALL_ID) == (
        waiting["outcome"],
        waiting["error"],
        waiting["idempotency_key"],
    )
    journal = Journal(tmp_path / "journal")
    (proposal,) = await proposals(journal)
    await decide(journal, proposal.approve(by="Ana"))
    await journal.aclose()
    done = await door.call(order(customer, -500), waiting["idempotency_key"])
    assert "succeeded" == done["outcome"]
    await door.close()
    assert 1 == len(await ledger(stripe_thread, customer))


async def test_doors_in_code_take_an_approver(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """Which is asked before the queue is; the terminal's is tested with the command line."""

    async def approver(proposal: Proposal) -> Any:
        return proposal.approve(by="Ana")

    customer, settings = stripe_thread.create_customer(), settings_of(stripe_thread, tmp_path)
    async with OCPAgent(settings=settings, approver=approver) as own:
        await own.register_api("stripe")
        assert (await own.call_tool(TOOL, order(customer, -500))).ok
        made = {"call_id": "c", "name": TOOL, "arguments": json.dumps(order(customer, -500))}
        assert "succeeded" in (await run_tool_call("openai", own, made))["output"]
    agent: Any = sdk_double.OCPAgent()
    async with register(agent, settings=settings, approver=approver):
        agent.register_api("stripe")
        assert (await agent.call_tool(TOOL, order(customer, -500))).ok
    asking: list[Callable[[Proposal], Awaitable[Any]]] = [approver]
    with register(agent, sync=True, settings=settings, approver=asking[0]):
        agent.register_api("stripe")
        assert (await asyncio.to_thread(agent.call_tool, TOOL, order(customer, -500))).ok
    assert 4 == len(await ledger(stripe_thread, customer))


async def test_the_sdks_agents_take_headers(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """The key may be a header at the doors of code."""
    customer, settings = stripe_thread.create_customer(), settings_of(stripe_thread, tmp_path)
    agent: Any = sdk_double.OCPAgent()
    async with register(agent, settings=settings), OCPAgent(settings=settings) as own:
        agent.register_api("stripe")
        await own.register_api("stripe")
        for each in (agent, own):
            done = await each.call_tool(TOOL, order(customer, -300), headers={"Idempotency-Key": "call_1"})
            assert "call_1" == done.idempotency_key
    assert 1 == len(await ledger(stripe_thread, customer))
