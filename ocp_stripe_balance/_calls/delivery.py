"""
Sending a recorded call, and recording what became of it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from ocp_stripe_balance._calls.endings import Cancelled, Failed, Interrupted, Succeeded
from ocp_stripe_balance._domain import Outcome, State
from ocp_stripe_balance._stripe.evidence import expected_of
from ocp_stripe_balance._stripe.headers import stripe_headers
from ocp_stripe_balance._stripe.request import FORM, Request
from ocp_stripe_balance._tools.validation import response_validator
from ocp_stripe_balance.errors import OutcomeUnknownError, RejectedError, ToolError
from ocp_stripe_balance.models import ToolResult

if TYPE_CHECKING:
    from ocp_stripe_balance._calls.call import Call
    from ocp_stripe_balance._calls.endings import Ending, Ready
    from ocp_stripe_balance._domain import Context
    from ocp_stripe_balance._journal import Journal, Record, Written
    from ocp_stripe_balance._stripe.attempts import Reply
    from ocp_stripe_balance._stripe.client import StripeClient
    from ocp_stripe_balance._tools.manifest import ToolSpec


_LEAST_S, _LONGEST_S = 1.0, 5.0


class Delivery:
    """
    Steps 6 and 7 of a call: its bytes to Stripe under one key until it is settled, and the outcome on record.
    """

    def __init__(
        self, base_url: str, journal: Journal, client: StripeClient, context: Context, *, shares_context: bool
    ) -> None:
        """
        Prepare.
        """
        self._base_url = base_url
        self._journal = journal
        self._client = client
        self._context = context
        self._shares_context = shares_context

    async def deliver(self, call: Call, ready: Ready, remaining_s: float) -> Ending:
        """
        Send a call that is on record as ours to send, within *remaining_s* seconds.
        """
        tool, record = call.tool, ready.record
        deadline = asyncio.get_running_loop().time() + remaining_s
        try:
            reply = await self._client.execute(
                self.request(call, record),
                tool=tool.name,
                idempotency_key=record.key,
                is_resumed=ready.is_resumed,
                timeout_s=remaining_s,
            )
        except ToolError as error:
            told = _known_elsewhere(record) if _is_another_request(record, error) else error
            is_recorded = await self._record(record, _outcome_of(told), deadline)
            return Failed(told, error.__cause__) if is_recorded else Interrupted(record.intent, error)
        except asyncio.CancelledError as error:
            outcome = Outcome(State.NOT_SENT, note="cancelled before it was sent")
            is_recorded = await self._record(record, outcome, deadline)
            return Cancelled(error) if is_recorded else Interrupted(record.intent, error)
        return await self._succeed(tool, ready, reply, deadline)

    def request(self, call: Call, record: Record) -> Request:
        """
        The bytes that are recorded for a call, or for the one that it joined, as a request.
        """
        tool, access, payload, text = call.tool, call.access, record.payload, record.intent.arguments
        arguments = call.arguments if text == call.intent.arguments else json.loads(text)
        sent = stripe_headers(access, payload.api_version, self._context, shares_context=self._shares_context)
        return Request(
            method=tool.method,
            url=self._base_url + payload.path,
            body=payload.body,
            headers={**sent, "Idempotency-Key": record.key, "Content-Type": FORM},
            template=tool.path,
            customer=record.intent.customer,
            api_key=access.api_key,
            expected=expected_of(tool, arguments, _mark_of(tool, record)),
        )

    async def _succeed(self, tool: ToolSpec, ready: Ready, reply: Reply, deadline: float) -> Ending:
        record = ready.record
        result = result_of(tool, record, reply, ready.notes)
        transaction_id = result.data.get("id") if record.intent.money is not None else None
        outcome = Outcome(
            State.SUCCEEDED,
            is_final=True,
            attempts=result.attempts,
            status=result.status_code,
            request_id=result.request_id,
            answer=reply.body.text,
            transaction_id=transaction_id if isinstance(transaction_id, str) else None,
            warnings=result.warnings,
        )
        written = await self._owe(record, outcome, deadline)
        if written.cancelled is not None:
            where = f"not in the journal yet ({written.gap})" if written.gap else "in the journal"
            message = f"The call was cancelled after it had succeeded; the result is {where}."
            unknown = OutcomeUnknownError(message, tool=tool.name, idempotency_key=record.key)
            return Failed(unknown, written.cancelled)
        if written.gap:
            warning = f"the outcome is not in the journal yet: {written.gap}"
            return Succeeded(replace(result, warnings=(*result.warnings, warning)))
        return Succeeded(result)

    async def _record(self, record: Record, outcome: Outcome, deadline: float) -> bool:
        """
        Record an outcome that is no success; False where another caller may have the call by now.

        Whoever has it may have moved money. A journal that fails leaves the row as it is: it may have been sent, and
        may be taken over after the lease.
        """
        written = await self._owe(record, outcome, deadline)
        return self._journal.now() < record.lease.until if written.gap else bool(written.result)

    async def _owe(self, record: Record, outcome: Outcome, deadline: float) -> Written[bool]:
        """
        What became of the outcome of a call that is over: it is waited for until *deadline*, but for 1 to 5 seconds.
        """
        now, moment = self._journal.now, asyncio.get_running_loop().time()
        until = min(max(deadline, moment + _LEAST_S), moment + _LONGEST_S)
        reach = self._journal.reach(record.intent)
        return await self._journal.owe(lambda book: book.settle(record, outcome, now()), until, reach)


def _mark_of(tool: ToolSpec, record: Record) -> str | None:
    """
    The mark that an entry of this call carries, if any; an update finds the one that is there.
    """
    return None if not tool.moves_money else record.key if record.payload.is_tagged else ""


def result_of(tool: ToolSpec, record: Record, reply: Reply, notes: tuple[str, ...]) -> ToolResult:
    """
    The result that a 2xx reply to a recorded call stands for, with all that is surprising about it as warnings.
    """
    flaw = reply.lost_body or reply.body.flaw
    warnings = [*notes, flaw] if flaw else [*notes]
    if reply.data is not None:
        warnings += response_validator(tool).warnings(reply.data)
    return ToolResult(
        tool=tool.name,
        moved=record.intent.money is not None,
        data=reply.told,
        status_code=reply.status,
        headers=reply.headers,
        idempotency_key=record.key,
        request_id=reply.request_id,
        attempts=reply.attempts,
        replayed=reply.is_replayed,
        warnings=tuple(warnings),
    )


def _outcome_of(error: ToolError) -> Outcome:
    return Outcome(
        State(error.outcome),
        is_final=isinstance(error, RejectedError) and error.is_verdict,
        attempts=error.attempts,
        status=getattr(error, "status", None),
        request_id=getattr(error, "request_id", None),
        answer=json.dumps(error.to_dict()),
    )


def _is_another_request(record: Record, error: ToolError) -> bool:
    """
    Whether Stripe knows a derived key from another request: another journal's, for the very same reason.
    """
    is_known = isinstance(error, RejectedError) and error.type == "idempotency_error"
    return is_known and record.intent.key.origin.is_derived


def _known_elsewhere(record: Record) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"Stripe knows reference {record.intent.reference!r} from a request of another journal, "
        "which may have moved the money.",
        hint="Look at the customer's balance transactions. Do not use another reference or key for the same reason.",
        next="stop_and_tell",
        tool=record.intent.tool,
        idempotency_key=record.key,
    )
