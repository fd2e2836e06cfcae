"""
What the rules add up is kept as totals: exact, whatever happens, and at the same cost however many calls there are.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import admit, draft, settle, verdict
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from places import Other, Place, Places, columns, look, settings_on_server

from ocp_stripe_balance._domain import Outcome, State
from ocp_stripe_balance._journal import Book, Journal, Lease, Record
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._journal.statements import migrations, statements
from ocp_stripe_balance._policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance._calls.call import Call

COUNTED = {State.SENDING, State.SUCCEEDED, State.UNKNOWN}
WINDOWS = [60.0, 600.0, 3600.0]
KINDS = ["customer", "user", "agent_type", "context", "all"]
POLICY = Policy(
    calls_per_minute=10**6,
    budgets=[
        {"per": "customer", "window": "30d", "credit": {"usd": "999999.00"}},
        {"per": "all", "window": "24h", "credit": {"usd": "999999.00"}},
    ],
)


def whose(record: Record, per: str) -> str:
    caller = record.intent.caller
    names = {"customer": record.intent.customer, "user": caller.user, "agent_type": caller.agent_type}
    return str({**names, "context": caller.context_id, "all": ""}[per] or "")


class Adding(RuleBasedStateMachine):
    """
    Rows that come, change and go on two connections, while the clock goes forward and back.

    Beside it the plain sum over all rows.
    """

    engine = "file"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.places = Places(self.engine, Path(self.folder.name))
        self.programs = [Other(self.places("journal")) for _ in range(2)]
        self.now = 1_800_000_000.0
        self.keys = 0
        self.allowed: list[float] = []

    def work(self, number: int, work: Callable[[Book], Any]) -> Any:
        return self.programs[number].work(work)

    @rule(
        number=st.integers(0, 1),
        amount=st.sampled_from([-500, -1, 1, 700]),
        customer=st.sampled_from(["a", "b"]),
        user=st.sampled_from(["ann", None]),
        currency=st.sampled_from(["usd", "eur"]),
        lease=st.floats(0, 700),
    )
    def call(self, number: int, amount: int, customer: str, user: str | None, currency: str, lease: float) -> None:
        self.keys += 1
        made = draft(f"k{self.keys}", amount, customer=customer, user=user, currency=currency)

        def insert(book: Book) -> None:
            book.note(made.intent, "allowed", self.now, rule="every rule", reason="")
            book.insert(made.intent, made.payload, Lease("owner", until=self.now + lease), self.now)

        self.work(number, insert)
        self.allowed.append(self.now)

    @rule(number=st.integers(0, 1), which=st.integers(0, 100), state=st.sampled_from(list(State)), late=st.booleans())
    def ends(self, number: int, which: int, state: State, late: bool) -> None:
        records = self.records()
        if records:
            record = records[which % len(records)]
            self.work(number, lambda book: book.settle(record, Outcome(state), self.now, is_found_later=late))

    @rule(number=st.integers(0, 1), which=st.integers(0, 100), goes=st.booleans())
    def begins_again(self, number: int, which: int, goes: bool) -> None:
        records = [record for record in self.records() if record.state.nothing_moved or not goes]
        if records:
            record = records[which % len(records)]
            lease = Lease("owner", until=self.now + 60)
            self.work(number, lambda book: book.delete(record) if goes else book.take_over(record, lease, self.now))

    @rule(number=st.integers(0, 1), ago=st.sampled_from([0.0, 100.0, 1000.0]))
    def prune(self, number: int, ago: float) -> None:
        before = self.now - ago
        self.work(number, lambda book: book.prune(before, self.now, with_references=True, keep_s=0.0))

    @rule(seconds=st.sampled_from([0.5, 7.0, 60.0, 61.0, 500.0, 4000.0, -3.0, -90.0, -5000.0]))
    def clock(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        number=st.integers(0, 1),
        windows=st.sets(st.sampled_from(WINDOWS), min_size=1),
        amount=st.sampled_from([-1, 1]),
        customer=st.sampled_from(["a", "b"]),
        currency=st.sampled_from(["usd", "eur"]),
    )
    def spent(self, number: int, windows: set[float], amount: int, customer: str, currency: str) -> None:
        """
        Also of windows that nobody asked for before: a policy may change at any time.
        """
        asked = draft("another", amount, customer=customer, user="ann", currency=currency).intent
        wanted = {"customer": customer, "user": "ann", "agent_type": "", "context": "c", "all": ""}
        counted = [
            record
            for record in self.records()
            if record.state in COUNTED
            and record.intent.money
            and record.intent.money.currency == currency
            and record.intent.money.amount * amount > 0
        ]
        expected = {
            (per, window): sum(
                abs(record.intent.money.amount)
                for record in counted
                if record.intent.money and record.spent_at > self.now - window and whose(record, per) == wanted[per]
            )
            for per in KINDS
            for window in windows
        }

        def work(book: Book) -> dict[tuple[str, float], int]:
            past = book.past(asked, self.now)
            return {(per, window): past.spent(per, window) for per, window in expected}

        assert expected == self.work(number, work)

    @rule(number=st.integers(0, 1))
    def calls_made(self, number: int) -> None:
        asked = draft("another").intent
        expected = sum(at > self.now - 60 for at in self.allowed)
        assert expected == self.work(number, lambda book: book.past(asked, self.now).calls_made(60.0))

    @invariant()
    def the_totals_are_what_the_rows_add_up_to(self) -> None:
        assert [] == self.work(0, lambda book: book.wrong_totals())

    def records(self) -> list[Record]:
        found: list[Record] = self.work(0, lambda book: book.calls())
        return found

    def teardown(self) -> None:
        for program in self.programs:
            program.close()
        self.places.close()
        self.folder.cleanup()


Adding.TestCase.settings = hypothesis_settings(max_examples=25, stateful_step_count=40, deadline=None)
TestAdding = Adding.TestCase


class AddingOnServer(Adding):
    engine = "postgres"


AddingOnServer.TestCase.settings = settings_on_server(Adding, max_examples=6)
TestAddingOnServer = AddingOnServer.TestCase


@pytest.mark.file_only("formats of before")
@pytest.mark.promise("closed.budget")
async def test_calls_of_a_journal_of_before_are_in_its_budgets_at_once(tmp_path: Path) -> None:
    """Rows that the first versions wrote count from the first call on."""
    now, path = 1_800_000_000.0, tmp_path / "journal"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, applied_at REAL NOT NULL)")
        for number, script in enumerate(migrations()[:2], 1):
            for statement in script:
                db.execute(statement)
            db.execute("INSERT INTO migrations VALUES (?, 0)", (number,))
        for number, ago in enumerate((3700, 3500, 100)):
            db.execute(
                "INSERT INTO calls (base_url, mode, account, key, tool, customer, amount, currency, arguments, path, "
                "body, api_version, context_id, state, is_final, attempts, created_at, updated_at, spent_at, owner, "
                "lease_until) VALUES ('https://s.test', 'test', '', ?, 't', 'a', -300, 'usd', '{}', '/', '', 'v', 'c', "
                "'succeeded', 1, 1, ?, ?, ?, '', 0)",
                (f"old-{number}", now - ago, now - ago, now - ago),
            )
    policy = Policy(budgets=[{"per": "customer", "window": "1h", "credit": {"usd": "10.00"}}])
    journal = Journal(path, clock=lambda: now)
    assert "refused" == verdict(await admit(journal, draft("over", -401, customer="a"), policy))
    assert "send" == verdict(await admit(journal, draft("within", -400, customer="a"), policy))
    await journal.aclose()


@pytest.mark.file_only("steps of SQLite's machine")
async def test_a_call_costs_the_same_with_a_hundred_calls_in_its_windows_and_with_ten_thousand() -> None:
    """Counted in steps of the database's machine, not in time: to be let through, and to be refused by a budget."""
    few, many = [await steps_of_calls(100), await steps_of_calls(10_000)]
    for name, steps in many.items():
        assert few[name] * 1.1 + 200 > steps, (name, few[name], steps)


