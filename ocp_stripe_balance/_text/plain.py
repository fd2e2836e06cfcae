"""
Text of others, made fit to be printed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SHOWN = 200
_TYPE_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def escaped(text: str, *, keep: str = "") -> str:
    """
    Control characters, line breaks, terminal escapes and invisible characters shown instead of obeyed.

    Args:
        text: from Stripe, a model or a person.
        keep: characters that stay as they are.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def moment(seconds: float) -> str:
    """
    A time as ISO 8601 in UTC; of one that no calendar has, its seconds.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{shown(seconds)} s after 1970"


def local(seconds: float) -> str:
    """
    A time for people: as `moment` writes it, in the zone of this machine.
    """
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return moment(seconds)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """
    The known names most like *name*, the best first, upper and lower case alike.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    return [by_lower[near] for near in difflib.get_close_matches(name[:255].lower(), by_lower, n=3, cutoff=0.6)]


def shown(value: object) -> str:
    """
    A value as it may stand in a message: short, printable, whatever its type does when it is printed.
    """
    try:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str) and len(value) > MAX_SHOWN:  # a 10 MB string is cut before repr copies it
            return f"{clip(repr(value[:60]), 60)} ({len(value):,} characters)"
        if isinstance(value, dict | list | tuple | set | Mapping):
            return f"{kind_of(value)} of {len(value)}"
        return clip(repr(value), 80)
    except Exception:  # noqa: BLE001  a repr of the caller's own, or an integer past Python's limit of digits
        return f"a Python {type(value).__name__}"


def clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def kind_of(value: object) -> str:
    return next((words for cls, words in _TYPE_NAMES.items() if type(value) is cls), f"a Python {type(value).__name__}")
