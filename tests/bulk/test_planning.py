"""
From a file to a plan: what Stripe, the journal and the policy say of its rows, and what the plan is.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from helpers import UNGUARDED, client, connect

from ocp_stripe_balance import Settings
from ocp_stripe_balance._domain import Money
from ocp_stripe_balance.bulk import Bulk, Common, Expected, open_plan, plan
from ocp_stripe_balance.bulk.plan import question_of
from ocp_stripe_balance.bulk.planning import total_of
from ocp_stripe_balance.errors import InvalidFileError, NotSentError

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.bulk import Plan
    from ocp_stripe_balance.sandbox import Sandbox

CAMPAIGN = Common(reference="outage", direction="credit", currency="usd")


def settings_of(stripe: Sandbox, **settings: Any) -> Settings:
    return Settings(**{"api_key": stripe.api_key, "api_base": stripe.url, "rate_limit": "off", **UNGUARDED, **settings})


def write(folder: Path, *lines: str, head: str = "customer,amount") -> Path:
    path = folder / "in.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


async def planned(stripe: Sandbox, source: Path, *, name: str = "out.plan", **given: Any) -> Plan:
    settings = {"customer_check": "on", **given.pop("settings", {})}
    async with Bulk(settings_of(stripe, **settings)) as bulk:
        return await bulk.plan(source, source.with_name(name), **{"common": CAMPAIGN, **given})


async def delete(stripe: Sandbox, customer: str) -> None:
    async with client(stripe) as http:
        (await http.delete(f"/v1/customers/{customer}")).raise_for_status()


async def told(stripe: Sandbox, source: Path, **given: Any) -> list[str]:
    with pytest.raises(InvalidFileError) as caught:
        await planned(stripe, source, **given)
    assert not source.with_name("out.plan").exists()
    return list(map(str, caught.value.problems))


async def test_plan_says_what_is_sent_and_sends_nothing(stripe: Sandbox, tmp_path: Path) -> None:
    ids = [stripe.create_customer(email=f"{number}@b.test") for number in range(5)]
    made = await planned(stripe, write(tmp_path, *(f"{each},5.00" for each in ids[:4]), "4@b.test,500.00"))
    assert "GET" == "".join({each.method for each in stripe.requests})
    assert (5, 5, 0) == (made.number, made.facts["customers"], made.facts["paid_already"])
    total = {"amount": -52000, "currency": "usd", "number": 5, "smallest": 500, "largest": 50000, "median": 500}
    assert [{**total, "bars": [[500, 999, 4], [50000, 99999, 1]]}] == made.facts["sums"]
    assert [{"line": 6, "customer": ids[4], "amount": -50000, "currency": "usd"}] == made.facts["far_from_median"]
    rows = [row for block in made.blocks() for row in block]
    assert ids == [row.customer for row in rows]
    wanted = {"customer": ids[4], "amount": -50000, "currency": "usd", "reference": "outage"}
    assert {**wanted, "stated_effect": "credit 500.00 usd"} == rows[4].parameters
    assert 0o600 == made.path.stat().st_mode & 0o777


async def test_customers_that_are_not_there_are_named(stripe: Sandbox, tmp_path: Path) -> None:
    """Unknown and deleted ones, and addresses of nobody or of several."""
    twins = [stripe.create_customer(email="twin@b.test") for _ in range(2)]
    gone = stripe.create_customer()
    await delete(stripe, gone)
    source = write(tmp_path, f"{gone},1", "cus_none,1", "nobody@b.test,1", "twin@b.test,1")
    deleted, unknown, nobody, several = await told(stripe, source)
    assert f"line 2, customer: {gone} was deleted; take the line out" in deleted
    assert "line 3, customer: cus_none is no customer of this account in test mode; look the ID up" in unknown
    assert "line 4, customer: nobody has nobody@b.test; capitals count" in nobody
    assert "line 5, customer: 2 customers have the e-mail address twin@b.test: " in several
    assert all(each in several for each in twins)


async def test_rules_are_asked_of_each_row_and_budgets_of_all(stripe: Sandbox, tmp_path: Path) -> None:
    """Limits, another currency than the customer's, a reference that was used for another amount, and budgets."""
    first, second, third = (stripe.create_customer() for _ in range(3))
    journal = str(tmp_path / "journal.sqlite3")
    budgets = [{"per": per, "window": "24h", "credit": {"usd": most}} for per, most in
               (("all", "100.00"), ("customer", "60.00"))]  # fmt: skip
    policy = {"budgets": budgets, "limits": {"credit": {"usd": "50.00"}}, "customers": {"deny": ["cus_den*"]}}
    async with await connect(stripe, journal=journal) as agent:
        await agent.credit(second, "1.00", "usd", reference="outage")
        await agent.credit(third, "1.00", "eur", reference="other")
    lines = [f"{first},50.01", f"{second},2", f"{third},3", f"{first},40,a", f"{first},30,b", "cus_denied,1"]
    source = write(tmp_path, *(each if each.count(",") == 2 else f"{each}," for each in lines),
                   head="customer,amount,reference")  # fmt: skip
    said = await told(stripe, source, settings={"policy": policy, "journal": journal})
    assert [
        "all rows: 126.01 usd is more than the budget has room for (credits for all calls within 24 hours: 99.00 usd "
        "of 100.00 usd is left) (budgets[0].credit.usd); plan fewer rows, or let whoever owns the policy raise it",
        f"all rows: 120.01 usd is more than the budget has room for (credits for customer {first} within 24 hours: "
        "60.00 usd of 60.00 usd is left) (budgets[1].credit.usd); plan fewer rows, or let whoever owns the policy "
        "raise it",
    ] == said[:2]
    limit, used, currency, denied = said[2:]
    assert "line 2: would be refused: a credit of 50.01 usd is more than the 50.00 usd" in limit
    assert "line 3: would be refused: the reference 'outage' already belongs to another entry" in used
    assert f"line 4: would be refused: customer {third} is billed in eur" in currency
    assert "line 7: would be refused: the policy denies calls for customer cus_denied" in denied
    assert limit.endswith("; take the line out, or let whoever owns the policy change it")
    assert currency.endswith("; work the amount out in the other currency with whoever wrote the list")


