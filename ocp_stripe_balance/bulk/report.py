"""
What became of each row of a plan, as the journal has it.
"""

from __future__ import annotations

import contextlib
import csv
import json
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from ocp_stripe_balance._calls.call import reversal_key, reverses
from ocp_stripe_balance._calls.many import OnRecord
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal import is_alive
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.cells import as_cell
from ocp_stripe_balance._text.plain import moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

    from ocp_stripe_balance._calls.many import Many
    from ocp_stripe_balance._journal import Decision, Record
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.bulk.plan import Plan, PlannedRow
    from ocp_stripe_balance.errors import ToolError

Became = Literal["succeeded", "rejected", "refused", "not_sent", "unknown", "under_way", "to_do"]
_COLUMNS = (
    "line", "customer", "direction", "amount", "currency", "reference", "outcome", "entry", "reversed_by", "reason",
    "at", "key",
)  # fmt: skip


class Standing(NamedTuple):
    """
    What has become of one row so far.
    """

    row: PlannedRow
    became: Became
    entry: str | None = None
    """Of the ledger."""
    reason: str = ""
    """Why it did not succeed, or what is surprising where it did."""
    at: float | None = None
    reversed_by: str | None = None
    """The entry that took it back, as far as this journal knows."""


@dataclass(slots=True)
class Status:
    """
    How far a plan is.
    """

    rows: Counter[Became] = field(default_factory=Counter)
    """How many rows became what."""
    amounts: Counter[tuple[Became, str, str]] = field(default_factory=Counter)
    """How much of them, by what became of them, direction and currency, in the smallest unit."""

    taken_back: int = 0
    """How many of those that succeeded were taken back."""

    @property
    def left(self) -> int:
        """
        How many rows another run may still pay.
        """
        return self.rows.total() - self.rows["succeeded"] - self.rows["rejected"]

    def sums(self, became: Became) -> str:
        """
        How much the rows are together that became that, in words.
        """
        return ", ".join(
            f"{direction} {money.to_text(amount, currency)}"
            for (outcome, direction, currency), amount in sorted(self.amounts.items())
            if outcome == became
        )

    def add(self, standing: Standing) -> None:
        """
        One more row.
        """
        moved = standing.row.moved
        self.rows[standing.became] += 1
        self.taken_back += standing.reversed_by is not None
        self.amounts[standing.became, moved.direction, moved.currency] += abs(moved.amount)


async def standings(many: Many, plan: Plan) -> AsyncIterator[Standing]:
    """
    What has become of each row, in the order of the plan.

    Raises:
        NotSentError: the plan was changed, or the journal cannot be read.
    """
    for block in plan.blocks():
        found = await look_up(many, block, with_decisions=True)
        found_so = [_standing(*each, many.journal.now()) for each in zip(block, found, strict=True)]
        made = [each for each in found_so if each.entry]
        opposites = await many.look_up([reversal_key(plan.scope, each.entry or "") for each in made])
        reversals = {each.entry: _reversal(each.row, other) for each, other in zip(made, opposites, strict=True)}
        for standing in found_so:
            yield standing._replace(reversed_by=reversals.get(standing.entry))


async def look_up(many: Many, rows: Sequence[PlannedRow], *, with_decisions: bool = False) -> list[OnRecord]:
    """
    What is on record of each row; *with_decisions*, also of those that were not sent.

    Raises:
        NotSentError: the journal cannot be read.
    """
    found = await many.look_up([row.key for row in rows], with_decisions=with_decisions)
    return [
        each if each.record is None or row.is_call(each.record.intent) else OnRecord(None, None, each.record)
        for row, each in zip(rows, found, strict=True)
    ]


async def note_unless_told(many: Many, tool: ToolSpec, row: PlannedRow, error: ToolError, since: float) -> None:
    """
    Put on record why a row was not sent in a run, where nothing from *since* then says it.

    Raises:
        NotSentError: the journal cannot be used.
    """
    (found,) = await look_up(many, [row], with_decisions=True)
    times = [found.record.updated_at] if found.record is not None else []
    times += [found.decision.at] if found.decision is not None else []
    if found.other is None and max(times, default=0.0) < since:
        await many.note_refusal(tool, row.key, (row.customer, row.moved), error)


def _reversal(row: PlannedRow, on_record: OnRecord) -> str | None:
    """
    The entry that took back that of a row.
    """
    record = on_record.record
    is_it = record is not None and record.state is State.SUCCEEDED and reverses(record.intent, row.customer)
    return record.transaction_id if record is not None and is_it else None


def _standing(row: PlannedRow, on_record: OnRecord, now: float) -> Standing:
    record, decision, other = on_record
    if other is not None:
        why = f"its key belongs to another call ({other.intent.effect} for {other.intent.customer}, {other.state})"
        return Standing(row, "refused", None, why, other.updated_at)
    if decision is not None and on_record.was_refused and (record is None or _is_older(record, decision)):
        return Standing(row, "refused", None, f"{decision.reason} ({decision.rule})", decision.at)
    return Standing(row, "to_do") if record is None else _called(row, record, now)


def _is_older(record: Record, decision: Decision) -> bool:
    """
    Whether it was refused since it was not sent.
    """
    return record.state is State.NOT_SENT and record.updated_at < decision.at


def _called(row: PlannedRow, record: Record, now: float) -> Standing:
    if is_alive(record, now):
        return Standing(row, "under_way", None, "", record.updated_at)
    state = State.UNKNOWN if record.state is State.SENDING else record.state
    outcome = record.outcome
    if state is State.SUCCEEDED:
        remarks = "; ".join(filter(None, (outcome.note, *outcome.warnings)))
        return Standing(row, "succeeded", record.transaction_id, remarks, record.updated_at)
    said = str(json.loads(outcome.answer or "{}").get("message") or outcome.note or "")
    if state is State.UNKNOWN:
        return Standing(row, "unknown", None, said or "it was interrupted", record.updated_at)
    return Standing(row, "rejected" if state is State.REJECTED else "not_sent", None, said, record.updated_at)


async def write_report(many: Many, plan: Plan, target: Path) -> Status:
    """
    Write what became of each row as CSV, which no spreadsheet takes for formulas; how far the plan is.

    Raises:
        OSError: it cannot be written.
        NotSentError: the plan was changed, or the journal cannot be read.
    """
    status = Status()
    with _created(target) as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        async for standing in standings(many, plan):
            status.add(standing)
            writer.writerow(_cells(standing))
    return status


@contextlib.contextmanager
def _created(target: Path) -> Iterator[TextIO]:
    """
    A file that nobody else may read, whole or not at all: until then an older report stays.
    """
    if target.exists() and not target.is_file():  # a device, or a pipe
        with target.open("w", encoding="utf-8-sig", newline="") as file:
            yield file
        return
    place = target.resolve()  # where a link leads
    unfinished = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        unfinished.touch(mode=0o600, exist_ok=False)
        with unfinished.open("w", encoding="utf-8-sig", newline="") as file:
            yield file
        unfinished.replace(place)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _cells(standing: Standing) -> list[str]:
    row, became, entry, reason, at, reversed_by = standing
    direction, amount, currency = money.stated_effect(*row.moved).split()
    texts = [
        str(row.line), row.customer, direction, amount, currency, row.reference, became, entry or "",
        reversed_by or "", reason, moment(at) if at else "", row.key,
    ]  # fmt: skip
    return [as_cell(text) for text in texts]
