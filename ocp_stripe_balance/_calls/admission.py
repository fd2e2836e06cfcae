"""
Whether a call may go: one transaction that looks for the call it repeats, asks the policy, and reserves its place.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from ocp_stripe_balance._calls import voting
from ocp_stripe_balance._calls.call import prepare, recorded, reversal_key, reverses
from ocp_stripe_balance._calls.endings import (
    Busy,
    Conflict,
    CustomerWanted,
    Held,
    Ready,
    Refused,
    Repeated,
    TooOld,
    Waiting,
    differing_words,
)
from ocp_stripe_balance._calls.order import Order
from ocp_stripe_balance._domain import Key, Origin, State
from ocp_stripe_balance._journal import Lease, intent_of, is_alive
from ocp_stripe_balance._policy import Case, Finding, Words, decide, findings, resumed, standing
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance.models import Proposal

if TYPE_CHECKING:
    from ocp_stripe_balance._calls.call import Approval, Call
    from ocp_stripe_balance._calls.customers import SeenCustomer
    from ocp_stripe_balance._domain import Intent, PlanInHand
    from ocp_stripe_balance._journal import Book, Past, Record
    from ocp_stripe_balance.settings import Settings

# Stripe may forget a key after 24 h; a resend then pays twice. https://docs.stripe.com/api/idempotent_requests
MAX_RESEND_AGE_S = 23 * 3600
_MAX_SKEW_S = 60.0
_NOBODY = "A person must make the entry, or switch on approval.queue in the policy or give the agent an approver."


OF_PLAN = "approval.plan"
"""The rule by which a row of a plan is refused that nobody approved, or not any more."""
_UNAPPROVED = Words(
    "the plan is not approved, or its approval is over", "Run the plan again: a person is asked about it once more."
)

Admitted = Ready | Repeated | Refused | Waiting | Held | Busy | TooOld | Conflict | CustomerWanted


class Admission:
    """
    The policy of one registered API, asked in the transaction that reserves the call.
    """

    def __init__(self, settings: Settings, *, can_ask: bool, asks_always: bool, plan: PlanInHand | None = None) -> None:
        """
        Prepare.

        Args:
            settings: the policy, and what holds beside it.
            can_ask: whether somebody decides on proposals, beside the queue that the policy may have.
            asks_always: whether a person decides on every call, whatever the policy says.
            plan: what a person decided on at once, in place of each of its rows.
        """
        self.policy = settings.policy_in_force
        self._longest_window_s = self.policy.longest_window_s
        self._allow_live = settings.allow_live
        self._checks_customers = settings.customer_check == "on"
        self._timeout_s = settings.timeout
        self._can_ask = can_ask or self.policy.approval.queue
        self._asks_always = asks_always
        self._tags_calls = settings.tag_calls
        self._plan = plan

    def case(self, call: Call, seen: SeenCustomer) -> Case:
        """
        What the rules look at.
        """
        return Case(
            intent=call.intent,
            arguments=call.arguments,
            allow_live=self._allow_live,
            customer=seen.customer,
            is_unreadable=seen.is_unreadable,
            asks_always=self._asks_always,
        )

    def gate_findings(self, intent: Intent) -> list[Finding]:
        """
        What the rules say that hold for every call, also for one that only reads.
        """
        return list(standing(self.policy, intent, allow_live=self._allow_live))

    def gate(self, intent: Intent) -> Refused | None:
        """
        Why a call in this mode and for this customer may not go at all, whatever else it is; None where it may.
        """
        stop = decide(self.gate_findings(intent))
        return None if stop is None else Refused(intent, stop)

    def explain(self, book: Book, call: Call, seen: SeenCustomer, now: float) -> list[Finding]:
        """
        What every rule says of a call.
        """
        return list(findings(self.policy, self.case(call, seen), book.past(call.intent, now)))

    def foresee(
        self, book: Book, call: Call, seen: SeenCustomer, now: float
    ) -> Repeated | Conflict | Refused | Busy | TooOld | None:
        """
        What stands in the way of a call, but for a person's approval and a minute's wait; records nothing.
        """
        intent, past = call.intent, book.past(call.intent, now)
        record = _found(past, intent)
        if isinstance(record, Conflict):
            return record
        if record is not None and not _is_to_be_sent(record):
            return self._standing(book, record, intent, now)
        said = findings(self.policy, self.case(call, seen), past)
        finding = decide(each for each in said if each.rule != "calls_per_minute")
        return None if finding is None or finding.verdict == "ask" else Refused(intent, finding)

    def admit(self, book: Book, call: Call, seen: SeenCustomer, lease: Lease, now: float) -> Admitted:
        """
        What becomes of a call: recorded and ready to be sent, or why not. Every decision is in the audit.

        Args:
            book: in the transaction of the call.
            call: as it would be sent.
            seen: its customer, as far as it is known; a call that would be sent may want to know more.
            lease: of who would send it.
            now: seconds since the Unix epoch.
        """
        intent, past = call.intent, book.past(call.intent, now)
        record = _found(past, intent)
        if isinstance(record, Conflict):
            return record
        if record is not None and past.call is None:
            book.join(intent, record.intent, now)
        if record is not None and not _is_to_be_sent(record):
            return self._standing(book, record, intent, now) or self._again(book, call, seen, record, lease, now)
        proposal = self._proposal_for(book, call, past)
        if proposal is not None and not _is_about(proposal, intent):
            return Conflict(intent, proposal)
        first = self._joined(call, record, proposal)
        if first is None:
            return self._first(book, call, seen, record, proposal, lease, past)
        if first.intent.key.text != intent.key.text:
            book.join(intent, first.intent, now)
        admitted = self.admit(book, first, seen, lease, now)
        if isinstance(admitted, Ready | Repeated | Waiting):
            admitted = replace(admitted, notes=(*differing_words(first.intent, intent), *admitted.notes))
        return admitted

    def _proposal_for(self, book: Book, call: Call, past: Past) -> Proposal | None:
        """
        The proposal that the call is about: what was approved for it, or what stands for its key or its intent.
        """
        if call.approval is not None and call.approval.proposal.key != call.intent.key.text:
            return call.approval.proposal
        is_about_itself = self._asks_always or call.approval is not None  # somebody is asked, or was, about this call
        found = (book.unless_expired(each, past.now) for each in past.proposals(is_alone=is_about_itself))
        return next((each for each in found if each is not None), None)

    def _joined(self, call: Call, record: Record | None, proposal: Proposal | None) -> Call | None:
        """
        The call whose words stand for this one: a person was shown them, or the two were joined; None for its own.
        """
        intent = call.intent
        if proposal is not None:
            own = intent.key.text, intent.arguments, intent.caller.user
            if own == (proposal.key, proposal.arguments, proposal.user):
                return None
            asked = intent_of(proposal)  # whose it is: who asked may not be who approves
            order = Order(tool=call.tool, arguments=proposal.parameters, key=asked.key)
            first = prepare(order, call.access, intent.scope, asked.caller, tags_calls=self._tags_calls)
            said = first.intent._replace(has_stated_effect=intent.has_stated_effect)
            return first._replace(intent=said, approval=call.approval)
        if record is not None and record.key != intent.key.text:
            return recorded(record, call.tool, call.access)._replace(approval=call.approval)
        return None

    def _standing(self, book: Book, record: Record, intent: Intent, now: float) -> Repeated | Busy | TooOld | None:
        """
        What stands in the way of sending a call again that may have been sent; None where nothing does.
        """
        if record.outcome.is_final:
            return Repeated(record, (*differing_words(record.intent, intent), *_undone(book, record)))
        if is_alive(record, now):
            return Busy(record)
        # The last attempt of a resumed call must be over before Stripe may forget the key.
        age_s = now - record.created_at
        # A call from the future was made by a clock that was wrong, and may be of any age.
        is_young = age_s > -_MAX_SKEW_S and age_s + self._timeout_s < MAX_RESEND_AGE_S
        return None if is_young else TooOld(record)

    def _first(  # noqa: PLR0913, PLR0917  who sends what, and when
        self,
        book: Book,
        call: Call,
        seen: SeenCustomer,
        record: Record | None,
        proposal: Proposal | None,
        lease: Lease,
        past: Past,
    ) -> Admitted:
        """
        A call of which nothing was sent, or nothing moved: every rule is asked, and a person where one of them says so.
        """
        call = _under_own_key(call, record, proposal)
        intent, now = call.intent, past.now
        book.keep(self._longest_window_s)
        finding, plan = self._verdict(book, call, seen, past)
        if finding is not None and finding.verdict == "refused":
            return _refuse(book, intent, finding, now)
        can_read = self._checks_customers and not seen.is_unreadable and not seen.is_enough
        if can_read and intent.money is not None and seen.customer is None:
            return CustomerWanted(intent)
        who, rule = ("policy", "every rule") if plan is None else (voting.names(plan), plan.rule)
        approval = call.approval
        if approval is not None and now < approval.proposal.expires_at:
            wanting = self._wanting(book, approval, finding, now)
            if wanting is not None:
                return wanting
            who, rule = voting.names(book.voted(approval.proposal)), approval.proposal.rule
        elif finding is not None:
            question = self._question(book, proposal, finding, record, now)
            if question is None and can_read and self._can_ask and not seen.is_of_now:
                return CustomerWanted(intent)  # a person is shown the name and the balance as they are
            if question is None or question.state == "waiting":
                return self._ask(book, call, seen, finding, question, now)
            book.use_up(question)
            who, rule = voting.names(question), finding.rule
        elif proposal is not None and proposal.state in {"waiting", "approved"}:
            book.use_up(proposal)  # nobody has to say yes any more, and a no would stop nothing
        book.note(intent, "allowed", now, rule=rule, who=who, reason="")
        if record is not None:
            book.delete(record)  # nothing moved under this key, so these are the first bytes
        return Ready(book.insert(intent, call.payload, lease, now))

    def _wanting(self, book: Book, approval: Approval, finding: Finding | None, now: float) -> Waiting | None:
        """
        What is waited for all the same where an approver said yes: another person's. None where it is enough.
        """
        proposal, answer = approval
        if finding is not None:
            asked = voting.counted(self.policy, book.voted(proposal), finding.rule)
            if voting.objection(self.policy, asked, answer, finding.rule) is not None:
                return Waiting(asked, finding)
            if not voting.is_enough(asked, more=1):
                book.vote(asked, answer, now)
                book.reopen(asked)
                return Waiting(voting.counted(self.policy, book.voted(asked), finding.rule), finding)
        book.close_proposal(proposal, answer, now)
        return None

    def _question(
        self, book: Book, proposal: Proposal | None, finding: Finding, record: Record | None, now: float
    ) -> Proposal | None:
        """
        The proposal that stands for the call: approved by as many people as the policy wants now, or waiting.
        """
        if proposal is None or not (proposal.state == "waiting" or _is_approved(proposal, record, now)):
            return None
        return voting.standing(book, self.policy, proposal, finding, now)

    def _verdict(
        self, book: Book, call: Call, seen: SeenCustomer, past: Past
    ) -> tuple[Finding | None, Proposal | None]:
        """
        What the rules say in all, and the approved plan that the call is a row of.
        """
        said = findings(self.policy, self.case(call, seen), past)
        if self._plan is None or not self._plan.has(call.intent):
            return decide(said), None
        all_said = list(said)
        finding = decide(all_said)
        plan = book.standing_proposal(self._plan.key, call.intent.scope, past.now)
        if plan is not None and plan.state == "approved" and plan.is_plan:
            rule = plan.rule if finding is None or finding.verdict != "ask" else finding.rule
            if voting.is_enough(voting.counted(self.policy, plan, rule)):
                return decide(each for each in all_said if not _asks_about_amount(each)), plan
        if finding is not None and _asks_about_amount(finding):
            return finding._replace(verdict="refused", rule=OF_PLAN, words=lambda: _UNAPPROVED), None
        return finding, None

    def _again(  # noqa: PLR0913, PLR0917  as above
        self, book: Book, call: Call, seen: SeenCustomer, record: Record, lease: Lease, now: float
    ) -> Admitted:
        """
        A call that may have been sent: its own bytes once more, where the policy of today still allows that.
        """
        case = self.case(call, seen)._replace(intent=record.intent)
        finding = resumed(self.policy, case, book.past(record.intent, now, record))
        if finding is not None:
            book.note(record.intent, "refused", now, rule=finding.rule, reason=finding.words().message)
            return Held(record, finding)
        taken = book.take_over(record, lease, now)
        book.note(taken.intent, "allowed", now, rule="resumed", reason="")
        return Ready(taken, is_resumed=True, notes=differing_words(record.intent, call.intent))

    def _ask(  # noqa: PLR0913, PLR0917  what a person reads
        self, book: Book, call: Call, seen: SeenCustomer, finding: Finding, standing: Proposal | None, now: float
    ) -> Waiting | Refused:
        """
        The proposal that waits for this call already, or a new one; refused where nobody can be asked.
        """
        if not self._can_ask:
            return _refuse(book, call.intent, nobody_to_ask(finding), now)
        if standing is not None:
            return Waiting(standing, finding)
        unnamed = voting.nobody_may(self.policy, call.intent, finding.rule)
        if unnamed is not None:
            return _refuse(book, call.intent, unnamed, now)
        intent, customer = call.intent, seen.customer
        amount, currency = intent.money or (0, "")
        proposal = Proposal(
            id=f"ap_{secrets.token_hex(6)}",
            key=intent.key.text,
            key_origin=intent.key.origin,
            tool=intent.tool,
            arguments=intent.arguments,
            **intent.scope._asdict(),
            **intent.caller._asdict(),
            customer=intent.customer or "",
            customer_name=customer.name if customer else None,
            moves_money=intent.money is not None,
            amount=amount,
            currency=currency,
            balance_before=customer.balance if customer and intent.money is not None else None,
            reference=intent.reference,
            rule=finding.rule,
            why=finding.words().message,
            asked_at=now,
            expires_at=now + self.policy.approval.expires,
        )
        proposal = replace(proposal, needed=voting.needed(self.policy, proposal, finding.rule))
        book.propose(proposal)
        return Waiting(proposal, finding, is_new=True)


def _asks_about_amount(finding: Finding) -> bool:
    return finding.verdict == "ask" and finding.rule.startswith("approval.")


def nobody_to_ask(finding: Finding) -> Finding:
    """
    The refusal by a rule that wants a person asked, where there is none.
    """

    def words() -> Words:
        said = finding.words()
        return said._replace(message=f"{said.message}, and nobody can be asked", hint=_NOBODY)

    return finding._replace(verdict="refused", words=words)


def _under_own_key(call: Call, record: Record | None, proposal: Proposal | None) -> Call:
    """
    The call under its key as it was first given: who repeats a key does not change whose it was.
    """
    standing = [record.intent.key] if record is not None else []
    standing += [intent_of(proposal).key] if proposal is not None else []
    for key in standing:
        if key.text == call.intent.key.text:
            return call._replace(intent=call.intent._replace(key=key))
    return call


def _refuse(book: Book, intent: Intent, finding: Finding, now: float) -> Refused:
    book.note(intent, "refused", now, rule=finding.rule, reason=finding.words().message)
    return Refused(intent, finding)


def _found(past: Past, intent: Intent) -> Record | Conflict | None:
    """
    The call on record that a call repeats, or the one that it must not be confused with.
    """
    record = past.call
    if record is not None and record.key != intent.key.text and _is_rejected(record):
        record = None  # what another key was told is no answer for this one
    if record is not None and not _is_repeat(record, intent):
        return Conflict(intent, record)
    if intent.reference is not None and (record is None or _is_to_be_sent(record)):
        # Nothing moved under this key; another key may have served the same reason meanwhile.
        other = past.same_reason
        if other is not None and other.intent.money != intent.money:
            return Conflict(intent, other, is_about_reference=True)
        record = other or record
    return record


def _is_repeat(record: Record, intent: Intent) -> bool:
    """
    Whether the call that has its key already, or that it joined, is this very decision.
    """
    if not _is_ours(record.intent.key, intent.key):
        return False
    is_named = intent.key.origin.repeats or record.key != intent.key.text
    return record.intent.is_like(intent) if is_named else record.intent.is_same_as(intent)


def _is_about(proposal: Proposal, intent: Intent) -> bool:
    """
    Whether a person who decides on the proposal decides on this call.
    """
    proposed = intent_of(proposal)
    if not _is_ours(proposed.key, intent.key):
        return False
    is_named = intent.key.origin.repeats or proposal.key != intent.key.text
    return proposed.is_like(intent) if is_named else proposed.is_same_as(intent)


def _is_ours(found: Key, key: Key) -> bool:
    """
    Whether a key of that text may be this one: another call can have the text of a reversal's key as its own key.
    """
    return key.origin is not Origin.REVERSAL or found.text != key.text or found.origin is Origin.REVERSAL


def _undone(book: Book, record: Record) -> tuple[str, ...]:
    """
    What became of the entry of a call since: a statement of what was then is not one of what is.
    """
    scope, transaction = record.intent.scope, record.transaction_id
    reversal = book.find_key(reversal_key(scope, transaction), scope) if transaction else None
    if reversal is None or reversal.state.nothing_moved or not reverses(reversal.intent, record.intent.customer):
        return ()
    if reversal.state is State.SUCCEEDED:
        return (f"{transaction} was reversed by {reversal.transaction_id} at {moment(reversal.updated_at)}",)
    return (f"{transaction} may have been reversed: a reversal is under way, or its outcome is not known",)


def _is_rejected(record: Record) -> bool:
    """
    Whether Stripe examined the call and said no: nothing moved, and under this key nothing ever will.
    """
    return record.state is State.REJECTED and record.outcome.is_final


def _is_to_be_sent(record: Record) -> bool:
    """
    Whether nothing moved, and the same call may end otherwise.
    """
    return record.state.nothing_moved and not record.outcome.is_final


def _is_approved(proposal: Proposal, record: Record | None, now: float) -> bool:
    """
    Whether a person approved this very call, and it was not sent on that yet, or nothing moved.
    """
    is_used_in_vain = record is not None and record.state.nothing_moved
    is_good = proposal.state == "approved" or (proposal.state == "used" and is_used_in_vain)
    return is_good and now < proposal.expires_at
