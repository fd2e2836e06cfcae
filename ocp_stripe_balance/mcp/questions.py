"""
What a person is asked in the client, and what counts as an answer.

Only one form is a yes: accepted, with exactly the one word. All else decides nothing, or is a no.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mcp_types import ElicitRequestFormParams, ElicitResult

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import escaped, moment

if TYPE_CHECKING:
    from ocp_stripe_balance.models import Proposal

_MAX_WORDS = 600
_FIELD = "decision"
_DECISIONS = {"no": False, "yes": True}
# The first choice is the harmless one, because some clients choose it before anybody does.
_SCHEMA = {
    "type": "object",
    "properties": {
        _FIELD: {
            "type": "string",
            "title": "Send it?",
            "description": "yes lets this call run, once; no stops it for good.",
            "enum": list(_DECISIONS),
        }
    },
    "required": [_FIELD],
}


def question(proposal: Proposal) -> ElicitRequestFormParams:
    """
    The question as a client shows it.
    """
    return ElicitRequestFormParams(message=_message(proposal), requested_schema=_SCHEMA)


def decision_in(answer: object) -> bool | None:
    """
    Whether an answer of a client is a yes or a no; None where nobody decided.
    """
    if not isinstance(answer, ElicitResult) or answer.action == "cancel":
        return None
    if answer.action == "decline":
        return False
    words = answer.content or {}
    said = words.get(_FIELD)
    return _DECISIONS.get(said) if len(words) == 1 and isinstance(said, str) else None


def _message(proposal: Proposal) -> str:
    """
    Who, what, the balance before and after, and why somebody is asked; the model's words apart from that.
    """
    words = proposal.parameters
    name = f" ({_quoted(proposal.customer_name)})" if proposal.customer_name else ""  # which customers choose
    lines = [f"May this be sent to Stripe ({proposal.mode} mode)?"]
    lines.append(f"{_effect(proposal)} for {proposal.customer}{name}")
    if words.get("transaction"):
        lines.append(f"for entry {words['transaction']}")
    if proposal.amount:
        before, after = (_balance(proposal, minor) for minor in (proposal.balance_before, proposal.balance_after))
        lines.append(f"balance {before} now, {after} after it")
    lines += [
        f"asked because {proposal.why} ({proposal.rule})",
        f"asked by {proposal.user or 'no named user'}, proposal {proposal.id}, until {moment(proposal.expires_at)}",
    ]
    if proposal.needed > 1:
        so_far = " and ".join(each.by for each in proposal.approvals) or "nobody"
        lines.append(f"{proposal.needed} people have to say yes; so far {so_far} has")
    written = {key: words.get(key) for key in ("reference", "description", "metadata") if words.get(key)}
    if written:
        lines.append("In the model's own words, which nobody checked:")
        lines += [f"> {key}: {_quoted(value)}" for key, value in written.items()]
    return "\n".join(map(escaped, lines))


def _effect(proposal: Proposal) -> str:
    return proposal.effect if proposal.moves_money else "change the words of an entry (no money)"


def _balance(proposal: Proposal, minor: int | None) -> str:
    return "not known" if minor is None else money.balance(minor, proposal.currency)


def _quoted(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}… ({len(text)} characters)"
