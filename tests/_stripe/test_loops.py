"""
Two real agent loops, offline, with scripted models: one that errs and corrects itself, one that needs an approval.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, connect, decide, ledger, order, proposals

from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance.exports import export_tools, run_tool_call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ocp_stripe_balance import OCPAgent
    from ocp_stripe_balance.sandbox import Sandbox

POLICY = {"approval": {"above": {"usd": "4.00"}, "queue": True}}


class Script:
    """
    A model that reads what it is told, as a model would, and does what it says.
    """

    def __init__(self, customer: str, ask: int) -> None:
        self.customer = customer
        self.ask = ask
        self.told: list[dict[str, Any]] = []

    def first(self) -> dict[str, Any]:
        return order(self.customer, str(self.ask / 100), reference="ticket-812")

    def next(self, told: dict[str, Any]) -> dict[str, Any] | None:
        """
        The arguments of the next call, or None where it is done.
        """
        self.told.append(told)
        if told["outcome"] == "succeeded":
            return None
        if told["error"] == "invalid_parameters":
            assert ["amount"] == [problem["path"] for problem in told["problems"]]
            assert str(abs(self.ask)) in told["problems"][0]["hint"]
            return order(self.customer, self.ask, reference="ticket-812")
        assert "approval_required" == told["error"]
        return order(self.customer, self.ask, reference="ticket-812", idempotency_key=told["idempotency_key"])


async def run_pydantic_ai(agent: OCPAgent, script: Script, approve: Callable[[], Any]) -> str:
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent, RunContext, Tool  # noqa: PLC0415  an extra
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart  # noqa: PLC0415
    from pydantic_ai.models.function import AgentInfo, FunctionModel  # noqa: PLC0415

    async def call(context: RunContext, /, **arguments: Any) -> Any:
        made = {"id": context.tool_call_id, "name": TOOL, "arguments": arguments}
        return (await run_tool_call("json-schema", agent, made))["result"]

    async def model(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        returned = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        number = len(messages)
        if not returned:
            return ModelResponse(parts=[ToolCallPart(TOOL, script.first(), tool_call_id=f"call_{number}")])
        told: Any = returned[-1].content
        await approve()
        again = script.next(told)
        if again is None:
            return ModelResponse(parts=[TextPart(told["summary"])])
        return ModelResponse(parts=[ToolCallPart(TOOL, again, tool_call_id=f"call_{number}")])

    (definition,) = export_tools("json-schema", [TOOL])
    tool = Tool.from_schema(
        call,
        name=definition["name"],
        description=definition["description"],
        json_schema=definition["parameters"],
        takes_ctx=True,
    )
    done = await Agent(FunctionModel(model), tools=[tool]).run("Credit the customer for ticket 812.")
    return str(done.output)


async def run_openai_agents(agent: OCPAgent, script: Script, approve: Callable[[], Any]) -> str:
    pytest.importorskip("agents")
    from agents import Agent, FunctionTool, Model, ModelResponse, Runner, Usage, set_tracing_disabled  # noqa: PLC0415
    from openai.types.responses import (  # noqa: PLC0415
        ResponseFunctionToolCall,
        ResponseOutputMessage,
        ResponseOutputText,
    )

    set_tracing_disabled(disabled=True)

    class Scripted(Model):
        async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:  # noqa: A002  theirs
            del system_instructions
            outputs = (
                [item for item in input if item.get("type") == "function_call_output"]
                if isinstance(input, list)
                else []
            )
            told = json.loads(outputs[-1]["output"]) if outputs else None
            await approve()
            arguments = script.next(told) if told else script.first()
            if arguments is None and told is not None:
                text = ResponseOutputText(type="output_text", text=told["summary"], annotations=[])
                message = ResponseOutputMessage(
                    id="m", type="message", role="assistant", status="completed", content=[text]
                )
                return ModelResponse(output=[message], usage=Usage(), response_id=None)
            said = {**dict.fromkeys(definition["parameters"]["required"]), **(arguments or {})}
            call = ResponseFunctionToolCall(
                type="function_call", call_id=f"call_{len(outputs)}", name=TOOL, arguments=json.dumps(said)
            )
            return ModelResponse(output=[call], usage=Usage(), response_id=None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    async def invoke(context: Any, arguments: str) -> str:
        made = {"call_id": context.tool_call_id, "name": TOOL, "arguments": arguments}
        return str((await run_tool_call("openai", agent, made))["output"])

    (definition,) = export_tools("openai", [TOOL])
    tool = FunctionTool(
        name=definition["name"],
        description=definition["description"],
        params_json_schema=definition["parameters"],
        on_invoke_tool=invoke,
        strict_json_schema=definition["strict"],
    )
    assert definition["parameters"] == tool.params_json_schema
    done = await Runner.run(
        Agent(name="support", model=Scripted(), tools=[tool]), "Credit the customer for ticket 812."
    )
    return str(done.final_output)


LOOPS = {"pydantic-ai": run_pydantic_ai, "openai-agents": run_openai_agents}


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_model_errs_and_corrects_itself(loop: str, stripe: Sandbox, customer: str) -> None:
    """By the message it reads, in the framework's own loop; the money moves once."""
    script = Script(customer, -300)

    async def nobody() -> None: ...

    async with await connect(stripe) as agent:
        said = await LOOPS[loop](agent, script, nobody)
    assert f"{customer} was credited 3.00 usd, and now is in credit 3.00 usd" == said
    assert ["not_sent", "succeeded"] == [told["outcome"] for told in script.told]
    assert [-300] == [entry["amount"] for entry in await ledger(stripe, customer)]


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_model_waits_for_an_approval(loop: str, stripe: Sandbox, customer: str, tmp_path: Path) -> None:
    """A person decides elsewhere; the same call with the key it was told then runs, once."""
    script, path = Script(customer, -500), tmp_path / "journal"

    async def approve() -> None:
        journal = Journal(path)
        for proposal in await proposals(journal):
            if proposal.state == "waiting":
                await decide(journal, proposal.approve(by="Ana"))
        await journal.aclose()

    async with await connect(stripe, policy=POLICY, journal=str(path)) as agent:
        said = await LOOPS[loop](agent, script, approve)
    assert "credit 5.00 usd" in said
    assert [("not_sent", "invalid_parameters"), ("not_sent", "approval_required"), ("succeeded", None)] == [
        (told["outcome"], told.get("error")) for told in script.told
    ]
    assert [-500] == [entry["amount"] for entry in await ledger(stripe, customer)]
