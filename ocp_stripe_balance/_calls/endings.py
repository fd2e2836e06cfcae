"""
Every way a call can end, as a value: each knows the result or the error it is told as, and its sentence in a dry run.

Nothing here is raised on the way; a door calls `result`, once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol

from ocp_stripe_balance._domain import State
from ocp_stripe_balance._text.plain import escaped, moment
from ocp_stripe_balance.errors import (
    ApprovalRequiredError,
    IdempotencyConflictError,
    InvalidParametersError,
    NotSentError,
    OutcomeUnknownError,
    PolicyRefusedError,
    ToolError,
    rejection,
)
from ocp_stripe_balance.models import Proposal, ToolResult

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from ocp_stripe_balance._domain import Intent
    from ocp_stripe_balance._journal import Record
    from ocp_stripe_balance._policy import Finding
    from ocp_stripe_balance.errors import Problem, RejectedError

_LOOK = "getBalanceCalls with this key looks for it in the ledger, without moving money."
_RECONCILE = "'ocp-stripe-balance calls reconcile' does the same for every open call."

Verdict = Literal["send", "ask", "refused", "replay", "resume", "wait", "conflict", "too_old"]


class Sentence(NamedTuple):
    """
    What a dry run says of an ending.
    """

    verdict: Verdict
    message: str
    rule: str | None = None


class Ending(Protocol):
    """
    How a call ended.
    """

    def result(self) -> ToolResult:
        """
        What the caller is told.

        Raises:
            ToolError: it did not succeed.
        """


@dataclass(frozen=True, slots=True)
class Succeeded:
    """
    Stripe made the entry, or answered what was read.
    """

    told: ToolResult

    def result(self) -> ToolResult:
        """
        The result.
        """
        return self.told


@dataclass(frozen=True, slots=True)
class Noted:
    """
    An ending that is told with what was left out of what the caller said.
    """

    ending: Ending
    notes: tuple[str, ...]

    def result(self) -> ToolResult:
        """
        What the caller is told, with the notes among its warnings.

        Raises:
            ToolError: it did not succeed.
        """
        try:
            told = self.ending.result()
        except ToolError as error:
            error.warnings = (*self.notes, *error.warnings)
            raise
        return replace(told, warnings=(*self.notes, *told.warnings))


@dataclass(frozen=True, slots=True)
class Failed:
    """
    It was not sent, Stripe said no, or nobody knows: the error says which.
    """

    error: ToolError
    cause: BaseException | None = None

    def result(self) -> NoReturn:
        """
        Raise it.
        """
        raise self.error from self.cause or self.error.__cause__


@dataclass(frozen=True, slots=True)
class Cancelled:
    """
    The caller was cancelled before anything was sent.
    """

    error: asyncio.CancelledError

    def result(self) -> NoReturn:
        """
        Raise it.
        """
        raise self.error


@dataclass(frozen=True, slots=True)
class Invalid:
    """
    The parameters break the tool's schema.
    """

    problems: Sequence[Problem]
    tool: str | None = None

    @property
    def error(self) -> InvalidParametersError:
        """
        All that is wrong with them.
        """
        return InvalidParametersError(self.problems, tool=self.tool)

    def result(self) -> NoReturn:
        """
        Raise what is wrong with them.
        """
        raise self.error


@dataclass(frozen=True, slots=True)
class Ready:
    """
    It is on record as under way, and this caller's to send. The only value that goes on.
    """

    record: Record
    is_resumed: bool = False
    """Whether it may have been sent before."""
    notes: tuple[str, ...] = ()

    def sentence(self) -> Sentence:
        """
        That it would be sent.
        """
        if self.is_resumed:
            return Sentence("resume", "The call may have been sent before; it would be sent again under its own key.")
        intent = self.record.intent
        return Sentence("send", f"The call would be sent: {intent.effect} for {intent.customer}.")


@dataclass(frozen=True, slots=True)
class CustomerWanted:
    """
    No rule refuses it so far, and its customer has to be read before the rest is asked.
    """

    intent: Intent

    def result(self) -> NoReturn:
        """
        Raise that it was not read: what cannot be asked is not sent.
        """
        message = "Nothing was sent: the customer was not read."
        raise NotSentError(message, next="call_again", tool=self.intent.tool, idempotency_key=self.intent.key.text)

    def sentence(self) -> Sentence:
        """
        That it was not read.
        """
        return Sentence("refused", "Nothing would be sent: the customer was not read.", "customer_check")


@dataclass(frozen=True, slots=True)
class Repeated:
    """
    The outcome of the call that it repeats is on record.
    """

    record: Record
    notes: tuple[str, ...] = ()

    def result(self) -> ToolResult:
        """
        That outcome.

        Raises:
            RejectedError: Stripe said no.
        """
        intent, outcome = self.record.intent, self.record.outcome
        if (error := self.error) is not None:
            raise error
        return ToolResult(
            tool=intent.tool,
            moved=intent.money is not None,
            data=self._answer,
            status_code=outcome.status or 200,
            headers={},
            idempotency_key=intent.key.text,
            request_id=outcome.request_id,
            attempts=0,
            replayed=True,
            warnings=(*self.notes, *outcome.warnings),
        )

    @property
    def error(self) -> RejectedError | None:
        """
        Stripe's no, where that is on record.
        """
        intent = self.record.intent
        if self.record.state is not State.REJECTED:
            return None
        error = rejection(self._answer, tool=intent.tool, idempotency_key=intent.key.text)
        if self.notes:
            error.hint = (
                f"This is the answer to the first call, as the warnings say, and this one was not sent. {error.hint}"
            )
            error.warnings = self.notes
        return error

    @property
    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.record.outcome.answer or "{}")
        return answer

    def sentence(self) -> Sentence:
        """
        That it would be answered from the record.
        """
        done = f"{self.record.intent.effect}, {self.record.state}"
        return Sentence("replay", f"Nothing would be sent: the result on record is returned ({done}).")


@dataclass(frozen=True, slots=True)
class Refused:
    """
    A rule of the policy does not allow it, or a person said no.
    """

    intent: Intent
    finding: Finding

    def result(self) -> NoReturn:
        """
        Raise which rule, and why.
        """
        raise self.error

    @property
    def error(self) -> PolicyRefusedError:
        """
        Which rule, and why.
        """
        words = self.finding.words()
        return PolicyRefusedError(
            f"Nothing was sent: {words.message}.",
            rule=self.finding.rule,
            hint=words.hint,
            limit=words.limit,
            left=words.left,
            free_at=None if self.finding.free_at is None else moment(self.finding.free_at),
            next=self.finding.next,
            tool=self.intent.tool,
            idempotency_key=self.intent.key.text,
        )

    def sentence(self) -> Sentence:
        """
        Which rule, and why.
        """
        words = self.finding.words()
        return Sentence("refused", f"Nothing would be sent: {words.message}. {words.hint}".strip(), self.finding.rule)


def _whose_approval(proposal: Proposal) -> str:
    """
    Whose approval is waited for.
    """
    if proposal.needed == 1:
        return "a person's approval"
    if not proposal.approvals:
        return f"the approval of {proposal.needed} people"
    more, said = proposal.needed - len(proposal.approvals), " and ".join(each.by for each in proposal.approvals)
    return escaped(f"the approval of {more} more {'person' if more == 1 else 'people'} ({said} approved it)")


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    It waits for a person, as a proposal; the same call made again goes on once somebody has decided.
    """

    proposal: Proposal
    finding: Finding
    is_new: bool = False
    """Whether this very call put it to a person."""
    notes: tuple[str, ...] = ()

    def result(self) -> NoReturn:
        """
        Raise where it waits, and until when.
        """
        proposal, expires = self.proposal, moment(self.proposal.expires_at)
        again = (
            f"call again with the same parameters and idempotency_key {proposal.key!r}; another customer, amount, "
            "currency or reference is another proposal"
        )
        error = ApprovalRequiredError(
            f"Nothing was sent: the {'plan' if proposal.is_plan else 'call'} waits for {_whose_approval(proposal)}, "
            f"because {proposal.why}.",
            rule=proposal.rule,
            hint=(
                f"Tell whoever asked for it that proposal {proposal.id} waits. Once it is approved, and before "
                f"{expires}, {'run the plan again' if proposal.is_plan else again}."
            ),
            for_people=f"To decide: ocp-stripe-balance approvals approve {proposal.id}",
            proposal_id=proposal.id,
            expires_at=expires,
            tool=proposal.tool,
            idempotency_key=proposal.key,
        )
        error.warnings = self.notes
        raise error

    def sentence(self) -> Sentence:
        """
        Why a person would be asked.
        """
        return Sentence("ask", f"A person would be asked: {self.finding.words().message}.", self.finding.rule)


