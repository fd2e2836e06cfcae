"""
One client in a process of its own: commands come as JSON lines on stdin, answers go as JSON lines to stdout.

- ``{"in_flight": 64, "calls": 1000}`` makes the calls and answers with wall and CPU seconds, latencies and peak memory.
- ``{"memory": 256}`` answers with the bytes one call in flight takes. It comes first: freed memory would hide them.
- ``{"warm_up": 200}`` makes calls nobody measures.

The first line out says which copy of the package runs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import clients

import ocp_stripe_balance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients import Call

_GIVE_UP_S = 0.5


class Worker:
    """
    What one client can be asked.
    """

    def __init__(self, name: str, url: str, folder: Path) -> None:
        """
        Connect nothing yet.
        """
        self._name, self._url, self._folder = name, url, folder
        self._numbers = itertools.count()
        self._group = str(os.getpid())
        self._is_held = False

    async def run(self) -> None:
        """
        Do one command after the other until stdin is closed.
        """
        async with clients.CLIENTS[self._name](self._url, self._folder, self._customer) as call:
            _say({"package": ocp_stripe_balance.__file__})
            while line := await asyncio.to_thread(sys.stdin.readline):
                match json.loads(line):
                    case {"in_flight": in_flight, "calls": calls}:
                        _say(await self._load(call, in_flight, calls))
                    case {"memory": in_flight}:
                        _say({"bytes_per_call": await self._memory(call, in_flight)})
                    case {"warm_up": calls}:
                        _say(await self._load(call, 16, calls))

    def _customer(self, number: int) -> str:
        return f"cus_held_{self._group}_{number}" if self._is_held else clients.customer(number)

    async def _load(self, call: Call, in_flight: int, calls: int) -> dict[str, Any]:
        numbers = itertools.islice(self._numbers, calls)
        latencies_s: list[float] = []
        # Of a server, where that does the work.
        cpu_now: Callable[[], float] = getattr(call, "cpu_s", time.process_time)
        cpu_s, began = cpu_now(), time.perf_counter()
        await asyncio.gather(*(_take(call, numbers, latencies_s) for _ in range(in_flight)))
        wall_s, cpu_s = time.perf_counter() - began, cpu_now() - cpu_s
        latencies_s.sort()
        return {
            "calls": len(latencies_s),
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "p50_s": _percentile(latencies_s, 0.5),
            "p99_s": _percentile(latencies_s, 0.99),
            "peak_bytes": _peak_bytes(),
        }

    async def _memory(self, call: Call, in_flight: int) -> float | None:
        """
        How much memory grows per call in flight, or None where the system does not tell.
        """
        await call(next(self._numbers))
        gc.collect()
        before_bytes = _resident_bytes()
        self._is_held = True
        calls = [asyncio.ensure_future(call(next(self._numbers))) for _ in range(in_flight)]
        await self._wait_until_held(in_flight)
        held_bytes = _resident_bytes()
        self._is_held = False
        # Those that waited for a connection come only when others have left.
        while not all(each.done() for each in calls):
            await self._ask_server("POST", f"/held/{self._group}/release")
            await asyncio.wait(calls, timeout=0.05)
        await asyncio.gather(*calls)
        return None if before_bytes is None or held_bytes is None else (held_bytes - before_bytes) / in_flight

    async def _wait_until_held(self, count: int) -> None:
        """
        Wait for all, or until no more come: some clients open fewer connections.
        """
        held, changed_at = 0, time.monotonic()
        while held < count and time.monotonic() < changed_at + _GIVE_UP_S:
            now_held = (await self._ask_server("GET", f"/held/{self._group}"))["held"]
            if now_held != held:
                held, changed_at = now_held, time.monotonic()
            await asyncio.sleep(0.01)

    async def _ask_server(self, method: str, path: str) -> dict[str, Any]:
        """
        The answer's JSON, without a library whose memory would count.
        """
        address = urlsplit(self._url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"{method} {path} HTTP/1.1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0]))
        writer.close()
        answer: dict[str, Any] = json.loads(body)
        return answer


async def _take(call: Call, numbers: Iterator[int], latencies_s: list[float]) -> None:
    for number in numbers:
        began = time.perf_counter()
        await call(number)
        latencies_s.append(time.perf_counter() - began)


def _percentile(ascending: list[float], share: float) -> float:
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _resident_bytes() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except FileNotFoundError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """
    Serve one client.
    """
    parser = argparse.ArgumentParser(description="one client of the benchmarks")
    parser.add_argument("client", choices=clients.CLIENTS)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path, help="for a journal")
    options = parser.parse_args()
    # The base install is measured, without OpenTelemetry, which the tools for tests bring along. It is imported when an
    # agent is made.
    sys.modules["opentelemetry"] = None  # type: ignore[assignment] # how Python is told that there is none
    asyncio.run(Worker(options.client, options.url, options.folder).run())


if __name__ == "__main__":
    main()
