"""
Who has come in, and what that person may do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """
    What a person may do.
    """

    SEES = "sees"
    DECIDES = "decides"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """
    Who has come in.
    """

    name: str
    roles: frozenset[Role]
    how: str
    """``password`` or ``oidc``."""
    address: str
    """From where."""
