"""
Running a plan: each row once, whatever ends the run, and one approval for all of them.
"""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import UNGUARDED, connect, draft, ledger
from places import look

from ocp_stripe_balance import ApprovalRequiredError, NotSentError, PolicyRefusedError, Settings
from ocp_stripe_balance._calls.call import reversal_key
from ocp_stripe_balance._calls.many import Many
from ocp_stripe_balance._domain import Key, Money, Origin
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.bulk import Bulk, Common, Plan, open_plan, running
from ocp_stripe_balance.bulk import plan as plans
from ocp_stripe_balance.bulk.plan import PlannedRow, _digest, _hash, _to_json
from ocp_stripe_balance.bulk.report import Standing, _cells
from ocp_stripe_balance.bulk.running import Rows
from ocp_stripe_balance.errors import ConfigurationError, InvalidFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocp_stripe_balance._calls.many import OnRecord
    from ocp_stripe_balance.bulk import Run
    from ocp_stripe_balance.models import Answer, Proposal
    from ocp_stripe_balance.sandbox import Sandbox

CAMPAIGN = Common(reference="outage", direction="credit", currency="usd")
ASK: dict[str, Any] = {"approval": {"above": {"usd": "20.00"}, "queue": True}, "duplicate_window": "off"}


class Desk:
    """
    Somebody with a file of so many customers.
    """

    def __init__(self, stripe: Sandbox, folder: Path, number: int, **settings: Any) -> None:
        self.stripe, self.folder = stripe, folder
        self.customers = [stripe.create_customer() for _ in range(number)]
        self.source = folder / "in.csv"
        self.source.write_text("customer,amount\n" + "".join(f"{each},5.00\n" for each in self.customers))
        self.values = {"api_key": stripe.api_key, "api_base": stripe.url, "rate_limit": "off", **UNGUARDED}
        self.values |= {"journal": str(folder / "journal.sqlite3"), **settings}
        self.settings = Settings(**self.values)

    def bulk(self, **settings: Any) -> Bulk:
        return Bulk(Settings(**{**self.values, **settings}), user="ann")

    async def plan(self, name: str = "out.plan", common: Common = CAMPAIGN) -> Plan:
        async with self.bulk() as bulk:
            return await bulk.plan(self.source, self.folder / name, common=common)

    async def run(self, plan: Plan, settings: dict[str, Any] | None = None, **given: Any) -> Run:
        async with self.bulk(**(settings or {})) as bulk:
            made = await bulk.run(plan, **given)
            async for result in made:
                assert result.row.customer in self.customers
            return made

    async def became(self, plan: Plan) -> dict[str, int]:
        async with self.bulk() as bulk:
            return {became: number for became, number in (await bulk.status(plan)).rows.items() if number}

    async def paid(self) -> list[list[int]]:
        return [[each["amount"] for each in await ledger(self.stripe, customer)] for customer in self.customers]

    def posts(self) -> int:
        return sum(each.method == "POST" for each in self.stripe.requests)


@pytest.fixture
def desk(stripe: Sandbox, tmp_path: Path) -> Desk:
    return Desk(stripe, tmp_path, 5)


async def test_each_row_is_paid_once_however_often_the_plan_is_run_or_made(desk: Desk) -> None:
    plan = await desk.plan()
    assert {"to_do": 5} == await desk.became(plan)
    assert {"succeeded": 5} == dict((await desk.run(plan)).done)
    assert [[-500]] * 5 == await desk.paid()
    assert {"succeeded": 5} == await desk.became(plan)
    again = await desk.plan("again.plan")
    assert 5 == again.facts["paid_already"]
    for each in (plan, again):
        assert {} == dict((await desk.run(each)).done)
    assert 5 == desk.posts()


async def test_a_run_goes_on_where_one_was_limited(desk: Desk) -> None:
    plan = await desk.plan()
    first = await desk.run(plan, limit=2)
    assert ("the limit of rows is reached", {"succeeded": 2}) == (first.stopped, dict(first.done))
    second = await desk.run(plan, limit=3)
    assert (None, {"succeeded": 3}) == (second.stopped, dict(second.done))
    assert [[-500]] * 5 == await desk.paid()


async def test_what_is_open_is_found_out_first_and_under_its_own_key(desk: Desk) -> None:
    plan = await desk.plan()
    desk.stripe.faults.add("reset", path="balance", executed=True)
    desk.stripe.faults.add("reset", path="balance")  # of the look into the ledger
    first = await desk.run(plan, {"max_attempts": 1}, limit=1)
    assert {"unknown": 1} == dict(first.done)
    assert {"to_do": 4, "unknown": 1} == await desk.became(plan)
    desk.stripe.requests.clear()
    assert {"succeeded": 5} == dict((await desk.run(plan)).done)
    keys = [each.header("Idempotency-Key") for each in desk.stripe.requests if each.method == "POST"]
    (block,) = plan.blocks()
    assert block[0].key == keys[0]
    assert [[-500]] * 5 == await desk.paid()


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """
    The keys that were looked up together, of blocks of two rows.
    """
    found: list[Sequence[str]] = []
    real = Many.look_up

    async def look_up(many: Many, keys: Sequence[str], **more: bool) -> list[OnRecord]:
        found.append(keys)
        return await real(many, keys, **more)

    monkeypatch.setattr(Many, "look_up", look_up)
    monkeypatch.setattr(plans, "BLOCK", 2)
    return found


