"""
What the journal keeps: a call and what became of it, and what was decided about it; and both as rows.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._domain import (
    Caller,
    Intent,
    Key,
    Money,
    Origin,
    Outcome,
    Payload,
    Ruling,
    Scope,
    State,
    effect_of,
)
from ocp_stripe_balance.models import Proposal, Vote

if TYPE_CHECKING:
    from collections.abc import Iterable


class Lease(NamedTuple):
    """
    Who is sending a call, and until when at the latest.
    """

    owner: str
    """A name that no other claim has, of any process on any host; empty where nobody sends it."""
    host: str | None = None
    pid: int | None = None
    until: float = 0.0
    """Seconds since the Unix epoch."""
    began: str | None = None
    """When that process began, where that is known."""


class Record(NamedTuple):
    """
    One call on record. Never an API key.
    """

    intent: Intent
    payload: Payload
    outcome: Outcome
    lease: Lease
    created_at: float
    updated_at: float
    spent_at: float
    """The latest moment at which it can have moved money, for budgets: the end of the lease while it is under way."""

    @property
    def state(self) -> State:
        """
        What has become of it.
        """
        return self.outcome.state

    @property
    def key(self) -> str:
        """
        The text of its idempotency key.
        """
        return self.intent.key.text

    @property
    def transaction_id(self) -> str | None:
        """
        Of the entry it made, where that is known.
        """
        return self.outcome.transaction_id


class Decision(NamedTuple):
    """
    One row of the audit: what was decided about a call, by which rule, and who decided.
    """

    at: float
    decision: Ruling
    rule: str
    who: str
    """A person, or ``policy``."""
    reason: str
    scope: Scope
    key: str
    tool: str
    customer: str
    money: Money | None
    reference: str | None
    caller: Caller

    @property
    def effect(self) -> str:
        """
        What it was about, as ``credit 5.00 usd``.
        """
        return effect_of(self.money)


def record_of(row: Any) -> Record:
    """
    The call in a row.
    """
    intent = Intent(
        scope=_scope_of(row),
        caller=_caller_of(row),
        key=Key(row["key"], Origin(row["key_origin"])),
        tool=row["tool"],
        customer=row["customer"] or None,
        money=_money_of(row),
        reference=row["reference"],
        arguments=row["arguments"],
        has_stated_effect=bool(row["has_stated_effect"]),
    )
    outcome = Outcome(
        state=State(row["state"]),
        is_final=bool(row["is_final"]),
        attempts=row["attempts"],
        status=row["status"],
        request_id=row["request_id"],
        answer=row["answer"],
        transaction_id=row["transaction_id"],
        note=row["note"],
        warnings=tuple(json.loads(row["warnings"] or "[]")),
    )
    return Record(
        intent=intent,
        payload=Payload(row["path"], row["body"], row["api_version"], bool(row["is_tagged"])),
        outcome=outcome,
        lease=Lease(row["owner"], row["owner_host"], row["owner_pid"], row["lease_until"], row["owner_began"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        spent_at=row["spent_at"],
    )


def decision_of(row: Any) -> Decision:
    """
    The decision in a row.
    """
    return Decision(
        at=row["at"],
        decision=row["decision"],
        rule=row["rule"],
        who=row["who"],
        reason=row["reason"],
        scope=_scope_of(row),
        key=row["key"],
        tool=row["tool"],
        customer=row["customer"],
        money=_money_of(row),
        reference=row["reference"],
        caller=_caller_of(row),
    )


def proposal_of(row: Any) -> Proposal:
    """
    The proposal in a row.
    """
    values = {name: row[name] for name in row.keys() if name not in {"number", "key_origin", "moves_money"}}  # noqa: SIM118  a Row iterates over its values
    return Proposal(key_origin=Origin(row["key_origin"]), moves_money=bool(row["moves_money"]), **values)


def with_votes(proposal: Proposal, rows: Iterable[Any]) -> Proposal:
    """
    The proposal with what people said to it, in rows, oldest first.
    """
    yes: list[Vote] = []
    no: list[Vote] = []
    for row in rows:
        texts = {name: row[name] for name in ("how", "at", "reason", "shown", "person")}
        (yes if row["is_approved"] else no).append(Vote(by=row["who"], **texts))
    return replace(proposal, approvals=tuple(yes), denial=no[-1] if no else None)


def intent_of(proposal: Proposal) -> Intent:
    """
    What a proposal asks a person to decide on.
    """
    return Intent(
        scope=Scope(proposal.base_url, proposal.mode, proposal.account),
        caller=Caller(proposal.context_id, proposal.agent_type, proposal.user),
        key=Key(proposal.key, proposal.key_origin),
        tool=proposal.tool,
        customer=proposal.customer or None,
        money=Money(proposal.amount, proposal.currency) if proposal.moves_money else None,
        reference=proposal.reference,
        arguments=proposal.arguments,
    )


def at_key(intent: Intent) -> dict[str, Any]:
    """
    The values of a statement that finds what stands under the key of a call.
    """
    base_url, mode, account = intent.scope
    return {"key": intent.key.text, "base_url": base_url, "mode": mode, "account": account}


def about(intent: Intent) -> dict[str, Any]:
    """
    The values of the columns that say what was decided, the same in every table.
    """
    base_url, mode, account = intent.scope
    context_id, agent_type, user = intent.caller
    amount, currency = intent.money or (0, "")
    return {
        "base_url": base_url,
        "mode": mode,
        "account": account,
        "key": intent.key.text,
        "key_origin": intent.key.origin.value,  # an exact text: SQLite's module takes longer for a subclass
        "tool": intent.tool,
        "customer": intent.customer or "",
        "moves_money": int(intent.money is not None),
        "amount": amount,
        "currency": currency,
        "reference": intent.reference,
        "arguments": intent.arguments,
        "has_stated_effect": int(intent.has_stated_effect),
        "context_id": context_id,
        "agent_type": agent_type,
        "user": user,
    }


def _scope_of(row: Any) -> Scope:
    return Scope(row["base_url"], row["mode"], row["account"])


def _caller_of(row: Any) -> Caller:
    return Caller(row["context_id"], row["agent_type"], row["user"])


def _money_of(row: Any) -> Money | None:
    return Money(row["amount"], row["currency"]) if row["moves_money"] else None
