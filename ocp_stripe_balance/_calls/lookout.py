"""
What a model is told of the calls on record: what was asked, what became of it, what waits, and what the policy leaves.

It tells of one account in one mode at one server, within which a key is one call's. No money moves: an open call that
is named is looked for in Stripe's ledger.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._calls.admission import MAX_RESEND_AGE_S
from ocp_stripe_balance._calls.call import reversal_key, reverses
from ocp_stripe_balance._calls.endings import Invalid, Succeeded
from ocp_stripe_balance._calls.reads import USUAL_LIMIT
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal import READING, is_alive
from ocp_stripe_balance._policy import what_is_left
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance._text.spelling import one_spelling
from ocp_stripe_balance.errors import Problem
from ocp_stripe_balance.models import ToolResult

if TYPE_CHECKING:
    from ocp_stripe_balance._calls.call import Call
    from ocp_stripe_balance._calls.endings import Ending
    from ocp_stripe_balance._calls.recovery import Recovery
    from ocp_stripe_balance._domain import Intent, Scope
    from ocp_stripe_balance._journal import Book, Decision, Journal, Record
    from ocp_stripe_balance._policy import Policy
    from ocp_stripe_balance.models import Proposal

_MAX_SETTLED = 3  # of the calls that one look may find out about: each takes the time of a call
_NEXT_OF_PROPOSAL = {
    "waiting": "call_again_once_approved",
    "approved": "call_again",
    "denied": "stop_and_tell",
    "expired": "call_again",
}
_ABSENT = "Nothing moved: 24 hours after its last attempt, no entry in the whole ledger is of this call."


class Wanted(NamedTuple):
    """
    Which calls are looked for: those that are all of it.
    """

    scope: Scope
    reference: str | None
    customer: str | None
    key: str | None
    limit: int

    def includes(self, intent: Intent | Decision | Proposal, scope: Scope) -> bool:
        """
        Whether it is one of them, whatever its key.
        """
        is_about = self.customer in {None, intent.customer} and self.reference in {None, intent.reference}
        return scope == self.scope and is_about


class Lookout:
    """
    The look into the journal of one registered API.
    """

    def __init__(self, policy: Policy, journal: Journal, recovery: Recovery) -> None:
        """
        Prepare.
        """
        self._policy = policy
        self._journal = journal
        self._recovery = recovery

    async def look(self, call: Call, deadline: float) -> Ending:
        """
        What is on record of the calls that *call* names; those that are open are found out first.

        Raises:
            NotSentError: the journal cannot be read.
        """
        arguments = call.arguments
        if not {"reference", "customer", "key"} & set(arguments):
            message, hint = "is missing, and so are customer and key", "give at least one of the three"
            return Invalid([Problem(path="reference", message=message, hint=hint)], tool=call.tool.name)
        wanted = Wanted(
            call.intent.scope,
            one_spelling(arguments.get("reference") or "") or None,
            arguments.get("customer"),
            arguments.get("key"),
            int(arguments.get("limit", USUAL_LIMIT)),
        )
        advice = await self._found_out(call, wanted, deadline) if wanted.reference or wanted.key else {}
        reach = self._journal.reach(call.intent)  # what the budgets leave is in totals, which a look brings up to date
        data = await self._journal.run(lambda book: self._told(book, call.intent, wanted, advice), deadline, reach)
        return Succeeded(
            ToolResult(
                tool=call.tool.name,
                data=data,
                status_code=200,
                headers={},
                idempotency_key=None,
                request_id=None,
                attempts=0,
                replayed=False,
                warnings=(),
            )
        )

    async def _found_out(self, call: Call, wanted: Wanted, deadline: float) -> dict[str, str]:
        """
        What the ledger says of the open calls that are named, by their keys.
        """
        now = self._journal.now
        records = await self._journal.run(lambda book: _records(book, wanted)[: wanted.limit], deadline, READING)
        still_open = [record for record in records if record.state.is_open and not is_alive(record, now())]
        settled = [await self._recovery.settle(record, call.access, deadline) for record in still_open[:_MAX_SETTLED]]
        return {each.key: each.advice or (_ABSENT if each.outcome == "not_sent" else "") for each in settled}

    def _told(self, book: Book, intent: Intent, wanted: Wanted, advice: dict[str, str]) -> dict[str, Any]:
        now = self._journal.now()
        records = _records(book, wanted)
        asked, refused = book.recent(now, wanted.key, wanted.scope)
        proposals = [each for each in asked if wanted.includes(each, each.scope)]
        refusals = [each for each in refused if wanted.includes(each, each.scope)]
        has_more = max(len(records), len(proposals), len(refusals)) > wanted.limit
        records = records[: wanted.limit]
        currencies = [record.intent.money.currency for record in records if record.intent.money]
        customers = {each.intent.customer for each in records} | {each.customer for each in proposals}
        of_one = intent._replace(customer=wanted.customer or (customers.pop() if len(customers) == 1 else None))
        rules = what_is_left(self._policy, of_one, lambda each: book.past(each, now), currencies)
        return {
            "object": "balance_calls",
            "calls": [_call(book, record, advice.get(record.key), now) for record in records],
            "proposals": [_proposal(each) for each in proposals[: wanted.limit]],
            "refusals": [_refusal(each) for each in refusals[: wanted.limit]],
            "has_more": has_more,
            "policy": {"rules": list(rules)},
        }


def _records(book: Book, wanted: Wanted) -> list[Record]:
    """
    The calls that are wanted, newest first.
    """
    if wanted.key is not None:
        found = book.find_key(wanted.key, wanted.scope)
        records = [] if found is None else [found]
    elif wanted.reference is not None:
        records = book.calls_of("reference", wanted.reference)
    else:
        records = book.calls_of("customer", wanted.customer or "")
    return [each for each in reversed(records) if wanted.includes(each.intent, each.intent.scope)]


def _call(book: Book, record: Record, advice: str | None, now: float) -> dict[str, Any]:
    intent, outcome, given = record.intent, record.outcome, json.loads(record.intent.arguments)
    answer = json.loads(outcome.answer or "{}")
    has_entry = record.state is State.SUCCEEDED and intent.money is not None and "ending_balance" in answer
    entry = {"balance": money.balance(answer["ending_balance"], answer["currency"])} if has_entry else {}
    facts = {
        "key": record.key,
        "tool": intent.tool,
        "customer": intent.customer,
        "effect": intent.effect,
        "reference": given.get("reference"),
        "outcome": "unknown" if record.state is State.SENDING else record.state.value,
        "at": moment(record.created_at),
        "updated_at": moment(record.updated_at) if record.updated_at - record.created_at >= 1 else None,
        "entry": record.transaction_id,
        **entry,
        "description": given.get("description"),
        "said": advice or (None if record.state is State.SUCCEEDED else answer.get("message") or outcome.note),
        "reversed_by": _reversal_of(book, record),
        "next": _next_of(record, answer, now),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _next_of(record: Record, answer: dict[str, Any], now: float) -> str | None:
    if record.state is State.SUCCEEDED:
        return None
    if record.state.is_open:
        return "call_again" if now - record.created_at < MAX_RESEND_AGE_S else "stop_and_tell"
    return str(answer.get("next") or "call_again")


def _reversal_of(book: Book, record: Record) -> str | None:
    """
    The entry that took back that of a call, where the journal knows of one.
    """
    scope, entry = record.intent.scope, record.transaction_id
    reversal = book.find_key(reversal_key(scope, entry), scope) if entry else None
    is_it = reversal is not None and reverses(reversal.intent, record.intent.customer)
    return reversal.transaction_id if reversal is not None and is_it else None


def _proposal(proposal: Proposal) -> dict[str, Any]:
    facts = {
        "id": proposal.id,
        "key": proposal.key,
        "customer": proposal.customer,
        "effect": proposal.effect,
        "reference": proposal.parameters.get("reference"),
        "state": proposal.state,
        "why": proposal.why,
        "asked_at": moment(proposal.asked_at),
        "expires_at": moment(proposal.expires_at),
        "decided_by": proposal.decided_by,
        "reason": proposal.reason,
        "next": _NEXT_OF_PROPOSAL.get(proposal.state),
    }
    return {name: value for name, value in facts.items() if value}


def _refusal(decision: Decision) -> dict[str, Any]:
    facts = {
        "at": moment(decision.at),
        "key": decision.key,
        "customer": decision.customer,
        "effect": decision.effect,
        "reference": decision.reference,
        "rule": decision.rule,
        "reason": decision.reason,
    }
    return {name: value for name, value in facts.items() if value}