async def test_rows_that_have_ended_are_not_looked_up_again(desk: Desk, looked_up: list[Sequence[str]]) -> None:
    plan = await desk.plan()
    await desk.run(plan)
    *_, third = [[row.key for row in block] for block in plan.blocks()]
    looked_up.clear()
    with look(desk.folder / "journal.sqlite3") as db:
        db.execute("UPDATE calls SET state = 'unknown', is_final = 0 WHERE key = ?", third)
    assert {"succeeded": 1} == dict((await desk.run(plan)).done)
    assert [third] == looked_up
    assert [[-500]] * 5 == await desk.paid()


async def test_rows_that_another_process_is_at_keep_no_others_waiting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, looked_up: list[Sequence[str]]
) -> None:
    """Those around them are left to it, and looked at again at the end; no others are."""
    monkeypatch.setattr(running, "_OTHERS_S", 0)
    plan = await desk.plan()
    await desk.run(plan, limit=1)
    looked_up.clear()
    under_way = "UPDATE calls SET state = ?, is_final = ?, owner = 'other', lease_until = ?"
    with look(desk.folder / "journal.sqlite3") as db:
        db.execute(under_way, ("sending", 0, 1e11))
    async with desk.bulk() as bulk, asyncio.timeout(5):
        results = aiter(await bulk.run(plan))
        assert set(desk.customers[2:]) == {(await anext(results)).row.customer for _ in range(3)}
        with look(desk.folder / "journal.sqlite3") as db:
            db.execute(f"{under_way} WHERE state = 'sending'", ("succeeded", 1, 0))
        assert desk.customers[1:2] == [result.row.customer async for result in results]
    first, *others = [[row.key for row in block] for block in plan.blocks()]
    assert [1, 1] == [looked_up.count(keys) for keys in others]
    assert [first[:1], first, first[1:]] == [keys for keys in looked_up if keys not in others]
    assert [[-500]] * 5 == await desk.paid()


async def test_run_pauses_where_too_many_rows_fail(stripe: Sandbox, tmp_path: Path) -> None:
    """After a score of rows, whatever the reason; and goes on once that is mended."""
    desk = Desk(stripe, tmp_path, 60)
    plan = await desk.plan()
    stripe.faults.add("bad_gateway", path="balance", times=None)
    made = await desk.run(plan, {"max_attempts": 1})
    assert made.stopped is not None
    assert made.stopped.startswith("20 of the last 20 rows failed; the last one: The outcome is unknown")
    assert 60 > made.done["unknown"] == 60 - (await desk.became(plan))["to_do"]
    stripe.faults.clear()
    assert {"succeeded": 60} == dict((await desk.run(plan)).done)
    assert [[-500]] * 60 == await desk.paid()


async def test_run_stops_where_stripe_does_not_let_the_key_do_it(desk: Desk) -> None:
    plan = await desk.plan()
    made = await desk.run(plan, {"api_key": desk.stripe.read_only_key})
    assert made.stopped is not None
    assert "Stripe does not let this API key do it" in made.stopped
    assert [[]] * 5 == await desk.paid()


async def test_rows_that_failed_are_run_alone_where_that_is_wanted(desk: Desk) -> None:
    plan = await desk.plan()
    denied = {"policy": {"customers": {"deny": desk.customers[:1]}}}
    first = await desk.run(plan, denied, limit=2)
    assert {"not_sent": 1, "succeeded": 1} == dict(first.done)
    assert {"refused": 1, "succeeded": 1, "to_do": 3} == await desk.became(plan)
    assert {"succeeded": 1} == dict((await desk.run(plan, only_failed=True)).done)
    assert {"succeeded": 2, "to_do": 3} == await desk.became(plan)


