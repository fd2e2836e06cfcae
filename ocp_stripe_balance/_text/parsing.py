"""
JSON that others wrote.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class TwinError(ValueError):
    """
    A name is given twice in one object.
    """


class NoNumberError(ValueError):
    """
    A number is one that JSON does not have: NaN, or past the largest.
    """


def parsed(text: str) -> Any:
    """
    The value of a JSON text; of two values under one name, nobody knows which was meant.

    Raises:
        ValueError: it is no JSON, a name is given twice, or a number is none.
        RecursionError: it is nested too deep.
    """
    return _DECODER.decode(text)


def parsed_first(text: str, *, is_lenient: bool = False) -> tuple[Any, int]:
    """
    The value that a text begins with, and where it ends; *is_lenient* makes null of a number that is none.

    Raises:
        ValueError: it is no JSON, a name is given twice, or a number is none.
        RecursionError: it is nested too deep.
    """
    return (_LENIENT if is_lenient else _DECODER).raw_decode(text)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twin, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        message = f"{twin[:60]!r} is given twice"
        raise TwinError(message)
    return found


def _decoder(of_no_number: Callable[[str], Any]) -> json.JSONDecoder:
    def number(text: str) -> Any:
        value = float(text)
        return value if math.isfinite(value) else of_no_number(text)

    return json.JSONDecoder(object_pairs_hook=_without_twins, parse_constant=of_no_number, parse_float=number)


def _refuse(text: str) -> None:
    message = f"{text[:60]} is not a number that JSON has"
    raise NoNumberError(message)


_DECODER = _decoder(_refuse)
_LENIENT = _decoder(lambda _: None)
