"""
What a browser sends, as the pages use it: texts of a length, and nothing that a journal could not hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.datastructures import FormData, QueryParams


def text(given: FormData | QueryParams, name: str, most: int = 255) -> str:
    """
    A field; empty where it is missing or no text.
    """
    return _clean(given.get(name), most)


def texts(given: FormData | QueryParams, name: str, most: int = 255) -> list[str]:
    """
    A field that may come several times.
    """
    return [_clean(each, most) for each in given.getlist(name)]


def _clean(value: object, most: int) -> str:
    if not isinstance(value, str):
        return ""
    return value.replace("\0", "").encode("utf-8", "ignore").decode().strip()[:most]