async def test_budgets_are_asked_of_more_than_one_entry_can_move(stripe: Sandbox, tmp_path: Path) -> None:
    """Each row has room, and together they are more than Stripe takes in one amount."""
    lines = [f"{stripe.create_customer()},600000000.00" for _ in range(2)]
    policy: dict[str, Any] = {"budgets": [{"per": "all", "window": "24h", "credit": {"usd": "999999999.00"}}]}
    policy["limits"] = {"credit": {"usd": "999999999.00"}}
    (said,) = await told(stripe, write(tmp_path, *lines), settings={"policy": policy})
    assert "all rows: 1,200,000,000.00 usd is more than the budget has room for" in said


async def test_the_same_customer_twice_for_one_reason_is_a_mistake(stripe: Sandbox, tmp_path: Path) -> None:
    """By ID or address, however the reason is written; for two reasons, it is told and not refused."""
    name = stripe.create_customer(email="a@b.test")
    source = write(
        tmp_path, f"{name},1,Ticket-1", "a@b.test,2,ticket-1", f"{name},1,other", head="customer,amount,reference"
    )
    (said,) = await told(stripe, source)
    assert f"line 3, customer: {name} stands on line 2 for the same reason; take one out" in said
    source = write(tmp_path, f"{name},1,a", "a@b.test,1,b", head="customer,amount,reference")
    made = await planned(stripe, source)
    assert (1, 1) == (made.facts["customers"], made.facts["customers_twice"])