async def test_run_waits_where_the_policy_has_a_rate(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is lost to calls_per_minute: the run waits until the minute is over."""
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds > 5:
            waits.append(seconds)
            with look(desk.folder / "journal.sqlite3") as db:
                db.execute("UPDATE decisions SET at = at - 61")
                db.execute("DELETE FROM totalled")
                db.execute("DELETE FROM totals")
        await real(0 if seconds > 5 else seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    policy = {"calls_per_minute": 3, "duplicate_window": "off"}
    assert {"succeeded": 5} == dict((await desk.run(await desk.plan(), {"policy": policy})).done)
    assert 50 < max(waits) <= 61


async def test_row_that_only_waited_for_the_rate_is_still_to_do(desk: Desk) -> None:
    plan = await desk.plan()
    policy = {"calls_per_minute": 1, "duplicate_window": "off"}
    async with await connect(desk.stripe, **{**desk.values, "policy": policy}) as agent:
        await agent.credit(desk.customers[0], "5.00", "usd", reference="outage")
        with pytest.raises(PolicyRefusedError, match="calls were made within the last minute"):
            await agent.credit(desk.customers[1], "5.00", "usd", reference="outage")
    assert {"succeeded": 1, "to_do": 4} == await desk.became(plan)
    assert {} == dict((await desk.run(plan, only_failed=True)).done)


async def test_cancelled_run_says_how_far_it_is(stripe: Sandbox, tmp_path: Path) -> None:
    """What may have been sent is waited for, the rest is not sent, and all of it is on record."""
    desk = Desk(stripe, tmp_path, 40)
    plan = await desk.plan()
    results = []
    async with desk.bulk() as bulk:
        made = await bulk.run(plan)

        async def follow() -> None:
            async for result in made:
                results.append(result)
                if len(results) == 1:
                    following.cancel()

        following = asyncio.create_task(follow())
        await following
    assert "it was interrupted" == made.stopped
    assert {"succeeded"} == set(made.done)
    became = await desk.became(plan)
    assert len(results) == became["succeeded"] == sum(map(len, await desk.paid())) < 40
    assert {"succeeded": 40} == {"succeeded": became["succeeded"] + (await desk.run(plan)).done["succeeded"]}


async def test_plan_for_another_place_is_not_run(desk: Desk) -> None:
    plan = await desk.plan()
    for other in ({"account": "acct_1"}, {"api_key": "sk_live_planted0key"}, {"api_base": "https://s.test"}):
        with pytest.raises(NotSentError, match="The plan is for another place"):
            await desk.run(plan, other)
    assert 0 == desk.posts()


# One approval


async def waiting(desk: Desk, plan: Plan, **policy: Any) -> str:
    with pytest.raises(
        ApprovalRequiredError, match=r"the plan waits for a person's approval, because 25\.00 usd"
    ) as caught:
        await desk.run(plan, {"policy": {**ASK, **policy}})
    return caught.value.proposal_id


async def decide(desk: Desk, proposal: str, *, is_yes: bool = True) -> None:
    async with BackOffice(desk.settings) as office:
        found = await office.proposal(proposal)
        answer = found.approve(by="Bea") if is_yes else found.deny(by="Bea", reason="too much")
        await office.decide(answer)


async def test_plan_is_approved_once_for_all_its_rows(desk: Desk) -> None:
    """It waits in the queue with what a person needs, and nothing is sent before; each row says who approved it."""
    plan = await desk.plan()
    proposal = await waiting(desk, plan)
    assert proposal == await waiting(desk, plan)
    async with BackOffice(desk.settings) as office:
        shown = (await office.proposal(proposal)).describe()
    for line in (
        "5 entries: credit 25.00 usd (test mode)",
        "customers   5",
        "largest     5.00 usd",
        plan.digest,
        "outage",
    ):
        assert line in shown
    assert 0 == desk.posts()
    await decide(desk, proposal)
    assert {"succeeded": 5} == dict((await desk.run(plan, {"policy": ASK})).done)
    async with BackOffice(desk.settings) as office:
        allowed = {(each.who, each.rule) for each in await office.decisions() if each.decision == "allowed"}
    assert {("Bea", "approval.above.usd")} == allowed


@pytest.mark.promise("closed.people")
async def test_sum_of_a_plan_is_what_two_people_decide_on(desk: Desk) -> None:
    """Also where it was approved by one before the policy wanted two, and never by who made it."""
    plan = await desk.plan()
    people = {"two_people_above": {"usd": "24.00"}, "not_by_requester": True}
    strict = {"policy": {**ASK, "approval": {**ASK["approval"], **people}}}
    await decide(desk, await waiting(desk, plan))
    for said in (r"1 more person \(Bea approved it\)", "1 more person"):
        with pytest.raises(ApprovalRequiredError, match=said) as caught:
            await desk.run(plan, strict)
    assert 0 == desk.posts()
    async with BackOffice(Settings(**{**desk.values, **strict})) as office:
        found = await office.proposal(caught.value.proposal_id)
        assert "ann@host asked for it, and who asks may not approve" == office.objection(found, "ann@host")
        await office.decide(found.approve(by="Cleo"))
    assert {"succeeded": 5} == dict((await desk.run(plan, strict)).done)
    async with BackOffice(desk.settings) as office:
        assert {"Bea and Cleo"} == {each.who for each in await office.decisions() if each.decision == "allowed"}


async def test_yes_is_for_that_plan_and_not_for_another(desk: Desk) -> None:
    """Not for the same rows under another reason, nor for a call beside it, nor for a row that is not proven."""
    await decide(desk, await waiting(desk, await desk.plan()))
    await waiting(desk, await desk.plan("other.plan", Common(reference="other", direction="credit", currency="usd")))
    with pytest.raises(ApprovalRequiredError, match="the call waits"):
        async with await connect(desk.stripe, **{**desk.values, "policy": ASK}) as agent:
            await agent.credit(desk.customers[0], "25.00", "usd", reference="outage")
    assert 0 == desk.posts()


@pytest.mark.promise("once.origin")
async def test_yes_to_a_call_with_a_plans_name_for_its_key_is_none_to_the_plan(desk: Desk) -> None:
    """Neither before it is run, nor where the plan's own approval ends meanwhile."""
    policy = {"policy": {**ASK, "approval": {"always": True, "queue": True}}}

    async def approve_call(key: str) -> None:
        async with await connect(desk.stripe, **{**desk.values, **policy}) as agent:
            with pytest.raises(ApprovalRequiredError) as caught:
                await agent.credit(desk.customers[0], "0.01", "usd", idempotency_key=key)
        await decide(desk, caught.value.proposal_id)

    early, late = await desk.plan(), await desk.plan("late.plan")
    await approve_call(early.key)
    await waiting(desk, early)
    await decide(desk, await waiting(desk, late))
    async with desk.bulk(**policy) as bulk:
        made = await bulk.run(late)
        with look(desk.folder / "journal.sqlite3") as db:
            db.execute("UPDATE proposals SET expires_at = 1")
        await approve_call(late.key)
        assert {"not_sent"} == {result.outcome async for result in made}
    assert 0 == desk.posts()


def forged(plan: Plan, change: Callable[[dict[str, Any]], object], **more: Any) -> Plan:
    """
    The plan with other rows under the head that a person reads, its hashes made anew; of *more*, None takes away.
    """
    lines = [json.loads(line) for line in plan.path.read_bytes().splitlines()]
    for row in lines[1:]:
        change(row)
    rows = [_to_json(row) for row in lines[1:]]
    head = {**lines[0], "blocks": [_hash(rows)], **more}
    for name in ("digest", *(name for name, value in more.items() if value is None)):
        del head[name]
    plan.path.write_bytes(_to_json({**head, "digest": _digest(head)}) + b"".join(rows))
    return open_plan(plan.path)


@pytest.mark.parametrize("says_otherwise", [{}, {"amount": -500, "currency": "usd"}], ids=["call", "row"])
async def test_nobody_is_asked_about_sums_that_are_not_those_of_the_rows(
    desk: Desk, says_otherwise: dict[str, Any]
) -> None:
    """A plan whose hashes are right may still tell a person less than its rows move."""

    def change(row: dict[str, Any]) -> None:
        row.update(says_otherwise)
        row["call"]["amount"] = -90000

    plan = forged(await desk.plan(), change)
    with pytest.raises(NotSentError, match="not as it was made: its head says other sums than its rows"):
        await waiting(desk, plan)
    async with BackOffice(desk.settings) as office:
        assert [] == await office.proposals()


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "the key of another": lambda row: row.update(key=row["key"][:-3] + row["key"][:3]),
    "no key": lambda row: row.update(key=None),
    "NUL in the key": lambda row: row.update(key="\0"),
    "a name of its own for the call": lambda row: row["call"].update(idempotency_key="own"),
    "twice": lambda row: row.update(TWICE),
    "no call": lambda row: row.pop("call"),
}
TWICE: dict[str, Any] = {}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
async def test_no_row_is_believed_that_does_not_say_what_it_makes(
    desk: Desk, change: Callable[[dict[str, Any]], object]
) -> None:
    """Else it would be told as paid that another one was, or as to do for ever."""
    plan = await desk.plan()
    TWICE.update(json.loads(plan.path.read_bytes().splitlines()[1]))
    with pytest.raises(NotSentError, match="not as it was made: a row says"):
        await desk.run(forged(plan, change))
    assert 0 == desk.posts()


