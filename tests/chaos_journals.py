"""
Where the journal of a chaos run is, and how it goes away: a file whose folder is taken, or a server that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ocp_stripe_balance import Settings
from ocp_stripe_balance._journal import Journal

if TYPE_CHECKING:
    import random
    from pathlib import Path


class Host(NamedTuple):
    """
    A machine, as the workers on it see it.
    """

    name: str | None = None
    """None for what it is really called."""
    ahead_s: float = 0.0
    """How far its clock is ahead."""


class FileJournal:
    """
    A file, reached by a link: its folder can be taken away and given back in one step, and nobody can make it anew.
    """

    hosts: ClassVar = [Host()]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "disk").mkdir(exist_ok=True)
        self._lead_to("disk")
        self.name = str(folder / "journal" / "journal.sqlite3")

    async def go(self) -> None:
        """
        Be away.
        """
        self._lead_to("nowhere")

    async def come(self) -> None:
        """
        Be there again, as it was.
        """
        self._lead_to("disk")

    async def end_a_session(self, chance: random.Random) -> bool:
        """
        Whether one was ended: a file has none.
        """
        raise NotImplementedError(chance)

    def _lead_to(self, name: str) -> None:
        (self._folder / "new").symlink_to(name)
        (self._folder / "new").rename(self._folder / "journal")


class ServerJournal:
    """
    A database, which hosts with wrong clocks use; its server can be killed.
    """

    hosts: ClassVar = [Host("east", 3 * 3600.0), Host("west", -5 * 3600.0)]

    def __init__(self) -> None:
        from postgres import new_database, own_server  # noqa: PLC0415  an extra

        self._server = own_server()
        self.name = new_database()

    async def go(self) -> None:
        """
        Be away.
        """
        await asyncio.to_thread(self._server.kill)

    async def come(self) -> None:
        """
        Be there again, as it was.
        """
        await asyncio.to_thread(self._server.start)
        while not await self._lets_in():
            await asyncio.sleep(0.05)

    async def end_a_session(self, chance: random.Random) -> bool:
        """
        Whether a session was ended, half of the time one that is busy; now and then its process is killed, and the
        server ends all others itself.
        """
        import psycopg  # noqa: PLC0415  an extra

        try:
            async with await psycopg.AsyncConnection.connect(self.name, autocommit=True) as db:
                found = await db.execute(
                    """
                    SELECT pid FROM pg_stat_activity
                    WHERE application_name = 'ocp-stripe-balance' AND datname = current_database()
                    ORDER BY (%s AND state = 'idle'), random() LIMIT 1
                    """,
                    (chance.random() < 0.5,),
                )
                (pid,) = await found.fetchone() or (None,)
                if pid is not None and chance.random() < 0.1:
                    os.kill(pid, signal.SIGKILL)
                elif pid is not None:
                    await db.execute("SELECT pg_terminate_backend(%s)", (pid,))
        except (psycopg.Error, ProcessLookupError):
            return False
        return pid is not None

    async def _lets_in(self) -> bool:
        import psycopg  # noqa: PLC0415  an extra

        with contextlib.suppress(psycopg.OperationalError):
            await (await psycopg.AsyncConnection.connect(self.name)).close()
            return True
        return False


def opened(name: str) -> Journal:
    """
    The journal of that name.
    """
    return Journal(Settings(api_key="sk_test_none", journal=name).journal_place)
