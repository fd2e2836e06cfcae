"""
Texts that stand where there is nothing to say.
"""

from __future__ import annotations

import unicodedata

from ocp_stripe_balance._text.spelling import one_spelling

# Without their punctuation: n/a, N.A. and <n/a> are "na".
_NOTHING = (
    "string str text null nil none nan undefined na notapplicable notavailable notprovided notspecified notset "
    "unspecified novalue empty blank placeholder optional tbd"
)
_WORDS = frozenset(_NOTHING.split())
_MAX_LENGTH = 64


def says_nothing(value: object) -> bool:
    """
    Whether a value is what models write where they mean nothing: ``N/A``, ``string``, ``null``, ``-``, or only blanks.

    A list says nothing where none of its items does.
    """
    if isinstance(value, list):
        return bool(value) and all(map(says_nothing, value))
    if not isinstance(value, str) or (len(value) > _MAX_LENGTH and value.isascii() and not value.isspace()):
        return False
    name = one_spelling(value)
    words = "".join(filter(str.isalnum, name))
    rest = (char for char in name if not (char.isascii() or char.isalnum()))
    return (not words or words in _WORDS) and all(unicodedata.category(char)[0] == "P" for char in rest)
