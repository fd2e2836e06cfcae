"""
The MCP server, as a client of the Python SDK sees it, in both versions of the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import programs
import pytest
from helpers import TOOL, TOOLS, decide, decisions, ledger, order, proposals, records, usual_journal

from ocp_stripe_balance import errors
from ocp_stripe_balance._domain import State
from ocp_stripe_balance.cli import main

pytest.importorskip("mcp")
from mcp import Client, StdioServerParameters
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_host import ASKS, CREATE, VERSIONS, Told, facts, saying, served, streamed

from ocp_stripe_balance.mcp import server, visit
from ocp_stripe_balance.serving.flights import Flight, Flights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

MODERN = {"protocolVersion": "2026-07-28", "clientCapabilities": {}}
both = pytest.mark.parametrize("version", VERSIONS)


@both
async def test_tools_are_listed_with_all_that_hosts_show(version: str, stripe: Sandbox) -> None:
    """Titles, schemas and hints; a create is idempotent where each call must have a reference."""
    async with Client(served(stripe, policy={"require": {"reference": True}}), mode=version) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert len(TOOLS) == len(tools)
    for tool in tools.values():
        assert tool.title
        assert tool.output_schema is not None
        assert "object" == tool.input_schema["type"]
    hints = {name: tool.annotations for name, tool in tools.items() if tool.annotations}
    assert (False, True, True) == (
        hints[CREATE].read_only_hint,
        hints[CREATE].destructive_hint,
        hints[CREATE].idempotent_hint,
    )
    assert hints["get_customer"].read_only_hint
    assert hints["get_customer"].open_world_hint


@both
async def test_without_that_rule_a_create_is_not_called_idempotent(version: str, stripe: Sandbox) -> None:
    """A host that repeats an idempotent call would pay twice."""
    async with Client(served(stripe), mode=version) as client:
        (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == CREATE]
    assert tool.annotations is not None
    assert tool.annotations.idempotent_hint is False


@both
@pytest.mark.parametrize("name", [CREATE, TOOL])
async def test_a_call_is_answered(version: str, stripe: Sandbox, customer: str, name: str) -> None:
    """By its short name and by the operation's ID: text for the model, facts for code."""
    async with Client(served(stripe), mode=version) as client:
        result = await client.call_tool(name, order(customer, reference="t-1"))
    assert not result.is_error
    assert "succeeded" == facts(result)["outcome"]
    assert [-500] == [entry["amount"] for entry in await ledger(stripe, customer)]
    async with usual_journal() as journal:
        (record,) = await records(journal)
    assert ("ana@host", "mcp") == (record.intent.caller.user, record.intent.caller.agent_type)


@both
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"amount": "five"}, "invalid_parameters"),
        ({"customer": "../charges"}, "invalid_parameters"),
        ({"approved": True}, "invalid_parameters"),
        ({"amount": -999999}, "policy_refused"),
        ({"customer": "cus_nobody"}, "resource_missing"),
    ],
)
@pytest.mark.promise("path.stays")
async def test_a_refusal_is_an_error_with_its_outcome(
    version: str, stripe: Sandbox, customer: str, arguments: dict[str, Any], error: str
) -> None:
    """A result that says so, not an error of the protocol, which models do not see."""
    async with Client(served(stripe), mode=version) as client:
        result = await client.call_tool(CREATE, {**order(customer), **arguments})
    assert result.is_error
    assert error == facts(result)["error"]
    assert facts(result)["outcome"] in {"not_sent", "rejected"}
    assert [] == await ledger(stripe, customer)


@both
async def test_only_what_was_chosen_can_be_called(version: str, stripe: Sandbox, customer: str) -> None:
    """Neither by its other name, nor because the package has it."""
    async with Client(served(stripe, names=["get_customer", TOOL], is_read_only=True), mode=version) as client:
        assert ["get_customer"] == [tool.name for tool in (await client.list_tools()).tools]
        for name in (CREATE, TOOL, "list_customers", "nothing"):
            result = await client.call_tool(name, order(customer))
            assert "invalid_parameters" == facts(result)["error"]
    assert [] == await ledger(stripe, customer)


@pytest.mark.parametrize("chosen", [{"names": ["get_customers"]}, {"names": [TOOL], "is_read_only": True}])
async def test_a_choice_that_leaves_nothing_is_refused(stripe: Sandbox, chosen: dict[str, Any]) -> None:
    """When the server is made, not when a model finds no tool."""
    with pytest.raises(errors.ConfigurationError, match="tool"):
        served(stripe, **chosen)


