"""
The tools in the formats of the models' providers, and the models' calls back.

`export_tools` gives what a provider's API is told of the tools. `run_tool_call` takes a model's tool call as the
provider's SDK gives it, runs it under the call's ID where that names one decision, and returns the message to
send back. Errors come back as messages too, as the JSON of `ToolError.to_dict`, for the model to correct itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from contextvars import ContextVar
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, get_args

from ocp_stripe_balance._domain import ToolCall
from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._text.parsing import parsed
from ocp_stripe_balance._text.plain import nearest, shown
from ocp_stripe_balance._tools.dialects import GEMINI, OPENAI_STRICT, STANDARD, arguments_of, rendered, reworded
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.errors import ConfigurationError, InvalidParametersError, Next, Problem, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from langchain_core.tools import StructuredTool

    from ocp_stripe_balance._tools.manifest import ToolSpec

Format = Literal["openai", "openai-chat", "anthropic", "gemini", "mcp", "langchain", "json-schema"]
FORMATS: tuple[Format, ...] = get_args(Format)
_WITH_PAIRS = {"openai", "openai-chat", "gemini"}
_made: ContextVar[tuple[str | None, Any, str | None]] = ContextVar("made", default=(None, {}, None))


def export_tools(form: Format, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """
    The definitions of the tools, as the provider's API takes them.

    Args:
        form: ``openai`` (Responses) and ``openai-chat`` (Chat Completions) in strict mode; ``anthropic``; ``gemini``, a
            list of function declarations; ``mcp``; ``langchain``, what `langchain_tools` is made of; ``json-schema``.
        names: of the tools to export, short or long; by default all.

    Raises:
        ValueError: there is no such format or tool.
    """
    if form not in FORMATS:
        raise ValueError(f"{form!r} is not a format; the formats are {', '.join(FORMATS)}")
    tools = {tool.name: tool for tool in load_manifest().tools}
    by_name = {name: tool for tool in tools.values() for name in tool.names}
    wanted = list(tools) if names is None else list(names)
    for name in wanted:
        if name not in by_name:
            raise ValueError(f"{name!r} is not a tool; the tools are {', '.join(tools)}")
    return [_DEFINITIONS[form](by_name[name]) for name in wanted]


async def run_tool_call(
    form: Format, agent: Any, call: Any, *, conversation: str | None = None, dry_run: bool = False
) -> Any:
    """
    The message that answers a model's tool call; the call is made once, under the tool call's own ID.

    Many servers count: ``call_0`` comes again in every conversation. Such an ID names a decision only where
    *conversation* says which one it is of. Without it, each such call is a decision of its own.

    Args:
        form: ``openai``: a function_call item, answered by a function_call_output item; ``openai-chat``: a tool call of
            a message, answered by a message of role tool; ``anthropic``: a tool_use block, answered by a tool_result
            block; ``gemini``: a FunctionCall, answered by a part with a function response; ``mcp``: the parameters of
            tools/call, answered by its result; ``langchain``: a ToolCall, answered by a ToolMessage;
            ``json-schema``: ``{id, name, arguments}``, answered by ``{id, name, result}``. Objects of the
            provider's SDK or the same as dicts.
        agent: `OCPAgent`, or the SDK's after `register` and ``register_api``.
        call: as the model made it.
        conversation: its name, the same after a restart. The same ID with the same parameters in it is made once.
        dry_run: send nothing, and tell what would become of the call, with a ``verdict``: for a host that has to know
            whether a person must be asked before it makes the call.

    Raises:
        ValueError: there is no such format.
        asyncio.CancelledError: cancelled before anything was sent.
    """
    if form not in FORMATS:
        raise ValueError(f"{form!r} is not a format; the formats are {', '.join(FORMATS)}")
    given_id, given_name, arguments = _read(form, call)
    call_id, name = _id_of(given_id), given_name if isinstance(given_name, str) else ""
    how: dict[str, Any] = {"idempotency_key": None if call_id is None else ToolCall(call_id, conversation)}
    if dry_run:
        how["dry_run"] = True
    told, is_error = await _run(form, agent, name, arguments, how)
    return _ANSWERS[form](call_id, name, told, is_error)


def langchain_tools(
    agent: Any, names: Sequence[str] | None = None, *, conversation: str | None = None
) -> list[StructuredTool]:
    """
    The tools as LangChain has them, calling through *agent* as `run_tool_call` does.

    Needs the extra ``langchain``.

    Args:
        agent: as `run_tool_call` takes it.
        names: of the tools; by default all.
        conversation: its name; by default the ``thread_id`` that LangGraph has in its configuration.
    """
    with no_fork, _needs_langchain():
        from langchain_core.tools import StructuredTool

        from ocp_stripe_balance._host.background import run  # for programs without a loop

    class Tool(StructuredTool):
        """
        Remembers the ToolCall that it runs, of which LangChain hands no ID, and not every argument, to such a tool.
        """

        def run(self, tool_input: Any, *args: Any, tool_call_id: str | None = None, **named: Any) -> Any:
            """
            Run one call.
            """
            token = _made.set((tool_call_id, tool_input, conversation or _thread_of(named.get("config"))))
            try:
                return super().run(_kept(tool_input), *args, tool_call_id=tool_call_id, **named)
            finally:
                _made.reset(token)

        async def arun(self, tool_input: Any, *args: Any, tool_call_id: str | None = None, **named: Any) -> Any:
            """
            Run one call.
            """
            token = _made.set((tool_call_id, tool_input, conversation or _thread_of(named.get("config"))))
            try:
                return await super().arun(_kept(tool_input), *args, tool_call_id=tool_call_id, **named)
            finally:
                _made.reset(token)

    def tool(definition: dict[str, Any]) -> Tool:
        name = definition["name"]

        def plain(**_: Any) -> Any:
            # A sync agent of the SDK waits in this thread for the background loop, which so cannot be where this runs.
            is_sync = getattr(getattr(agent.call_tool, "__self__", None), "is_sync", False)
            return (asyncio.run if is_sync else run)(_answer_made(agent, name, _made.get()))

        async def awaited(**_: Any) -> Any:
            return await _answer_made(agent, name, _made.get())

        return Tool(func=plain, coroutine=awaited, **definition)

    return [tool(definition) for definition in export_tools("langchain", names)]


async def _answer_made(agent: Any, name: str, made: tuple[str | None, Any, str | None]) -> Any:
    """
    The message for the ToolCall that LangChain made, or its content where it made none.
    """
    call_id, arguments, conversation = made
    call = {"id": call_id, "name": name, "args": arguments}
    message = await run_tool_call("langchain", agent, call, conversation=conversation)
    return message.content if call_id is None else message


def _thread_of(config: Any) -> str | None:
    """
    The conversation that LangGraph runs, which it names with every call.
    """
    thread = ((config or {}).get("configurable") or {}).get("thread_id")
    return None if thread is None else str(thread)


def _kept(tool_input: Any) -> Any:
    """
    What LangChain may see of the arguments: not those that it would take for its own.
    """
    if not isinstance(tool_input, dict):
        return {}
    return {name: value for name, value in tool_input.items() if name not in {"self", "config", "run_manager"}}


async def _run(form: Format, agent: Any, name: str, arguments: Any, how: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """
    What the model is told of its call, and whether that is an error.
    """
    tool = next((tool for tool in load_manifest().tools if name in tool.names), None)
    try:
        if hasattr(agent, "ready"):  # an agent of the SDK has to be registered with, by whoever made it
            await agent.ready()
        if tool is None or not _knows(agent, tool.name):
            raise _unknown_tool(form, agent, name)
        said = _parsed(arguments)
        if isinstance(said, dict):
            said = arguments_of(tool, said)
        result = agent.call_tool(tool.name, said, **how)
        if isawaitable(result):  # not of an agent of the SDK that was registered with sync=True
            result = await result
    except InvalidParametersError as error:
        if tool is not None and form in _WITH_PAIRS:
            error = reworded(tool, error)
        return _renamed(form, error.to_dict()), True
    except ToolError as error:
        return _renamed(form, error.to_dict()), True
    told: dict[str, Any] = result.to_dict() if "dry_run" in how else result.for_model()
    return told, False


def _renamed(form: Format, told: dict[str, Any]) -> dict[str, Any]:
    """
    An error with the names that the format has for the tools it speaks of.
    """
    return {**told, **{part: _in_names_of(form, told[part]) for part in ("tool", "hint") if part in told}}


def _in_names_of(form: Format, text: str) -> str:
    return re.sub(r"\w+", lambda word: _name_in(form, word[0]), text)


def _knows(agent: Any, name: str) -> bool:
    return agent.get_tool(name) is not None


def _unknown_tool(form: Format, agent: Any, name: object) -> ToolError:
    known = [_name_in(form, tool.name) for tool in agent.list_tools()]
    if not known:
        hint = "A person must register the API first: agent.register_api('stripe')."
        return ConfigurationError("Nothing was sent: no API is registered yet.", hint=hint)
    near = nearest(name, known) if isinstance(name, str) else []
    hint = f"did you mean {' or '.join(near)}?" if near else f"the tools are {', '.join(known)}"
    return InvalidParametersError([Problem(path="tool_name", message=f"there is no tool {shown(name)}", hint=hint)])


def _parsed(arguments: Any) -> Any:
    """
    The arguments, which some providers give as the JSON text that the model wrote.
    """
    if not isinstance(arguments, str):
        return arguments
    try:
        return parsed(arguments or "{}")
    except (ValueError, RecursionError) as error:
        problem = Problem(path="arguments", message=f"is not JSON ({error})", hint="write one JSON object")
        raise InvalidParametersError([problem]) from None


def _read(form: Format, call: Any) -> tuple[Any, Any, Any]:
    """
    ID, tool and arguments of a call.
    """
    if form == "openai-chat":
        function = _field(call, "function")
        return _field(call, "id"), _field(function, "name"), _field(function, "arguments")
    if form == "mcp":
        # JSON-RPC IDs are used anew in every session, so they name no decision.
        return None, _field(call, "name"), _field(call, "arguments")
    id_field, arguments_field = {
        "openai": ("call_id", "arguments"),
        "anthropic": ("id", "input"),
        "gemini": ("id", "args"),
        "langchain": ("id", "args"),
        "json-schema": ("id", "arguments"),
    }[form]
    return _field(call, id_field), _field(call, "name"), _field(call, arguments_field)


def _id_of(value: Any) -> str | None:
    """
    The ID of a call, or None where there is no usable one.
    """
    return value if isinstance(value, str) and value and value.isprintable() else None


def _field(call: Any, name: str) -> Any:
    return call.get(name) if isinstance(call, dict) else getattr(call, name, None)


def _text(told: dict[str, Any]) -> str:
    """
    JSON; a lone surrogate, which a model may write and no message can carry, is escaped.
    """
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


@contextlib.contextmanager
def _needs_langchain() -> Iterator[None]:
    """
    Say what installs it, where it is not there.
    """
    try:
        yield
    except ImportError as error:
        message = "LangChain is not installed: pip install '.[langchain]' brings it, in a copy of the repository"
        raise ImportError(message, name=error.name) from error


def _langchain_message(call_id: str | None, name: str, told: dict[str, Any], is_error: bool) -> Any:  # noqa: FBT001  one of the answers
    with no_fork, _needs_langchain():
        from langchain_core.messages import ToolMessage
    status = "error" if is_error else "success"
    return ToolMessage(content=_text(told), tool_call_id=call_id or "", name=name, status=status, artifact=told)


_ANSWERS: dict[Format, Callable[[str | None, str, dict[str, Any], bool], Any]] = {
    "openai": lambda call_id, _, told, __: {
        "type": "function_call_output",
        "call_id": call_id,
        "output": _text(told),
    },
    "openai-chat": lambda call_id, _, told, __: {"role": "tool", "tool_call_id": call_id, "content": _text(told)},
    "anthropic": lambda call_id, _, told, is_error: {
        "type": "tool_result",
        "tool_use_id": call_id,
        "content": _text(told),
        "is_error": is_error,
    },
    "gemini": lambda call_id, name, told, is_error: {
        "function_response": {
            **({"id": call_id} if call_id else {}),
            "name": name,
            "response": {"error" if is_error else "output": told},
        }
    },
    "mcp": lambda _, __, told, is_error: {
        "content": [{"type": "text", "text": _text(told)}],
        "structuredContent": told,
        "isError": is_error,
    },
    "langchain": _langchain_message,
    "json-schema": lambda call_id, name, told, _: {"id": call_id, "name": name, "result": told},
}

# The rest is not described: a client that held it to a schema would turn a surprising success into an error.
_OUTPUT_SCHEMA = {
    "type": "object",
    "required": ["outcome"],
    "properties": {
        "outcome": {"enum": ["succeeded", "rejected", "not_sent", "unknown"]},
        "next": {"enum": list(get_args(Next)), "description": "Of an error."},
    },
}


def _name_in(form: Format, name: str) -> str:
    """
    The name that a format has for a tool, or the same where it is none of ours.
    """
    return next((tool.short_name for tool in load_manifest().tools if form == "mcp" and tool.name == name), name)


def _mcp(tool: ToolSpec) -> dict[str, Any]:
    # Hosts put mcp__SERVER__ before a name, and models' APIs take 64 characters.
    return {
        "name": tool.short_name,
        "description": _in_names_of("mcp", tool.description),
        "inputSchema": rendered(tool, STANDARD),
        "outputSchema": _OUTPUT_SCHEMA,
        "annotations": {
            "readOnlyHint": tool.reads,
            "destructiveHint": not tool.reads,
            "idempotentHint": not tool.moves_money,
            "openWorldHint": True,
        },
    }


_DEFINITIONS: dict[Format, Callable[[ToolSpec], dict[str, Any]]] = {
    "openai": lambda tool: {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": rendered(tool, OPENAI_STRICT),
        "strict": True,
    },
    "openai-chat": lambda tool: {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": rendered(tool, OPENAI_STRICT),
            "strict": True,
        },
    },
    "anthropic": lambda tool: {
        "name": tool.name,
        "description": tool.description,
        "input_schema": rendered(tool, STANDARD),
    },
    "gemini": lambda tool: {
        "name": tool.name,
        "description": tool.description,
        "parameters": rendered(tool, GEMINI),
    },
    "mcp": _mcp,
    "langchain": lambda tool: {
        "name": tool.name,
        "description": tool.description,
        "args_schema": rendered(tool, STANDARD),
    },
    "json-schema": lambda tool: {
        "name": tool.name,
        "description": tool.description,
        "parameters": rendered(tool, STANDARD),
    },
}