async def test_plan_says_which_rows_give_a_customer_a_currency_for_good(stripe: Sandbox, tmp_path: Path) -> None:
    first, second, third = (stripe.create_customer() for _ in range(3))
    async with await connect(stripe) as agent:
        await agent.credit(first, "1.00", "usd", reference="before")
    source = write(tmp_path, f"{first},1,usd", f"{second},1,usd", f"{third},1,eur", head="customer,amount,currency")
    made = await planned(stripe, source)
    assert {"eur": 1, "usd": 1} == made.facts["customers_without_currency"]
    said = "customers without one get eur for good in 1 and usd for good in 1 of the 3 rows"
    assert said == json.loads(question_of(made).arguments)["shown"]["currency"]


async def test_rows_that_are_paid_are_planned_as_paid(stripe: Sandbox, tmp_path: Path) -> None:
    name, journal = stripe.create_customer(), str(tmp_path / "journal.sqlite3")
    async with await connect(stripe, journal=journal) as agent:
        await agent.credit(name, "1.00", "usd", reference="OUTAGE")
    made = await planned(stripe, write(tmp_path, f"{name},1.00"), settings={"journal": journal})
    assert 1 == made.facts["paid_already"]


async def test_what_the_schema_refuses_is_told_by_line(stripe: Sandbox, tmp_path: Path) -> None:
    name = stripe.create_customer()
    head = "customer,amount,description,metadata.order,metadata.ocp_call"
    said = await told(stripe, write(tmp_path, f"{name},1,{'x' * 351},{'y' * 501},z", "a b,1,,,", head=head))
    assert ["line 2, description", "line 2, metadata", "line 2, metadata.order", "line 3, customer"] == sorted(
        {each.partition(":")[0] for each in said}
    )


async def test_a_file_that_says_otherwise_than_expected_is_refused(stripe: Sandbox, tmp_path: Path) -> None:
    source = write(tmp_path, f"{stripe.create_customer()},1.00")
    expected = Expected(2, (total_of("2.00 USD"), Money(1, "eur")))
    assert [
        "list: has 1 rows, and 2 were expected; look what is missing, or too much",
        "list: adds up to 1.00 usd, and 2.00 usd were expected; look which amount is wrong",
        "list: adds up to 0.00 eur, and 0.01 eur were expected; look which amount is wrong",
    ] == await told(stripe, source, expected=expected)
    wrong = write(tmp_path, f"{stripe.create_customer()},1.00", "cus_none,x")
    (said,) = await told(stripe, wrong, expected=expected)
    assert said.startswith("line 3, amount: ")
    source = write(tmp_path, f"{stripe.create_customer()},1.00")
    await planned(stripe, source, expected=Expected(1, (total_of("1.00 usd"),)))


async def test_customers_are_read_by_pages_where_that_takes_fewer_requests(stripe: Sandbox, tmp_path: Path) -> None:
    """All of a hundred by two pages; those that are not on the list one by one."""
    ids = [stripe.create_customer() for _ in range(120)]
    gone = stripe.create_customer()
    await delete(stripe, gone)
    source = write(tmp_path, *(f"{each},1" for each in [*ids, gone, "cus_none"]))
    assert 2 == len(await told(stripe, source))
    targets = [each.target.partition("?")[0].rpartition("/")[2] for each in stripe.requests if each.method == "GET"]
    assert {"customers": 2, gone: 1, "cus_none": 1} == {each: targets.count(each) for each in targets}


async def test_addresses_that_are_none_are_told_by_line(stripe: Sandbox, tmp_path: Path) -> None:
    (said,) = await told(stripe, write(tmp_path, f"{'a' * 512}@b.test,1"))
    assert said.startswith("line 2, customer: ")
    assert said.endswith("write the address of one customer, or the ID")


