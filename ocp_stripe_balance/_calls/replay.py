"""
What a caller is told whose call repeats another one: the outcome on record, or why there is none.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from ocp_stripe_balance._journal import Call, Claim, State, Verdict
from ocp_stripe_balance.errors import IdempotencyConflictError, OutcomeUnknownError, rejection
from ocp_stripe_balance.models import ToolResult

Foreseen = Literal["send", "ask", "refused", "replay", "resume", "wait", "conflict", "too_old"]


def derived_key(*intent: object) -> str:
    """
    The key of one intent; words a model may choose anew (description, metadata) are no part of it.
    """
    return "ref-" + hashlib.sha256(json.dumps(intent).encode()).hexdigest()


def differing_words(call: Call, draft: Call) -> list[str]:
    """
    What is said where a repeated intent comes in other words or under another key: the first call stands.
    """
    if (call.arguments, call.key) == (draft.arguments, draft.key):
        return []
    notes = []
    first, second = json.loads(call.arguments), json.loads(draft.arguments)
    differing = [name for name in ("description", "metadata", "expand") if first.get(name) != second.get(name)]
    if differing:
        notes.append(
            f"reference {call.reference!r} was used before: the first call's {' and '.join(differing)} was kept"
        )
    if call.key != draft.key:
        notes.append(f"reference {call.reference!r} belongs to the call with key {call.key!r}, which is answered here")
    return notes


def recall(call: Call, notes: list[str]) -> ToolResult:
    """
    The outcome on record.
    """
    answer = json.loads(call.answer or "{}")
    if call.state is State.REJECTED:
        raise rejection(answer, tool=call.tool, idempotency_key=call.key)
    return ToolResult(
        tool=call.tool,
        moved=call.moves_money,
        data=answer,
        status_code=call.status or 200,
        headers={},
        idempotency_key=call.key,
        request_id=call.request_id,
        attempts=0,
        replayed=True,
        warnings=(*notes, *(json.loads(call.note) if call.note and call.note.startswith("[") else ())),
    )


def conflict(claim: Claim, draft: Call) -> IdempotencyConflictError:
    if claim.proposal is not None:
        first = claim.proposal
        return IdempotencyConflictError(
            f"Nothing was sent: the idempotency key {draft.key!r} already belongs to a proposal for a person to decide "
            f"({first.effect} to {first.customer}, {first.state}) with other parameters.",
            hint=(
                f"An approval is for exactly what was proposed: {first.arguments}. Repeat that (with the same "
                "stated_effect, if there was one), or use another key."
            ),
            tool=draft.tool,
            idempotency_key=draft.key,
        )
    return _conflict_with(claim.call, claim.verdict, draft)


def _conflict_with(first: Call, verdict: Verdict, draft: Call) -> IdempotencyConflictError:
    done = f"{first.effect} to {first.customer}, {first.state}"
    transaction = json.loads(first.answer or "{}").get("id")
    done += f", transaction {transaction}" if transaction else ""
    if verdict is Verdict.KEY_TAKEN:
        what = f"the idempotency key {draft.key!r} already belongs to another call ({done})"
        hint = "For the same decision, repeat the first parameters; for another decision, use another key."
    else:
        what = f"the reference {draft.reference!r} already belongs to another entry of this customer ({done})"
        hint = "For the same reason, repeat the first amount and currency; for another reason, use another reference."
    return IdempotencyConflictError(f"Nothing was sent: {what}.", hint=hint, tool=draft.tool, idempotency_key=first.key)


def too_old(call: Call) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "The call was first sent more than 23 hours ago, and Stripe may have forgotten its key: it is not sent again.",
        hint="Run 'ocp-stripe-balance journal reconcile' to look for it in the ledger. Do not use a new key before.",
        retryable=False,
        tool=call.tool,
        idempotency_key=call.key,
    )


def known_elsewhere(call: Call) -> OutcomeUnknownError:
    """
    Stripe knows the key of this reference from a request that is not in this journal.
    """
    return OutcomeUnknownError(
        f"Stripe knows reference {call.reference!r} from a request of another journal, which may have moved the money.",
        hint="Look at the customer's balance transactions. Do not use another reference or key for the same reason.",
        retryable=False,
        tool=call.tool,
        idempotency_key=call.key,
    )


def interrupted(call: Call) -> OutcomeUnknownError:
    """
    This caller sent nothing, but the call it repeats may have moved money.
    """
    message = "The call was cancelled, and it repeats one that may have been sent before."
    return OutcomeUnknownError(message, tool=call.tool, idempotency_key=call.key)


def still_running(call: Call) -> OutcomeUnknownError:
    message = "Another caller is sending this very call, and has no outcome yet."
    return OutcomeUnknownError(message, tool=call.tool, idempotency_key=call.key)


def held(call: Call, why: str, hint: str) -> OutcomeUnknownError:
    """
    The call may have been sent, and the policy has no room for sending it now.
    """
    return OutcomeUnknownError(
        f"It may have been sent before, and sending it again now is against the policy: {why}.",
        hint=f"{hint} 'ocp-stripe-balance journal reconcile' looks for it in the ledger without moving money.",
        tool=call.tool,
        idempotency_key=call.key,
    )


def foreseen(  # noqa: PLR0911  one return per verdict
    claim: Claim, draft: Call
) -> tuple[Foreseen, str, str | None]:
    """
    What a dry run tells of a claim: the verdict, why, and the policy's rule behind it.
    """
    call, finding = claim.call, claim.finding
    done = call.effect
    match claim.verdict:
        case Verdict.SEND:
            return "send", f"The call would be sent: {done} to {call.customer}.", None
        case Verdict.ASK if finding is not None:
            return "ask", f"A person would be asked: {finding.message}.", finding.rule
        case Verdict.REFUSED | Verdict.HELD if finding is not None:
            return "refused", f"Nothing would be sent: {finding.message}. {finding.hint}".strip(), finding.rule
        case Verdict.FINISHED:
            return "replay", f"Nothing would be sent: the result on record is returned ({done}, {call.state}).", None
        case Verdict.RESUME:
            return "resume", "The call may have been sent before; it would be sent again under its own key.", None
        case Verdict.WAIT:
            return "wait", "Another caller is sending this very call; its outcome would be waited for.", None
        case Verdict.EXPIRED:
            return "too_old", str(too_old(call).args[0]), None
        case _:
            return "conflict", str(conflict(claim, draft)), None
