"""
The figures as text, and the machine they were measured on.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Slice, Spread, Target, ratio, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PACKAGES = ("ocp-stripe-balance", "aiohttp", "httpx", "stripe", "pydantic", "jsonschema-rs", "yarl")
_FIGURES = ("calls_per_s", "cpu_per_call_s", "p50_s", "p99_s")


def environment() -> dict[str, str | int | None]:
    """
    Versions and processor; nothing that names this machine.
    """
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "os": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def show_environment(values: Mapping[str, object]) -> None:
    """
    Print versions and processor.
    """
    print(" · ".join(f"{name} {value}" for name, value in values.items()))


def show_table(slices: Sequence[Slice], memory: Mapping[str, Sequence[float]]) -> None:
    """
    Print the medians over rounds, per level and client.
    """
    head = ("in flight", "client", "calls/s", "CPU µs/call", "p50 ms", "p99 ms", "peak MB", "kB/call in flight")
    print("\n{:>9}  {:<16}{:>9}{:>13}{:>10}{:>10}{:>9}{:>19}".format(*head))
    for in_flight in sorted({each.in_flight for each in slices}):
        for client in dict.fromkeys(each.client for each in slices):
            calls, cpu_s, p50_s, p99_s = (spread(slices, figure, client, in_flight).median for figure in _FIGURES)
            peak = spread(slices, "peak_bytes", client, in_flight).median
            # Measured once a process, with 256 in flight.
            held = f"{Spread.of(memory[client]).median / 1e3:.1f}" if in_flight == 256 and memory.get(client) else ""
            print(
                f"{in_flight:>9}  {client:<16}{calls:>9,.0f}{cpu_s * 1e6:>13,.0f}{p50_s * 1e3:>10.2f}"
                f"{p99_s * 1e3:>10.2f}{peak / 1e6:>9.0f}{held:>19}"
            )


def show_ratios(slices: Sequence[Slice], client: str) -> None:
    """
    Print what a client is to each other one: the median of the rounds' ratios, and the extremes.
    """
    print(f"\n{client} to …{'':>17}" + "".join(f"{figure:>24}" for figure in ("calls/s", "CPU per call", "p50", "p99")))
    peers = [each for each in dict.fromkeys(each.client for each in slices) if each != client]
    for in_flight in sorted({each.in_flight for each in slices}):
        for peer in peers:
            found = [ratio(slices, figure, client, peer, in_flight) for figure in _FIGURES]
            print(f"{in_flight:>9}  {peer:<16}" + "".join(f"{in_words(each):>24}" for each in found))


def show_targets(targets: Sequence[Target]) -> None:
    """
    Print each target with its figure.
    """
    print(f"\n{'target':<54}{'figure':>24}{'':>5}{'wanted':>17}")
    for target in targets:
        wanted = f"{target.comparison} {target.bound:g} {target.unit}"
        verdict = "met" if target.is_met else "MISSED"
        note = f"  ({target.note})" if target.note else ""
        print(f"{target.name:<54}{in_words(target.figure):>24} {target.unit:<4}{wanted:>17}  {verdict}{note}")


def in_words(figure: Spread) -> str:
    """
    The median, and the extremes in brackets.
    """
    return f"{figure.median:.2f} ({figure.low:.2f}-{figure.high:.2f})"
