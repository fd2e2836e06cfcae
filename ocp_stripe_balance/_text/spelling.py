"""
One spelling for texts that a person reads as the same.
"""

from __future__ import annotations

import re
import unicodedata

# Drawn small, raised, in a circle or as a fraction, a character is another: 10² is not 102, and ① is not 1.
_DRAWN_OTHERWISE = ("<super>", "<sub>", "<circle>", "<square>", "<fraction>")
_LIKE = {
    # Hyphens, dashes and minus signs that are one straight stroke.
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u02d7\u058a\u05be\u1400\u1806\u2e3a\u2e3b",
    "'": "\u2018\u2019\u201a\u201b\u02bc\u2032\xb4",
    '"': "\u201c\u201d\u201e\u201f\u2033",
    "/": "\u2044\u2215",
    " ": "\u2800",  # a blank that is no white space to Unicode
}
_PLAIN = str.maketrans({char: plain for plain, likes in _LIKE.items() for char in likes})
# What Unicode has set aside for characters that are not shown (Default_Ignorable_Code_Point), and control characters.
_UNSEEN = re.compile(
    "(\U0001f3f4[\U000e0020-\U000e007f]+|[\u200c\u200d]|[\U000e0100-\U000e01ef])"  # seen in some places
    "|[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_JOINERS = re.compile("[\u200c\u200d]+|[\U000e0100-\U000e01ef]+")
_VIRAMA = 9  # the combining class of the signs that join the letters of India


def one_spelling(text: str) -> str:
    """
    The one spelling of every text that looks the same to a person, upper and lower case aside.

    How a text was typed does not count: white space around it and how much of it is within, case, composed or
    combining accents, full-width and styled letters, ligatures, which dash or quotation mark, and characters that
    nobody sees. What looks different stays different: accents, superscripts, ß and ss, flags, families of emoji. So do
    letters of two alphabets that only look alike, and characters that this Python does not know yet.

    For a reference, one spelling too many pays twice where nobody can take it back, so what cannot be told apart by eye
    is one. One too few tells somebody that was not paid of another's payment, so what can be told apart is never one,
    and in doubt two texts are two: the reference is still in the ledger for a person to see, and a call that repeats
    another under another spelling says so.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.lower().split())
    plain = "".join(map(_plain, unicodedata.normalize("NFC", text)))
    seen = _UNSEEN.sub(lambda found: found[1] or "", unicodedata.normalize("NFC", plain))
    joined = _JOINERS.sub(_seen_joiner, seen)
    return " ".join(unicodedata.normalize("NFC", "".join(map(_one_case, joined))).split())


def _plain(char: str) -> str:
    """
    What a character is another typing of.
    """
    if char.translate(_PLAIN) != char:
        return char.translate(_PLAIN)
    if unicodedata.decomposition(char).startswith(_DRAWN_OTHERWISE):
        return char
    plain = unicodedata.normalize("NFKC", char)
    # An accent that stands alone would become a space with an accent on it.
    return char if plain.startswith(" ") and plain != " " else plain.translate(_PLAIN)


def _one_case(char: str) -> str:
    """
    The letter in one case; never another letter, as ss is for ß.
    """
    folded = char.casefold()
    return folded if len(folded) == 1 else char.lower()


def _seen_joiner(found: re.Match[str]) -> str:
    """
    What joins or parts two characters, or picks a form of one, where a person sees that it does.
    """
    text, char = found.string, found[0][0]
    before, after = text[: found.start()][-1:], text[found.end() :][:1]
    if not before:
        return ""
    if char > "\u200d":  # a form of an ideograph, as in names
        return char if unicodedata.category(before) == "Lo" else ""
    is_seen = after and (
        unicodedata.combining(before) == _VIRAMA
        or unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL"
        or (_is_picture(before) and _is_picture(after))
    )
    return char if is_seen else ""


def _is_picture(char: str) -> bool:
    """
    Whether it is an emoji, or may be one that this Python does not know yet.
    """
    return char > "\u2000" and unicodedata.category(char) in {"So", "Sk", "Sm", "Cn"}
