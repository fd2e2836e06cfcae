"""
What the rules look at, and what they answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from ocp_stripe_balance._domain import Intent, State
    from ocp_stripe_balance._policy.file import Per
    from ocp_stripe_balance.errors import Next


class KnownCustomer(Protocol):
    """
    What the rules ask about a customer as Stripe has it.
    """

    @property
    def currency(self) -> str | None:
        """
        None until the first entry or invoice fixes it for good.
        """

    @property
    def is_deleted(self) -> bool:
        """
        Whether Stripe has deleted it.
        """


class EarlierCall(Protocol):
    """
    What the rules ask about another call on record.
    """

    @property
    def intent(self) -> Intent:
        """
        What it wanted.
        """

    @property
    def state(self) -> State:
        """
        What has become of it.
        """

    @property
    def key(self) -> str:
        """
        The text of its idempotency key.
        """

    @property
    def transaction_id(self) -> str | None:
        """
        Of the entry it made, where that is known.
        """

    @property
    def created_at(self) -> float:
        """
        Seconds since the Unix epoch.
        """


class EarlierDenial(Protocol):
    """
    What the rules ask about a person's no.
    """

    @property
    def at(self) -> float:
        """
        Seconds since the Unix epoch.
        """

    @property
    def who(self) -> str:
        """
        Who said no.
        """

    @property
    def reason(self) -> str:
        """
        Why, or empty.
        """

    @property
    def key(self) -> str:
        """
        The text of the idempotency key of the call that was denied.
        """

    @property
    def effect(self) -> str:
        """
        What that call would have done.
        """


class Past(Protocol):
    """
    What is known around one call, in that call's account and mode.
    """

    @property
    def now(self) -> float:
        """
        Seconds since the Unix epoch.
        """

    def spent(self, per: Per, window_s: float) -> int:
        """
        Minor units that moved, or may have, within the window, by other calls in this call's direction and currency.
        """

    def room_at(self, per: Per, window_s: float, at_most: int) -> tuple[float, bool]:
        """
        When no more than *at_most* minor units are left in the window, or the earliest moment, and which of the two.
        """

    def calls_made(self, window_s: float) -> int:
        """
        How many calls were let through within the window; the same key again counts again.
        """

    def let_through_at(self, number: int, window_s: float) -> float:
        """
        When the call was let through that is that many back within the window, 1 for the newest.
        """

    def includes_this_call(self, window_s: float) -> bool:
        """
        Whether the call itself is on record and counts within the window.
        """

    def duplicate_of(self, window_s: float) -> EarlierCall | None:
        """
        The newest other call within the window to the same customer with the same amount and currency.

        It moved money or may have, and its reference does not tell the two apart.
        """

    def denial(self) -> EarlierDenial | None:
        """
        A person's no to this very key; else to the same business reason or the same amount for this customer.
        """

    def in_another_currency(self) -> EarlierCall | None:
        """
        Another call for this customer in another currency that moved money or may have.
        """


class Case(NamedTuple):
    """
    What the rules look at.
    """

    intent: Intent
    arguments: Mapping[str, Any]
    """The validated parameters."""
    allow_live: bool
    """The setting."""
    customer: KnownCustomer | None = None
    """As Stripe has it, or None where it was not read."""
    is_unreadable: bool = False
    """Whether the API key may not read it."""
    asks_always: bool = False
    """Whether a person is asked about every call, whatever the policy says."""


class Words(NamedTuple):
    """
    What a finding says.
    """

    message: str
    """A sentence without its full stop: what the rule demands, and what the call has."""
    hint: str = ""
    limit: str | None = None
    """Of a rule about amounts or numbers: how much it allows."""
    left: str | None = None
    """How much of that is left."""


class Finding(NamedTuple):
    """
    What one rule says of a call.
    """

    verdict: Literal["allowed", "refused", "ask"]
    rule: str
    """The key in the policy."""
    words: Callable[[], Words]
    """Makes the words: they take longer than the rest of a call, and of a call that is allowed nobody reads them."""
    free_at: float | None = None
    """When the rule would let the same call through."""
    next: Next = "stop_and_tell"
    """Of a refusal. A suspected duplicate is not waited for: who just waits pays twice."""


def decide(found: Iterable[Finding]) -> Finding | None:
    """
    The first refusal, else the first rule that wants a person asked, with the words of all; None: the call is allowed.

    That every call is asked about is said only of one that no rule asks about.
    """
    questions: list[Finding] = []
    for finding in found:
        if finding.verdict == "refused":
            return finding
        if finding.verdict == "ask" and not (questions and finding.rule == "ask_always"):
            questions.append(finding)

    def words() -> Words:
        said = [each.words() for each in questions]
        return said[0]._replace(message="; and ".join(each.message for each in said))

    return questions[0]._replace(words=words) if questions else None