async def test_plan_that_takes_back_says_what_it_takes(desk: Desk) -> None:
    """A person would be told less than its rows move: of how much an entry is, the row's own words are the proof."""
    plan = await desk.plan()
    await desk.run(plan)
    async with desk.bulk() as bulk:
        back = await bulk.reverse(plan, desk.folder / "back.plan")
    kept, sums = back.path.read_bytes(), [{**back.facts["sums"][0], "amount": 5, "largest": 1}]
    for effect in ("debit 5.00 usd", None):

        def change(row: dict[str, Any], effect: str | None = effect) -> None:
            row.update(amount=1)
            row["call"].update(stated_effect=effect)

        back.path.write_bytes(kept)
        with pytest.raises(NotSentError, match="not as it was made: a row says"):
            await desk.run(forged(back, change, sums=sums))
    back.path.write_bytes(kept)
    assert {"succeeded": 5} == dict((await desk.run(back, {"journal": str(desk.folder / "other")})).done)


@pytest.mark.parametrize("head", [{"tool": "getBalanceCalls"}, {"sums": None}])
async def test_no_head_is_believed_that_no_plan_has(desk: Desk, head: dict[str, Any]) -> None:
    plan = await desk.plan()
    with pytest.raises(NotSentError, match="not as it was made: its head"):
        forged(plan, lambda _: None, **head)


async def test_what_a_plan_says_of_customers_is_taken_only_where_it_was_made_here(desk: Desk) -> None:
    """Who may run plans cannot write one that keeps the customers from being looked at."""
    plan = await desk.plan()
    async with await connect(desk.stripe) as agent:
        await agent.credit(desk.customers[0], "1.00", "eur", reference="before")
    made = await desk.run(forged(plan, lambda row: row.update(billed=True)), {"customer_check": "on"})
    assert {"not_sent": 1, "succeeded": 4} == dict(made.done)
    assert [100] == [abs(amount) for amount in (await desk.paid())[0]]