async def test_a_plan_that_was_changed_is_refused(stripe: Sandbox, tmp_path: Path) -> None:
    """One digit of its head or of a row, a row less or one more; and no plan is written over."""
    source = write(tmp_path, *(f"{stripe.create_customer()},1.00" for _ in range(3)))
    made = await planned(stripe, source)
    whole = made.path.read_text()
    head, *rows = whole.splitlines(keepends=True)
    for changed in (
        head.replace('"customers":3', '"customers":4') + "".join(rows),
        whole.replace('"amount":-100,"currency":"usd","ref', '"amount":-900,"currency":"usd","ref', 1),
        head + "".join(rows[:-1]),
        whole + rows[0],
        head + "".join(reversed(rows)),
    ):
        assert changed != whole
        made.path.write_text(changed)
        with pytest.raises(NotSentError, match="is not as it was made"):
            list(open_plan(made.path).blocks())
    with pytest.raises(NotSentError, match=r"out\.plan is there already\. 'ocp-stripe-balance bulk status'"):
        await planned(stripe, source)
    for text in ("", "{}\n", '{"kind": "other"}\n', "\x00\n"):
        made.path.write_text(text)
        with pytest.raises(NotSentError, match="is no plan"):
            open_plan(made.path)
    with pytest.raises(NotSentError, match="cannot be read"):
        open_plan(tmp_path / "nowhere")
    made.path.write_text(json.dumps({**json.loads(head), "format": 2}) + "\n")
    with pytest.raises(NotSentError, match="has format 2"):
        open_plan(made.path)


async def test_another_plan_that_was_put_in_its_place_is_not_taken_for_the_one_made_here(
    stripe: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal knows as made here is not added up again before it is sent."""
    other = await planned(stripe, write(tmp_path, f"{stripe.create_customer()},9.00"), name="other.plan")

    def swapped(path: Path) -> Plan:
        other.path.replace(path)
        return open_plan(path)

    monkeypatch.setattr(plan, "open_plan", swapped)
    with pytest.raises(NotSentError, match="another is in its place"):
        await planned(stripe, write(tmp_path, f"{stripe.create_customer()},1.00"))


@pytest.mark.parametrize("where", [".", "plans"])
async def test_a_plan_knows_whether_its_list_was_changed_since(
    stripe: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Not where it was only touched, or is gone; also where the plan is elsewhere."""
    row = f"{stripe.create_customer()},1.00"
    source = write(tmp_path, row)
    (tmp_path / "plans").mkdir()
    async with Bulk(settings_of(stripe)) as bulk:
        made = await bulk.plan(source, tmp_path / where / "out.plan", common=CAMPAIGN)
    monkeypatch.chdir("/")
    source.touch()
    assert not made.has_another_list()
    write(tmp_path, row.replace("1.00", "2.00"))
    assert made.has_another_list()
    source.unlink()
    assert not made.has_another_list()


async def test_other_work_of_the_loop_goes_on_while_a_list_is_read(stripe: Sandbox, tmp_path: Path) -> None:
    """As calls of agents, where a server plans."""
    lines = [f"{stripe.create_customer()},1.00,{number}" for number in range(800)]
    turns, seen = 0, set[int]()

    async def others() -> None:
        nonlocal turns
        while len(seen) < 4:
            turns += 1
            await asyncio.sleep(0)

    async with Bulk(settings_of(stripe), progress=lambda _number: seen.add(turns)) as bulk:
        other = asyncio.create_task(others())
        await bulk.plan(write(tmp_path, *lines, head="customer,amount,key"), tmp_path / "plan", common=CAMPAIGN)
        other.cancel()
    assert 4 <= len(seen)


async def test_a_rate_of_the_policy_refuses_no_row(stripe: Sandbox, tmp_path: Path) -> None:
    """A run waits for it, and the plan says how long that takes."""
    first, second = stripe.create_customer(), stripe.create_customer()
    settings: dict[str, Any] = {"policy": {"calls_per_minute": 1}, "journal": str(tmp_path / "journal.sqlite3")}
    async with await connect(stripe, **settings) as agent:
        await agent.credit(first, "1.00", "usd", reference="other")
    made = await planned(stripe, write(tmp_path, f"{second},1.00"), settings=settings)
    async with Bulk(settings_of(stripe, **settings)) as bulk:
        assert 60 == bulk.duration(made)
