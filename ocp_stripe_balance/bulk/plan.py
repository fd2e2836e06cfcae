"""
A plan: the frozen truth of a run. A head with what the rows add up to, then a row a line, as it will be sent.

The head has the SHA-256 of each few hundred rows, and the digest of the plan is the SHA-256 of the head: so each row is
proven right before it is sent, and memory does not grow with the file. Who changes a row has another plan.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._calls.call import reference_key, reversal_key
from ocp_stripe_balance._calls.planned import Question
from ocp_stripe_balance._domain import Direction, Money, Origin, Scope
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.parsing import parsed
from ocp_stripe_balance._text.spelling import one_spelling
from ocp_stripe_balance._tools.validation import KEY_PARAMETER
from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.verbs import CREATE, REVERSE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from ocp_stripe_balance._domain import Intent

_KIND = "ocp-stripe-balance plan"
_FORMAT = 1
BLOCK = 500
"""Rows under one hash."""
_MAX_HEAD, _MAX_ROW = 50_000_000, 1_000_000
_Side = tuple[str, Direction]
_FACTS = {
    *("tool", "rows", "blocks", "sums", "source", "reference", "customers", "customers_twice", "customers_read"),
    *("customers_without_currency", "paid_already", "outliers", "far_from_median"),
}
_ANEW = "Plan the list again: what is paid already is paid once."


class PlannedRow(NamedTuple):
    """
    One entry of a plan.
    """

    line: int
    """Of the list that was planned."""
    key: str
    """The idempotency key that its reference has."""
    customer: str
    moved: Money
    reference: str
    parameters: dict[str, Any]
    """Of the tool."""
    is_billed: bool
    """Whether Stripe bills the customer in this currency, which nothing changes."""

    def is_call(self, intent: Intent) -> bool:
        """
        Whether a call that is found under its key is this entry: a program may have given the key to another one.
        """
        if (self.customer, self.moved) != (intent.customer, intent.money):
            return False
        if "transaction" in self.parameters:
            return intent.key.origin is Origin.REVERSAL
        return intent.reference == one_spelling(self.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    The head of a plan, and where its rows are.
    """

    path: Path
    digest: str
    tool: str
    """With which each row is called."""
    scope: Scope
    """The server, the mode and the account that it is for."""
    facts: dict[str, Any]
    """The head, as it stands in the file."""

    @property
    def key(self) -> str:
        """
        The name under which a person decides about it.
        """
        return f"plan-{self.digest}"

    @property
    def number(self) -> int:
        """
        How many rows it has.
        """
        return int(self.facts["rows"])

    @property
    def source(self) -> Path:
        """
        The list that it was made of, where that was.
        """
        return self.path.parent / str(self.facts.get("source_path", self.facts["source"]))

    def discard(self) -> None:
        """
        Take it away again.
        """
        self.path.unlink(missing_ok=True)

    def has_another_list(self) -> bool:
        """
        Whether the list is not as it was when this plan was made of it.
        """
        then, now = self.facts.get("source_sha256"), digest_of(self.source)
        return None not in {then, now} and then != now

    def blocks(self) -> Iterator[list[PlannedRow]]:
        """
        The rows, a few hundred at a time, each of them proven.

        Raises:
            NotSentError: it was changed since it was made, or cannot be read.
        """
        for lines in self._proven():
            yield [_row(parsed(line.decode())) for line in lines]

    def check(self, *, is_ours: bool) -> None:
        """
        Look whether the head says what the rows add up to, which a person decides on.

        Args:
            is_ours: whether its head was made here, so that only its rows can have been changed.

        Raises:
            NotSentError: it does not, or `blocks` fails.
        """
        if is_ours:
            for _ in self._proven():
                pass
            return
        try:
            self._add_up()
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _changed(self.path, "a row says no entry") from None

    def _add_up(self) -> None:
        number, amounts, largest = Counter[_Side](), Counter[_Side](), Counter[_Side]()
        are_own = True
        with contextlib.closing(sqlite3.connect("")) as seen:  # on the disk: memory does not grow with them
            seen.execute("CREATE TABLE rows (key TEXT PRIMARY KEY) WITHOUT ROWID")
            for block in self.blocks():
                for row in block:
                    moved = row.moved
                    kind = moved.currency, moved.direction
                    number[kind] += 1
                    amounts[kind] += moved.amount
                    largest[kind] = max(largest[kind], abs(moved.amount))
                    are_own = are_own and self._is_own(row)
                if are_own:
                    seen.executemany("INSERT OR IGNORE INTO rows VALUES (?)", [(row.key,) for row in block])
            ((distinct,),) = seen.execute("SELECT COUNT(*) FROM rows")
        ours = sorted((kind[0], amounts[kind], number[kind], largest[kind]) for kind in number)
        names = ("currency", "amount", "number", "largest")
        if (number.total(), ours) != (self.number, sorted(tuple(map(each.get, names)) for each in self.facts["sums"])):
            raise _changed(self.path, "its head says other sums than its rows")
        if not are_own or distinct != self.number:
            raise _changed(self.path, "a row says another entry than it makes, or one that stands there twice")

    def _is_own(self, row: PlannedRow) -> bool:
        """
        Whether a row has the key that its call will have, and moves what it says.
        """
        given = row.parameters
        key = reference_key(self.scope, self.tool, row.customer, row.moved, one_spelling(row.reference))
        if self.tool == REVERSE:
            key = reversal_key(self.scope, given["transaction"])
        is_said = given["stated_effect"] == money.stated_effect(*row.moved)
        return is_said and row.key == key and KEY_PARAMETER not in given

    def _proven(self) -> Iterator[list[bytes]]:
        with _opened(self.path) as file:
            file.readline(_MAX_HEAD)
            for number, wanted in enumerate(self.facts["blocks"]):
                lines = [line for line in (file.readline(_MAX_ROW) for _ in range(BLOCK)) if line]
                if _hash(lines) != wanted:
                    raise _changed(self.path, f"one of the rows {number * BLOCK + 1} to {number * BLOCK + len(lines)}")
                yield lines
            if file.read(1):
                raise _changed(self.path, "rows were added")


