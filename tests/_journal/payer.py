"""
A process that pays as it is told, line by line, with one agent on one journal; used by the tests of the journal's file.

    pay NAME          5.00 for that reference; prints the outcome
    fork NAME...      a child for each, at once, each pays one; prints the outcomes
    daemon NAME       goes on in a grandchild, while the launcher ends, as daemons do; then as pay
    c-fork NAME       a child by a fork that Python is not told of; prints what it is told
    threads NAME...   as fork, each by a thread of its own, all at the same moment
    closing NAME      a fork while the journal is being closed
    copy FOLDER       the program copies the journal's folder
    close             closes the agent; prints how long it took
    shut              closes every descriptor but the standard ones
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import TOOL, order

from ocp_stripe_balance import OCPAgent, Settings, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable

url, api_key, journal, customer, limit, timeout = sys.argv[1:7]
policy = {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": limit}}]}
settings = Settings(
    api_key=api_key, api_base=url, journal=journal, policy=policy, timeout=float(timeout), rate_limit="off"
)
agent = OCPAgent(settings=settings)


async def pay(name: str) -> str:
    await agent.register_api("stripe")
    try:
        result = await agent.call_tool(TOOL, order(customer, reference=name))
    except ToolError as error:
        return f"{error.reason}: {' '.join(str(error).split())}"
    # That a first entry fixes the currency depends on who pays first.
    return " ".join((result.outcome, *(each for each in result.warnings if "had no currency" not in each)))


def forked(name: str, fork: Any = os.fork) -> tuple[int, int]:
    """
    A child that pays, and where it says what came of it.
    """
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            told = asyncio.run(pay(name))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  it is told
            told = repr(error)
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    return pid, reading


def told_by(pid: int, reading: int) -> str:
    told = os.read(reading, 65536).decode()
    os.close(reading)
    os.waitpid(pid, 0)
    return told


def together(names: list[str]) -> list[str]:
    barrier, told = threading.Barrier(len(names)), []

    def one(name: str) -> None:
        barrier.wait()
        told.append(told_by(*forked(name)))

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


async def closing(name: str) -> str:
    task = asyncio.ensure_future(agent.aclose())
    await asyncio.sleep(0)  # it has begun
    child = forked(name)
    await task
    return told_by(*child)


def close() -> str:
    began = time.monotonic()
    asyncio.run(agent.aclose())
    return f"{time.monotonic() - began:.3f}"


def copied(folder: str) -> str:
    shutil.copytree(Path(journal).parent, folder)
    return "copied"


def shut() -> str:
    os.closerange(3, 256)
    return "shut"


def daemon(name: str) -> str:
    if os.fork():
        os._exit(0)
    return asyncio.run(pay(name))


ANSWERS: dict[str, Callable[..., list[str]]] = {
    "pay": lambda name: [asyncio.run(pay(name))],
    "fork": lambda *names: [told_by(*child) for child in [forked(name) for name in names]],
    "daemon": lambda name: [daemon(name)],
    "c-fork": lambda name: [told_by(*forked(name, ctypes.PyDLL(None).fork))],
    "threads": lambda *names: together(list(names)),
    "closing": lambda name: [asyncio.run(closing(name))],
    "copy": lambda folder: [copied(folder)],
    "close": lambda: [close()],
    "shut": lambda: [shut()],
}

if __name__ == "__main__":
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        what, *names = line.split()
        sys.stdout.write("".join(f"{answer}\n" for answer in ANSWERS[what](*names)))
        sys.stdout.flush()
