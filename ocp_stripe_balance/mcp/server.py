"""
The server for one caller, over whatever transport: its tools, and how a call is answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import traceback
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mcp.server import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp_types import CallToolResult, ListToolsResult, Tool

from ocp_stripe_balance._text.secrets import redact
from ocp_stripe_balance._text.version import package_version
from ocp_stripe_balance.errors import NotSentError, OutcomeUnknownError
from ocp_stripe_balance.exports import export_tools, run_tool_call
from ocp_stripe_balance.mcp.visit import ANSWER_WITHIN_S, AskedError, Visit
from ocp_stripe_balance.serving.desk import Desk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from mcp.server import ServerRequestContext
    from mcp_types import CallToolRequestParams, InputRequiredResult, PaginatedRequestParams

    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.serving.tokens import Token
    from ocp_stripe_balance.settings import Settings

NAME = "ocp-stripe-balance"
_log = logging.getLogger("ocp_stripe_balance")


class BalanceServer(Server[None]):
    """
    The server of a caller, and what it stands before.
    """

    desk: Desk


def server_for(
    caller: str,
    settings: Settings,
    *,
    names: Iterable[str] | None = None,
    is_read_only: bool = False,
    limits: Token | None = None,
) -> BalanceServer:
    """
    A server for one caller, with a desk of its own; a transport runs it.

    Args:
        caller: who asks, for the policy, the budgets and the audit: a user's login, or the name of a token.
        settings: of the calls.
        names: of the tools that there are, short or long; by default all.
        is_read_only: whether there are only those that change nothing.
        limits: of the caller's token.

    Raises:
        ConfigurationError: a name is that of no tool, no tool is left, or the policy of the token cannot be read.
    """
    desk = Desk(caller, settings, names=names, is_read_only=is_read_only, limits=limits)
    return server_at(desk, lifespan=desk.open)


def server_at(
    desk: Desk, *, lifespan: Callable[[Any], AbstractAsyncContextManager[None]] = lambda _: nullcontext()
) -> BalanceServer:
    """
    A server that stands before a desk, which *lifespan* opens, or somebody else.
    """

    async def list_tools(_: ServerRequestContext[None, Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        demands_reference = desk.settings.policy_in_force.require.reference
        return ListToolsResult(tools=[_defined(tool, demands_reference=demands_reference) for tool in desk.offered])

    async def call_tool(
        ctx: ServerRequestContext[None, Any], params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        if (request := asyncio.current_task()) is not None:
            desk.received(request)
        try:
            told = await run_tool_call("mcp", Visit(desk, ctx, params), params)
        except AskedError as asked:
            return asked.result
        except Exception:  # noqa: BLE001  the client would be told its text, and that is no outcome
            _log.error("a call failed as it should not: %s", redact(traceback.format_exc()))
            told = _failed(desk.tools.get(params.name))
        return CallToolResult.model_validate(_sendable(told))

    server = BalanceServer(
        NAME, version=package_version(), lifespan=lifespan, on_list_tools=list_tools, on_call_tool=call_tool
    )
    server.desk = desk
    # A client may send back any state: only one that this process sealed, for this very call and caller, comes through.
    keys = RequestStateSecurity(
        keys=[secrets.token_bytes(32)], ttl=ANSWER_WITHIN_S, bind_principal=lambda _: desk.caller, audience=NAME
    )
    server.middleware.append(RequestStateBoundary(keys, default_audience=NAME))
    return server


def _defined(tool: ToolSpec, *, demands_reference: bool) -> Tool:
    (definition,) = export_tools("mcp", [tool.name])
    definition.setdefault("title", tool.short_name.replace("_", " ").capitalize())
    if demands_reference and tool.moves_money:
        definition["annotations"] = {**definition["annotations"], "idempotentHint": True}
    return Tool.model_validate(definition)


def _failed(tool: ToolSpec | None) -> dict[str, Any]:
    """
    What is told where this program is at fault: of a call that changes something, that it may have.
    """
    message = "The server failed; what it was is in its log."
    error = NotSentError if tool is None or tool.reads else OutcomeUnknownError
    told = error(message, tool=None if tool is None else tool.short_name).to_dict()
    return {"content": [{"type": "text", "text": json.dumps(told)}], "structuredContent": told, "isError": True}


def _sendable(told: dict[str, Any]) -> Any:
    """
    The same without lone surrogates, which JSON text may name and no message can carry.
    """
    return json.loads(json.dumps(told, ensure_ascii=False).encode("utf-8", "replace"))