def open_plan(path: Path) -> Plan:
    """
    The plan in a file.

    Raises:
        NotSentError: it is none, or its head was changed since it was made.
    """
    with _opened(path) as file:
        line = file.readline(_MAX_HEAD)
    try:
        head = parsed(line.decode())
        kind, form, digest, scope = head["kind"], head["format"], head.pop("digest"), Scope(**head["scope"])
    except (ValueError, KeyError, TypeError, RecursionError):
        kind = None
    if kind != _KIND:
        raise NotSentError(f"The file {path} is no plan.", hint="'ocp-stripe-balance bulk plan' makes one of a list.")
    if form != _FORMAT:
        hint = f"Another version made it; this one reads format {_FORMAT}."
        raise NotSentError(f"The plan {path} has format {form}.", hint=hint)
    if digest != _digest(head) or not head.keys() >= _FACTS or head["tool"] not in {CREATE, REVERSE}:
        raise _changed(path, "its head")
    return Plan(path=path, digest=digest, tool=head["tool"], scope=scope, facts=head)


def write_plan(path: Path, scope: Scope, facts: dict[str, Any], rows: Iterable[PlannedRow], tool: str = CREATE) -> Plan:
    """
    Make a plan of rows, private, whole or not at all; a file that is there is never written over.

    Raises:
        NotSentError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with _created(unfinished) as spool:
            blocks, number = [], 0
            lines = (_line(row) for row in rows)
            while block := list(islice(lines, BLOCK)):
                spool.writelines(block)
                blocks.append(_hash(block))
                number += len(block)
        head = {"kind": _KIND, "format": _FORMAT, **facts, "tool": tool, "scope": scope._asdict()}
        head |= {"rows": number, "blocks": blocks}
        digest = _digest(head)
        with _created(path) as file, unfinished.open("rb") as spool:
            file.write(_to_json({**head, "digest": digest}))
            while part := spool.read(1 << 20):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if not isinstance(error, FileExistsError):
            path.unlink(missing_ok=True)
        hint = "Name a file that is not there yet, in a folder that is: --out."
        raise NotSentError(f"No plan was made at {path}: {error.strerror or error}.", hint=hint) from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    made = open_plan(path)
    if made.digest != digest:  # it is put on record as made here
        raise _changed(path, "another is in its place")
    return made


def refuse_existing(path: Path) -> None:
    """
    Look whether a plan may be made there: who runs one that is there already, has to find in it what they looked at.

    Raises:
        NotSentError: a file is there.
    """
    if path.exists():
        hint = "'ocp-stripe-balance bulk status' shows how far a plan is. Name another file for the new one: --out."
        raise NotSentError(f"Nothing was planned: {path} is there already.", hint=hint, next="stop_and_tell")


def digest_of(source: Path) -> str | None:
    """
    The SHA-256 of a list; None where it cannot be read.
    """
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def question_of(plan: Plan) -> Question:
    """
    What a person decides on who decides on the plan.
    """
    facts = plan.facts
    totals = tuple(Money(each["amount"], each["currency"]) for each in facts["sums"])
    effects = ", ".join(money.effect(*each) for each in totals)
    number = f"{plan.number:,} {'entry' if plan.number == 1 else 'entries'}"
    largest = ", ".join(money.to_text(each["largest"], each["currency"]) for each in facts["sums"])
    unusual = [
        f"line {each['line']}: {money.effect(each['amount'], each['currency'])} for {each['customer']}"
        for each in facts["far_from_median"]
    ]
    more = facts["outliers"] - len(unusual)
    shown = {
        "customers": f"{facts['customers']:,}",
        "currency": currency_fixed_by(plan),
        "largest": largest,
        "unusual": "; ".join([*unusual, *([f"and {more:,} more"] if more else [])]),
        "takes back": taken_back_by(plan),
        "list": "" if "reverses" in facts else facts["source"],
        "digest": plan.digest,
    }
    sums = [moved._asdict() for moved in totals]
    shown = {name: text for name, text in shown.items() if text}
    said = {"effect": f"{number}: {effects}", "reference": facts["reference"], "shown": shown, "sums": sums}
    return Question(plan.key, totals, json.dumps(said), one_spelling(facts["reference"] or "") or None)


def taken_back_by(plan: Plan) -> str:
    """
    Whose entries a plan takes back, where it does.
    """
    if "reverses" not in plan.facts:
        return ""
    campaign = plan.facts["campaign"]
    return f"what the plan {plan.facts['source']} paid" + (f" for {campaign}" if campaign else "")


def currency_fixed_by(plan: Plan) -> str:
    """
    What is told where entries give customers a currency, which nothing changes afterwards.
    """
    fixed = plan.facts["customers_without_currency"]
    rows = " and ".join(f"{currency} for good in {number:,}" for currency, number in fixed.items())
    return f"customers without one get {rows} of the {plan.number:,} rows" if rows else ""


def _row(facts: dict[str, Any]) -> PlannedRow:
    call = facts["call"]
    return PlannedRow(
        line=facts["line"],
        key=facts["key"],
        customer=call["customer"],
        moved=Money(call.get("amount", facts.get("amount")), call.get("currency", facts.get("currency"))),
        reference=call.get("reference", ""),
        parameters=call,
        is_billed=facts.get("billed", False),
    )


def _line(row: PlannedRow) -> bytes:
    facts: dict[str, Any] = {"line": row.line, "key": row.key, "call": row.parameters}
    if "amount" not in row.parameters:
        facts |= row.moved._asdict()
    return _to_json(facts | ({"billed": True} if row.is_billed else {}))


def _to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _digest(head: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()


def _hash(lines: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _created(path: Path) -> BinaryIO:
    """
    A new file that nobody else may read.
    """
    path.touch(mode=0o600, exist_ok=False)
    return path.open("wb")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        hint = "Pass the file that 'bulk plan' wrote."
        raise NotSentError(f"The plan {path} cannot be read: {error.strerror or error}.", hint=hint) from None


def _changed(path: Path, what: str) -> NotSentError:
    return NotSentError(f"The plan {path} is not as it was made: {what}.", hint=_ANEW, next="stop_and_tell")
