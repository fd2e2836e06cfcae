"""
The server on the process's own standard input and output; everything else that is printed goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_PARAMS, ErrorData, JSONRPCError, jsonrpc_message_adapter

from ocp_stripe_balance.serving.desk import GRACE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocp_stripe_balance.mcp.server import BalanceServer
    from ocp_stripe_balance.serving.desk import Desk

_MAX_DIGITS = 300
_UNREADABLE = ErrorData(
    code=INVALID_PARAMS,
    message="Nothing was sent: the message has half a surrogate pair, a number too long, or is no request.",
)


async def serve(server: BalanceServer) -> None:
    """
    Serve one client until it closes the connection. What may have been sent by then is finished, recorded and answered.

    Raises:
        asyncio.CancelledError: the process is to end, and whoever called was told what is known.
    """
    lines = _Lines(server.desk)
    serving = asyncio.create_task(_served(server, lines))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        if not serving.done():
            await server.desk.close(GRACE_S)
            lines.end()
            await serving
        raise


async def _served(server: BalanceServer, lines: _Lines) -> None:
    stdin: Any = lines
    try:
        async with stdio_server(stdin=stdin) as (incoming, outgoing):
            lines.outgoing = outgoing
            await server.run(incoming, outgoing, server.create_initialization_options())
    except* OSError:
        pass  # the client reads no more


class _Lines:
    """
    The lines of standard input. They are read by a daemon thread: one of a pool keeps the process from ending.
    """

    def __init__(self, desk: Desk) -> None:
        self.outgoing: Any = None
        self._desk = desk
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def __aiter__(self) -> AsyncIterator[str]:
        while (line := await self._lines.get()) is not None:
            if (refusal := _refusal(line)) is not None:
                await self.outgoing.send(SessionMessage(refusal))
            else:
                yield line
        # With the end of input the package answers what is under way itself, and knows no outcome.
        await self._desk.close()

    def end(self) -> None:
        """
        Read no more.
        """
        self._lines.put_nowait(None)

    def _read(self) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # the loop is closed, or the terminal gone
            with open(0, encoding="utf-8", errors="replace", closefd=False) as stdin:
                for line in stdin:
                    self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
            self._loop.call_soon_threadsafe(self.end)


def _refusal(line: str) -> JSONRPCError | None:
    """
    The answer to a request that the package cannot read, and so would never answer; None where nobody can name it.
    """
    try:
        jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        try:
            request = json.loads(line, parse_int=lambda digits: int(digits[:_MAX_DIGITS]))
            number = request["id"] if isinstance(request["id"], str | int) else None
            refusal = JSONRPCError(jsonrpc="2.0", id=number, error=_UNREADABLE)
            refusal.model_dump_json()  # an ID may have half a pair, too
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        return refusal
    return None