async def test_audit_says_who_made_a_plan_and_who_ran_it(desk: Desk) -> None:
    plan = await desk.plan()
    await desk.run(plan, limit=1)
    async with BackOffice(desk.settings) as office:
        _, decided = await office.call(plan.key)
    assert [(word, "ann", "5 entries: credit 25.00 usd") for word in ("planned", "begun")] == [
        (each.decision, each.who, each.reason) for each in decided
    ]


async def test_a_no_stands_and_a_yes_is_over_in_time(desk: Desk) -> None:
    plan = await desk.plan()
    await decide(desk, await waiting(desk, plan), is_yes=False)
    with pytest.raises(PolicyRefusedError, match="Bea denied it: too much"):
        await desk.run(plan, {"policy": ASK})
    other = await desk.plan("other.plan", Common(reference="other", direction="credit", currency="usd"))
    first = await waiting(desk, other)
    await decide(desk, first)
    with look(desk.folder / "journal.sqlite3") as db:
        db.execute("UPDATE proposals SET expires_at = 1 WHERE id = ?", (first,))
    assert first != await waiting(desk, other)
    assert 0 == desk.posts()


async def test_approval_that_ends_while_the_plan_runs_stops_it(desk: Desk) -> None:
    """No row is put to a person on its own: the plan is, when it is run again."""
    policy = {"policy": {**ASK, "approval": {"always": True, "queue": True}}}
    plan = await desk.plan()
    with pytest.raises(ApprovalRequiredError) as caught:
        await desk.run(plan, policy)
    await decide(desk, caught.value.proposal_id)
    async with desk.bulk(**policy) as bulk:
        made = await bulk.run(plan)
        with look(desk.folder / "journal.sqlite3") as db:
            db.execute("UPDATE proposals SET expires_at = 1")
        results = [result async for result in made]
    assert {"not_sent"} == {each.outcome for each in results}
    assert "the plan is not approved, or its approval is over." == made.stopped
    async with BackOffice(desk.settings) as office:
        assert 1 == len(await office.proposals())
    assert 0 == desk.posts()


async def test_the_other_rules_hold_for_each_row_of_an_approved_plan(desk: Desk) -> None:
    """Limits, budgets, and a no that a person gave about a customer before."""
    plan = await desk.plan()
    first, second = desk.customers[:2]
    async with await connect(
        desk.stripe, **{**desk.values, "policy": {"approval": {"always": True, "queue": True}}}
    ) as agent:
        with pytest.raises(ApprovalRequiredError) as caught:
            await agent.credit(first, "5.00", "usd", reference="before")
    await decide(desk, caught.value.proposal_id, is_yes=False)
    await decide(desk, await waiting(desk, plan))
    budgets = [{"per": "all", "window": "24h", "credit": {"usd": "15.00"}}]
    made = await desk.run(plan, {"policy": {**ASK, "budgets": budgets, "customers": {"deny": [second]}}}, max_failed=1)
    assert {"succeeded": 3, "not_sent": 2} == dict(made.done)
    assert [[], [], [-500], [-500], [-500]] == await desk.paid()
    async with BackOffice(desk.settings) as office:
        assert ["denied before"] == [each.rule for each in await office.proposals() if each.state == "waiting"]


async def test_who_has_no_queue_and_nobody_to_ask_is_refused(desk: Desk) -> None:
    plan = await desk.plan()
    policy = {"approval": {"above": {"usd": "20.00"}}}
    with pytest.raises(PolicyRefusedError, match="and nobody can be asked"):
        await desk.run(plan, {"policy": policy})
    asked: list[str] = []

    async def approver(proposal: Proposal) -> Answer | None:
        asked.append(proposal.effect)
        return proposal.approve(by="Bea") if len(asked) > 1 else proposal.deny(by="Bea", reason="no")

    with pytest.raises(PolicyRefusedError, match="Bea did not send it"):
        await desk.run(plan, approver=approver, asks_always=True)
    await desk.run(plan, approver=approver, asks_always=True)
    assert ["5 entries: credit 25.00 usd"] * 2 == asked
    assert [[-500]] * 5 == await desk.paid()


# What became of it