@both
@pytest.mark.parametrize("more", [{"reference": "t-1"}, {}])
async def test_a_call_sent_twice_is_one(version: str, stripe: Sandbox, customer: str, more: dict[str, Any]) -> None:
    """At once, in any spelling that means the same: one entry, and both are told of it. Later, what the policy says."""
    async with Client(served(stripe), mode=version) as client:
        calls = [order(customer, **more), order(customer, -500.0, "USD", **more)]
        first, second = await asyncio.gather(*(client.call_tool(CREATE, each) for each in calls))
        assert facts(first)["entry"]["id"] == facts(second)["entry"]["id"]
        later = await client.call_tool(CREATE, calls[0])
    assert later.is_error is not bool(more)
    assert 1 == len(await ledger(stripe, customer))


@both
async def test_two_callers_who_ask_for_the_same_are_two(version: str, stripe: Sandbox, customer: str) -> None:
    """Only calls of one session are joined: what another one asks for is another decision, or what the policy says."""
    unguarded: dict[str, Any] = {"policy": {"duplicate_window": "off"}}
    async with (
        Client(served(stripe, **unguarded), mode=version) as ana,
        Client(served(stripe, **unguarded), mode=version) as ben,
    ):
        await asyncio.gather(*(client.call_tool(CREATE, order(customer)) for client in (ana, ben)))
    assert 2 == len(await ledger(stripe, customer))


async def test_many_sessions_make_each_decision_once(stripe: Sandbox) -> None:
    """In both versions, over one journal, each call twice: all are told of the same entry."""
    calls = [order(stripe.create_customer(), -100, reference=f"t-{number}") for number in range(3)]
    async with contextlib.AsyncExitStack() as open_sessions:
        clients = [
            await open_sessions.enter_async_context(Client(served(stripe, f"{number}@host"), mode=VERSIONS[number % 2]))
            for number in range(6)
        ]
        every = [client.call_tool(CREATE, call) for call in calls for client in clients for _ in range(2)]
        told = [facts(result) for result in await asyncio.gather(*every)]
    assert {"succeeded"} == {each["outcome"] for each in told}
    made = [entry["id"] for call in calls for entry in await ledger(stripe, call["customer"])]
    assert 3 == len(made)
    assert set(made) == {each["entry"]["id"] for each in told}


@both
async def test_a_question_shows_what_it_is_about(version: str, stripe: Sandbox, customer: str) -> None:
    """Who, what, the balance before and after, why; and the model's words as such, in lines that they cannot leave."""
    asked: list[str] = []
    words = "Refund\nMay this be sent to nobody?\u202e"
    async with Client(served(stripe, policy=ASKS), mode=version, elicitation_callback=saying(asked)) as client:
        result = await client.call_tool(CREATE, order(customer, description=words, reference="t-1"))
    assert "succeeded" == facts(result)["outcome"]
    (message,) = asked
    lines = message.splitlines()
    assert f'credit 5.00 usd for {customer} ("Ada")' in lines
    assert "balance 0.00 usd now, in credit 5.00 usd after it" in lines
    assert "asked because 5.00 usd is above the 1.00 usd that go without approval (approval.above.usd)" in lines
    where = lines.index("In the model's own words, which nobody checked:")
    assert ["> reference:", "> description:"] == [line.partition(' "')[0] for line in lines[where + 1 :]]
    assert "\u202e" not in message


@both
async def test_a_yes_is_recorded_as_given_in_the_session(version: str, stripe: Sandbox, customer: str) -> None:
    """By whoever the server is for, so that it is no second person's."""
    asked: list[str] = []
    async with Client(served(stripe, policy=ASKS), mode=version, elicitation_callback=saying(asked)) as client:
        await client.call_tool(CREATE, order(customer))
    async with usual_journal() as journal:
        (approved,) = [each for each in await decisions(journal) if each.decision == "approved"]
        (proposal,) = await proposals(journal)
    assert "ana@host in the session" == approved.who == proposal.decided_by
    assert "used" == proposal.state
    assert 1 == len(await ledger(stripe, customer))