@dataclass(frozen=True, slots=True)
class Held:
    """
    It may have been sent, and the policy does not allow sending it again now.
    """

    record: Record
    finding: Finding

    def result(self) -> NoReturn:
        """
        Raise that its outcome is open.
        """
        words, intent = self.finding.words(), self.record.intent
        raise OutcomeUnknownError(
            f"It may have been sent before, and sending it again now is against the policy: {words.message}.",
            hint=f"{words.hint} {_LOOK}",
            for_people=_RECONCILE,
            next=self.finding.next,
            free_at=None if self.finding.free_at is None else moment(self.finding.free_at),
            tool=intent.tool,
            idempotency_key=intent.key.text,
        )

    def sentence(self) -> Sentence:
        """
        Which rule, and why.
        """
        words = self.finding.words()
        return Sentence("refused", f"Nothing would be sent: {words.message}. {words.hint}".strip(), self.finding.rule)


@dataclass(frozen=True, slots=True)
class Busy:
    """
    Another caller is sending this very call.
    """

    record: Record

    def result(self) -> NoReturn:
        """
        Raise that its outcome is open.
        """
        intent = self.record.intent
        message = "Another caller is sending this very call, and has no outcome yet."
        raise OutcomeUnknownError(message, is_under_way=True, tool=intent.tool, idempotency_key=intent.key.text)

    def sentence(self) -> Sentence:
        """
        That its outcome would be waited for.
        """
        return Sentence("wait", "Another caller is sending this very call; its outcome would be waited for.")


