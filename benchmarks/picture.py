"""
The picture: calls per second over calls in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from measure import Slice, spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

_LABELS = {
    "aiohttp": "raw transport: aiohttp alone",
    "httpx": "httpx alone",
    "stripe_httpx": "stripe-python, httpx",
    "stripe_aiohttp": "stripe-python, aiohttp",
    "ours": "ocp-stripe-balance",
    "ours_journal": "ocp-stripe-balance, journal",
    "ours_readme": "ocp-stripe-balance, journal, the README's policy",
    "ours_policy": "ocp-stripe-balance, journal, policy",
    "ours_postgres": "ocp-stripe-balance, journal on PostgreSQL, the README's policy",
    "gateway": "through the gateway, journal, the README's policy",
}
_COLOURS = {
    "aiohttp": "#555555",
    "httpx": "#b07d2b",
    "stripe_httpx": "#8a63b8",
    "stripe_aiohttp": "#5b3fa0",
    "ours": "#00734f",
    "ours_journal": "#1d8f6a",
    "ours_readme": "#2f8f6f",
    "ours_policy": "#4aa98a",
    "ours_postgres": "#336791",
    "gateway": "#c1503a",
}
_LINE_PT = 13


def draw(slices: Sequence[Slice], paths: Sequence[Path]) -> None:
    """
    Write the picture to *paths*, in the format each name says.
    """
    # Names in an SVG are else drawn by chance, and every run would differ.
    with rc_context({"svg.hashsalt": "ocp-stripe-balance", "font.size": 10}):
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        axes = figure.add_subplot()
        for client in dict.fromkeys(each.client for each in slices):
            _draw_line(axes, slices, client)
        _set_axes(axes, sorted({each.in_flight for each in slices}))
        _label_ends(figure, axes)
        for path in paths:
            figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_line(axes: Axes, slices: Sequence[Slice], client: str) -> None:
    levels = sorted({each.in_flight for each in slices if each.client == client})
    medians = [spread(slices, "calls_per_s", client, in_flight).median for in_flight in levels]
    style = "--" if client == "aiohttp" else "-"
    width = 2.6 if client == "ours" else 1.5
    marker = "" if client == "aiohttp" else "o"
    colour = _COLOURS.get(client, "black")
    axes.plot(levels, medians, style, color=colour, linewidth=width, marker=marker, markersize=4, label=client)


def _set_axes(axes: Axes, levels: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(levels, [str(level) for level in levels])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    ticks = [step * 10**power for power in range(7) for step in (1, 2, 5)]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("calls in flight")
    axes.set_title("calls per second, one process, server on loopback", loc="left", fontsize=11)
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _label_ends(figure: Figure, axes: Axes) -> None:
    """
    Name each line at its right end, moving names apart that would lie on each other.
    """
    figure.draw_without_rendering()  # places on the paper are known only then
    points_per_pixel = 72 / figure.dpi
    ends = [np.asarray(line.get_xydata())[-1] for line in axes.get_lines()]
    heights = [float(axes.transData.transform(end)[1]) * points_per_pixel for end in ends]
    ascending = sorted(range(len(ends)), key=heights.__getitem__)
    places = spaced([heights[index] for index in ascending], _LINE_PT)
    for index, place in zip(ascending, places, strict=True):
        line = axes.get_lines()[index]
        axes.annotate(
            _LABELS.get(str(line.get_label()), str(line.get_label())),
            (float(ends[index][0]), float(ends[index][1])),
            xytext=(8, place - heights[index]),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
            weight="bold" if line.get_label() == "ours" else "normal",
            annotation_clip=False,
        )


def spaced(heights: Sequence[float], distance: float) -> list[float]:
    """
    Ascending heights moved as little as it takes to keep their distance: neighbours share a move.
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _top(groups[-2], distance) + distance > _bottom(groups[-1], distance):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_bottom(group, distance) + index * distance for group in groups for index in range(len(group))]


def _bottom(group: Sequence[float], distance: float) -> float:
    return sum(group) / len(group) - (len(group) - 1) * distance / 2


def _top(group: Sequence[float], distance: float) -> float:
    return _bottom(group, distance) + (len(group) - 1) * distance
