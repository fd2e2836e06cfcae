"""
What stands before the journal: the policy's rules, the customer as Stripe has it, and a person where one is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._calls.customers import Customer, Customers
from ocp_stripe_balance._journal import Admission, denial
from ocp_stripe_balance._policy import Case, Finding, decide, findings, resumed, standing
from ocp_stripe_balance._policy import moment as iso
from ocp_stripe_balance.errors import (
    ApprovalRequiredError,
    NotSentError,
    PolicyRefusedError,
    ResourceMissingError,
    ToolError,
)
from ocp_stripe_balance.models import Answer, Proposal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ocp_stripe_balance._journal import Call, Claim, Journal, Ruling
    from ocp_stripe_balance._policy import History, Policy
    from ocp_stripe_balance.settings import Settings

    Get = Callable[[str], Awaitable[Any]]
    Approver = Callable[[Proposal], Awaitable[Answer]]


_NOBODY = "A person must make the entry, or switch on approval.queue in the policy or give the agent an approver."
_TAKEN_BACK = "Given again, the command asks again."
_NOT_DECIDED = "Nobody decided. A person must see to the approver; then the same call may be made again."


class Intent(NamedTuple):
    """
    One call on its way: the draft of its row, and what the rules want to know beside it.
    """

    call: Call
    arguments: Mapping[str, Any]
    has_stated_effect: bool
    scope: tuple[str, ...]
    """Mode, account and a mark of the API key: within it, what was read of a customer holds."""
    customer: Customer | None = None
    is_unreadable: bool = False
    is_read_now: bool = False
    """Whether the customer was read for this very call, so that its balance is of now."""

    @property
    def is_customer_known(self) -> bool:
        """
        Whether reading it (again) would tell the rules nothing.
        """
        return self.customer is not None or self.is_unreadable


class Guard:
    """
    The guardrails of one registered API.
    """

    def __init__(
        self, settings: Settings, journal: Journal, approver: Approver | None, *, asks_always: bool = False
    ) -> None:
        """
        Prepare; *approver* is asked where the policy wants a person, or always, before the queue is.
        """
        self._asks_always = asks_always
        self.policy: Policy = settings.policy_in_force
        self._window_s = self.policy.longest_window_s
        self._allow_live = settings.allow_live
        self._checks_customers = settings.customer_check == "on"
        self._journal = journal
        self._approver = approver
        self._customers = Customers()

    def gate(self, call: Call) -> Finding | None:
        """
        Why a call in this mode and for this customer may not go at all, whatever else it is; None where it may.
        """
        return decide(standing(self.policy, call, allow_live=self._allow_live))

    def standing(self, call: Call) -> list[Finding]:
        """
        What the rules say that hold for every call, also for one that only reads; those too that allow it.
        """
        found = standing(self.policy, call, allow_live=self._allow_live, explains=True)
        return [each for each in found if each is not None]

    def admission(self, intent: Intent, said: list[Finding] | None = None) -> Admission:
        """
        What a claim of the call asks.

        Where *said* is given, it gets the findings of all rules, and the customer need not be known.
        """
        case = Case(
            call=intent.call,
            arguments=intent.arguments,
            has_stated_effect=intent.has_stated_effect,
            allow_live=self._allow_live,
            customer=intent.customer,
            is_unreadable=intent.is_unreadable,
            asks_always=self._asks_always,
            explains=said is not None,
        )

        def rule(history: History) -> Finding | None:
            if said is None:
                return decide(findings(self.policy, case, history))
            said[:] = [each for each in findings(self.policy, case, history) if each is not None]
            return decide(said)

        return Admission(
            rule=rule,
            resume_rule=lambda history: resumed(self.policy, case, history),
            window_s=self._window_s,
            wants_customer=(
                said is None and self._checks_customers and intent.call.moves_money and not intent.is_customer_known
            ),
        )

    def with_known_customer(self, intent: Intent) -> Intent:
        """
        The intent with what was read before.
        """
        if not self._checks_customers:
            return intent
        scope = intent.scope
        known = self._customers.known(scope, intent.call.customer)
        is_unreadable = known is None and self._customers.is_unreadable(scope, intent.call.customer)
        return intent._replace(customer=known, is_unreadable=is_unreadable)

    async def read_customer(self, intent: Intent, get: Get, *, is_rehearsal: bool = False) -> tuple[Intent, list[str]]:
        """
        The intent with the customer as Stripe has it now, and warnings. A rehearsal leaves nothing in the audit.

        Raises:
            ToolError: there is no such customer, or it could not be read.
        """
        try:
            customer, warnings = await self._customers.read(
                intent.scope, intent.call.customer, get, is_rehearsal=is_rehearsal
            )
        except ToolError as error:
            error.tool, error.idempotency_key = intent.call.tool, intent.call.key
            if not is_rehearsal:
                await self._note(intent.call, "refused", rule="customer_check", who="policy", reason=str(error.args[0]))
            raise
        return intent._replace(customer=customer, is_unreadable=customer is None, is_read_now=True), warnings

    async def aclose(self) -> None:
        """
        Give up reads that are under way.
        """
        await self._customers.aclose()

    async def refuse(self, call: Call, finding: Finding) -> PolicyRefusedError:
        """
        The error for a refusal that is not in the audit yet.
        """
        await self._note(call, "refused", rule=finding.rule, who="policy", reason=finding.message)
        return refusal(call, finding)

    @property
    def can_ask(self) -> bool:
        """
        Whether a person can be asked at all.
        """
        return self._approver is not None or self.policy.approval.queue

    async def ask(self, claim: Claim, intent: Intent, get: Get) -> tuple[Answer | None, float]:
        """
        A person's yes to this very call, and until when it is good.

        None where the call has to be looked at again: the queue has something else under its key by now, or its
        customer is gone.

        Raises:
            ApprovalRequiredError: it waits in the queue.
            PolicyRefusedError: a person said no, or nobody can be asked.
            NotSentError: the journal cannot be written.
        """
        finding, call, approver = claim.finding, intent.call, self._approver
        if finding is None:
            raise AssertionError
        if not self.can_ask:
            raise await self.refuse(call, nobody_to_ask(finding))
        intent = await self._fresh(intent, get)
        if intent.customer is not None and intent.customer.is_deleted:
            return None, 0.0
        proposal = self._proposal(intent, finding)
        try:
            if approver is None:
                standing = await self._journal.ask(proposal)
                if (standing.arguments, standing.state) != (proposal.arguments, "waiting"):
                    return None, 0.0
                raise _waiting(standing)
            await self._journal.note(proposal, "asked", rule=finding.rule, who="policy", reason=finding.message)
            answer, why = await self._answer(approver, proposal)
            if answer is None:
                raise await self.refuse(call, replace(finding, rule="approval", message=why, hint=_NOT_DECIDED))
            if answer.is_approved is not True and finding.rule == "ask_always":
                # Whoever gave the command took it back; that says nothing about the same command later.
                raise await self.refuse(
                    call, replace(finding, message=f"{answer.by} did not send it", hint=_TAKEN_BACK)
                )
            if answer.is_approved is not True:
                await self._journal.note(proposal, "denied", rule=finding.rule, who=answer.by, reason=answer.reason)
                raise refusal(call, denial(answer.by, answer.reason))
            await self._journal.note(proposal, "approved", rule=finding.rule, who=answer.by, reason=answer.reason)
        except NotSentError as error:
            error.tool, error.idempotency_key = call.tool, call.key
            raise
        return answer, proposal.expires_at

    async def _answer(self, approver: Approver, proposal: Proposal) -> tuple[Answer | None, str]:
        """
        What the approver answered to this proposal, in time; None and why where that is no answer.
        """
        try:
            async with asyncio.timeout(proposal.expires_at - time.time()) as patience:
                answer: object = await approver(proposal)
        except asyncio.CancelledError:
            await self._note(proposal, "refused", rule="approval", who="policy", reason="the question was cancelled")
            raise
        except Exception as error:  # noqa: BLE001  an approver that fails has not approved
            if not patience.expired():
                return None, f"the approver failed ({type(error).__name__})"
            answer = None
        # An answer may come late all the same, from an approver that blocks or takes no cancellation.
        if patience.expired() or time.time() >= proposal.expires_at:
            await self._note(proposal, "expired", rule=proposal.rule, who="policy", reason="nobody answered in time")
            return None, "nobody answered in time"
        if isinstance(answer, Answer) and answer.proposal_id == proposal.id:
            return answer, ""
        return None, "the approver's answer is not proposal.approve() or proposal.deny() of this very proposal"

    async def _fresh(self, intent: Intent, get: Get) -> Intent:
        """
        The intent with the customer as it is now, where that can be read.

        Raises:
            ResourceMissingError: there is no such customer any more.
        """
        if not self._checks_customers or intent.is_read_now or intent.is_unreadable:
            return intent
        try:
            return (await self.read_customer(intent, get, is_rehearsal=True))[0]
        except ResourceMissingError:
            raise
        except ToolError:
            return intent

    def _proposal(self, intent: Intent, finding: Finding) -> Proposal:
        """
        The proposal, with the customer's name and balance.
        """
        call, customer, now = intent.call, intent.customer, time.time()
        return Proposal(
            id=f"ap_{secrets.token_hex(6)}",
            key=call.key,
            tool=call.tool,
            arguments=call.arguments,
            base_url=call.base_url,
            mode=call.mode,
            account=call.account,
            customer=call.customer,
            customer_name=customer.name if customer else None,
            amount=call.amount,
            currency=call.currency,
            balance_before=customer.balance if customer and call.moves_money else None,
            reference=call.reference,
            rule=finding.rule,
            why=finding.message,
            context_id=call.context_id,
            agent_type=call.agent_type,
            user=call.user,
            asked_at=now,
            expires_at=now + self.policy.approval.expires,
        )

    async def _note(self, subject: Call | Proposal, decision: Ruling, *, rule: str, who: str, reason: str) -> None:
        """
        Record a refusal; it holds also where that fails.
        """
        with contextlib.suppress(NotSentError):
            await self._journal.note(subject, decision, rule=rule, who=who, reason=reason)


def nobody_to_ask(finding: Finding) -> Finding:
    """
    The refusal that a rule comes to which wants a person asked where there is none.
    """
    return replace(finding, verdict="refused", message=f"{finding.message}, and nobody can be asked", hint=_NOBODY)


def refusal(call: Call, finding: Finding) -> PolicyRefusedError:
    """
    The error for a rule that does not allow the call.
    """
    return PolicyRefusedError(
        f"Nothing was sent: {finding.message}.",
        rule=finding.rule,
        hint=finding.hint,
        limit=finding.limit,
        left=finding.left,
        free_at=None if finding.free_at is None else iso(finding.free_at),
        retryable=finding.is_temporary,
        tool=call.tool,
        idempotency_key=call.key,
    )


def _waiting(proposal: Proposal) -> PolicyRefusedError:
    expires = iso(proposal.expires_at)
    return ApprovalRequiredError(
        f"Nothing was sent: the call waits for a person's approval, because {proposal.why}.",
        rule=proposal.rule,
        hint=(
            f"Tell whoever asked for it that proposal {proposal.id} waits. Once it is approved, and before {expires}, "
            f"call again with the same parameters and idempotency_key {proposal.key!r}; any other parameter or key is "
            "another proposal."
        ),
        proposal_id=proposal.id,
        expires_at=expires,
        retryable=True,
        tool=proposal.tool,
        idempotency_key=proposal.key,
    )