@dataclass(frozen=True, slots=True)
class Interrupted:
    """
    This caller sent nothing, but the call it repeats may have moved money.
    """

    intent: Intent
    cause: BaseException
    message: str = "The call was cancelled, and it repeats one that may have been sent before."

    def result(self) -> NoReturn:
        """
        Raise that its outcome is open.
        """
        raise OutcomeUnknownError(
            self.message, tool=self.intent.tool, idempotency_key=self.intent.key.text
        ) from self.cause


@dataclass(frozen=True, slots=True)
class TooOld:
    """
    Its outcome is open, and Stripe may have forgotten its key.
    """

    record: Record

    _MESSAGE = (
        "The call was first sent more than 23 hours ago, and Stripe may have forgotten its key: it is not sent again."
    )

    def result(self) -> NoReturn:
        """
        Raise that its outcome is open.
        """
        raise self._error()

    def sentence(self) -> Sentence:
        """
        Why it would not be sent.
        """
        return Sentence("too_old", str(self._error().args[0]))

    def _error(self) -> OutcomeUnknownError:
        intent = self.record.intent
        return OutcomeUnknownError(
            self._MESSAGE,
            hint=f"{_LOOK} Do not use a new key before.",
            for_people=_RECONCILE,
            next="stop_and_tell",
            tool=intent.tool,
            idempotency_key=intent.key.text,
        )


_ANOTHER = "For the same decision, repeat the first parameters; for another decision, use another key."
_ANOTHERS = (
    "The key follows from what is asked, and a program gave it to that other call as its own. Do not ask again in "
    "other words: a person must look at both."
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """
    The key or the reference belongs to another call, or the key to another proposal.
    """

    intent: Intent
    first: Record | Proposal
    is_about_reference: bool = field(default=False, kw_only=True)

    def result(self) -> NoReturn:
        """
        Raise whose it is.
        """
        raise self.error

    def sentence(self) -> Sentence:
        """
        Whose it is.
        """
        return Sentence("conflict", str(self.error))

    @property
    def error(self) -> IdempotencyConflictError:
        """
        Whose it is.
        """
        first, draft = self.first, self.intent
        if isinstance(first, Proposal):
            return IdempotencyConflictError(
                f"Nothing was sent: the idempotency key {draft.key.text!r} already belongs to a proposal for a person "
                f"to decide ({first.effect} for {first.customer}, {first.state}) with other parameters.",
                hint=(
                    f"An approval is for exactly what was proposed: {first.arguments}. Repeat that (with the same "
                    "stated_effect, if there was one), or use another key."
                ),
                tool=draft.tool,
                idempotency_key=draft.key.text,
            )
        done, is_theirs = f"{first.intent.effect} for {first.intent.customer}, {first.state}", False
        transaction = json.loads(first.outcome.answer or "{}").get("id")
        done += f", transaction {transaction}" if transaction else ""
        if self.is_about_reference:
            what = f"the reference {draft.reference!r} already belongs to another entry of this customer ({done})"
            hint = (
                "For the same reason, repeat the first amount and currency; for another reason, use another reference."
            )
        else:
            what = f"the idempotency key {draft.key.text!r} already belongs to another call ({done})"
            is_theirs = draft.key.origin.is_derived
            hint = _ANOTHERS if is_theirs else _ANOTHER
        return IdempotencyConflictError(
            f"Nothing was sent: {what}.",
            hint=hint,
            next="stop_and_tell" if is_theirs else None,
            tool=draft.tool,
            idempotency_key=first.key,
        )


def differing_words(found: Intent, draft: Intent) -> tuple[str, ...]:
    """
    What is said where the intent of a call comes again in other words or under another key: the first one stands.
    """
    if (found.arguments, found.key.text) == (draft.arguments, draft.key.text):
        return ()
    notes = []
    first, second = json.loads(found.arguments), json.loads(draft.arguments)
    given, written = second.get("reference"), first.get("reference")
    what = f"key {found.key.text!r}" if written is None else f"reference {written!r}"
    if given != written:
        notes.append(f"reference {given!r} is taken for {written!r}, which was used before")
    differing = [name for name in ("description", "metadata", "expand") if first.get(name) != second.get(name)]
    if differing:
        notes.append(f"{what} was used before: the first call's {' and '.join(differing)} was kept")
    if found.key.text != draft.key.text:
        what = "the same without a reference" if written is None else what
        notes.append(f"{what} belongs to the call with key {found.key.text!r}, which is answered here")
    return tuple(notes)
