"""
What the journal keeps of a call, and what a claim of it finds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


class State(StrEnum):
    """
    What has become of a call.
    """

    SENDING = "sending"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """
    One row: what was decided, the bytes it is sent as, and what became of it. Never an API key.
    """

    base_url: str
    mode: str
    account: str
    """Connected account, or empty; with base URL and mode it is the namespace of the key."""
    key: str
    tool: str
    customer: str
    amount: int
    currency: str
    reference: str | None
    arguments: str
    """The validated parameters as JSON, names sorted, without the key."""
    path: str
    body: bytes
    api_version: str
    context_id: str
    state: State = State.SENDING
    is_final: bool = False
    """Whether the same call again is answered from here."""
    attempts: int = 0
    status: int | None = None
    request_id: str | None = None
    answer: str | None = None
    """Stripe's object or error, as JSON."""
    note: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    owner: str = ""
    lease_until: float = 0.0


class Verdict(StrEnum):
    """
    What a claim found.
    """

    SEND = "send"
    """The call is ours to send, for the first time."""
    RESUME = "resume"
    """The call is ours to send again: an earlier attempt may have been executed."""
    WAIT = "wait"
    """Another caller is sending it."""
    FINISHED = "finished"
    """The outcome is on record."""
    EXPIRED = "expired"
    """Its outcome is open, and it is too old to be sent again."""
    KEY_TAKEN = "key_taken"
    """The key belongs to a call with other parameters."""
    REFERENCE_TAKEN = "reference_taken"
    """The reference belongs to an entry of another amount or currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    The verdict, and the row it speaks of.
    """

    verdict: Verdict
    call: Call


COLUMNS = tuple(field.name for field in fields(Call))


def call_of(row: sqlite3.Row) -> Call:
    values = {name: row[name] for name in COLUMNS}
    return Call(**{**values, "state": State(values["state"]), "is_final": bool(values["is_final"])})