async def steps_of_calls(number: int) -> dict[str, int]:
    """
    How many steps the database takes for a call of each kind after that many others like it.
    """
    databases: list[sqlite3.Connection] = []

    def opened(path: Path | None) -> sqlite3.Connection:
        databases.append(open_database(path))
        return databases[-1]

    clock = [1_800_000_000.0]
    journal = Journal(None, clock=lambda: clock[0], open_database=opened)

    async def send(call: Call) -> str:
        admitted = await admit(journal, call, POLICY)
        if verdict(admitted) == "send":
            await settle(journal, admitted.record, State.SUCCEEDED)
        return str(verdict(admitted))

    def call(key: str, customer: str, currency: str = "usd") -> Call:
        return draft(key, -1, key, customer=customer, currency=currency)

    for place in range(2):
        assert "send" == await send(call(f"first-{place}", "cus_much"))
    (db,) = databases
    names = [row[1] for row in db.execute("PRAGMA table_info(calls)") if row[1] != "id"]
    values = ", ".join({"key": "'old-' || n", "reference": "'old-' || n"}.get(name, f'"{name}"') for name in names)
    quoted = ", ".join(f'"{name}"' for name in names)
    db.execute(
        f"INSERT INTO calls ({quoted}) WITH RECURSIVE numbers (n) AS "  # noqa: S608  the table's own names
        "(SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
        f"SELECT {values} FROM (SELECT * FROM calls LIMIT 1), numbers",
        (number,),
    )
    decided = [row[1] for row in db.execute("PRAGMA table_info(decisions)") if row[1] != "number"]
    own = ", ".join(f'"{name}"' for name in decided)
    db.execute(
        f"INSERT INTO decisions ({own}) WITH RECURSIVE numbers (n) AS "  # noqa: S608  the table's own names
        "(SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
        f"SELECT {own} FROM (SELECT * FROM decisions LIMIT 1), numbers",
        (number,),
    )
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    found: dict[str, int] = {}
    db.set_progress_handler(step, 1)
    for name, wanted, made in (
        ("like many others", "send", call("x", "cus_much")),
        ("of a new customer", "send", call("y", "cus_new")),
        ("without a reference", "refused", draft("z", -1, customer="cus_much")),
        ("in another currency", "send", call("w", "cus_much", currency="eur")),
        ("over a budget", "refused", draft("v", -99_999_999, "v", customer="cus_much")),
    ):
        steps[0] = 0
        assert wanted == await send(made), name
        found[name] = steps[0]
    await journal.aclose()
    return found


