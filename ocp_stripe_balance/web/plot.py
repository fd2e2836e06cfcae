"""
Plots as what a template draws: columns by day, each with its words. Nothing here knows of a journal or of SVG.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH, HEIGHT, RIGHT = 1100, 190, 90  # the amounts stand at the right, where a narrow page shows the newest days
_TOP, _BOTTOM = 12, 22
_MOST_DAYS_NAMED = 10


class Day(NamedTuple):
    """
    What was moved on one day.
    """

    name: str
    credit: int
    debit: int


class Plot(NamedTuple):
    """
    A plot, in units of its own width and height.
    """

    title: str
    label: str
    """What somebody is told who does not see it."""
    ticks: list[dict[str, Any]]
    columns: list[dict[str, Any]]
    days: list[dict[str, Any]]
    width: int = WIDTH
    height: int = HEIGHT
    right: int = RIGHT


def by_day(title: str, days: Sequence[Day], in_words: Callable[[int], str]) -> Plot:
    """
    Two columns for each day, credits and debits.
    """
    largest = max((max(day.credit, day.debit) for day in days), default=0)
    top = _round_up(largest)
    room = HEIGHT - _TOP - _BOTTOM
    step = (WIDTH - RIGHT) / max(len(days), 1)
    wide = max(min(step * 0.38, 26), 1.0)
    columns, names = [], []
    every = -(-len(days) // _MOST_DAYS_NAMED)
    for number, day in enumerate(days):
        middle = step * (number + 0.5)
        for kind, amount, x in (("credit", day.credit, middle - wide), ("debit", day.debit, middle)):
            if amount:
                height = max(room * amount / top, 1.0)
                text = f"{day.name}: {kind}s of {in_words(amount)}"
                columns.append(
                    {"kind": kind, "x": round(x, 1), "y": round(_TOP + room - height, 1), "width": round(wide, 1),
                     "height": round(height, 1), "text": text}
                )  # fmt: skip
        if (len(days) - 1 - number) % every == 0:
            names.append({"x": round(middle, 1), "text": day.name})
    ticks = [{"y": round(_TOP + room * (1 - part), 1), "text": in_words(round(top * part))} for part in (0.0, 0.5, 1.0)]
    sums = ", ".join(f"{kind}s of {in_words(sum(getattr(day, kind) for day in days))}" for kind in ("credit", "debit"))
    return Plot(title, f"{title}, by day. In all: {sums}.", ticks, columns, names)


def bar(used: int, limit: int) -> dict[str, Any]:
    """
    How much of something is used, as a bar of 200 units.
    """
    part = 1.0 if limit <= 0 else min(max(used / limit, 0.0), 1.0)
    return {"width": round(200 * part, 1), "percent": int(100 * part)}


def _round_up(largest: int) -> int:
    """
    The next of 1, 2 and 5 with noughts, twice of which is even.
    """
    size = 2
    while size < largest:
        size *= 10
    return next((size // part for part in (5, 2) if size // part >= max(largest, 2) and size // part % 2 == 0), size)