async def test_report_says_what_became_of_each_row(desk: Desk) -> None:
    """As CSV that no spreadsheet takes for formulas."""
    first, second = desk.customers[:2]
    desk.source.write_text(f"customer,amount,reference\n{first},5.00,a\n{second},1234.00,b\n{first},1.00,c\n")
    plan = await desk.plan()
    policy = {"limits": {"credit": {"usd": "20.00"}}, "duplicate_window": "off"}
    async with desk.bulk(policy=policy) as bulk:
        async for _ in await bulk.run(plan, limit=2):
            pass
        target = desk.folder / "report.csv"
        status = await bulk.report(plan, target)
    with target.open(encoding="utf-8-sig", newline="") as file:
        paid, refused, left = csv.DictReader(file)
    assert ("2", "credit", "5.00", "usd", "a", "succeeded") == tuple(paid.values())[:1] + tuple(paid.values())[2:7]
    assert paid["entry"].startswith("cbtxn_")
    assert ("1234.00", "refused", "") == (refused["amount"], refused["outcome"], refused["entry"])
    assert "more than the 20.00 usd allowed for one call (limits.credit.usd)" in refused["reason"]
    assert ("to_do", "", "") == (left["outcome"], left["reason"], left["at"])
    assert {"succeeded": 1, "refused": 1, "to_do": 1} == dict(status.rows)
    assert 123400 == status.amounts["refused", "credit", "usd"]
    assert 0o600 == target.stat().st_mode & 0o777


async def test_report_is_not_written_over_the_plan_its_list_or_the_journal(desk: Desk) -> None:
    plan, link = await desk.plan(), desk.folder / "link"
    await desk.run(plan)
    link.symlink_to("journal.sqlite3")
    async with desk.bulk() as bulk:
        for target in (plan.path, desk.source, link):
            with pytest.raises(NotSentError, match="is the plan, its list or the journal itself"):
                await bulk.report(plan, target)
    assert {"succeeded": 5} == await desk.became(plan)


