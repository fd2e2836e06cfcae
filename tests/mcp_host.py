"""
A host of MCP, as far as the tests need one. Needs the extra ``mcp``.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("mcp")
from mcp import Client
from mcp.client._memory import InMemoryTransport
from mcp_types import ElicitResult

from ocp_stripe_balance import Settings
from ocp_stripe_balance.mcp import visit
from ocp_stripe_balance.mcp.server import server_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mcp.client.session import ElicitationFnT
    from mcp_types import CallToolResult

    from ocp_stripe_balance.sandbox import Sandbox

CREATE = "create_balance_transaction"
VERSIONS = ["legacy", "2026-07-28"]
ASKS: dict[str, Any] = {"approval": {"above": {"usd": "1.00"}, "queue": True, "in_session": True}}


def served(stripe: Sandbox, caller: str = "ana@host", **more: Any) -> Any:
    """
    A server for *caller*, with further settings, or the server's own arguments.
    """
    chosen = {name: more.pop(name) for name in ("names", "is_read_only") if name in more}
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "rate_limit": "off", **more}
    return server_for(caller, Settings(**values), **chosen)


@contextlib.asynccontextmanager
async def streamed(server: Any, version: str, **more: Any) -> AsyncIterator[Client]:
    """
    A client over streams, whose requests can be cancelled as they can over a process's.
    """
    async with Client(InMemoryTransport(server), mode=version, **more) as client:
        yield client


def facts(result: CallToolResult) -> dict[str, Any]:
    """
    What code reads.
    """
    told: dict[str, Any] = result.structured_content
    return told


def person(answer: Callable[[str], Awaitable[ElicitResult]]) -> ElicitationFnT:
    """
    Whoever is asked, as a client's callback.
    """

    async def callback(context: Any, params: Any) -> ElicitResult:
        del context
        return await answer(params.message)

    return callback


def saying(asked: list[str], action: Any = "accept", content: Any = None) -> ElicitationFnT:
    """
    What answers every question so, a yes by default, and notes what was asked.
    """

    async def answer(message: str) -> ElicitResult:
        asked.append(message)
        return ElicitResult.model_construct(action=action, content=content or {"decision": "yes"})

    return person(answer)


class Told:
    """
    What the server tells of a call's progress.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
        """
        Be told often, and wait for a message with that word.
        """
        monkeypatch.setattr(visit, "_TICK_S", 0.01)
        self._word, self._heard = word, asyncio.Event()

    async def note(self, progress: float, total: float | None, message: str | None) -> None:
        """
        Take one message.
        """
        del progress, total
        if self._word in (message or ""):
            self._heard.set()

    async def wait(self) -> None:
        """
        Wait for it.
        """
        async with asyncio.timeout(20):
            await self._heard.wait()
