"""
Calls under way: the same call made twice at once is one, and what may have been sent is never abandoned.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ocp_stripe_balance._domain import sent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from ocp_stripe_balance.models import ToolResult

    Work = Callable[["Flight"], Awaitable[ToolResult]]


class Flight:
    """
    One call under way, in a task of its own: whoever waits for it may go, and the call goes on.
    """

    def __init__(self, work: Work) -> None:
        """
        Begin it.
        """
        self.sent = asyncio.Event()
        """Set while its bytes may have left."""
        self.is_asking = False
        """Whether a person is being asked."""
        self.is_stopped = False
        """Whether it ends without being sent: the same call made again is another one."""
        self._waiting = 0
        self.task = asyncio.create_task(self._run(work))

    async def result(self) -> ToolResult:
        """
        Its result, for one of those who wait. When the last of them is gone, a call that was not sent is stopped.

        Raises:
            ToolError: it did not succeed.
            asyncio.CancelledError: whoever waits was cancelled.
        """
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.stop()

    def stop(self) -> None:
        """
        Stop it unless it may have been sent: that is waited for, so that the journal has its outcome.
        """
        if not self.sent.is_set() and not self.task.done():
            self.is_stopped = True
            self.task.cancel()

    async def _run(self, work: Work) -> ToolResult:
        sent.set(self.sent)
        return await work(self)


class Flights:
    """
    The calls of one caller that are under way.
    """

    def __init__(self) -> None:
        """
        Begin with none.
        """
        self._by_name: dict[Hashable, Flight] = {}
        self._under_way: set[Flight] = set()

    def join(self, name: Hashable, work: Work) -> Flight:
        """
        The call of that name that is under way, or a new one.
        """
        flight = self._by_name.get(name)
        if flight is None or flight.is_stopped:
            flight = self._by_name[name] = Flight(work)
            self._under_way.add(flight)
            flight.task.add_done_callback(partial(self._landed, name, flight))
        return flight

    async def land(self, patience_s: float | None = None) -> None:
        """
        Stop what was not sent, and wait for the rest; what is not over in time, or when this is cancelled, is unknown.

        Raises:
            asyncio.CancelledError: it was cancelled, and all are over.
        """
        for flight in self._under_way:
            flight.stop()
        late = {flight.task for flight in self._under_way}
        try:
            if late:
                _, late = await asyncio.wait(late, timeout=patience_s)
        finally:
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _landed(self, name: Hashable, flight: Flight, task: asyncio.Task[ToolResult]) -> None:
        self._under_way.discard(flight)
        if self._by_name.get(name) is flight:
            del self._by_name[name]
        if not task.cancelled():
            task.exception()  # else asyncio complains where everybody was gone
