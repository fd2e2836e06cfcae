"""
What is promised of speed and memory, held against the slices. A target whose level was not measured is left out.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from measure import Slice, Spread, Target, ratio, select

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_STRIPES = ("stripe_httpx", "stripe_aiohttp")


def speed_targets(slices: Sequence[Slice]) -> list[Target]:
    """
    Ours beside Stripe's SDK and bare aiohttp.
    """
    found = []
    if _has(slices, 64, "ours", *_STRIPES):
        times = _to_best(slices, "ours", "calls_per_s", 64, max)
        found += [
            _at_least("64 in flight, journal off: calls/s, to the best of stripe-python", times, 1.2),
            _at_least(
                "64 in flight, journal off: calls/s, to stripe-python over httpx",
                ratio(slices, "calls_per_s", "ours", "stripe_httpx", 64),
                8,
            ),
        ]
    if _has(slices, 64, "ours", "aiohttp"):
        times = ratio(slices, "cpu_per_call_s", "ours", "aiohttp", 64)
        found.append(_at_most("64 in flight, journal off: CPU per call, to aiohttp alone", times, 2.2))
    if _has(slices, 1, "ours", *_STRIPES):
        found += [
            _at_most("1 in flight: p50, to the best of stripe-python", _to_best(slices, "ours", "p50_s", 1, min), 0.9),
            _at_most("1 in flight: p99, to the best of stripe-python", _to_best(slices, "ours", "p99_s", 1, min), 1.1),
        ]
    return found


def policy_targets(slices: Sequence[Slice], fsyncs_per_s: Sequence[float]) -> list[Target]:
    """
    Calls as users make them, with the journal on disk and the README's policy, beside Stripe's SDK without either.
    """
    found, name = [], "ours_readme"
    if _has(slices, 64, name, *_STRIPES):
        times = _to_best(slices, name, "calls_per_s", 64, max)
        found.append(_at_least("64 in flight, the README's policy: calls/s, to the best of stripe-python", times, 0.7))
    if _has(slices, 64, name) and _has(slices, 256, name):
        many, fewer = select(slices, name, 256), select(slices, name, 64)
        times = Spread.of(many[number].calls_per_s / fewer[number].calls_per_s for number in many)
        found.append(_at_least("256 in flight, the README's policy: calls/s, to ours at 64", times, 0.9))
        times = Spread.of(each.p99_s / each.p50_s for each in many.values())
        found.append(_at_most("256 in flight, the README's policy: p99, to p50", times, 2))
    if _has(slices, 1, name):
        alone = select(slices, name, 1)
        times = Spread.of(each.p50_s * fsyncs_per_s[number] / 2 for number, each in alone.items())
        found.append(_at_most("1 in flight, the README's policy: p50, to two fsyncs of the disk", times, 2))
    return found


def journal_targets(slices: Sequence[Slice], fsyncs_per_s: Sequence[float]) -> list[Target]:
    """
    What the journal on disk leaves, beside what the disk can do.
    """
    if not _has(slices, 64, "ours", "ours_journal"):
        return []
    times = ratio(slices, "calls_per_s", "ours_journal", "ours", 64)
    disk = f"the disk alone: {Spread.of(fsyncs_per_s).median:,.0f} times 4 kB with fsync per second"
    return [_at_least("64 in flight: calls/s, journal on to journal off", times, 0.6, note=disk)]


def memory_targets(bytes_per_call: Mapping[str, Sequence[float]], in_flight: int) -> list[Target]:
    """
    What calls in flight take.
    """
    if not bytes_per_call.get("ours"):
        return []
    figure = Spread.of(each / 1e3 for each in bytes_per_call["ours"])
    return [
        Target(
            name=f"{in_flight} in flight: memory per call",
            figure=figure,
            unit="kB",
            comparison="at most",
            bound=40,
        )
    ]


def measure_fsyncs_per_s(folder: Path, duration_s: float) -> float:
    """
    How often a second the disk takes 4 kB and says that it has them.
    """
    count, began = 0, time.perf_counter()
    with (folder / "fsyncs").open("wb", buffering=0) as file:
        while (took_s := time.perf_counter() - began) < duration_s or not count:
            file.write(bytes(4096))
            os.fsync(file.fileno())
            count += 1
    return count / took_s


def _has(slices: Sequence[Slice], in_flight: int, *clients: str) -> bool:
    return all(select(slices, client, in_flight) for client in clients)


def _to_best(
    slices: Sequence[Slice], client: str, figure: str, in_flight: int, best: Callable[[list[float]], float]
) -> Spread:
    """
    Ours to whichever of Stripe's clients was the best in that round.
    """
    peers = [select(slices, client, in_flight) for client in _STRIPES]
    return Spread.of(
        getattr(mine, figure) / best([getattr(peer[number], figure) for peer in peers])
        for number, mine in select(slices, client, in_flight).items()
    )


def _at_least(name: str, figure: Spread, bound: float, note: str = "") -> Target:
    return Target(name=name, figure=figure, unit="x", comparison="at least", bound=bound, note=note)


def _at_most(name: str, figure: Spread, bound: float) -> Target:
    return Target(name=name, figure=figure, unit="x", comparison="at most", bound=bound)
