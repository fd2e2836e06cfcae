"""
Whether the sender of a call still runs, also where its process ID was given to another one.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, admit, connect, draft, order, records, verdict
from places import Place, look

from ocp_stripe_balance._journal import Journal, is_alive, process

if TYPE_CHECKING:
    from ocp_stripe_balance._journal import Record
    from ocp_stripe_balance.sandbox import Sandbox


def change(place: Place, sql: str, *values: object) -> None:
    with look(place) as db:
        assert 1 == db.execute(f"UPDATE calls SET {sql}", values).rowcount  # noqa: S608  the test's own


async def test_a_predecessor_with_our_own_process_id_is_dead(place: Place) -> None:
    """A container that is restarted has the same host name, and its program the same ID."""
    journal = Journal(place)
    await admit(journal, draft("k"))
    assert "wait" == verdict(await admit(journal, draft("k")))
    (record,) = await records(journal)
    host, pid, _ = record.lease.owner.split(":")
    change(place, "owner = ?", f"{host}:{pid}:0123456789abcdef-0")
    assert "resume" == verdict(await admit(journal, draft("k")))
    await journal.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="tells by /proc when a process began")
def test_another_process_under_the_owners_id_is_not_the_owner(place: Place) -> None:
    """The ID lives, but what lives under it began at another time; who is gone or only waits to be buried is dead."""
    now = 1_000_000.0

    async def looked(journal: Journal, *, admits: bool) -> Record:
        if admits:
            await admit(journal, draft("k"))
        (record,) = await records(journal)
        await journal.aclose()
        return record

    asyncio.run(looked(Journal(place, clock=lambda: now), admits=True))

    def is_owner_alive(pid: int, began: str | None) -> bool:
        change(place, "owner = 'x:1:y', owner_pid = ?, owner_began = ?", pid, began)
        return is_alive(asyncio.run(looked(Journal(place), admits=False)), now)

    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_owner_alive(other.pid, process.began(other.pid))
    assert is_owner_alive(other.pid, None), "a row of an older version"
    assert not is_owner_alive(other.pid, "another boot:1")
    began = process.began(other.pid)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert not is_owner_alive(other.pid, began), "a zombie"
    other.communicate()
    assert not is_owner_alive(other.pid, began)


async def test_a_claim_names_when_its_process_began(place: Place) -> None:
    """In the row, as the system tells it."""
    journal = Journal(place)
    await admit(journal, draft("k"))
    (record,) = await records(journal)
    assert process.began(os.getpid()) == (record.lease.began or "")
    await journal.aclose()


class Windows:
    """
    The calls of Windows that are asked: one process that runs, one that has ended, one that may not be looked at.
    """

    def __init__(self) -> None:
        self.closed: list[int] = []

    def OpenProcess(self, rights: int, inherits: int, pid: int) -> int:  # noqa: N802  as it is called there
        assert (0x101000, 0) == (rights, inherits)
        return pid if pid in {1, 2} else 0

    def GetLastError(self) -> int:  # noqa: N802
        return 87 if not self.is_denied else 5

    is_denied = False

    def WaitForSingleObject(self, handle: int, milliseconds: int) -> int:  # noqa: N802
        assert 0 == milliseconds
        return {1: 0x102, 2: 0}[handle]

    def GetProcessTimes(self, handle: int, *times: Any) -> int:  # noqa: N802
        assert (1, 4) == (handle, len(times))
        ctypes.cast(times[0], ctypes.POINTER(ctypes.c_uint64))[0] = 133_000_000_000_000_000
        return 1

    def CloseHandle(self, handle: int) -> None:  # noqa: N802
        self.closed.append(handle)


def test_windows_is_asked_without_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """There signal 0 is Ctrl-C to a whole console: the system's own calls say who runs, and since when."""
    windows = Windows()
    monkeypatch.setattr(process, "_kernel32", lambda: windows)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    assert ["133000000000000000", None, None] == [process.began(pid) for pid in (1, 2, 3)]
    windows.is_denied = True
    assert ["", ""] == [process.began(pid) for pid in (3, 4)], "whoever may not be looked at counts as alive"
    assert [1, 2] == windows.closed


async def test_no_signal_goes_to_the_asking_process(
    stripe: Sandbox, customer: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two agents of one process, of which one waits for the other."""
    asked: list[tuple[int, int]] = []
    kill = os.kill

    def recording(pid: int, number: int) -> None:
        asked.append((pid, number))
        kill(pid, number)

    monkeypatch.setattr(os, "kill", recording)
    stripe.faults.add("stall", seconds=0.3, path="balance")
    async with await connect(stripe, journal=str(place)) as one, await connect(stripe, journal=str(place)) as two:
        calls = [agent.call_tool(TOOL, order(customer), idempotency_key="k") for agent in (one, two)]
        assert 1 == len({result.data["id"] for result in await asyncio.gather(*calls)})
    assert (os.getpid(), 0) not in asked
