"""
Bulk in the console: a list is sent, planned, approved once, run, watched, reported and taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import html
import io
import json
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("argon2")
from comers import Browser, Site, console
from helpers import ANYTHING, ledger

from ocp_stripe_balance.backoffice import State
from ocp_stripe_balance.bulk import Common, Expected, Form, planning
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console.plans import Asked, Plans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

CAMPAIGN = {"reference": "outage", "direction": "credit", "currency": "usd"}
HOSTILE = "<script>alert(1)</script>\"'>{{7*7}}"


class Desk:
    """
    Somebody with a browser and a list.
    """

    def __init__(self, site: Site, browser: Browser, stripe: Sandbox) -> None:
        self.site, self.browser, self.stripe = site, browser, stripe

    async def post(self, path: str, **fields: Any) -> Any:
        data = {"csrf": await self.browser.csrf(), **fields}
        return await self.browser.post(path, data=data, headers={"Origin": self.site.url})

    async def send(self, text: str, name: str = "outage.csv", **fields: str) -> Any:
        """
        Send a list; the answer leads to its page.
        """
        return await self.browser.post(
            "/console/bulk",
            data={"csrf": await self.browser.csrf(), **CAMPAIGN, **fields},
            files={"list": (name, text.encode())},
            headers={"Origin": self.site.url},
        )

    async def planned(self, text: str, **fields: str) -> str:
        return str((await self.send(text, **fields)).headers["location"])

    async def page(self, path: str) -> str:
        """
        A page once nothing is done in the background any more.
        """
        tasks = [each.task for each in self.site.gateway.plans.works.values() if each.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        first = (await self.browser.get(path)).text
        if "looks again" in first:  # it counts how far the plan is
            return await self.page(path)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", first))

    async def run(self, path: str) -> str:
        """
        The page of a plan after a run.
        """
        await self.ask(path)
        return await self.page(path)

    async def ask(self, path: str) -> None:
        """
        Ask for a run, on the page that says what it will do.
        """
        (digest,) = re.findall(r'name="digest" value="(\w+)"', (await self.browser.get(f"{path}/run")).text)
        await self.post(f"{path}/run", digest=digest)

    async def begin(self, path: str) -> None:
        """
        Run a plan, and wait for the first row.
        """
        await self.ask(path)
        (work,) = self.site.gateway.plans.works.values()
        while not work.number:
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def opened(
    monkeypatch: pytest.MonkeyPatch, stripe: Sandbox, folder: Path, **settings: Any
) -> AsyncIterator[Desk]:
    """
    A server, and somebody who has signed in.
    """
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "rate_limit": "off", "policy": ANYTHING, **settings}
    async with console(monkeypatch, journal=str(folder / "console.sqlite3"), **values) as site:
        if not await site.accounts.all():
            await site.add("ada")
            await site.add("seer", [Role.SEES])
        async with site.browser() as browser:
            await browser.sign_in("ada")
            yield Desk(site, browser, stripe)


@pytest.fixture
async def desk(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, stripe: Sandbox, tmp_path: Path
) -> AsyncIterator[Desk]:
    async with opened(monkeypatch, stripe, tmp_path, policy=getattr(request, "param", ANYTHING)) as made:
        yield made


async def test_a_list_goes_from_the_browser_to_the_ledger_and_back(desk: Desk, tmp_path: Path) -> None:
    """The list is kept privately beside the journal, what is sent twice is one plan, and all is in the audit."""
    customers = [desk.stripe.create_customer() for _ in range(3)]
    text = "customer,amount\n" + "".join(f"{each},5.00\n" for each in customers)
    path = await desk.planned(text)
    (facts,) = (tmp_path / "bulk").glob("*/facts.json")
    first = facts.read_text()
    assert path == await desk.planned(text)
    assert first == facts.read_text()
    page = await desk.page(path)
    assert "3 entries: credit 15.00 usd" in page
    assert "to do 3 credit 15.00 usd" in page
    assert [[]] * 3 == [await ledger(desk.stripe, each) for each in customers]
    kept = [each for each in (tmp_path / "bulk").rglob("*") if each.is_file()]
    assert {"outage.csv", "plan", "facts.json"} == {each.name for each in kept}
    assert {0o600} == {each.stat().st_mode & 0o777 for each in kept}

    assert "succeeded 3 credit 15.00 usd" in await desk.run(path)
    report = await desk.browser.get(f"{path}/report.csv")
    assert 3 == report.text.count(",succeeded,cbtxn_")
    assert "attachment" in report.headers["content-disposition"]
    back = (await desk.post(f"{path}/reverse")).headers["location"]
    assert "3 entries: debit 15.00 usd" in await desk.page(back)
    await desk.run(back)
    assert [[500, -500]] * 3 == [[each["amount"] for each in await ledger(desk.stripe, one)] for one in customers]
    said = {(each.decision, each.who, each.rule) for each in await desk.site.gateway.office.decisions()}
    assert {("planned", "ada", "plan"), ("begun", "ada", "plan"), ("allowed", "ada", "ask_always")} <= said
    assert "outage.csv" in await desk.page("/console/bulk")


async def test_a_list_that_was_not_planned_to_its_end_is_planned_when_it_is_sent_again(
    desk: Desk, tmp_path: Path
) -> None:
    """As where the server was killed meanwhile; and a run of it is none."""
    text = f"customer,amount\n{desk.stripe.create_customer()},5.00\n"
    await desk.page(path := await desk.planned(text))
    (plan,) = (tmp_path / "bulk").glob("*/plan")
    plan.rename(plan.with_name("plan.new"))
    desk.site.gateway.plans.works.clear()
    assert "It was not planned to its end" in await desk.page(path)
    assert 409 == (await desk.post(f"{path}/run", digest="")).status_code
    assert path == await desk.planned(text)
    assert "1 entry: credit 5.00 usd" in await desk.page(path)


async def test_mistakes_are_told_and_what_others_wrote_is_not_obeyed(desk: Desk, tmp_path: Path) -> None:
    """Each by line and column; a form that says what cannot be, before anything is kept."""
    path = await desk.planned("customer,amount\ncus_none,x\ncus_none,1\n", name=f"../{HOSTILE}.csv")
    assert "line 2, amount" in await desk.page(path)
    parted = html.unescape(await desk.page(await desk.planned("customer;amount\ncus_none;1\n")))
    assert "set \u201cSeparator\u201d to ';' in the form" in parted  # what is an option on the command line
    assert "--" not in parted
    good = f"customer,amount\n{desk.stripe.create_customer()},1.00\n"
    fine = await desk.planned(good, reference=f"\0{HOSTILE}", description=HOSTILE)
    assert "1 entry: credit 1.00 usd" in await desk.page(fine)  # but for what no journal can hold
    raw = "".join([(await desk.browser.get(each)).text for each in (path, fine, f"{fine}/run", "/console/bulk")])
    assert "<script>alert" not in raw
    assert HOSTILE in html.unescape(raw)
    for fields, said in (
        ({"expect_count": "many"}, "is no number"),
        ({"expect_total": "1"}, "is no sum"),
        ({"metadata": "a"}, "is not a new KEY=VALUE"),
    ):
        answer = await desk.send("customer,amount\n", **fields)
        assert (400, True) == (answer.status_code, said in answer.text)
    answer = await desk.post("/console/bulk")
    assert (400, True) == (answer.status_code, "choose a .csv" in answer.text)
    (tmp_path / "facts.json").write_text('{"name": "x", "by": "x", "at": 0, "asked": {}}')
    for other in ("%2e%2e", "0" * 24):
        assert 404 == (await desk.browser.get(f"/console/bulk/{other}")).status_code


@pytest.mark.parametrize("desk", [{"approval": {"queue": True}, "duplicate_window": "off"}], indirect=True)
async def test_a_plan_waits_in_the_inbox_and_runs_once_somebody_said_yes(desk: Desk) -> None:
    """Whatever the sum is; a run of another plan than was shown is none."""
    customer = desk.stripe.create_customer()
    path = await desk.planned(f"customer,amount\n{customer},5.00\n")
    await desk.page(path)
    assert "you were shown" in (await desk.post(f"{path}/run", digest="0" * 64)).text
    assert "waiting" in await desk.run(path)
    assert [] == await ledger(desk.stripe, customer)
    (proposal,) = await desk.site.gateway.office.proposals()
    (link,) = re.findall(r"/console/bulk/of/[\w-]+", (await desk.browser.get(f"/console/proposals/{proposal.id}")).text)
    assert path == (await desk.browser.get(link)).headers["location"]
    assert 404 == (await desk.browser.get(f"{link}0")).status_code
    await desk.site.gateway.office.decide(proposal.approve(by="grace"))
    page = await desk.page(path)
    assert "approved by grace" in page
    assert "succeeded 1 credit 5.00 usd" in await desk.run(path)
    assert [-500] == [each["amount"] for each in await ledger(desk.stripe, customer)]


async def test_a_run_can_be_watched_and_goes_on_after_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, stripe: Sandbox, tmp_path: Path
) -> None:
    """By a person, and then with the server: what may have been sent is waited for, and nothing is left open."""
    customer = stripe.create_customer()
    text = "customer,amount,key\n" + "".join(f"{customer},5.00,{number}\n" for number in range(40))
    async with opened(monkeypatch, stripe, tmp_path, rate_limit=10) as desk:
        path = await desk.planned(text)
        await desk.page(path)
        await desk.begin(path)
        watched = await desk.browser.get(path)
        assert ("2", True) == (watched.headers["refresh"], "running" in watched.text)
        await desk.post(f"{path}/stop")
        assert "The run stopped: it was interrupted." in await desk.page(path)
        await desk.begin(path)
    async with opened(monkeypatch, stripe, tmp_path) as desk:
        assert [] == await desk.site.gateway.office.calls(states=(State.SENDING, State.UNKNOWN))
        with monkeypatch.context() as slow:
            slow.setattr(Plans, "count", lambda *_: asyncio.sleep(60))  # a run waits for no count
            assert "counting" in (await desk.browser.get(path)).text
        assert "succeeded 40 credit 200.00 usd" in await desk.run(path)
    assert [-500] * 40 == [each["amount"] for each in await ledger(stripe, customer)]


async def test_who_only_sees_plans_changes_nothing(desk: Desk) -> None:
    path = await desk.planned(f"customer,amount\n{desk.stripe.create_customer()},5.00\n")
    await desk.page(path)
    async with desk.site.browser() as browser:
        await browser.sign_in("seer")
        other = Desk(desk.site, browser, desk.stripe)
        page = await other.page(path)
        assert [True, True, False] == [each in page for each in ("to do 1", "Report (CSV)", "Run\u2026")]
        assert 403 == (await browser.get(f"{path}/run")).status_code
        for each in ("run", "stop", "reverse"):
            assert 403 == (await other.post(f"{path}/{each}")).status_code
        assert 403 == (await other.send("customer,amount\n")).status_code
        assert "Plan a list" not in await other.page("/console/bulk")


async def test_a_list_is_there_whole_or_not_at_all(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be sent twice at once, while the first is planned; the disk may be full, and its name be long."""
    plans, asked, text = desk.site.gateway.plans, Asked(Form(), Common(), Expected(None, ())), b"customer,amount\n" * 9
    name, found = "\u8cc7" * 120 + ".csv", []

    class Upload(io.BytesIO):
        def seek(self, *where: int) -> int:
            found.append(plans.keep(name, io.BytesIO(text), asked, "bea"))
            return super().seek(*where)

        def read(self, size: int | None = -1) -> bytes:
            assert not found or text == found[0].source.read_bytes()
            return super().read(size)

    assert plans.keep(name, Upload(text), asked, "ada").source == found[0].source
    assert (text, ".csv") == (found[0].source.read_bytes(), found[0].source.suffix)

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(json, "dumps", full)
        with pytest.raises(OSError, match="No space"):
            plans._made("0" * 24, {"name": "a.csv", "by": "ada"})
    assert [found[0].id] == [each.id for each in plans.all()]


async def test_a_list_is_read_beside_the_calls_of_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen million empty lines kept every caller of the server waiting for 43 seconds."""
    read = []

    def row_of(*_: object) -> None:
        read.append(threading.current_thread() is threading.main_thread())

    monkeypatch.setattr(planning, "row_of", row_of)
    await desk.page(await desk.planned("customer,amount\ncus_1,5.00\n"))
    assert [False] == read
