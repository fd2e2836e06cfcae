"""
What stands before the journal: the policy's rules, the customer as Stripe has it, and a person where one is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._customers import Customer, Customers
from ocp_stripe_balance._journal import Admission, denial
from ocp_stripe_balance._policy import Case, Finding, decide, findings, live, resumed
from ocp_stripe_balance._policy import moment as iso
from ocp_stripe_balance.errors import ApprovalRequiredError, NotSentError, PolicyRefusedError, ToolError
from ocp_stripe_balance.models import Answer, Proposal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ocp_stripe_balance._journal import Call, Claim, Journal, Ruling
    from ocp_stripe_balance._policy import History, Policy
    from ocp_stripe_balance.settings import Settings

    Get = Callable[[str], Awaitable[Any]]
    Approver = Callable[[Proposal], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """
    One call on its way: the draft of its row, and what the rules want to know beside it.
    """

    call: Call
    arguments: Mapping[str, Any]
    has_stated_effect: bool
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
        self._allow_live = settings.allow_live
        self._checks_customers = settings.customer_check == "on"
        self._journal = journal
        self._approver = approver
        self._customers = Customers()

    async def gate(self, call: Call) -> None:
        """
        Stop a live-mode call where live mode is off, whatever else it is.

        Raises:
            PolicyRefusedError: it is.
        """
        finding = live(self.policy, call.mode, allow_live=self._allow_live)
        if finding.verdict == "refused":
            raise await self.refuse(call, finding)

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
        )

        def rule(history: History) -> Finding | None:
            if said is None:
                return decide(findings(self.policy, case, history))
            said.extend(findings(self.policy, case, history))
            return decide(said)

        return Admission(
            rule=rule,
            resume_rule=lambda history: resumed(self.policy, case, history),
            wants_customer=said is None and self._checks_customers and not intent.is_customer_known,
        )

    def with_known_customer(self, intent: Intent) -> Intent:
        """
        The intent with what was read before.
        """
        scope = _scope(intent.call)
        known = self._customers.known(scope, intent.call.customer)
        return replace(intent, customer=known, is_unreadable=self._customers.is_unreadable(scope))

    async def read_customer(self, intent: Intent, get: Get, *, is_rehearsal: bool = False) -> tuple[Intent, list[str]]:
        """
        The intent with the customer as Stripe has it now, and warnings. A rehearsal leaves nothing in the audit.

        Raises:
            ToolError: there is no such customer, or it could not be read.
        """
        try:
            customer, warnings = await self._customers.read(_scope(intent.call), intent.call.customer, get)
        except ToolError as error:
            error.tool, error.idempotency_key = intent.call.tool, intent.call.key
            if not is_rehearsal:
                await self._note(intent.call, "refused", rule="customer_check", who="policy", reason=str(error.args[0]))
            raise
        return replace(intent, customer=customer, is_unreadable=customer is None, is_read_now=True), warnings

    async def refuse(self, call: Call, finding: Finding) -> PolicyRefusedError:
        """
        The error for a refusal that is not in the audit yet.
        """
        await self._note(call, "refused", rule=finding.rule, who="policy", reason=finding.message)
        return refusal(call, finding)

    async def ask(self, claim: Claim, intent: Intent, get: Get) -> Answer:
        """
        A person's yes to this very call.

        Raises:
            ApprovalRequiredError: it waits in the queue.
            PolicyRefusedError: a person said no, or nobody can be asked.
            NotSentError: the journal cannot be written.
        """
        finding = claim.finding
        if finding is None:
            raise AssertionError
        approver = self._approver
        if approver is None and not self.policy.approval.queue:
            hint = (
                "A person must make the entry, or switch on approval.queue in the policy or give the agent an approver."
            )
            raise await self.refuse(
                intent.call, replace(finding, message=f"{finding.message}, and nobody can be asked", hint=hint)
            )
        proposal = await self._proposal(intent, finding, get)
        if approver is None:
            raise _waiting(await self._journal.ask(proposal))
        await self._journal.note(proposal, "asked", rule=finding.rule, who="policy", reason=finding.message)
        answer = await self._answer(approver, proposal)
        if answer.is_approved is not True:
            await self._note(proposal, "denied", rule=finding.rule, who=answer.by, reason=answer.reason)
            raise refusal(intent.call, denial(replace(proposal, decided_by=answer.by, reason=answer.reason)))
        await self._journal.note(proposal, "approved", rule=finding.rule, who=answer.by, reason=answer.reason)
        return answer

    async def _answer(self, approver: Approver, proposal: Proposal) -> Answer:
        """
        What the approver answered to this proposal, in time; anything else is a no.
        """
        try:
            async with asyncio.timeout(proposal.expires_at - time.time()):
                answer: object = await approver(proposal)
        except TimeoutError:
            await self._note(proposal, "expired", rule=proposal.rule, who="policy", reason="nobody answered in time")
            return proposal.deny(by="policy", reason="nobody answered in time")
        except Exception as error:  # noqa: BLE001  an approver that fails has not approved
            return proposal.deny(by="the approver", reason=f"it failed ({type(error).__name__})")
        if isinstance(answer, Answer) and answer.proposal_id == proposal.id:
            return answer
        return proposal.deny(by="the approver", reason="its answer is not proposal.approve() or .deny() of this one")

    async def _proposal(self, intent: Intent, finding: Finding, get: Get) -> Proposal:
        """
        The proposal, with the customer's name and balance of now where they can be read.
        """
        if self._checks_customers and not intent.is_read_now and not intent.is_unreadable:
            with contextlib.suppress(ToolError):
                intent = (await self.read_customer(intent, get, is_rehearsal=True))[0]
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
            balance_before=customer.balance if customer else None,
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


def _scope(call: Call) -> tuple[str, str]:
    return call.mode, call.account
