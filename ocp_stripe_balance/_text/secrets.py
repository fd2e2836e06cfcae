"""
Keeping the API key out of whatever is printed, recorded or handed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

# Where a key begins: not within a word (helpdesk_live_chat), but well behind what URLs and JSON escape.
_BEGIN = r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4})|(?<=\\x[0-9A-Fa-f]{2}))"
_KIND = r"k_(?:live|test|org)_(?:test_|live_)?"
_API_KEY = re.compile(rf"({_BEGIN}[srp]{_KIND})[A-Za-z0-9_*]+")
_SECRET_KEY = re.compile(rf"{_BEGIN}[sr]{_KIND}([A-Za-z0-9]{{8,}})")
_GLUED = re.compile(rf"([srp]{_KIND})([A-Za-z0-9]{{20,}})")  # whatever stands before it


def redact(text: str, secret: str | None = None) -> str:
    """
    The text with Stripe keys masked: *secret* wherever it stands, and all that look like one.
    """
    text = masked(text, secret)
    if "k_" not in text:
        return text
    text = _API_KEY.sub(r"\1[masked]", text)
    return _GLUED.sub(lambda found: f"{found[1]}[masked]" if _is_drawn(found[2]) else found[0], text)


def masked(text: str, secret: str | None) -> str:
    """
    The text with *secret* masked, also where its characters are JSON escapes or percent-encoded, each for itself.
    """
    if not secret:
        return text
    text = text.replace(secret, "[api key]")
    if "\\" in text or "%" in text:
        text = _spelt(secret).sub("[api key]", text)
    return text


@lru_cache(maxsize=16)
def _spelt(secret: str) -> re.Pattern[str]:
    """
    A pattern of the ways to write an API key.
    """
    return re.compile("".join(map(_as_spelt, secret)))


def _as_spelt(char: str) -> str:
    """
    A pattern of the ways to write a character. The repetitions are bounded: a text can be nothing but backslashes.
    """
    code, backslash = f"{ord(char):02x}", r"\\{1,8}"
    percent = rf"(?:%|{backslash}u0025)(?:25){{0,4}}"
    return rf"(?:(?:{backslash})?{re.escape(char)}|{backslash}(?i:u00{code})|{percent}(?i:{code}))"


def without(value: Any, secret: str) -> Any:
    """
    A JSON value with *secret* masked, in names too.
    """
    if isinstance(value, str):
        return masked(value, secret)
    if isinstance(value, dict):
        return {without(name, secret): without(item, secret) for name, item in value.items()}
    return [without(item, secret) for item in value] if isinstance(value, list) else value


def holds_key(text: str, secret: str | None) -> bool:
    """
    Whether the text has the API key in it, or what looks like a secret or restricted key.
    """
    if secret is not None and secret in text:
        return True
    if "%5" in text:  # which is how URLs may have an underscore
        text += " " + unquote(text)
    return "k_" in text and (
        any(_is_no_word(found[1]) for found in _SECRET_KEY.finditer(text))
        or any(found[1][0] != "p" and _is_drawn(found[2]) for found in _GLUED.finditer(text))
    )


def _is_no_word(text: str) -> bool:
    """
    Whether it has what words have not, and keys have: a digit, or capitals throughout a long row.
    """
    return any(c.isdigit() for c in text) or _is_drawn(text)


def _is_drawn(text: str) -> bool:
    """
    Whether letters and digits change so often that nobody wrote them: in a drawn text 3 of 5 neighbours differ in kind.
    """
    kinds = ["0" if c.isdigit() else c.isupper() for c in text]
    return sum(one != other for one, other in pairwise(kinds)) > len(text) * 0.4


class Concealed(Mapping[object, object]):
    """
    A caller's headers, which no repr and no traceback shows.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[object, object]) -> None:
        """
        Hold *items*.
        """
        self._items = items

    def __getitem__(self, name: object) -> object:
        """
        The value of that very name.
        """
        return self._items[name]

    def __iter__(self) -> Iterator[object]:
        """
        The names.
        """
        return iter(self._items)

    def __len__(self) -> int:
        """
        How many there are.
        """
        return len(self._items)

    def __repr__(self) -> str:
        """
        How many there are.
        """
        return f"<{len(self)} headers>"

    def __reduce__(self) -> tuple[object, ...]:
        """
        Not pickled: a pickle would hold the key.
        """
        message = "headers that may hold an API key are not pickled"
        raise TypeError(message)


def concealed(headers: Any) -> Any:
    """
    The headers as no traceback shows them; of what is no mapping, the type, to be refused.
    """
    return Concealed(headers) if isinstance(headers, Mapping) else None if headers is None else type(headers)


def scrub(error: BaseException, secret: str) -> None:
    """
    Take the API key out of *error* and what led to it.

    Where they were raised is forgotten, because the locals of HTTP libraries hold the headers.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        each = queue.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        if any(isinstance(part, str) and redact(part, secret) != part for part in each.args):
            each.args = tuple(redact(part, secret) if isinstance(part, str) else part for part in each.args)
        queue += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
