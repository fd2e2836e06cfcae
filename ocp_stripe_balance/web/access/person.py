"""
Who is there, and what they may do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """
    What a person may do. None is part of another.
    """

    SEES = "sees"
    """Read what was called, decided and proposed."""
    DECIDES = "decides"
    """Approve and deny, reconcile, resume and reverse."""
    TOKENS = "tokens"
    """Make and revoke the tokens of agents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """
    Somebody who has signed in.
    """

    name: str
    roles: frozenset[Role]
    how: str
    """How they signed in: ``password`` or ``oidc``."""
    address: str
    """Where this request comes from."""
