"""
A server over HTTP in the test's own loop, on a real socket, and clients of it. Needs the extra ``mcp``.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import NO_AUTHORITIES

pytest.importorskip("mcp")
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from ocp_stripe_balance import Settings
from ocp_stripe_balance.mcp.http import PATH, application
from ocp_stripe_balance.mcp.server import server_for
from ocp_stripe_balance.serving.gate import Gate
from ocp_stripe_balance.serving.http import listening, names_of, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocp_stripe_balance.mcp.server import BalanceServer
    from ocp_stripe_balance.sandbox import Sandbox
    from ocp_stripe_balance.serving.tokens import Token, Tokens

USER = "ana@desk"
# Another client's opinion of what may stand in an answer is not ours: it asks for both.
HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


def settings_for(stripe: Sandbox, **more: Any) -> Settings:
    return Settings(api_key=stripe.api_key, api_base=stripe.url, rate_limit="off", **more)


@contextlib.asynccontextmanager
async def served(settings: Settings, tokens: Tokens | None = None, *others: str) -> AsyncIterator[str]:
    """
    The address of a server that serves until the block ends.
    """
    listener, url = listening("127.0.0.1", 0)
    names = names_of("127.0.0.1", others, has_tokens=tokens is not None)

    async def server_of(caller: Token) -> BalanceServer:
        return server_for(caller.name, settings, limits=caller)

    app = application(server_of, names=names, gate=Gate(tokens, USER))
    serving = asyncio.create_task(serve(app, listener))
    try:
        yield url + PATH
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


@contextlib.asynccontextmanager
async def connected(url: str, token: str | None = None, **options: Any) -> AsyncIterator[Client]:
    """
    A client of the Python SDK, with a session of its own where its protocol has sessions.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False, timeout=30, verify=NO_AUTHORITIES) as http,
        Client(streamable_http_client(url, http_client=http), **options) as client,
    ):
        yield client


def plain() -> httpx.AsyncClient:
    """
    A client that knows nothing of MCP.
    """
    return httpx.AsyncClient(headers=HEADERS, trust_env=False, timeout=30, verify=NO_AUTHORITIES)


def message(method: str, **params: Any) -> dict[str, Any]:
    """
    A request of the older protocol.
    """
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def hello() -> dict[str, Any]:
    """
    The request that opens a session of the older protocol.
    """
    about = {"name": "test", "version": "1"}
    return message("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=about)


def call_in(mode: str, session: str | None, tool: str, **arguments: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """
    The headers and the body of a tool call, as either protocol has them.
    """
    if mode == "legacy":
        assert session is not None
        return {"Mcp-Session-Id": session}, message("tools/call", name=tool, arguments=arguments)
    meta: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {}}
    about: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": mode,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    headers = {"MCP-Protocol-Version": mode, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    return headers, message("tools/call", name=tool, arguments=arguments, _meta=meta | about)