async def test_a_row_that_was_changed_anywhere_stops_a_run_before_the_first(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a plan that was made here, whose sums are not added up again."""
    monkeypatch.setattr(plans, "BLOCK", 2)
    plan = await desk.plan()
    plan.path.write_bytes(plan.path.read_bytes().replace(b'"line":6', b'"line":7'))
    with pytest.raises(NotSentError, match="one of the rows 5 to 5"):
        await desk.run(plan)
    assert 0 == desk.posts()


async def test_report_that_cannot_be_finished_leaves_the_last_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a report would say less than was paid; one into a pipe or a device is written as it comes."""
    monkeypatch.setattr(plans, "BLOCK", 2)
    plan, target, link = await desk.plan(), desk.folder / "report.csv", desk.folder / "link"
    link.symlink_to(target.name)
    async with desk.bulk() as bulk:
        await bulk.report(plan, link)
        whole, names = target.read_bytes(), sorted(desk.folder.iterdir())
        kept = plan.path.read_bytes()
        plan.path.write_bytes(kept[:-2])
        with pytest.raises(NotSentError, match="one of the rows 5 to 5"):
            await bulk.report(plan, link)
        assert (whole, names) == (target.read_bytes(), sorted(desk.folder.iterdir()))
        plan.path.write_bytes(kept)
        with pytest.raises(NotSentError, match="No report was written to /dev/full: No space left"):
            await bulk.report(plan, Path("/dev/full"))


def test_report_has_no_text_that_begins_a_formula() -> None:
    row = PlannedRow(1, "k", "cus_1", Money(-500, "usd"), "\n=1+1", {}, is_billed=False)
    for begin in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20":  # the last four are wide, as some spreadsheets take them too
        assert f"'{begin}1" in _cells(Standing(row, "not_sent", reason=f"{begin}1"))


async def test_row_with_as_much_metadata_as_stripe_takes_can_be_run(stripe: Sandbox, tmp_path: Path) -> None:
    """Each character of it takes twelve bytes in the plan."""
    desk = Desk(stripe, tmp_path, 2)
    common = dataclasses.replace(CAMPAIGN, metadata={f"k{number}": "💶" * 500 for number in range(48)})
    assert {"succeeded": 2} == dict((await desk.run(await desk.plan(common=common))).done)


async def test_report_says_which_entry_gave_a_customer_a_currency(desk: Desk) -> None:
    plan = await desk.plan()
    await desk.run(plan, {"customer_check": "on"}, limit=1)
    async with desk.bulk() as bulk:
        await bulk.report(plan, desk.folder / "report.csv")
    assert f"{desk.customers[0]} had no currency, and this entry made it usd for good" in (
        desk.folder / "report.csv"
    ).read_text("utf-8-sig")


async def test_what_was_paid_is_taken_back_once(desk: Desk) -> None:
    """By a plan of its own; of what was not paid, nothing is taken back."""
    plan = await desk.plan()
    await desk.run(plan, limit=3)
    async with desk.bulk() as bulk:
        opposite = await bulk.reverse(plan, desk.folder / "back.plan")
        assert [Money(500, "usd")] * 3 == [row.moved for block in opposite.blocks() for row in block]
        for _ in range(2):
            async for result in await bulk.run(opposite):
                assert "succeeded" == result.outcome
        with pytest.raises(NotSentError, match=r"out\.plan has nothing left to take back"):
            await bulk.reverse(plan, desk.folder / "again.plan")
        assert "takes back  what the plan out.plan paid for outage" in await asked(bulk, opposite)
        assert 3 == (await bulk.report(plan, desk.folder / "report.csv")).taken_back
        with pytest.raises(NotSentError, match=r"back\.plan takes entries back itself"):
            await bulk.reverse(opposite, desk.folder / "third.plan")
    assert [[500, -500]] * 3 + [[]] * 2 == await desk.paid()
    with (desk.folder / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(await ledger(desk.stripe, name))[0]["id"] for name in desk.customers[:3]] + [""] * 2 == [
        row["reversed_by"] for row in rows
    ]


async def asked(bulk: Bulk, plan: Plan) -> str:
    """
    What a person is shown of a plan.
    """
    shown: list[str] = []

    async def approver(proposal: Proposal) -> Answer | None:
        shown.append(proposal.describe())
        return proposal.approve(by="Bea")

    await bulk.run(plan, approver=approver, asks_always=True)
    return shown[0]


async def test_what_the_policy_does_not_let_be_taken_back_is_said_once(desk: Desk) -> None:
    """In words for people with a file, who made no call."""
    plan = await desk.plan()
    await desk.run(plan)
    async with desk.bulk(policy={"directions": ["credit"]}) as bulk:
        with pytest.raises(InvalidFileError) as caught:
            await bulk.reverse(plan, desk.folder / "back.plan")
    (said,) = map(str, caught.value.problems)
    assert "debits: the policy allows none (directions); a person can plan and run them under a policy that" in said
    assert str(caught.value).startswith(
        "Nothing was planned, and nothing was sent: the entries cannot all be taken back"
    )
    assert "the list" not in str(caught.value)


async def test_entries_are_taken_back_where_the_policy_demands_what_a_reversal_says(desk: Desk) -> None:
    """It has a description and a reference of its own; of metadata, what is said for all."""
    plan = await desk.plan()
    await desk.run(plan, limit=1)
    require = {"description": True, "reference": True, "stated_effect": True, "metadata": ["reason"]}
    async with desk.bulk(policy={"require": require}) as bulk:
        with pytest.raises(InvalidFileError, match=r"the policy demands metadata\.reason"):
            await bulk.reverse(plan, desk.folder / "back.plan")
        opposite = await bulk.reverse(plan, desk.folder / "back.plan", metadata={"reason": "by mistake"})
        async for result in await bulk.run(opposite):
            assert "succeeded" == result.outcome
    assert [500, -500] == (await desk.paid())[0]
    assert "by mistake" == (await ledger(desk.stripe, desk.customers[0]))[0]["metadata"]["reason"]


async def test_nothing_that_was_not_paid_is_taken_back(desk: Desk) -> None:
    plan = await desk.plan()
    async with desk.bulk() as bulk:
        with pytest.raises(NotSentError, match=r"the plan .*out\.plan has made no entries"):
            await bulk.reverse(plan, desk.folder / "back.plan")


async def test_row_whose_error_stripe_stores_is_found_in_the_ledger(desk: Desk) -> None:
    """The same key is told the same error for a day, while the entry is there."""
    plan = await desk.plan()
    desk.stripe.faults.add("server_error_stored", path="balance", executed=True)
    assert {"succeeded": 5} == dict((await desk.run(plan)).done)
    assert [[-500]] * 5 == await desk.paid()


def test_no_bulk_without_a_journal(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="it is what says who was paid"):
        desk.bulk(journal="off")


async def test_what_the_policy_demands_of_each_row_can_be_said_for_all(desk: Desk) -> None:
    """A reason code for the batch, a row's own where it has one, and the effect in words."""
    policy = {"require": {"metadata": ["reason"], "stated_effect": True, "reference": True}, "duplicate_window": "off"}
    first, second = desk.customers[:2]
    desk.source.write_text(f"customer,amount,metadata.reason\n{first},5.00,late\n{second},5.00,\n")
    async with desk.bulk(policy=policy) as bulk:
        with pytest.raises(InvalidFileError, match=r"line 3: would be refused: the policy demands metadata\.reason"):
            await bulk.plan(desk.source, desk.folder / "out.plan", common=CAMPAIGN)
        common = Common(reference="outage", direction="credit", currency="usd", metadata={"reason": "outage"})
        async for result in await bulk.run(await bulk.plan(desk.source, desk.folder / "out.plan", common=common)):
            assert "succeeded" == result.outcome
    assert ["late", "outage"] == [
        (await ledger(desk.stripe, customer))[0]["metadata"]["reason"] for customer in (first, second)
    ]


async def test_a_call_is_a_row_only_where_it_says_the_same(desk: Desk) -> None:
    """Under its key, for its customer, of its amount, and while it is under way."""
    plan = await desk.plan()
    ((row, *_),) = plan.blocks()
    rows, call = Rows(plan), draft(row.key, row.moved.amount, "outage", customer=row.customer, origin=Origin.REFERENCE)
    assert not rows.has(call.intent)
    rows.add(row)
    assert rows.has(call.intent)
    for change in ({"customer": "cus_2"}, {"money": Money(-501, "usd")}, {"key": Key("other", Origin.REFERENCE)}):
        assert not rows.has(call.intent._replace(**change))
    rows.remove(row)
    assert not rows.has(call.intent)


async def test_customers_whose_currency_is_fixed_are_not_read_again(desk: Desk) -> None:
    """Nothing changes it; of the others, the run asks again."""
    async with await connect(desk.stripe) as agent:
        await agent.credit(desk.customers[0], "1.00", "usd", reference="before")
    plan = await desk.plan()
    desk.stripe.requests.clear()
    await desk.run(plan, {"customer_check": "on"})
    read = {each.target.rpartition("/")[2] for each in desk.stripe.requests if each.method == "GET"}
    assert set(desk.customers[1:]) == read


# Rows and calls of others


async def told(desk: Desk, plan: Plan) -> list[tuple[str, str]]:
    """
    What became of each row, and why, as the report has it.
    """
    async with desk.bulk() as bulk:
        await bulk.report(plan, desk.folder / "told.csv")
    with (desk.folder / "told.csv").open(encoding="utf-8-sig", newline="") as file:
        return [(row["outcome"], row["reason"]) for row in csv.DictReader(file)]


@pytest.mark.promise("once.origin")
async def test_a_call_that_a_program_gave_a_rows_key_is_not_that_row(desk: Desk) -> None:
    """Neither is the row taken for paid then, nor an entry for taken back; the others are."""
    plan = await desk.plan()
    ((first, second, *_),) = plan.blocks()
    async with await connect(desk.stripe, **desk.values) as agent:
        await agent.credit(first.customer, "0.01", "usd", idempotency_key=first.key)
        await agent.credit(second.customer, "5.00", "usd", reference="other", idempotency_key=second.key)
        for _ in range(2):
            assert 2 == (await desk.run(plan, max_failed=1)).done["not_sent"]
        refused = "refused", f"its key belongs to another call (credit 0.01 usd for {first.customer}, succeeded)"
        assert [
            refused,
            ("refused", refused[1].replace("0.01", "5.00").replace(first.customer, second.customer)),
            *[("succeeded", "")] * 3,
        ] == await told(desk, plan)
        assert 2 == (await desk.run(plan, only_failed=True, max_failed=1)).done["not_sent"]
        assert [[-1], [-500], [-500], [-500], [-500]] == await desk.paid()
        entry = (await ledger(desk.stripe, desk.customers[2]))[0]["id"]
        await agent.credit(desk.customers[2], "0.01", "usd", idempotency_key=reversal_key(plan.scope, entry))
    async with desk.bulk() as bulk:
        assert 0 == (await bulk.status(plan)).taken_back
        assert 3 == (await bulk.reverse(plan, desk.folder / "back.plan")).number


async def test_report_says_why_a_row_was_refused_that_the_policy_was_not_asked_about(desk: Desk) -> None:
    """The reason was used for another amount since it was planned; an entry was taken back by somebody else."""
    plan = await desk.plan()
    async with await connect(desk.stripe, **desk.values) as agent:
        await agent.credit(desk.customers[0], "7.00", "usd", reference="outage")
    assert {"not_sent": 1, "succeeded": 4} == dict((await desk.run(plan)).done)
    ((outcome, reason), *_) = await told(desk, plan)
    assert ("refused", True) == (outcome, "the reference 'outage' already belongs to another entry" in reason)
    async with desk.bulk() as bulk:
        back = await bulk.reverse(plan, desk.folder / "back.plan")
    entry = (await ledger(desk.stripe, desk.customers[1]))[0]["id"]
    async with await connect(desk.stripe, **{**desk.values, "journal": str(desk.folder / "other")}) as agent:
        await agent.reverse(entry, customer=desk.customers[1])
    assert {"not_sent": 1, "succeeded": 3} == dict((await desk.run(back)).done)
    ((outcome, reason), *_) = await told(desk, back)
    assert ("refused", True) == (outcome, reason.startswith(f"{entry} was reversed already"))


async def test_report_says_what_was_decided_last_and_here(desk: Desk) -> None:
    """A refusal after the row was stopped; not one of another server's row, and no person's yes."""
    plan = await desk.plan()
    await desk.run(plan, limit=1)
    denied = {"policy": {"customers": {"deny": desk.customers}, "duplicate_window": "off"}}
    with look(desk.folder / "journal.sqlite3") as db:
        db.execute("UPDATE calls SET state = 'not_sent', is_final = 0, note = 'stopped', answer = NULL")
    assert ("not_sent", "stopped") == (await told(desk, plan))[0]
    await desk.run(plan, denied, max_failed=1)
    assert {"refused"} == {outcome for outcome, _ in await told(desk, plan)}
    with look(desk.folder / "journal.sqlite3") as db:
        db.execute("UPDATE decisions SET base_url = 'https://other.test'")
    assert [("not_sent", "stopped"), *[("to_do", "")] * 4] == await told(desk, plan)
    async with await connect(
        desk.stripe, **{**desk.values, "policy": {"approval": {"always": True, "queue": True}}}
    ) as agent:
        with pytest.raises(ApprovalRequiredError) as caught:
            await agent.credit(desk.customers[1], "5.00", "usd", reference="outage")
    assert "refused" == (await told(desk, plan))[1][0]
    await decide(desk, caught.value.proposal_id)
    assert ("to_do", "") == (await told(desk, plan))[1]
