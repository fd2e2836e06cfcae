"""
The loops of docs/agents.md on the frameworks' own packages, offline, each with a model that follows a script.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web
from pages import DOCS, block, names_of

from ocp_stripe_balance import OCPAgent, SyncAgent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

PAGE = DOCS / "agents.md"
TEXT = "Credit what the tickets say."
TOOL = "postCustomersCustomerBalanceTransactions"
FUNCTION = "credit_customer"


@dataclass
class Script:
    """
    A model that reads what it is told: it errs, corrects itself with three calls at once, and then says how they ended.

    It remembers nothing, as a model does not, so that it can go on in another process.
    """

    customer: str
    is_function: bool
    told: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tool(self) -> str:
        return FUNCTION if self.is_function else TOOL

    def turn(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]] | str:
        """
        The arguments of the next calls, or what it says in the end.
        """
        self.told += answers
        if any(answer.get("error") == "invalid_parameters" for answer in answers):
            return [self.call(f"{n}.00", f"ticket-{n}") for n in (1, 5, 6)]
        return ", ".join(answer.get("error", answer["outcome"]) for answer in answers) or [self.call("five", "x")]

    def call(self, amount: str, reference: str) -> dict[str, Any]:
        called = {"customer": self.customer, "currency": "usd"}
        if self.is_function:
            return {**called, "amount": amount, "reference": reference}
        # Without a reference: the ID within the conversation is the only name that the decision has.
        return {**called, "amount": "five" if amount == "five" else -int(amount.replace(".", ""))}


async def pydantic_ai(stripe: OCPAgent, script: Script, folder: Path, text: str | None) -> str | None:
    from pydantic_ai import Agent, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import FunctionModel

    def model(messages: list[Any], _: Any) -> ModelResponse:
        assert isinstance(messages[-1], ModelRequest)
        returned: list[Any] = [part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        said = script.turn(returned)
        if isinstance(said, str):
            return ModelResponse(parts=[TextPart(said)])
        return ModelResponse(
            parts=[ToolCallPart(TOOL, args, tool_call_id=f"call_{len(messages)}{n}") for n, args in enumerate(said)]
        )

    page = names_of(PAGE, "pydantic-ai")
    agent = Agent(FunctionModel(model), tools=page["tools_of"](stripe))
    said: str | None = await page["run"](agent, folder / "saved", text)
    return said


async def openai_agents(stripe: OCPAgent, script: Script, folder: Path, text: str | None) -> str | None:
    from agents import Agent, set_tracing_disabled
    from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

    set_tracing_disabled(disabled=True)

    def respond(called: Any) -> Any:
        items = called.input if isinstance(called.input, list) else []
        outputs = trailing(items, lambda item: item.get("type") == "function_call_output")
        said = script.turn([json.loads(item["output"]) for item in outputs])
        if isinstance(said, str):
            return [assistant_message(said)]
        nulls = dict.fromkeys(called.tools[0].params_json_schema["required"])
        return [
            function_call(TOOL, {**nulls, **args}, call_id=f"call_{len(items)}{n}", item_id=f"fc_{len(items)}{n}")
            for n, args in enumerate(said)
        ]

    page = names_of(PAGE, "openai-agents")
    model = ScriptedModel([ModelStep(responder=respond) for _ in range(4)])
    assistant = Agent(name="support", model=model, tools=page["tools_of"](stripe, script.customer))
    said: str | None = await page["run"](assistant, folder / "saved", text)
    return said


async def langgraph(stripe: OCPAgent, script: Script, folder: Path, text: str | None) -> str | None:
    from langchain_core.language_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    class Model(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **_: Any) -> Any:
            assert TOOL in [tool.name for tool in tools]
            return self

        async def ainvoke(self, input: Any, *_: Any, **__: Any) -> AIMessage:  # noqa: A002  theirs
            messages = trailing(input, lambda message: isinstance(message, ToolMessage))
            said = script.turn([json.loads(message.text) for message in messages])
            if isinstance(said, str):
                return AIMessage(said)
            calls = [{"id": f"call_{len(input)}{n}", "name": TOOL, "args": args} for n, args in enumerate(said)]
            return AIMessage("", tool_calls=calls)

    page = names_of(PAGE, "langgraph")
    async with AsyncSqliteSaver.from_conn_string(str(folder / "saved")) as checkpointer:
        graph = page["graph_of"](stripe, Model(messages=iter([])), checkpointer)
        said: str | None = await page["run"](graph, script.customer, text)
    return said


async def own_loop(stripe: OCPAgent, script: Script, folder: Path, text: str | None) -> str | None:
    import anthropic

    page = names_of(PAGE, "own-loop")
    async with serving(claude(script)) as url, anthropic.AsyncAnthropic(api_key="x", base_url=url) as model_api:
        said: str | None = await page["run"](stripe, model_api, script.customer, folder / "saved", text)
    return said


async def anthropic_runner(stripe: OCPAgent, script: Script, folder: Path, text: str | None) -> str | None:
    import anthropic

    with function(stripe, folder) as credit_customer:
        asked: dict[str, Any] = {
            "model": "claude-sonnet-5-5",
            "max_tokens": 1024,
            "messages": [{"role": "user", "content": text or TEXT}],
            "tools": [anthropic.beta_tool(credit_customer)],
        }
        async with serving(claude(script)) as url:
            with anthropic.Anthropic(api_key="x", base_url=url) as model_api:
                runner = model_api.beta.messages.tool_runner(**asked)
                done: Any = await asyncio.to_thread(runner.until_done)
    return str(done.content[-1].text)


async def google_runner(stripe: OCPAgent, script: Script, folder: Path, text: str | None) -> str | None:
    from google import genai

    with function(stripe, folder) as credit_customer:
        async with serving(gemini(script)) as url:
            with genai.Client(api_key="x", http_options={"base_url": url}) as model_api:
                chat = model_api.chats.create(model="gemini-3.8-flash", config={"tools": [credit_customer]})
                done = await asyncio.to_thread(chat.send_message, text or TEXT)
    return done.text


async def smolagents(stripe: OCPAgent, script: Script, folder: Path, text: str | None) -> str | None:
    from smolagents import ChatMessage, LogLevel, MessageRole, Model, ToolCallingAgent, tool
    from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction

    class Scripted(Model):  # type: ignore[misc]  # without types
        def generate(self, messages: list[ChatMessage], *_: Any, **__: Any) -> ChatMessage:
            (last,) = messages[-1].content or []
            lines = last["text"].splitlines() if isinstance(last, dict) else []
            said = script.turn([json.loads(line) for line in lines if line.startswith("{")])
            made = (
                [(FUNCTION, args) for args in said] if isinstance(said, list) else [("final_answer", {"answer": said})]
            )
            calls = [
                ChatMessageToolCall(ChatMessageToolCallFunction(args, name), f"call_{n}", "function")
                for n, (name, args) in enumerate(made)
            ]
            return ChatMessage(MessageRole.ASSISTANT, "", calls)

    with function(stripe, folder) as credit_customer:
        agent = ToolCallingAgent([tool(credit_customer)], Scripted(), verbosity_level=LogLevel.OFF)
        return str(await asyncio.to_thread(agent.run, text or TEXT))


async def crewai(stripe: OCPAgent, script: Script, folder: Path, text: str | None) -> str | None:
    os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"}
    from crewai import Agent, BaseLLM, Crew, Task
    from crewai.tools import tool

    class Scripted(BaseLLM):  # type: ignore[misc]  # not installed where types are checked
        def call(self, messages: Any, *_: Any, **__: Any) -> Any:
            answers = trailing(messages, lambda message: message["role"] == "tool")
            said = script.turn([json.loads(answer["content"]) for answer in answers])
            if isinstance(said, str):
                return said
            calls = [{"name": FUNCTION, "arguments": json.dumps(args)} for args in said]
            return [{"id": f"call_{n}", "type": "function", "function": call} for n, call in enumerate(calls)]

        def supports_function_calling(self) -> bool:
            return True

    with function(stripe, folder) as credit_customer:
        agent = Agent(
            role="support",
            goal="content customers",
            backstory="",
            llm=Scripted(model="scripted"),
            tools=[tool(FUNCTION)(credit_customer)],
        )
        task = Task(description=text or TEXT, expected_output="what became of it", agent=agent)
        crew = Crew(agents=[agent], tasks=[task])
        return str(await asyncio.to_thread(crew.kickoff))


LOOPS = {
    "pydantic-ai": pydantic_ai,
    "openai-agents": openai_agents,
    "langgraph": langgraph,
    "own-loop": own_loop,
    "anthropic": anthropic_runner,
    "google": google_runner,
    "smolagents": smolagents,
    "crewai": crewai,
}
RUNNERS = {"anthropic", "google", "smolagents", "crewai"}  # of plain functions
PACKAGES = {
    "pydantic-ai": "pydantic_ai",
    "openai-agents": "agents",
    "langgraph": "langgraph.checkpoint.sqlite.aio",
    "own-loop": "anthropic",
    "google": "google.genai",
}


@contextlib.contextmanager
def function(stripe: OCPAgent, folder: Path) -> Iterator[Callable[..., str]]:
    """
    The page's function, from a file, where smolagents reads its source; with that agent.
    """
    path = folder / "function.py"
    path.write_text(block(PAGE, "function"), "utf-8")
    spec = importlib.util.spec_from_file_location("function", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with SyncAgent(stripe) as module.stripe:
        yield module.credit_customer


@contextlib.asynccontextmanager
async def serving(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> AsyncIterator[str]:
    """
    The URL of a server on loopback that answers whatever it is sent.
    """

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(answer(await request.json()))

    server = web.Application()
    server.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def claude(script: Script) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """
    The Messages API, as far as the loops need it.
    """

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        if "thread" not in asked or asked["thread"]["type"] == "create":  # else the server has them
            assert script.tool in [tool["name"] for tool in asked["tools"]]
        last = asked["messages"][-1]["content"]
        results = [each for each in last if isinstance(each, dict) and each["type"] == "tool_result"]
        said = script.turn([json.loads(text_of(result["content"])) for result in results])
        content: list[dict[str, Any]] = [{"type": "text", "text": said}]
        if not isinstance(said, str):
            content = [
                {"type": "tool_use", "id": f"call_{len(asked['messages'])}{n}", "name": script.tool, "input": args}
                for n, args in enumerate(said)
            ]
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": asked["model"],
            "content": content,
            "stop_reason": "end_turn" if isinstance(said, str) else "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }

    return answer


def gemini(script: Script) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """
    Gemini's generateContent, as far as the loop needs it.
    """

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        assert [FUNCTION] == [each["name"] for tool in asked["tools"] for each in tool["functionDeclarations"]]
        responses = [part["functionResponse"] for part in asked["contents"][-1]["parts"] if "functionResponse" in part]
        said = script.turn([json.loads(each["response"]["result"]) for each in responses])
        parts: list[dict[str, Any]] = [{"text": said}]
        if not isinstance(said, str):
            parts = [{"functionCall": {"name": FUNCTION, "args": args}} for args in said]
        return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}

    return answer


def trailing(items: list[Any], is_answer: Callable[[Any], bool]) -> list[Any]:
    """
    The answers to the last calls, in their order.
    """
    return list(itertools.takewhile(is_answer, reversed(items)))[::-1]


def text_of(content: Any) -> str:
    return str(content if isinstance(content, str) else content[0]["text"])


async def go(loop: str, customer: str, text: str | None = None) -> tuple[str | None, list[dict[str, Any]]]:
    """
    What an agent of its own says, which begins with a text or goes on from what another one left; what it was told.
    """
    script, folder = Script(customer, is_function=loop in RUNNERS), Path(customer)
    folder.mkdir(exist_ok=True)
    async with OCPAgent() as agent:
        return await LOOPS[loop](agent, script, folder, text), script.told


async def begin(loop: str, *customers: str) -> NoReturn:
    """
    Begin one for each customer and, once all wait for a person, be gone as after a power cut.
    """
    for customer in customers:
        await go(loop, customer, TEXT)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
