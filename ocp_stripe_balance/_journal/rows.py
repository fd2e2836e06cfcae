"""
What the journal keeps of a call, and what a claim of it finds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from ocp_stripe_balance._text import money
from ocp_stripe_balance.models import Proposal

if TYPE_CHECKING:
    import sqlite3

    from ocp_stripe_balance._policy import Finding


Ruling = Literal["allowed", "refused", "asked", "approved", "denied", "expired"]


class State(StrEnum):
    """
    What has become of a call.
    """

    SENDING = "sending"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


class Call(NamedTuple):
    """
    One row: what was decided, the bytes it is sent as, and what became of it. Never an API key.

    Three are made for every call, and a frozen dataclass of this size takes four times as long to make.
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
    agent_type: str = ""
    user: str | None = None
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
    spent_at: float = 0.0
    """The latest moment at which it can have moved money, for budgets: the end of the lease while it is under way."""
    owner: str = ""
    lease_until: float = 0.0

    @property
    def namespace(self) -> tuple[str, str, str, str]:
        """
        The key, and within what it is one call's.
        """
        return self.key, self.base_url, self.mode, self.account

    def begun(self, owner: str, now: float, lease_until: float) -> Call:
        """
        The draft as it is recorded; what became of it where it was sent before is no part of it.
        """
        # In the order of the fields: twice as fast as by name.
        outcome = (State.SENDING, False, 0, None, None, None, None)
        return Call._make((*self[:_DECIDED], *outcome, now, now, lease_until, owner, lease_until))

    def taken_over(self, owner: str, now: float, lease_until: float) -> Call:
        """
        The recorded call as *owner* sends it again.
        """
        return self._replace(
            state=State.SENDING, owner=owner, lease_until=lease_until, spent_at=lease_until, updated_at=now
        )

    @property
    def moves_money(self) -> bool:
        """
        Whether it makes an entry; an update of one has no amount.
        """
        return self.amount != 0

    @property
    def effect(self) -> str:
        """
        What it does, as ``credit 5.00 usd``.
        """
        return money.effect(self.amount, self.currency)

    @property
    def transaction_id(self) -> str | None:
        """
        Of the entry it made, where that is known.
        """
        return json.loads(self.answer).get("id") if self.answer and self.state is State.SUCCEEDED else None


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
    PROPOSAL_TAKEN = "proposal_taken"
    """The key belongs to a proposal with other parameters."""
    REFUSED = "refused"
    """The policy does not allow it."""
    UNREAD = "unread"
    """No rule refuses it so far, and its customer has to be read before the rest is asked."""
    ASK = "ask"
    """The policy wants a person asked."""
    HELD = "held"
    """It may have been sent, and sending it again has no room in a budget now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    The verdict, and the row it speaks of.
    """

    verdict: Verdict
    call: Call
    finding: Finding | None = None
    """The rule behind REFUSED, ASK and HELD."""
    proposal: Proposal | None = None
    """What was put to a person under this key before, if anything."""


class Decision(NamedTuple):
    """
    One row of the audit: what was decided about a call, by which rule, and who decided.
    """

    at: float
    decision: Ruling
    rule: str
    who: str
    """A person, or ``policy``."""
    reason: str
    base_url: str
    mode: str
    account: str
    key: str
    tool: str
    customer: str
    amount: int
    currency: str
    reference: str | None
    context_id: str
    agent_type: str
    user: str | None

    @property
    def effect(self) -> str:
        """
        What it was about, as ``credit 5.00 usd``.
        """
        return money.effect(self.amount, self.currency)


COLUMNS = Call._fields
_DECIDED = COLUMNS.index("state")
"""How many fields say what was decided; the rest is what became of it."""
DECISION_COLUMNS = Decision._fields
_about = attrgetter(*DECISION_COLUMNS[DECISION_COLUMNS.index("reason") + 1 :])
PROPOSAL_COLUMNS = tuple(field.name for field in fields(Proposal))


def call_of(row: sqlite3.Row) -> Call:
    call = Call(*(row[name] for name in COLUMNS))
    return call._replace(state=State(call.state), is_final=bool(call.is_final))


def proposal_of(row: sqlite3.Row) -> Proposal:
    """
    The proposal of a row.
    """
    return Proposal(**{name: row[name] for name in PROPOSAL_COLUMNS})


def decision_on(  # noqa: PLR0913  what an audit asks
    subject: Call | Proposal, decision: Ruling, at: float, *, rule: str, who: str, reason: str
) -> Decision:
    """
    The audit row of what was decided about a call or a proposal.
    """
    return Decision(at, decision, rule, who, reason, *_about(subject))
