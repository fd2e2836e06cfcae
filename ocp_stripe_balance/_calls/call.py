"""
One call, prepared: what it wants, under which key, and the bytes it is sent as. None of it changes on the way.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._calls.tool_calls import key_of
from ocp_stripe_balance._domain import Intent, Key, Origin, Payload, Scope
from ocp_stripe_balance._stripe.evidence import MARK
from ocp_stripe_balance._stripe.request import encode
from ocp_stripe_balance._text.spelling import one_spelling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocp_stripe_balance._calls.order import Order
    from ocp_stripe_balance._domain import Caller, Mode, Money
    from ocp_stripe_balance._journal import Record
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import Answer, Proposal

_to_sorted_json = json.JSONEncoder(sort_keys=True).encode


class Approval(NamedTuple):
    """
    A person's yes to one call, which no other call can use.
    """

    proposal: Proposal
    answer: Answer


class Call(NamedTuple):
    """
    One prepared call.
    """

    tool: ToolSpec
    intent: Intent
    payload: Payload
    arguments: Mapping[str, Any]
    """The validated parameters, in their one spelling."""
    access: Access
    approval: Approval | None = None


def scope_of(access: Access, server: str, mode: Mode | None = None) -> Scope:
    """
    Within what the keys of a caller with that access belong to one call: in the mode of its API key, or in *mode*.
    """
    return Scope(server, mode or access.mode, access.account or "")


def prepare(order: Order, access: Access, scope: Scope, caller: Caller, *, tags_calls: bool) -> Call:
    """
    The call that an order makes.

    Args:
        order: what the agent asks for.
        access: whose Stripe account it acts on.
        scope: within what its key belongs to it.
        caller: who asks.
        tags_calls: whether the entry's metadata names the call.
    """
    tool, moved = order.tool, order.tool.money_of(order.arguments)
    arguments = _in_one_spelling(tool, order.arguments, moved)
    customer = tool.customer_of(arguments)
    reference = one_spelling(arguments.get("reference") or "") or None
    text = _to_sorted_json(arguments)
    key = order.key or (key_of(order.tool_call, tool.name, text) if order.tool_call is not None else None)
    key = key or _new_key(tool, scope, customer, moved, reference)
    is_tagged = tags_calls and tool.moves_money
    marked = {"metadata": {**(arguments.get("metadata") or {}), MARK: key.text}} if is_tagged else {}
    path, body, _ = encode(tool, {**arguments, **marked})
    return Call(
        tool=tool,
        intent=Intent(
            scope=scope,
            caller=caller,
            key=key,
            tool=tool.name,
            customer=customer,
            money=moved,
            reference=reference,
            arguments=text,
            has_stated_effect=order.stated_effect is not None,
        ),
        payload=Payload(path, body, access.api_version, is_tagged),
        arguments=arguments,
        access=access,
    )


def in_one_spelling(tool: ToolSpec, arguments: Mapping[str, Any]) -> str:
    """
    Valid parameters as JSON, the same for all that mean the same money.
    """
    return _to_sorted_json(_in_one_spelling(tool, arguments, tool.money_of(arguments)))


def _in_one_spelling(tool: ToolSpec, arguments: Mapping[str, Any], moved: Money | None) -> Mapping[str, Any]:
    if moved is None:
        return arguments
    return {**arguments, str(tool.effect.amount): moved.amount, str(tool.effect.currency): moved.currency}


def recorded(record: Record, tool: ToolSpec, access: Access) -> Call:
    """
    The call on record, to be made again under its own key with its own bytes.
    """
    return Call(
        tool=tool,
        intent=record.intent,
        payload=record.payload,
        arguments=json.loads(record.intent.arguments),
        access=access,
    )


def reversal_key(scope: Scope, transaction: str) -> str:
    """
    The key under which an entry is reversed, whoever asks.
    """
    return "rev-" + hashlib.sha256(json.dumps([scope.account, scope.mode, transaction]).encode()).hexdigest()


def reference_key(scope: Scope, tool: str, customer: str | None, moved: Money | None, reference: str) -> str:
    """
    The key of a call for a business reason, in its one spelling, whoever asks.
    """
    amount, currency = moved or (0, "")
    # Words that a model may choose anew (description, metadata) are no part of the reason.
    reason = (scope.account, scope.mode, tool, customer, currency, amount, reference)
    return "ref-" + hashlib.sha256(json.dumps(reason).encode()).hexdigest()


def reverses(found: Intent, customer: str | None) -> bool:
    """
    Whether what stands under the key of an entry's reversal is that reversal, and no other call of the same key.
    """
    return found.key.origin is Origin.REVERSAL and found.customer == customer


def _new_key(tool: ToolSpec, scope: Scope, customer: str | None, moved: Money | None, reference: str | None) -> Key:
    """
    The key of a call whose caller gave none: of its business reason where it has one, else random.
    """
    if reference is None:
        return Key(str(uuid.uuid4()), Origin.DRAWN)
    return Key(reference_key(scope, tool.name, customer, moved, reference), Origin.REFERENCE)
