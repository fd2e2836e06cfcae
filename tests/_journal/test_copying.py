"""
Copying a journal into another, a file or a server each: all of it, once, however often it is interrupted.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from helpers import TOOL, admit, connect, decide, draft, ledger, order, proposals, run, settle
from places import look
from postgres import as_role, new_database
from programs import started

from ocp_stripe_balance import NotSentError, Policy, ToolError
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._journal.copying import Copying
from ocp_stripe_balance._journal.people import Account, People
from ocp_stripe_balance._text.database_url import DatabaseURL

if TYPE_CHECKING:
    from places import Place

    from ocp_stripe_balance.sandbox import Sandbox

POLICY = {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10.00"}}], "calls_per_minute": 1000}
TABLES = ("calls", "decisions", "proposals", "joined", "votes", "people", "visits", "totals", "totalled")
# A process that is killed when so many batches are written.
KILLED = """
import os, sys
from pathlib import Path
from ocp_stripe_balance._journal.copying import Copying
from ocp_stripe_balance._text.database_url import DatabaseURL
source, target = (DatabaseURL(each) if "://" in each else Path(each) for each in sys.argv[1:3])
for number, _ in enumerate(Copying(source, target, batch=4).steps(), 1):
    if number == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
"""


class Sides:
    """
    Places for a journal and its copy, with nothing in them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._number = folder, 0

    def new(self, engine: str) -> Place:
        self._number += 1
        return self.folder / f"{self._number}.sqlite3" if engine == "file" else DatabaseURL(new_database())


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def text(place: Place) -> str:
    return str(place) if isinstance(place, Path) else place.reveal()


def execute(place: Place, sql: str) -> list[dict[str, Any]]:
    """
    What a statement finds.
    """
    with look(place) as db:
        found = db.execute(sql)
        return [dict(zip(row.keys(), row, strict=True)) for row in found] if found.description else []


def rows(place: Place) -> dict[str, list[str]]:
    """
    All there is, in an order that both engines have, and true and false as numbers.
    """

    def spelt(row: dict[str, Any]) -> str:
        return repr({name: int(value) if isinstance(value, bool) else value for name, value in row.items()})

    return {table: sorted(map(spelt, execute(place, f"SELECT * FROM {table}"))) for table in TABLES}  # noqa: S608  ours


def come_in(people: People) -> None:
    """
    Somebody with a password, and somebody whom a provider knows and who was kept out.
    """
    people.add(Account("ana", "decides sees", "$argon2id$", None, None, 0.0, None))
    people.add(Account("bob", "sees", None, "https://op.example", "1", 0.0, None))
    people.disable("bob")
    people.note("signed in", "ana", how="password", address="::1")


async def filled(place: Place, keys: int = 7) -> None:
    """
    A journal with records of all kinds.
    """
    journal, queue = Journal(place), Policy.model_validate({"approval": {"above": {"usd": "1.00"}, "queue": True}})
    states = [*State, State.SENDING]
    await journal.run(lambda book: come_in(People(book.db, journal.now())))
    for number in range(keys):
        user = None if number % 2 else "Ada"
        call = draft(f"k{number}", -1 - number, f'ticket-{number} "ü" \\ 💶', user=user)
        admitted = await admit(journal, call, queue)
        state = states[number % len(states)]
        if state is not State.SENDING:
            await settle(journal, admitted.record, state, is_final=True)
    for key in ("asked", "joined"):  # the second joins the proposal of the first
        await admit(journal, draft(key, -500, "big", arguments=json.dumps(order("cus_1"))), queue)
    (asked,) = await proposals(journal)
    await decide(journal, asked.approve(by="ana", how="password"))
    await journal.aclose()
    body = r"'\x00ff'" if isinstance(place, DatabaseURL) else "X'00FF'"
    execute(place, f"UPDATE calls SET body = {body} WHERE key = 'k0'")  # noqa: S608  ours


