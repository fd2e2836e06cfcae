"""
Texts that stand where there is nothing to say.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from ocp_stripe_balance._text.spelling import one_spelling

# All without their punctuation: n/a, N.A. and <n/a> are "na".
_NOTHING = (
    "string str text null nil none nan undefined na unspecified unknown novalue empty blank placeholder optional tbd "
    "keine keineangabe unbekannt aucun aucune inconnu ninguno ninguna desconocido"
)
_WORDS = frozenset(_NOTHING.split())
# What is not given, set or known is no reason; "not received", "no show" and "no longer needed" are some.
_ABSENT = re.compile(
    "(na|none|null|nil|not|no|nothing|unknown|undefined)+"
    "(any|yet|currently|business|such|was|is|were|has|been|id|number|data|text|info|information|details|ticket|value"
    "|reference|ref|reason|description|given|provided|specified|available|applicable|supplied|stated|assigned|set|known)*"
    "(reference|ref|reason|description|given|provided|specified|available|applicable|supplied|stated|assigned|set|known)"
    "(yet|here|atall|by(the)?(caller|user|customer))?"
)
# Where nobody filled in the form.
_UNFILLED = re.compile("x{3,}|todo|fixme|tbc|tba|dummy|foo(bar)?|bar|lorem(ipsum)?|asdf|objectobject")
_SLOT = re.compile(r"<[^<>\d]*>|\$?\{+[^{}\d]*\}+|%[^%\d]+%")  # with a digit in it, somebody did
_AROUND = "the|your|my|an|any|a|some|insert|enter|add|business|optional|default|sample|example|test|dummy|placeholder"
_AFTER = "here|goeshere|id|number|value|text|string|placeholder"
# For an entry's reason alone: elsewhere each of them can be meant.
_NO_REASON = (
    "id number key value name data example sample demo test tests testing default void no yes true false nothing "
    "anything something whatever idk notsure unsure uuid guid"
)
_NO_REASONS = frozenset(_NO_REASON.split())
_NO_NUMBER = re.compile(r"0+|([^\W\d_]+[ _-]+)?(x{3,}|#+)")
_MAX_LENGTH = 64
_LONGEST, _MAX_ITEMS = 1000, 64  # to look at each character of a text takes its time
_has_digit = re.compile("[1-9]").search  # as nothing of the above has


def says_nothing(value: object) -> bool:
    """
    Whether a value is what models write where they mean nothing: ``N/A``, ``string``, ``null``, ``-``, or only blanks.

    A list says nothing where none of its items does. What is longer than any parameter may be is not looked at.
    """
    if isinstance(value, list):
        return 0 < len(value) <= _MAX_ITEMS and all(map(says_nothing, value))
    if not isinstance(value, str) or (len(value) > _MAX_LENGTH and value.isascii() and not value.isspace()):
        return False
    if len(value) > _LONGEST:
        return value.isspace()
    if _has_digit(value):
        return False
    text = one_spelling(value)
    return _is_nothing(text, _words(text))


def is_unfilled(value: object, name: str) -> bool:
    """
    Whether the text for a reason, a description or a key of metadata says nothing, or is its own name or a template's.

    As ``<reference>``, ``your-reference``, ``todo`` or ``ticket-XXX``; of a reason also ``test``, ``no`` and ``0``.
    """
    if not isinstance(value, str) or len(value) > _MAX_LENGTH:
        return says_nothing(value)
    if _has_digit(value) and not _has_digit(name):
        return False
    text = one_spelling(value)
    words, (word, own) = _words(text), _own(name)
    is_own = bool(word) and own.fullmatch(words)
    is_no_reason = word == "reference" and (words in _NO_REASONS or _NO_NUMBER.fullmatch(text))
    is_template = is_own or is_no_reason or _UNFILLED.fullmatch(words) or _SLOT.fullmatch(text)
    return bool(is_template) or _is_nothing(text, words)


@lru_cache(maxsize=256)  # two names, but for those of metadata
def _own(name: str) -> tuple[str, re.Pattern[str]]:
    """
    The name of a parameter in one word, and what is no more than that name.
    """
    word = _words(one_spelling(name))
    names = "reference|ref|reason" if word == "reference" else word
    return word, re.compile(f"({_AROUND})*({names})({_AFTER})*")


def _is_nothing(text: str, words: str) -> bool:
    if words and words not in _WORDS and not _ABSENT.fullmatch(words):
        return False
    rest = (char for char in text if not (char.isascii() or char.isalnum()))
    return all(unicodedata.category(char)[0] == "P" for char in rest)


def _words(text: str) -> str:
    return "".join(filter(str.isalnum, text))
