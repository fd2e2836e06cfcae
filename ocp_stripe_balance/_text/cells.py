"""
Texts of others in a table that a spreadsheet may open.
"""

from __future__ import annotations

_BEGIN_FORMULAS = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are wide


def as_cell(text: str) -> str:
    """
    The text as no spreadsheet takes it for a formula.
    """
    return f"'{text}" if text[:1] in _BEGIN_FORMULAS else text