@both
async def test_a_question_sent_twice_is_asked_once(version: str, stripe: Sandbox, customer: str) -> None:
    """A host that sends every call twice shows one proposal, and one entry is made of it."""
    asked: list[str] = []
    async with Client(served(stripe, policy=ASKS), mode=version, elicitation_callback=saying(asked)) as client:
        results = await asyncio.gather(*(client.call_tool(CREATE, order(customer)) for _ in range(2)))
    assert 1 == len({facts(result)["entry"]["id"] for result in results})
    assert 1 == len(set(asked))
    assert 1 == len(asked) or version != "legacy"
    assert 1 == len(await ledger(stripe, customer))


@both
async def test_a_client_that_cannot_ask_is_told_how_to_go_on(version: str, stripe: Sandbox, customer: str) -> None:
    """The proposal waits in the queue; once somebody approved it there, the same call goes on."""
    async with Client(served(stripe, policy=ASKS), mode=version) as client:
        told = facts(await client.call_tool(CREATE, order(customer)))
        assert "approval_required" == told["error"]
        async with usual_journal() as journal:
            (proposal,) = await proposals(journal)
            assert told["proposal_id"] == proposal.id
            await decide(journal, proposal.approve(by="ben"))
        result = await client.call_tool(CREATE, order(customer))
    assert "succeeded" == facts(result)["outcome"]
    assert 1 == len(await ledger(stripe, customer))