def killed(source: Place, target: Place, batches: int) -> None:
    """
    A copy whose process is killed after so many batches.
    """
    words = [*started(), "-c", KILLED, text(source), text(target), str(batches)]
    assert -9 == subprocess.run(words, check=False).returncode  # noqa: S603  ours


ROUTES = [("file", "server"), ("server", "file"), ("file", "file"), ("server", "server")]


@pytest.mark.promise("once.one-reason")
@pytest.mark.parametrize(("first", "second"), ROUTES)
async def test_a_copy_is_whole_and_goes_on(
    first: str, second: str, sides: Sides, stripe: Sandbox, customer: str
) -> None:
    """Each row as it was; what was paid is not paid again, what was spent is spent, and new numbers are free."""
    source, target = sides.new(first), sides.new(second)
    await filled(source)
    async with await connect(stripe, journal=text(source), policy=POLICY) as agent:
        await agent.call_tool(TOOL, order(customer, -600, reference="ticket-1"))
    before, copying = rows(source), Copying(source, target, batch=3)
    assert all(before.values())
    steps = list(copying.steps())
    records = sum(len(before[table]) for table in TABLES[:-2])
    assert (records, records, records) == (*steps[-1], copying.proof.records)
    assert (True, before, before) == (copying.proof.is_whole, rows(target), rows(source))
    async with await connect(stripe, journal=text(target), policy=POLICY) as agent:
        assert (await agent.call_tool(TOOL, order(customer, -600, reference="ticket-1"))).replayed
        with pytest.raises(ToolError, match="budget"):
            await agent.call_tool(TOOL, order(customer, -401, reference="ticket-2"))
        await agent.call_tool(TOOL, order(customer, -100, reference="ticket-3"))
    assert [-100, -600] == [entry["amount"] for entry in await ledger(stripe, customer)]


@pytest.mark.promise("once.after-a-crash")
@pytest.mark.parametrize(("first", "second"), ROUTES[:2])
async def test_a_copy_that_was_killed_is_used_by_nobody_and_goes_on(first: str, second: str, sides: Sides) -> None:
    """Nothing is there twice; a call that was settled in between is settled in the copy."""
    source, target = sides.new(first), sides.new(second)
    await filled(source, keys=12)
    killed(source, target, batches=5)  # in the middle of the calls
    assert 0 < len(execute(target, "SELECT 1 FROM calls")) < 12
    journal = Journal(target)
    with pytest.raises(NotSentError, match="is a copy that is not whole yet"):
        await journal.run(lambda book: book.calls())
    await journal.aclose()
    execute(source, "UPDATE calls SET state = 'unknown' WHERE key = 'k0'")
    killed(source, target, batches=6)
    copying = Copying(source, target, batch=3)  # in other batches
    list(copying.steps())
    assert (True, rows(source)) == (copying.proof.is_whole, rows(target))
    assert [] == list(copying.steps()), "it is whole"
    assert copying.proof.is_whole


@pytest.mark.parametrize(("first", "second"), ROUTES[:2])
async def test_nobody_pays_by_a_journal_while_it_is_copied(
    first: str, second: str, sides: Sides, stripe: Sandbox, customer: str
) -> None:
    """It is told to wait; once the copy is given up, it goes on."""
    source = sides.new(first)
    await filled(source)
    with contextlib.closing(Copying(source, sides.new(second), batch=3).steps()) as steps:
        next(steps)
        async with await connect(stripe, journal=text(source), timeout=0.5) as agent:
            with pytest.raises(NotSentError):
                await agent.call_tool(TOOL, order(customer))
    async with await connect(stripe, journal=text(source)) as agent:
        await agent.call_tool(TOOL, order(customer))
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("engine", ["file", "server"])
async def test_a_place_with_other_calls_is_refused(engine: str, sides: Sides) -> None:
    """Used already, or a part of the copy of another journal; and a journal is no copy of itself."""
    source, used = sides.new("file"), sides.new(engine)
    await filled(source)
    await filled(used, keys=3)
    before, part = rows(used), sides.new(engine)
    with pytest.raises(NotSentError, match="records already"):
        list(Copying(source, used).steps())
    killed(used, part, batches=1)
    with pytest.raises(NotSentError, match="has a part of another journal"):
        list(Copying(source, part).steps())
    with pytest.raises(NotSentError, match="is the journal itself"):
        list(Copying(used, used).steps())
    assert before == rows(used)
    with pytest.raises(NotSentError, match="There is no journal"):
        list(Copying(sides.folder / "none", part).steps())


