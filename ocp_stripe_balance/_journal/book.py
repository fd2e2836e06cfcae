"""
What a journal is kept in: a file, or this process's memory. Every method is one step inside a unit of work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ocp_stripe_balance._policy import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocp_stripe_balance._journal.rows import Call, Decision, Ruling, State
    from ocp_stripe_balance.models import Answer, Proposal


class Settled(NamedTuple):
    """
    What became of a call.
    """

    state: State
    is_final: bool = False
    """Never overwritten."""
    attempts: int = 0
    status: int | None = None
    request_id: str | None = None
    answer: str | None = None
    """Stripe's object or error, as JSON."""
    note: str | None = None
    is_found_later: bool = False
    """Whether the money moved earlier than now, at the latest moment known so far."""


class Surroundings(History, Protocol):
    """
    What the rules ask, and what the admission itself does.
    """

    def denied_itself(self) -> Decision | None:
        """
        A person's no to this very key.
        """


class Book(Protocol):
    """
    Calls, decisions about them, and proposals.
    """

    def by_key(self, key: str, base_url: str, mode: str, account: str) -> Call | None:
        """
        The call of that key in that namespace.
        """

    def by_reference(self, draft: Call) -> Call | None:
        """
        The first call of the same business reason that moved money or may have.
        """

    def surroundings(self, draft: Call, now: float) -> Surroundings:
        """
        What is known around *draft*: in its base URL, mode and account, itself left out.
        """

    def insert(self, draft: Call, owner: str, now: float, lease_until: float) -> Call:
        """
        Record a draft as under way; whatever became of its key before is no part of it.
        """

    def take_over(self, call: Call, owner: str, now: float, lease_until: float) -> Call:
        """
        Let *owner* send a recorded call again.
        """

    def delete(self, call: Call) -> None:
        """
        Forget a call of which nothing was sent.
        """

    def settle(self, call: Call, outcome: Settled, now: float) -> bool:
        """
        Record an outcome, and whether that was possible.

        A final one on record stays, and one that is not final is recorded only by who holds the claim.
        """

    def note(  # noqa: PLR0913  what an audit asks
        self, subject: Call | Proposal, ruling: Ruling, at: float, *, rule: str, who: str, reason: str
    ) -> None:
        """
        Add a decision to the audit.
        """

    def keep(self, window_s: float) -> None:
        """
        Let no pruning delete what the rules count within that window.
        """

    def prune(self, before: float, now: float, *, with_references: bool, keep_s: float) -> int:
        """
        Delete settled calls; how many.
        """

    def select(
        self, *, key: str | None, states: Sequence[State], since: float, customer: str | None, limit: int
    ) -> list[Call]:
        """
        Calls, oldest first.
        """

    def customer_of(self, transaction: str, base_url: str, mode: str, account: str) -> str | None:
        """
        The customer of the call that made an entry.
        """

    def decisions(self, key: str | None) -> list[Decision]:
        """
        The audit, oldest first.
        """

    def proposals(self, now: float) -> list[Proposal]:
        """
        All proposals, oldest first, those that are over marked as expired.
        """

    def standing_proposal(self, subject: Call | Proposal, now: float) -> Proposal | None:
        """
        The newest proposal of the key, unless it has expired.
        """

    def use_up(self, proposal: Proposal) -> None:
        """
        Mark an approval as used by its call.
        """

    def ask(self, proposal: Proposal, now: float) -> Proposal:
        """
        Put a proposal in the queue, or find the one of its key that waits there.
        """

    def answer(self, proposal: Proposal, answer: Answer, now: float) -> Proposal:
        """
        Record a person's decision on a proposal that waits; the proposal as it then stands.
        """

    def attempt(self, work: Any) -> Any:
        """
        The result of *work*, with everything that it changed undone.
        """
