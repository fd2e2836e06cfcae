"""
Whether the ID that a model's host gives a tool call names one decision, and under which key.

Many servers count: ``call_0`` is the first call of every conversation. Such a name says nothing beyond its own
conversation, where its host can say which that is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from itertools import pairwise
from typing import TYPE_CHECKING

from ocp_stripe_balance._domain import Key, Origin
from ocp_stripe_balance._text.placeholders import says_nothing

if TYPE_CHECKING:
    from ocp_stripe_balance._domain import ToolCall

_log = logging.getLogger("ocp_stripe_balance")
_VALID_KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")
_UUID = re.compile(  # random or by time; those made from a name come again
    r"(?<![0-9a-z])[0-9a-f]{8}-[0-9a-f]{4}-[1467][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}(?![0-9a-z])", re.IGNORECASE
)
_OF_A_NAME = re.compile(  # made from a name (version 3 or 5), in any spelling of its 32 digits
    r"(?<![0-9a-f])(?:[0-9a-f]-?){12}[35]-?(?:[0-9a-f]-?){3}[89ab]-?(?:[0-9a-f]-?){14}[0-9a-f](?![0-9a-f])",
    re.IGNORECASE,
)
_PIECE = re.compile(r"[A-Za-z0-9]{20,}")
_BEDROCK = re.compile(r"(?<=^tooluse_)[\w-]{22}$", re.ASCII)  # the only ones with separators within
_HEX = re.compile(r"[0-9a-f]{32,}", re.IGNORECASE)
_LEAST_DIGITS, _LEAST_HEX_LETTERS, _LEAST_STEPS = 10, 3, 8
_LEAST_SURPRISES, _LEAST_LETTERS, _LEAST_SHARE = 10, 6, 0.55
_IN_WORDS = (
    "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se le sa si ar ve ra ld "
    "ur me ne ri ro ll io ic co ta ec om ch el ma ns ot us no be lo ho la il ce li ac ut ca un pe so ss rs os ge tr wh "
    "ct po ul di we ad ol su ni em id mo ee im ke ai pr oo na ow pa ay tu rt ep am ir ex ap bl ag op ck ls ts up if ab "
    "av ev fi fo do go my by"
)
_USUAL_PAIRS = frozenset(_IN_WORDS.split())


def key_of(call: ToolCall, tool: str, arguments: str) -> Key | None:
    """
    The key of a tool call with those parameters, or None where its ID names no one decision.

    In a conversation that its host names, the same ID with other parameters is another decision: some servers count
    anew in each turn.
    """
    if call.conversation is not None and not says_nothing(str(call.conversation)):
        return Key(_hashed(str(call.conversation), call.id, tool, arguments), Origin.TOOL_CALL)
    if not is_evidently_unique(call.id):
        _log.warning(
            "%s: the ID of this tool call is not evidently unique, and no conversation is named, so it is no key: "
            "the same call again counts as another one, unless its reference is the same",
            tool,
        )
        return None
    return Key(call.id if _VALID_KEY.fullmatch(call.id) else _hashed(call.id), Origin.TOOL_CALL)


def is_evidently_unique(call_id: str) -> bool:
    """
    Whether no other conversation has this ID, by its looks: a part of it is as random as the providers make them.

    That is a UUID, 32 hexadecimal digits, or 20 letters and digits in one piece in which most letters do not follow
    the one before as they do in words, or in the alphabet. Names, counters, dates and versions are none of these,
    however long they are, nor is a UUID that was made from a name, with hyphens or without. One in a hundred random IDs
    is not seen to be one; of 32 hexadecimal digits that are no UUID one in thirty, which by chance has the form of one
    made from a name: a host that repeats calls names the conversation.
    """
    call_id = _OF_A_NAME.sub(" ", call_id)
    pieces = [uuid.replace("-", "") for uuid in _UUID.findall(call_id)]
    pieces += _HEX.findall(call_id)
    pieces += _PIECE.findall(_BEDROCK.sub(lambda found: re.sub("[-_]", "0", found[0]), call_id))
    return any(map(_looks_random, pieces))


def _looks_random(piece: str) -> bool:
    return _are_drawn(piece.lower()) if _HEX.fullmatch(piece) else _is_no_word(piece)


def _are_drawn(digits: str) -> bool:
    steps = {(int(after, 16) - int(before, 16)) % 16 for before, after in pairwise(digits)}  # a counter has few
    letters = set(digits) - set("0123456789")
    return len(set(digits)) >= _LEAST_DIGITS and len(letters) >= _LEAST_HEX_LETTERS and len(steps) >= _LEAST_STEPS


def _is_no_word(piece: str) -> bool:
    surprises = []
    before, last = "", ""  # the character before, and the last letter
    for char in piece:
        if char.isalpha():
            is_new_word = before.islower() and char.isupper()
            is_usual = not is_new_word and (before + char).lower() in _USUAL_PAIRS
            is_next = last and ord(char.lower()) - ord(last) in {0, 1}
            if not (is_usual or is_next):
                surprises.append(char.lower())
            last = char.lower()
        before = char
    letters = sum(map(str.isalpha, piece))
    is_mixed = len(set(surprises)) >= _LEAST_LETTERS
    return is_mixed and len(surprises) >= max(_LEAST_SURPRISES, _LEAST_SHARE * letters)


def _hashed(*names: str) -> str:
    return "call-" + hashlib.sha256(json.dumps(names).encode()).hexdigest()
