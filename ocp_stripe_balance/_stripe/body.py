"""
The body of a response: decoded, without the API key, and read as JSON as far as it arrived.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from ocp_stripe_balance._text.parsing import NoNumberError, TwinError, parsed_first
from ocp_stripe_balance._text.secrets import masked, without

_TOKEN = re.compile(r'\s*+("(?:[^"\\]++|\\.)*+"|[^\s"{}\[\],:]++|[{}\[\],:])', re.DOTALL)
_MOST_SCANNED = 256 * 1024  # an entry has a few thousand characters, and this takes a second for a megabyte
_CLOSING = {"{": "}", "[": "]"}


class Body(NamedTuple):
    """
    What a response says.
    """

    data: Any
    """The JSON value, or None where it is not whole, or none."""
    begun: dict[str, Any] | None
    """Of an object that is not whole, what is; of anything else, None."""
    text: str
    """The JSON of either, as it may be kept."""
    flaw: str | None = None
    """What is wrong with it all the same."""


def read(body: bytes, secret: str) -> Body:
    """
    The body without *secret*, should a proxy or a server echo it, however its characters are written.
    """
    text = masked(body.decode(json.detect_encoding(body), "replace").strip(), secret)
    try:
        data, end, flaw = _parsed_first(text)
        if text[end:].lstrip()[:1] in {"{", "["}:
            return _nothing("there are two answers in it")
        # What is escaped twice shows only now.
        clean = without(data, secret) if "\\" in text else data
        is_as_it_came = clean is data and end == len(text) and flaw is None
        flaw = flaw if end == len(text) else "the response goes on after its end"
        return Body(clean, None, text if is_as_it_came else json.dumps(clean), flaw)
    except TwinError:
        return _nothing("a name is given twice in it")
    except RecursionError:
        return _nothing("it is nested too deep")
    except ValueError:
        begun = without(_begun(text), secret)
        return Body(None, begun, json.dumps(begun), "the response body is cut off" if begun else None)


def _parsed_first(text: str) -> tuple[Any, int, str | None]:
    """
    The value, where it ends, and what is wrong with it: a number that is none becomes null, as JSON has no word for it.
    """
    try:
        return *parsed_first(text), None
    except NoNumberError:
        return *parsed_first(text, is_lenient=True), "a number in it is not finite, and is left out"


def _nothing(flaw: str) -> Body:
    return Body(None, None, "null", flaw)


def _begun(text: str) -> dict[str, Any] | None:
    """
    The members of a JSON object that are whole, where the text ends before it does; None of another text.

    Of an empty text nothing is known, so it may be such an object.
    """
    if not text:
        return {}
    text = text[:_MOST_SCANNED]
    closing: list[str] = []
    whole, depth, at = 1, 1, 0  # where what is whole ends, and how many objects and lists are open there
    while (token := _TOKEN.match(text, at)) is not None:
        at = token.end()
        if token[1] in _CLOSING:
            closing.append(_CLOSING[token[1]])
        elif token[1] in {"}", "]"}:
            if not closing or closing.pop() != token[1]:
                return None
            whole, depth = at, len(closing)
        elif token[1] == ",":
            whole, depth = token.start(1), len(closing)
    try:
        found, _ = parsed_first(text[:whole] + "".join(reversed(closing[:depth])), is_lenient=True)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
