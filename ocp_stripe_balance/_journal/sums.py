"""
What the calls on record moved, added up by who asked, why and when.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._text.plain import local, nearest, shown
from ocp_stripe_balance.errors import InvalidParametersError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ocp_stripe_balance._journal.records import Record

_METADATA = "metadata."
_PARTS: dict[str, Callable[[Record], str | None]] = {
    "user": lambda record: record.intent.caller.user,
    "agent_type": lambda record: record.intent.caller.agent_type,
    "reference": lambda record: record.intent.reference,
    "customer": lambda record: record.intent.customer,
    "account": lambda record: record.intent.scope.account,
    "day": lambda record: local(record.spent_at)[:10],
    "month": lambda record: local(record.spent_at)[:7],
}


class Sum(NamedTuple):
    """
    What some calls moved together, in one mode, currency and direction.
    """

    group: tuple[str, ...]
    """What they have in common; a part is empty where a call does not say it."""
    mode: str
    moved: Money
    number: int

    def facts(self) -> dict[str, Any]:
        """
        The sum as JSON, without what they have in common.
        """
        moved = self.moved
        sums = {"currency": moved.currency, "direction": moved.direction, "amount": abs(moved.amount)}
        return {"mode": self.mode, **sums, "entries": self.number}


class Sums:
    """
    Calls being added up.
    """

    def __init__(self, by: Sequence[str]) -> None:
        """
        Begin with none.

        Args:
            by: what the calls of one sum have in common: user, agent_type, reference, customer, account, day, month, or
                metadata.NAME.

        Raises:
            InvalidParametersError: it is none of these.
        """
        self._parts = [_part(name) for name in by]
        self._sums: dict[tuple[object, ...], Sum] = {}

    def add(self, record: Record) -> None:
        """
        One more call, which moved money.
        """
        moved, mode = record.intent.money or Money(0, ""), record.intent.scope.mode
        group = tuple(part(record) or "" for part in self._parts)
        name = (group, mode, moved.currency, moved.direction)
        so_far = self._sums.get(name) or Sum(group, mode, Money(0, moved.currency), 0)
        total = Money(so_far.moved.amount + moved.amount, moved.currency)
        self._sums[name] = Sum(group, mode, total, so_far.number + 1)

    def found(self) -> list[Sum]:
        """
        The sums in order.
        """
        return [self._sums[name] for name in sorted(self._sums)]


def _part(name: str) -> Callable[[Record], str | None]:
    if name.startswith(_METADATA) and len(name) > len(_METADATA):
        key = name[len(_METADATA) :]
        return lambda record: (json.loads(record.intent.arguments).get("metadata") or {}).get(key)
    if name not in _PARTS:
        near = nearest(name, _PARTS)
        hint = f"did you mean {near[0]}?" if near else f"pass one of {', '.join(_PARTS)}, or {_METADATA}NAME"
        raise InvalidParametersError([Problem(path="by", message=f"{shown(name)} is nothing to add up by", hint=hint)])
    return _PARTS[name]