@pytest.mark.parametrize("engine", ["file", "server"])
async def test_what_else_is_in_a_copy_is_found_by_its_proof(engine: str, sides: Sides) -> None:
    """Written by somebody who had it open before; it stays marked, and the command says where they differ."""
    source, target = sides.new("file"), sides.new(engine)
    await filled(source)
    with contextlib.closing(Copying(source, target, batch=100).steps()) as steps:
        assert [True, True, True] == [next(steps)[0] > 0 for _ in range(3)]
    (call,) = execute(source, "SELECT * FROM calls WHERE key = 'k1'")
    names = [name for name in call if name not in {"id", "key", "user"}]
    execute(target, f"INSERT INTO calls (id, key, {', '.join(names)}) SELECT 99, 'x', {', '.join(names)} FROM calls "  # noqa: S608  ours
            "WHERE key = 'k1'")  # fmt: skip
    told = run("calls", "copy", text(source), text(target))
    assert 1 == told.returncode
    assert "The copy is not whole" in told.stderr
    assert " and " in told.stdout
    assert "not whole yet" in run("calls", "list", OCP_STRIPE_JOURNAL=text(target)).stderr


@pytest.mark.promise("once.one-reason")
@pytest.mark.parametrize("engine", ["file", "server"])
async def test_a_journal_with_as_many_calls_for_as_much_is_no_copy(engine: str, sides: Sides) -> None:
    """Who pays by it would pay again what the other one has."""
    places = sides.new("file"), sides.new(engine)
    for place, key in zip(places, ("ours", "theirs"), strict=True):
        journal = Journal(place)
        admitted = await admit(journal, draft(key, customer=f"cus_{key}"))
        await settle(journal, admitted.record, State.SUCCEEDED)
        await journal.aclose()
    with pytest.raises(NotSentError, match="has as many records already, which are others"):
        list(Copying(*places).steps())


async def test_a_call_of_who_had_the_copy_open_before_is_not_written_over(sides: Sides) -> None:
    """It may be under way."""
    source, target = sides.new("file"), sides.new("file")
    await filled(source)
    journal = Journal(target)
    await journal.run(lambda book: book.check())
    with contextlib.closing(Copying(source, target, batch=100).steps()) as steps:
        next(steps)  # the decisions
        await admit(journal, draft("other"))
        with pytest.raises(NotSentError, match="is used by others meanwhile"):
            list(steps)
    assert ["other"] == [record.key for record in await journal.run(lambda book: book.calls())]
    await journal.aclose()


async def test_the_command_tells_what_was_counted(sides: Sides) -> None:
    """In words and as JSON, and shows no password."""
    source, target = sides.new("file"), sides.new("server")
    await filled(source)
    url = as_role(text(target), str(urlsplit(text(target)).username), "secret")
    assert "secret" in url
    told = run("calls", "copy", text(source), url)
    assert "secret" not in told.stdout + told.stderr
    assert (0, "All 23 records are in the copy") == (told.returncode, told.stderr[:30])
    assert "calls      test  usd  succeeded" in told.stdout
    document = json.loads(run("calls", "copy", text(source), url, "--json").stdout)
    assert (True, 23, 0) == (document["is_whole"], document["records"], document["wrong_totals"])
    (paid,) = [each for each in document["counts"] if each["outcome"] == "succeeded"]
    assert (paid["number"], paid["amount"]) == (paid["copied"], paid["copied_amount"])
    for words in (("calls", "copy", url, url), ("calls", "copy", source.name, f"{url}#")):  # type: ignore[union-attr]  # a file
        told = run(*words)
        assert (2, False) == (told.returncode, "secret" in told.stdout + told.stderr)