async def test_who_is_refused_is_told_when_there_is_room_or_the_earliest_moment(place: Place) -> None:
    """Exactly where few calls lie between; not before some moment where there are more than are looked at."""
    now = [1_800_000_000.0]
    policy = Policy(duplicate_window="off", budgets=[{"per": "user", "window": "1h", "credit": {"usd": "10.00"}}])
    journal = Journal(place, clock=lambda: now[0])
    first = await admit(journal, draft("first", -1000, user="ann"), policy)
    await settle(journal, first.record, State.SUCCEEDED)
    now[0] += 60
    refused = await admit(journal, draft("second", -1, user="ann"), policy)
    assert (now[0] + 3540, True) == (refused.error.free_at and refused.finding.free_at, "is room" in str(refused.error))
    with look(place) as db:
        names = [name for name in columns(db) if name != "id"]
        other = {"key": "'old-' || n", "user": "'bob'", "spent_at": "spent_at - 1"}
        values = ", ".join(other.get(name, f'"{name}"') for name in names)
        quoted = ", ".join(f'"{name}"' for name in names)
        db.execute(
            f"INSERT INTO calls ({quoted}) WITH RECURSIVE numbers (n) AS "  # noqa: S608  the table's own names
            "(SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000) "
            f"SELECT {values} FROM (SELECT * FROM calls LIMIT 1) AS one, numbers"
        )
    refused = await admit(journal, draft("third", -1, user="ann"), policy)
    assert "Not before" in str(refused.error)
    assert refused.finding.free_at <= now[0] + 3540
    await journal.aclose()


@pytest.mark.file_only("plans in SQLite's words")
async def test_every_look_up_of_a_call_has_an_index(tmp_path: Path) -> None:
    """None walks through all calls, decisions or proposals."""
    with contextlib.closing(open_database(tmp_path / "journal")) as db:
        for name in (
            "look",
            "call_of_id",
            "decision_of_number",
            "proposal_of_number",
            "votes_of",
            "other_currency",
            "totals",
            "move_total",
            "move_count",
            "let_through",
            "settle",
            "take_over",
            "delete_call",
        ):
            nothing = dict.fromkeys(re.findall(r":(\w+)", statements()[name]))
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statements()[name]}", nothing)]
            assert not [line for line in plan if re.match("SCAN (calls|decisions|proposals|votes)", line)], name