@both
async def test_a_cancelled_call_that_waits_is_not_sent(
    version: str, stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops a call that has no turn yet stops its money."""
    waiting = Told(monkeypatch, "turn")
    async with streamed(served(stripe, rate_limit=0.01, customer_check="off", timeout=300), version) as client:
        assert not (await client.call_tool(CREATE, order(customer, reference="t-1"))).is_error
        second = order(customer, -700, reference="t-2")
        call = asyncio.create_task(client.call_tool(CREATE, second, progress_callback=waiting.note))
        await waiting.wait()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        async with usual_journal() as journal, asyncio.timeout(20):
            while (states := [record.state for record in await records(journal)])[-1] is State.SENDING:
                await asyncio.sleep(0.01)
        assert [State.SUCCEEDED, State.NOT_SENT] == states
    assert 1 == len(await ledger(stripe, customer))


@both
@pytest.mark.parametrize("how", ["cancelled", "gone"])
async def test_a_call_that_was_sent_is_finished_whoever_leaves(
    version: str, stripe: Sandbox, customer: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation or a lost connection leaves the row with what became of the money."""
    stripe.faults.add("stall", path="balance_transactions", executed=True, seconds=0.3)
    sent = Told(monkeypatch, "sent")
    async with streamed(served(stripe), version) as client:
        call = asyncio.create_task(client.call_tool(CREATE, order(customer), progress_callback=sent.note))
        await sent.wait()
        if how == "cancelled":
            call.cancel()
    with contextlib.suppress(asyncio.CancelledError, MCPError):
        await call
    async with usual_journal() as journal:
        assert [State.SUCCEEDED] == [record.state for record in await records(journal)]
    assert 1 == len(await ledger(stripe, customer))


@both
async def test_a_lost_call_made_again_joins_the_one_under_way(
    version: str, stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody waited for the first one any more, and without any reference."""
    stripe.faults.add("stall", path="balance_transactions", executed=True, seconds=0.3)
    sent = Told(monkeypatch, "sent")
    async with streamed(served(stripe), version) as client:
        first = asyncio.create_task(client.call_tool(CREATE, order(customer), progress_callback=sent.note))
        await sent.wait()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        again = await client.call_tool(CREATE, order(customer))
    assert "succeeded" == facts(again)["outcome"]
    assert 1 == len(await ledger(stripe, customer))


async def test_a_call_that_is_being_stopped_is_not_joined() -> None:
    """A client cancels a call and makes it again at once: the second one is not told of the first one's end."""
    flights, begun, written_down = Flights(), asyncio.Event(), asyncio.Event()
    result: Any = object()

    async def stopped(_: Flight) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await written_down.wait()

    async def made(_: Flight) -> Any:
        return result

    first = asyncio.create_task(flights.join("call", stopped).result())
    await begun.wait()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    second = flights.join("call", made)
    assert result is await second.result()
    written_down.set()
    await flights.land()


@both
async def test_what_is_no_message_ends_no_connection(version: str, stripe: Sandbox, customer: str) -> None:
    """Garbage, the wrong shapes, and hostile values: each is refused or passed over, and the next call is answered."""
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    meta = {f"io.modelcontextprotocol/{name}": value for name, value in MODERN.items()}
    opening = {"method": "ping"} if version != "legacy" else {"method": "initialize", "params": about}
    params: list[Any] = [None, [], "x", {"name": 5}, {"name": CREATE, "arguments": [1]}, {"name": CREATE, "_meta": 7}]
    hostile: list[Any] = [
        {"amount": 10**400},
        {"customer": {"id": "cus_1"}},
        {"currency": "\u0000"},
        {"metadata": {"": {}}},
    ]
    params += [{"name": CREATE, "arguments": {**order(customer), **each}} for each in hostile]
    messages = [{"method": "tools/call", "params": each} for each in params]
    last = {"method": "tools/call", "params": {"name": CREATE, "arguments": order(customer)}, "id": "last"}
    lines = ["", "{", "[" * 99999, "null", "[]", '"\\ud800"', "\ufffd", '{"jsonrpc": "1.0"}']
    for number, each in enumerate([opening, *messages, last]):
        message = {"jsonrpc": "2.0", "id": number, **each}
        if version != "legacy" and isinstance(message.get("params", {}), dict):
            message["params"] = {"_meta": meta, **message.get("params", {})}
        lines.insert(0 if each is opening else len(lines), json.dumps(message))
    written: Any = Written(lines)
    async with stdio_server(stdin=written, stdout=written) as (incoming, outgoing):
        a_server = served(stripe)
        await a_server.run(incoming, outgoing, a_server.create_initialization_options())
    assert "succeeded" == written.answers["last"]["result"]["structuredContent"]["outcome"]
    assert 1 == len(await ledger(stripe, customer))


class Written:
    """
    Standard input of so many lines, and the standard output that answers them; it ends with the last answer.
    """

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._is_over = asyncio.Event()
        self.answers: dict[object, Any] = {}

    async def __aiter__(self) -> AsyncIterator[str]:
        for line in self._lines:
            yield line + "\n"
        async with asyncio.timeout(20):
            await self._is_over.wait()

    async def write(self, text: str) -> None:
        answer = json.loads(text)
        self.answers[answer.get("id")] = answer
        if answer.get("id") == "last":
            self._is_over.set()

    async def flush(self) -> None:
        """
        Nothing is kept back.
        """


async def test_a_client_that_reads_no_more_leaves_a_truthful_row(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing to it fails while a call is sent, which cancels all there is; the call is finished all the same."""

    class Broken(Written):
        async def write(self, text: str) -> None:
            if "sent" in text:
                raise BrokenPipeError

    monkeypatch.setattr(visit, "_TICK_S", 0.01)
    stripe.faults.add("stall", path="balance_transactions", executed=True, seconds=0.3)
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    call = {"name": CREATE, "arguments": order(customer), "_meta": {"progressToken": 1}}
    messages = [("initialize", about), ("tools/call", call)]
    broken: Any = Broken([json.dumps({"jsonrpc": "2.0", "id": m, "method": m, "params": p}) for m, p in messages])
    a_server = served(stripe)
    with pytest.raises(ExceptionGroup):  # which `serve` takes for the end of the client
        async with stdio_server(stdin=broken, stdout=broken) as (incoming, outgoing):
            await a_server.run(incoming, outgoing, a_server.create_initialization_options())
    async with usual_journal() as journal:
        assert [State.SUCCEEDED] == [record.state for record in await records(journal)]


def test_without_the_extra_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a sentence, with the exit code of what was not sent."""
    for name in [name for name in sys.modules if name.startswith("ocp_stripe_balance.mcp.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    assert 2 == main(["mcp"])
    assert "pip install '.[mcp]' in a copy of the repository" in capsys.readouterr().err


def test_of_a_name_given_twice_the_last_one_is_read() -> None:
    """Before we see it, as docs/SECURITY.md says."""
    types = pytest.importorskip("mcp.types")
    text = '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"amount": 1, "amount": 2}}'
    assert {"amount": 2} == types.jsonrpc_message_adapter.validate_json(text, by_name=False).params


def test_a_policy_is_named_as_the_shell_means_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the working directory, as in every other command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text("nonsense = 1")
    assert 2 == main(["mcp", "--policy", "policy.toml"])
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--port", "0"), ("--host", "0.0.0.0"), ("--allow-host", "a.test")])  # noqa: S104
def test_what_is_for_http_alone_is_not_ignored(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Who names a port believes that the server listens."""
    assert 2 == main(["mcp", "--tools", "nothing", *words])
    assert f"{words[0]}: the server listens with --http alone" in capsys.readouterr().err


@both
async def test_a_fault_of_ours_is_no_plain_failure(
    version: str, stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a call that may have paid, the client is told that; of one that reads, that it moved nothing."""

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(stripe.api_key)

    monkeypatch.setattr(server, "run_tool_call", broken)
    async with Client(served(stripe), mode=version) as client:
        paid, read = [await client.call_tool(name, order(customer)) for name in (CREATE, "get_customer")]
    assert ["unknown", "not_sent"] == [facts(each)["outcome"] for each in (paid, read)]
    assert stripe.api_key not in f"{paid}{read}{caplog.text}"


@both
async def test_text_that_no_message_can_carry_ends_no_connection(
    version: str, stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone surrogate, which Stripe's JSON can name."""

    async def odd(*_: Any, **__: Any) -> dict[str, Any]:
        told = {"outcome": "succeeded", "summary": "\ud800"}
        return {"content": [{"type": "text", "text": "\ud800"}], "structuredContent": told, "isError": False}

    async with streamed(served(stripe), version) as client:
        with monkeypatch.context() as patch:
            patch.setattr(server, "run_tool_call", odd)
            assert {"outcome": "succeeded", "summary": "?"} == facts(await client.call_tool(CREATE, order(customer)))
        assert not (await client.call_tool("get_customer", {"customer": customer})).is_error


@both
@pytest.mark.promise("secrets.stay")
async def test_the_key_is_in_no_answer(version: str, stripe: Sandbox, customer: str) -> None:
    """Not even of a call that has it in its parameters; and that one goes nowhere."""
    async with Client(served(stripe), mode=version) as client:
        listed = await client.list_tools()
        mores: list[dict[str, Any]] = [
            {},
            {"description": f"my key is {stripe.api_key}"},
            {"currency": stripe.api_key},
        ]
        answers = [await client.call_tool(CREATE, {**order(customer), **more}) for more in mores]
        odd = await client.call_tool(stripe.api_key, {stripe.api_key: stripe.api_key})
    assert stripe.api_key not in f"{listed}{answers}{odd}"
    assert 1 == len(await ledger(stripe, customer))


def started(stripe: Sandbox, *words: str, **environment: str) -> StdioServerParameters:
    """
    How a host starts our program.
    """
    variables = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url, **environment}
    program = [*programs.started(), programs.CLI, "mcp", *words]
    return StdioServerParameters(command=program[0], args=program[1:], env={**os.environ, **variables})


@both
async def test_a_process_serves_a_host(version: str, stripe: Sandbox, customer: str) -> None:
    """Listed, called, repeated, refused; and it ends when its input does."""
    async with Client(started(stripe, "--tools", f"{CREATE},get_customer"), mode=version) as client:
        assert [CREATE, "get_customer"] == [tool.name for tool in (await client.list_tools()).tools]
        made = [await client.call_tool(CREATE, order(customer, reference="t-1")) for _ in range(2)]
        refused = await client.call_tool(CREATE, order(customer, 0))
    assert [False, True] == [facts(each)["replayed"] for each in made]
    assert "invalid_parameters" == facts(refused)["error"]
    assert 1 == len(await ledger(stripe, customer))


@contextlib.asynccontextmanager
async def process(stripe: Sandbox) -> AsyncIterator[asyncio.subprocess.Process]:
    """
    Our program, to which somebody writes lines.
    """
    variables = {**os.environ, "STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
    begun = await asyncio.create_subprocess_exec(
        *programs.started(),
        programs.CLI,
        "mcp",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=variables,
    )
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    await written(begun, method="initialize", id=1, params=about)
    assert begun.stdout is not None
    await begun.stdout.readline()
    await written(begun, method="notifications/initialized")
    try:
        yield begun
    except BaseException:
        begun.kill()
        raise
    finally:
        await begun.wait()


async def written(begun: asyncio.subprocess.Process, **message: Any) -> None:
    """
    Write one message to it.
    """
    assert begun.stdin is not None
    begun.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    await begun.stdin.drain()


async def answers_of(begun: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    """
    What calls were answered until it ended.
    """
    assert begun.stdout is not None
    lines = (await begun.stdout.read()).splitlines()
    return [json.loads(line)["result"]["structuredContent"] for line in lines]


async def test_a_client_that_closes_its_end_is_still_answered(stripe: Sandbox, customer: str) -> None:
    """A plain failure of a call that was sent would be made again."""
    stripe.faults.add("stall", path="balance_transactions", executed=True, seconds=0.5)
    async with process(stripe) as begun:
        await written(begun, method="tools/call", id=2, params={"name": CREATE, "arguments": order(customer)})
        while not stripe.faults.met["stall"]:
            await asyncio.sleep(0.01)
        assert begun.stdin is not None
        begun.stdin.close()
        (told,) = await answers_of(begun)
    (entry,) = await ledger(stripe, customer)
    assert ("succeeded", entry["id"]) == (told["outcome"], told["entry"]["id"])


@pytest.mark.parametrize("odd", ['"half an emoji \\ud83d"', "7" * 5000])
async def test_what_the_package_cannot_read_is_answered_too(stripe: Sandbox, customer: str, odd: str) -> None:
    """That nothing was sent; else the client would wait for ever. And the next call is made."""
    call = order(customer, description="ODD")
    async with process(stripe) as begun:
        message = {"jsonrpc": "2.0", "method": "tools/call", "id": 2, "params": {"name": CREATE, "arguments": call}}
        assert begun.stdin is not None
        begun.stdin.write(json.dumps(message).replace('"ODD"', odd).encode() + b"\n")
        assert begun.stdout is not None
        answer = json.loads(await asyncio.wait_for(begun.stdout.readline(), 20))
        assert (2, True) == (answer["id"], answer["error"]["message"].startswith("Nothing was sent"))
        await written(begun, method="tools/call", id=3, params={"name": CREATE, "arguments": call})
        assert 3 == json.loads(await begun.stdout.readline())["id"]
        begun.stdin.close()
        await begun.wait()
    assert ["ODD"] == [entry["description"] for entry in await ledger(stripe, customer)]


async def test_lines_that_are_no_message_end_no_process(stripe: Sandbox, customer: str) -> None:
    """Nor do those whose ID nobody can write: the next call is made."""
    request = '{"jsonrpc": "2.0", "method": "ping", "params": {"a": "\\ud800"}, "id": '
    lines = [
        "",
        "{",
        "[" * 99999,
        "null",
        "[]",
        '"\\ud800"',
        f'{request}"\\ud800"}}',
        f"{request}true}}",
        f"{request}[]}}",
    ]
    async with process(stripe) as begun:
        assert begun.stdin is not None
        begun.stdin.writelines(line.encode() + b"\n" for line in [*lines, "\ufffd"])
        begun.stdin.write(b"\xff\n")
        await written(begun, method="tools/call", id="last", params={"name": CREATE, "arguments": order(customer)})
        assert begun.stdout is not None
        async with asyncio.timeout(20):
            while "last" != json.loads(await begun.stdout.readline()).get("id"):
                pass
        begun.stdin.close()
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.parametrize(
    ("number", "code", "state"), [(signal.SIGTERM, 0, State.UNKNOWN), (signal.SIGKILL, -9, State.SENDING)]
)
async def test_a_host_that_has_no_patience_leaves_a_truthful_row(
    stripe: Sandbox, customer: str, number: signal.Signals, code: int, state: State
) -> None:
    """It ends the process, whose input stays open, while the call has no answer; the next session is told the truth."""
    stripe.faults.add("stall", path="balance_transactions", executed=True, seconds=30)
    call = order(customer, reference="t-1")
    async with process(stripe) as begun:
        await written(begun, method="tools/call", id=2, params={"name": CREATE, "arguments": call})
        while not stripe.faults.met["stall"]:
            await asyncio.sleep(0.01)
        begun.send_signal(number)
        async with asyncio.timeout(20):
            assert code == await begun.wait()
        assert [state.value] * (number is signal.SIGTERM) == [each["outcome"] for each in await answers_of(begun)]
        assert begun.stderr is not None
        told = await begun.stderr.read()
        assert b"Traceback" not in told
        assert stripe.api_key.encode() not in told
    async with usual_journal() as journal:
        assert [state] == [record.state for record in await records(journal)]
    async with Client(served(stripe)) as client:
        assert facts(await client.call_tool(CREATE, call))["replayed"]
    assert 1 == len(await ledger(stripe, customer))
