"""
What the rooms share: whose call it is, what it wants, under which key, and what became of it.
"""

from __future__ import annotations

from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from ocp_stripe_balance._text import money

if TYPE_CHECKING:
    import asyncio

Mode = Literal["test", "live"]
Direction = Literal["credit", "debit"]
Ruling = Literal["allowed", "refused", "asked", "approved", "denied", "expired", "planned", "begun"]
"""What the audit says of a call or a plan; a plan is ``planned``, and each of its runs ``begun``."""
# Set while the bytes of a call may have left: for a door that still stops what was not sent, and finishes what was.
sent: ContextVar[asyncio.Event | None] = ContextVar("sent", default=None)


class Scope(NamedTuple):
    """
    Within what a key belongs to one call: one Stripe account, in one mode, at one address.
    """

    base_url: str
    """The server, in the one spelling that names it (`settings.server_of`)."""
    mode: str
    account: str
    """The connected account, or empty for the API key's own."""


class Caller(NamedTuple):
    """
    Who asks, as the agent's context says.
    """

    context_id: str
    agent_type: str = ""
    user: str | None = None


class Context(Protocol):
    """
    What an API reads of an agent's context; the SDK's has it too.
    """

    context_id: str
    agent_type: str
    user: str | None
    workspace: str | None
    current_goal: str | None


class Origin(StrEnum):
    """
    Whose name for a decision a key is.
    """

    CALLER = "caller"
    """A program gave it: ``idempotency_key=``, or the header Idempotency-Key."""
    TOOL_CALL = "tool_call"
    """The ID that a model's host gave the tool call."""
    MODEL = "model"
    """The model gave it, as the parameter ``idempotency_key``: it repeats a call whose key it was told."""
    REFERENCE = "reference"
    """Derived from what is asked and the business reason for it."""
    REVERSAL = "reversal"
    """Derived from the entry that is reversed."""
    PLAN = "plan"
    """Derived from all rows of a plan, which a person decides on at once."""
    DRAWN = "drawn"
    """Random, for this call alone."""

    @property
    def is_derived(self) -> bool:
        """
        Whether the key follows from what is asked, so that other words under it are the same decision.
        """
        return self in {Origin.REFERENCE, Origin.REVERSAL, Origin.PLAN}

    @property
    def repeats(self) -> bool:
        """
        Whether a call under it means the call that has it already, in whatever words.
        """
        return self is Origin.MODEL or self.is_derived


class Key(NamedTuple):
    """
    The idempotency key of one decision.
    """

    text: str
    """As Stripe gets it."""
    origin: Origin


class ToolCall(NamedTuple):
    """
    The name that a model's host gave a tool call: good within one conversation.
    """

    id: str
    conversation: str | None = None
    """Whatever names the conversation for its host, also after a restart. Without it, only an ID that no other
    conversation can have names a decision."""


class Money(NamedTuple):
    """
    What an entry moves.
    """

    amount: int
    """In the currency's smallest unit; negative credits the customer, positive debits."""
    currency: str
    """ISO 4217, lower case."""

    @property
    def direction(self) -> Direction:
        """
        Whether it credits or debits the customer.
        """
        return "credit" if self.amount < 0 else "debit"


def effect_of(moved: Money | None) -> str:
    """
    What a call does, as ``credit 5.00 usd``.
    """
    return "update (no money)" if moved is None else money.effect(*moved)


class State(StrEnum):
    """
    What has become of a call.
    """

    SENDING = "sending"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"

    @property
    def nothing_moved(self) -> bool:
        """
        Whether it is certain that no money moved.
        """
        return self in {State.REJECTED, State.NOT_SENT}

    @property
    def may_have_moved(self) -> bool:
        """
        Whether money moved or may have: such a call counts in budgets.
        """
        return not self.nothing_moved

    @property
    def is_open(self) -> bool:
        """
        Whether it is still to be found out.
        """
        return self in {State.SENDING, State.UNKNOWN}


class Intent(NamedTuple):
    """
    One decision: who wants what for whom, under which key. It never changes on its way.

    A tuple, because several are made for every call, and a frozen dataclass takes four times as long to make.
    """

    scope: Scope
    caller: Caller
    key: Key
    tool: str
    customer: str | None
    """The customer it is about, or None of a call that names none."""
    money: Money | None
    """None where it moves none."""
    reference: str | None
    """The business reason, where one was given, in its one spelling."""
    arguments: str
    """The validated parameters as JSON, names sorted, without the key."""
    has_stated_effect: bool = False
    """Whether the caller said in words what it does."""

    @property
    def effect(self) -> str:
        """
        What it does, as ``credit 5.00 usd``.
        """
        return effect_of(self.money)

    def is_same_as(self, other: Intent) -> bool:
        """
        Whether both ask for exactly the same, word for word.
        """
        return (self.tool, self.arguments) == (other.tool, other.arguments)

    def is_like(self, other: Intent) -> bool:
        """
        Whether both want the same for the same reason, in whatever words; where no money moves, word for word.
        """
        if self.money is None:
            return self.is_same_as(other)
        ours = (self.tool, self.customer, self.money, self.reference)
        return ours == (other.tool, other.customer, other.money, other.reference)


class PlanInHand(Protocol):
    """
    A plan that is being run, as far as it matters whether a call is one of its rows.
    """

    key: str
    """Under which a person decided about it."""

    def has(self, intent: Intent) -> bool:
        """
        Whether that very call is a row of the plan, proven against its digest.
        """


class Payload(NamedTuple):
    """
    The bytes of a call, fixed before it is sent and used for every attempt.
    """

    path: str
    body: bytes
    api_version: str
    is_tagged: bool
    """Whether the entry will name this call in its metadata (``ocp_call``), so that it can be found in the ledger."""


class Outcome(NamedTuple):
    """
    What became of a call, as far as it is known.
    """

    state: State
    is_final: bool = False
    """Whether the same call again is answered from the record, and nothing is ever written over it."""
    attempts: int = 0
    status: int | None = None
    request_id: str | None = None
    answer: str | None = None
    """Stripe's object, or the error that the caller was told, as JSON."""
    transaction_id: str | None = None
    """Of the entry it made, where that is known."""
    note: str | None = None
    """How the outcome was found, where it is no answer of Stripe's."""
    warnings: tuple[str, ...] = ()
    """What was surprising about the answer."""
