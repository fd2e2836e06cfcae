"""
The server on the process's own standard input and output; everything else that is printed goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from mcp.server.stdio import stdio_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp.server import Server


async def serve(server: Server[Any]) -> None:
    """
    Serve one client until it closes the connection. What may have been sent by then is still finished and recorded.

    Raises:
        asyncio.CancelledError: the process is to end.
    """
    stdin: Any = _Lines()
    try:
        async with stdio_server(stdin=stdin) as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    except* OSError:
        pass  # the client reads no more


class _Lines:
    """
    The lines of standard input. They are read by a daemon thread: one of a pool keeps the process from ending.
    """

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def __aiter__(self) -> AsyncIterator[str]:
        while (line := await self._lines.get()) is not None:
            yield line

    def _read(self) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # the loop is closed, or the terminal gone
            with open(0, encoding="utf-8", errors="replace", closefd=False) as stdin:
                for line in stdin:
                    self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
            self._loop.call_soon_threadsafe(self._lines.put_nowait, None)
