"""
News as it comes: every page that is open is told within a second that something was decided.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse

from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.access.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance.backoffice import BackOffice

_EVERY_S = 0.5
_MOST_DIGITS = 18  # of the journal's numbers
_ALIVE_S = 15.0  # so that a connection that is gone is noticed, and a proxy keeps one that is not


class News:
    """
    What the pages of one server are told. The journal is looked at once for all of them, while there is any.
    """

    def __init__(self, office: BackOffice, closing: asyncio.Event) -> None:
        """
        Look at nothing yet; once *closing* is set, nobody is told anything any more.
        """
        self._office, self._closing = office, closing
        self._newest = 0
        self._turn = asyncio.Condition()
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None

    async def stream(self, seen: int, is_in: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
        """
        The events for one page, as ``text/event-stream`` has them; *seen* is what it knows already.

        It ends where *is_in* says that the person is there no more.
        """
        self._listeners += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield "retry: 2000\n\n"
            while True:
                await self._wait(seen)
                if self._closing.is_set() or not await is_in():
                    return
                if self._newest > seen:
                    seen = self._newest
                    yield "event: news\ndata: 1\n\n"
                else:
                    yield ": alive\n\n"
        finally:
            self._listeners -= 1

    async def _wait(self, seen: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ALIVE_S), self._turn:
                await self._turn.wait_for(lambda: self._newest > seen or self._closing.is_set())

    async def _look(self) -> None:
        while self._listeners and not self._closing.is_set():
            with contextlib.suppress(NotSentError):  # it may be usable again soon
                newest = await self._office.pages.newest()
                if newest != self._newest:
                    self._newest = newest
                    await self._tell()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._closing.wait()
        await self._tell()

    async def _tell(self) -> None:
        async with self._turn:
            self._turn.notify_all()


def events(news: News) -> Callable[[Request], Awaitable[Response]]:
    """
    The stream of news for a page.
    """

    @signed_in(Role.SEES)
    async def stream(request: Request) -> Response:
        async def is_in() -> bool:
            try:
                person = await Sessions(request.app.state.gateway.journal).person(request, is_by_hand=False)
            except NotSentError:  # as above; and there is no news
                return True
            return person is not None and Role.SEES in person.roles

        said = request.query_params.get("seen", "")
        seen = int(said) if said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS else 0
        stream = news.stream(seen, is_in)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    return stream
