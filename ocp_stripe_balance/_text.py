"""
Text of others, made fit to be printed.
"""

from __future__ import annotations


def escaped(text: str, *, keep: str = "") -> str:
    """
    Control characters, line breaks, terminal escapes and invisible characters shown instead of obeyed.

    Args:
        text: from Stripe, a model or a person.
        keep: characters that stay as they are.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
