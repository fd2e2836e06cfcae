"""
JSON that others wrote.
"""

from __future__ import annotations

import json
from typing import Any


def parsed(text: str) -> Any:
    """
    The value of a JSON text; of two values under one name, nobody knows which was meant.

    Raises:
        ValueError: it is no JSON, or a name is given twice.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_without_twins)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        message = f"{twin[:60]!r} is given twice"
        raise ValueError(message)
    return found
