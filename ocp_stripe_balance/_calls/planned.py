"""
A plan of many calls, put to a person once: the yes is for exactly the rows that the plan has, until it expires.

Of the rules, it stands in for those alone that want a person asked about an amount. Limits, budgets, duplicates and an
earlier no hold for each row as for every call.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._calls import approvers, voting
from ocp_stripe_balance._calls.admission import nobody_to_ask
from ocp_stripe_balance._calls.call import Approval
from ocp_stripe_balance._calls.endings import Refused, Waiting
from ocp_stripe_balance._domain import Intent, Key, Origin
from ocp_stripe_balance._journal import intent_of
from ocp_stripe_balance._policy import Finding, Words, decide, denied, threshold_rule, two_people_rule
from ocp_stripe_balance.models import PLAN, Proposal

if TYPE_CHECKING:
    from ocp_stripe_balance._calls.approvers import Approver
    from ocp_stripe_balance._calls.endings import Ending
    from ocp_stripe_balance._domain import Caller, Money, Scope
    from ocp_stripe_balance._journal import Book, Journal
    from ocp_stripe_balance._policy import Policy
    from ocp_stripe_balance.models import Answer


class Question(NamedTuple):
    """
    What a person decides on who decides on a plan.
    """

    key: str
    """Of the plan, which its digest is in."""
    totals: tuple[Money, ...]
    """What it moves in each currency and direction."""
    arguments: str
    """What is shown of it, as JSON."""
    reference: str | None

    def intent(self, scope: Scope, caller: Caller) -> Intent:
        """
        The decision that it is, for the audit.
        """
        moved = self.totals[0] if len(self.totals) == 1 else None
        key = Key(self.key, Origin.PLAN)
        return Intent(scope, caller, key, PLAN, None, moved, self.reference, self.arguments)


class Plans:
    """
    The plans of one registered API.
    """

    def __init__(self, policy: Policy, journal: Journal, approver: Approver | None, *, asks_always: bool) -> None:
        """
        Prepare.
        """
        self._policy = policy
        self._journal = journal
        self._approver = approver
        self._asks_always = asks_always

    async def decide(self, question: Question, scope: Scope, caller: Caller) -> Ending | None:
        """
        Why a plan may not be run now; None where it may.

        Raises:
            NotSentError: the journal cannot be used.
        """
        rules = [each for total in question.totals for each in threshold_rule(self._policy, total)]
        finding = decide([*rules, *two_people_rule(self._policy, question.totals)])
        if finding is None and self._asks_always:
            finding = Finding("ask", "ask_always", lambda: Words("every plan is put to the approver here"))
        if finding is None:
            return None
        asked, has_said_yes = finding, False
        while True:
            standing = await self._journal.run(lambda book: self._standing(book, question, asked, scope, caller))
            if self._approver is None or not isinstance(standing, Waiting):
                return standing
            if has_said_yes and self._policy.approval.queue:  # where somebody else says it too
                return standing
            said = await approvers.ask(self._approver, standing, self._journal, self._policy)
            if isinstance(said, Approval):
                await self._record(said.answer)
                has_said_yes = True
            elif said is not None:
                return said

    async def _record(self, answer: Answer) -> None:
        await self._journal.run(lambda book: voting.vote(book, self._policy, answer, self._journal.now()))

    def _standing(
        self, book: Book, question: Question, finding: Finding, scope: Scope, caller: Caller
    ) -> Waiting | Refused | None:
        """
        The proposal that stands for the plan, or a new one; None where a person approved it.
        """
        now = self._journal.now()
        proposal = book.standing_proposal(question.key, scope, now)
        if proposal is None or proposal.state == "used" or not proposal.is_plan:
            proposal = self._proposed(question, finding, scope, caller, now)
            if self._approver is None and not self._policy.approval.queue:
                nobody = nobody_to_ask(finding)
                book.note(intent_of(proposal), "refused", now, rule=finding.rule, reason=nobody.words().message)
                return Refused(intent_of(proposal), nobody)
            unnamed = voting.nobody_may(self._policy, intent_of(proposal), finding.rule)
            if unnamed is not None:
                book.note(intent_of(proposal), "refused", now, rule=unnamed.rule, reason=unnamed.words().message)
                return Refused(intent_of(proposal), unnamed)
            book.propose(proposal)
            return Waiting(proposal, finding, is_new=True)
        if proposal.state == "denied":
            return Refused(intent_of(proposal), denied(str(proposal.decided_by), proposal.reason or ""))
        asked = voting.standing(book, self._policy, proposal, finding, now)
        return None if asked.state == "approved" else Waiting(asked, finding)

    def _proposed(self, question: Question, finding: Finding, scope: Scope, caller: Caller, now: float) -> Proposal:
        amount, currency = question.totals[0] if len(question.totals) == 1 else (0, "")
        proposal = Proposal(
            id=f"ap_{secrets.token_hex(6)}",
            key=question.key,
            key_origin=Origin.PLAN,
            tool=PLAN,
            arguments=question.arguments,
            **scope._asdict(),
            **caller._asdict(),
            customer="",
            customer_name=None,
            moves_money=bool(currency),
            amount=amount,
            currency=currency,
            balance_before=None,
            reference=question.reference,
            rule=finding.rule,
            why=finding.words().message,
            asked_at=now,
            expires_at=now + self._policy.approval.expires,
        )
        return replace(proposal, needed=voting.needed(self._policy, proposal, finding.rule))
