"""
JSON that others wrote.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


class TwinError(ValueError):
    """
    A name is given twice in one object.
    """


def parsed(text: str) -> Any:
    """
    The value of a JSON text; of two values under one name, nobody knows which was meant.

    Raises:
        ValueError: it is no JSON, or a name is given twice.
        RecursionError: it is nested too deep.
    """
    return _DECODER.decode(text)


def parsed_first(text: str) -> tuple[Any, int]:
    """
    The value that a text begins with, and where it ends.

    Raises:
        ValueError: it is no JSON, or a name is given twice.
        RecursionError: it is nested too deep.
    """
    return _DECODER.raw_decode(text)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twin, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        message = f"{twin[:60]!r} is given twice"
        raise TwinError(message)
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_twins)
