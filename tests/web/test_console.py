"""
The console without a browser: what others wrote is shown and never obeyed, and no answer counts that was not meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import html
import io
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

pytest.importorskip("argon2")
from comers import Browser, Site, console, hash_cheaply
from helpers import ledger
from places import ON_BOTH, look
from terminal import at_terminal

from ocp_stripe_balance import ApprovalRequiredError, OCPAgent
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._journal.statements import statements
from ocp_stripe_balance.models import shown_digest
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.access.sessions import IDLE_S
from ocp_stripe_balance.web.console import live
from ocp_stripe_balance.web.demo import demo, work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from places import Place

    from ocp_stripe_balance.models import Proposal
    from ocp_stripe_balance.sandbox import Sandbox

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}\u202e</textarea>"
POLICY = {
    "budgets": [{"per": "customer", "window": "24h", "credit": {"usd": "4000.00"}}],
    "approval": {
        "above": {"usd": "50.00"},
        "two_people_above": {"usd": "200.00"},
        "not_by_requester": True,
        "queue": True,
    },
}
PLACES = ["", "/calls", "/overview", "/policy", "/tokens", "/reconcile"]


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch, stripe: Sandbox, place: Place) -> AsyncIterator[Site]:
    settings = {"api_key": stripe.api_key, "api_base": stripe.url, "rate_limit": "off", "policy": POLICY}
    async with console(monkeypatch, journal=str(place), **settings) as site:
        await site.add("ada")
        await site.add("grace", (Role.SEES, Role.DECIDES))
        yield site


@pytest.fixture
async def ada(site: Site) -> AsyncIterator[Browser]:
    async with site.browser() as browser:
        await browser.sign_in("ada")
        yield browser


async def ask(site: Site, customer: str, amount: str = "75.00", user: str = "bot", **more: Any) -> Proposal:
    """
    A credit that waits for a person.
    """
    async with OCPAgent("support", user, settings=site.gateway.settings, journal=site.gateway.journal) as agent:
        with contextlib.suppress(ApprovalRequiredError):
            await agent.credit(customer, amount, "usd", **{"reference": f"ticket {amount}", **more})
    return (await site.gateway.office.proposals())[-1]


async def post(browser: Browser, path: str, **fields: Any) -> Any:
    """
    A form of the console's own page.
    """
    data = {"csrf": await browser.csrf(), **fields}
    return await browser.post(f"/console{path}", data=data, headers={"Origin": browser.site.url})


async def say(browser: Browser, proposal: Proposal, decision: str = "approve", **fields: str) -> Any:
    shown = {"shown": shown_digest(proposal), "decision": decision, "reason": "because", **fields}
    return await post(browser, f"/proposals/{proposal.id}", **shown)


async def state_of(site: Site, proposal: Proposal) -> str:
    found = await site.gateway.office.pages.proposal(proposal.id)
    assert found is not None
    return found.state


class Page(HTMLParser):
    """
    What a browser would make of a page, as far as it could run something.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if tag == "script" and given != {"src": "/static/console.js", "defer": None}:
            self.wrong.append(tag)
        if tag in {"img", "iframe", "object", "embed", "base", "style"}:
            self.wrong.append(tag)
        self.wrong += [name for name in given if name.startswith("on") or name == "style"]
        self.wrong += [
            str(given.get(name))
            for name in ("href", "src", "action")
            if not (given.get(name) or "/").startswith(("/", "#"))
        ]


async def test_nothing_that_others_wrote_is_obeyed(site: Site, ada: Browser, stripe: Sandbox) -> None:
    """A customer's name, an agent's words, a user's name, a key, a reason: in HTML, attributes, SVG and CSV."""
    customer = stripe.create_customer(name=HOSTILE[:250], email="x@example.com")
    words: dict[str, Any] = {"description": HOSTILE, "metadata": {HOSTILE[:35].replace("[", "("): HOSTILE}}
    key = "\"'><script>alert(1)</script>/../=1+1"
    waits = await ask(site, customer, user=HOSTILE, reference=HOSTILE, **words)
    async with OCPAgent("support", HOSTILE, settings=site.gateway.settings, journal=site.gateway.journal) as agent:
        await agent.credit(customer, "5.00", "usd", reference="=1+1", idempotency_key=key, **words)
    assert 303 == (await say(ada, waits, "deny", reason=HOSTILE)).status_code
    second = await ask(site, customer, "76.00", user=HOSTILE, reference=f"2 {HOSTILE}", **words)
    tried = f"{HOSTILE}&{HOSTILE}"
    pages = [
        *PLACES, f"/proposals/{waits.id}", f"/proposals/{second.id}", f"/confirm?decision=approve&id={second.id}",
        f"?done={waits.id}", f"?done={tried}", f"/calls?q={tried}&amount={tried}&currency=usd", f"/calls?q={customer}",
        f"/calls?state={tried}", f"/policy?customer={tried}&amount={tried}&currency={tried}", f"/reverse?entry={tried}",
        f"/resume?key={tried}", f"/tokens/revoke?name={tried}", f"/overview?days={tried}", f"/customers/{customer}",
        f"/customers/{quote(tried)}",
    ]  # fmt: skip
    found = re.search(r'href="(/console/calls/[^"?]+)"', (await ada.get(f"/console/calls?q={customer}")).text)
    assert found is not None
    answers = [await ada.get(f"/console{path}") for path in pages] + [await ada.get(html.unescape(found[1]))]
    for answer in answers:
        page = Page(answer.text)
        assert [] == page.wrong, answer.url
        assert "49" not in re.findall(r"\d+", re.sub(r"\d\d:\d\d(:\d\d)?|[0-9a-f]{20,}|\w+_\w+", "", answer.text)), (
            answer.url
        )
        assert "\u202e" not in answer.text
    assert html.escape("<script>alert(1)</script>") in answers[0].text
    assert html.escape(key, quote=False) in html.unescape(answers[-1].text) or key in html.unescape(answers[-1].text)
    table = list(csv.reader(io.StringIO((await ada.get("/console/calls.csv")).text.removeprefix("\ufeff"))))
    assert [2, 2] == [len(table), len([row for row in table if len(row) == len(table[0])])]
    assert "'=1+1" in table[1]
    assert [] == [cell for cell in table[1] if cell.startswith(("=", "+", "-", "@"))]


async def test_an_answer_counts_once_and_only_for_what_was_shown(
    site: Site, ada: Browser, customer: str, stripe: Sandbox
) -> None:
    proposal = await ask(site, customer)
    stale = await say(ada, proposal, shown="0" * 64)
    assert (409, "waiting") == (stale.status_code, await state_of(site, proposal))
    assert "not what you were shown" in stale.text
    assert 303 == (await say(ada, proposal)).status_code
    replayed = await say(ada, proposal)
    assert 409 == replayed.status_code
    assert "Nothing was changed: it is approved by ada" in replayed.text
    assert 409 == (await say(ada, proposal, "deny")).status_code
    for _ in range(2):
        async with OCPAgent("support", "bot", settings=site.gateway.settings, journal=site.gateway.journal) as agent:
            made = await agent.credit(customer, "75.00", "usd", reference="ticket 75.00")
    assert 1 == len(await ledger(stripe, customer))
    reverse = await ada.get("/console/reverse", params={"entry": made.data["id"], "customer": customer})
    assert "It then is in the inbox" in reverse.text


async def test_who_may_not_decide_is_told_why(site: Site, ada: Browser, customer: str) -> None:
    """Whose call it is, and who has said yes already."""
    own = await ask(site, customer, user="ada")
    refused = await say(ada, own)
    assert (403, "waiting") == (refused.status_code, await state_of(site, own))
    assert 'role="alert"' in refused.text
    two = await ask(site, customer, "300.00")
    assert [303, 403] == [(await say(ada, two)).status_code for _ in range(2)]
    assert "waiting" == await state_of(site, two)
    several = await post(
        ada, "/decide", decision="approve", id=[own.id, two.id], shown=[shown_digest(each) for each in (own, two)]
    )
    assert 2 == several.text.count('<li class="bad">')
    async with site.browser() as grace:
        await grace.sign_in("grace")
        assert 303 == (await say(grace, two)).status_code
    assert "approved" == await state_of(site, two)


async def test_several_are_decided_each_by_itself(site: Site, ada: Browser, customer: str) -> None:
    """One that was decided meanwhile, and one that is another, take nothing from the rest."""
    first, second, third = [await ask(site, customer, amount) for amount in ("51.00", "52.00", "53.00")]
    await say(ada, first, "deny")
    page = await ada.get(f"/console/confirm?decision=approve&id={first.id}&id={second.id}&id={third.id}")
    assert "1 of 3 wait no longer" in page.text
    assert "Together: <strong>credit 105.00 usd</strong>" in page.text
    shown = [shown_digest(first), shown_digest(second), "0" * 64]
    done = await post(ada, "/decide", decision="approve", id=[first.id, second.id, third.id], shown=shown)
    assert ["bad", "good", "bad"] == re.findall(r'<li class="(\w+)">', done.text)
    assert ["denied", "approved", "waiting"] == [await state_of(site, each) for each in (first, second, third)]
    assert 400 == (await post(ada, "/decide", decision="approve", id=[third.id], shown=[])).status_code
    assert 400 == (await ada.get("/console/confirm?decision=approve")).status_code


async def test_no_page_can_be_framed_or_kept(ada: Browser) -> None:
    for path in PLACES:
        headers = (await ada.get(f"/console{path}")).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "no-store" in headers["cache-control"]


@ON_BOTH
async def test_calls_are_found_a_page_at_a_time(
    site: Site, ada: Browser, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what they are, in order, each once; also where more has to be looked at than one page may cost."""
    monkeypatch.setattr("ocp_stripe_balance._journal.pages._MOST_LOOKED_AT", 2)
    monkeypatch.setattr("ocp_stripe_balance.web.console.calls._PAGE", 2)
    async with OCPAgent("support", "bot", settings=site.gateway.settings, journal=site.gateway.journal) as agent:
        made = [await agent.credit(customer, f"{n}.00", "usd", reference=f"ticket-{n}") for n in range(1, 6)]

    async def rows(query: str) -> list[str]:
        found, path = [], f"/console/calls?{query}"
        while path:
            text = (await ada.get(path)).text
            found += re.findall(r'data-label="Reference" class="said">(.*?)<', text)
            older = re.search(r'<a class="button" href="([^"]+)" rel="next"', text)
            path = html.unescape(older[1]) if older else ""
        return found

    everything = [f"ticket-{n}" for n in range(5, 0, -1)]
    assert everything == await rows("")
    assert everything == await rows(f"q={customer}")
    assert ["ticket-1"] == await rows("amount=1.00&currency=usd")
    assert [] == await rows("state=unknown")
    assert (
        ["ticket-3"]
        == await rows("q=TICKET-3")
        == await rows(f"q={made[2].data['id']}")
        == await rows(f"q={made[2].idempotency_key}")
    )
    assert [] == await rows("since=2099-01-01")
    for wrong in ("amount=5", "amount=x&currency=usd", "since=yesterday", "state=lost"):
        assert 400 == (await ada.get(f"/console/calls?{wrong}")).status_code


async def test_an_entry_is_reversed_once_and_an_open_call_found_out(
    site: Site, ada: Browser, customer: str, stripe: Sandbox, place: Place
) -> None:
    async with OCPAgent("support", "bot", settings=site.gateway.settings, journal=site.gateway.journal) as agent:
        entry = (await agent.credit(customer, "5.00", "usd", reference="ticket-1")).data["id"]
    asked = {"entry": entry, "customer": customer}
    said = await ada.get("/console/reverse", params=asked)
    assert "debit 5.00 usd" in said.text
    assert 1 == len(await ledger(stripe, customer))
    assert "Reverse…" in (await ada.get(f"/console/customers/{customer}")).text
    assert 200 == (await post(ada, "/reverse", **asked)).status_code
    assert f"reverses {entry}" in (await ada.get(f"/console/customers/{customer}")).text
    again = await post(ada, "/reverse", **asked)
    assert (409, 2) == (again.status_code, len(await ledger(stripe, customer)))
    assert "disabled" in (await ada.get("/console/reverse", params=asked)).text
    stripe.faults.add("reset", times=None, executed=True, path="balance_transactions")
    settings = site.gateway.settings.model_copy(update={"max_attempts": 1})
    async with OCPAgent("support", "bot", settings=settings, journal=site.gateway.journal) as agent:
        with pytest.raises(Exception, match="may"):
            await agent.credit(customer, "6.00", "usd", reference="ticket-2", idempotency_key="lost")
    stripe.faults.clear()
    assert "Money may have moved" in (await ada.get("/console/calls/lost")).text
    with look(place) as db:  # as where its process was killed
        db.execute("UPDATE calls SET state = 'sending' WHERE key = 'lost'")
    which = re.search('1 call is open.*href="([^"]+)">See which', (await ada.get("/console/calls")).text)
    assert which is not None
    assert "/console/calls/lost" in (await ada.get(which[1])).text
    assert "it succeeded" in (await post(ada, "/reconcile")).text
    assert "Succeeded" in (await ada.get("/console/calls/lost")).text
    assert "The outcome is known" in (await ada.get("/console/resume?key=lost")).text
    assert 3 == len(await ledger(stripe, customer))


async def test_a_token_is_shown_once(site: Site, ada: Browser) -> None:
    """And where there is none, it is told who may call: everybody before the first, nobody after the last."""
    assert "every program of the server's machine may call" in html.unescape((await ada.get("/console/tokens")).text)
    made = await post(ada, "/tokens", name="support", rate="60")
    secret = re.search(r'id="secret">([^<]+)<', made.text)
    assert secret is not None
    token = site.gateway.tokens.caller_of(secret[1])
    assert token is not None
    assert ("support", 60) == (token.name, token.rate)
    listed = (await ada.get("/console/tokens")).text
    assert secret[1] not in listed
    assert "support" in listed
    assert 400 == (await post(ada, "/tokens", name="support")).status_code
    assert 303 == (await post(ada, "/tokens/revoke", name="support")).status_code
    assert site.gateway.tokens.caller_of(secret[1]) is None
    assert "no agent can call" in (await ada.get("/console/tokens")).text


async def test_news_come_by_themselves(
    site: Site, ada: Browser, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_EVERY_S", 0.01)
    async with asyncio.timeout(10), ada.stream("GET", "/console/events") as events:
        lines = events.aiter_lines()
        assert "retry: 2000" == await anext(lines)
        await ask(site, customer)
        while await anext(lines) != "event: news":
            pass
        await site.gateway.close()  # a server that ends is not held up by pages that are open
        assert "event: news" not in [line async for line in lines]


@pytest.mark.parametrize("end", ["signed out", "another role", "nobody there"])
async def test_news_end_with_the_session(
    site: Site, ada: Browser, customer: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Of a page that is still open; and it keeps nobody in who is not there."""
    monkeypatch.setattr(live, "_EVERY_S", 0.01)
    async with asyncio.timeout(10), ada.stream("GET", "/console/events") as events:
        lines = events.aiter_lines()
        assert "retry: 2000" == await anext(lines)
        match end:
            case "signed out":
                assert 303 == (await ada.sends("/sign-out")).status_code
            case "another role":
                await site.accounts.change_roles("ada", [Role.TOKENS])
            case _:
                site.clock.now += IDLE_S - 1
                await ask(site, customer)
                while await anext(lines) != "event: news":
                    pass
                site.clock.now += 2
        await ask(site, customer, reference="another")
        [line async for line in lines]  # to its end
    assert {"another role": 403}.get(end, 303) == (await ada.get("/console")).status_code


async def test_what_would_happen_is_told_and_nothing_is_sent(ada: Browser, customer: str, stripe: Sandbox) -> None:
    def asked(amount: str) -> str:
        return f"/console/policy?customer={customer}&verb=credit&amount={amount}&currency=usd&reference=r&user=bot"

    assert "It would be sent." in (await ada.get(asked("5.00"))).text
    assert "It would wait for a person." in (await ada.get(asked("60.00"))).text
    assert "It would be refused." in (await ada.get(asked("5000.00"))).text
    assert "It would be refused." in (await ada.get(asked("lots"))).text
    assert [] == await ledger(stripe, customer)


@ON_BOTH
async def test_the_overview_tells_what_moved_what_is_left_and_what_was_refused(
    site: Site, ada: Browser, customer: str
) -> None:
    async with OCPAgent("support", "bot", settings=site.gateway.settings, journal=site.gateway.journal) as agent:
        await agent.credit(customer, "5.00", "usd", reference="1")
        await agent.debit(customer, "2.00", "usd", reference="2")
        with pytest.raises(Exception, match="more than"):
            await agent.credit(customer, "2000.00", "usd", reference="3")
    text = html.unescape((await ada.get("/console/overview")).text)
    assert "In all: credits of 5.00 usd, debits of 2.00 usd." in text
    assert f"credits for customer {customer} within 24 hours" in text
    assert "3,995.00 usd <span" in text
    assert "<code>default limit</code>" in text


FEW = " USING INDEX (calls_unsettled|proposals_waiting)$"


def test_no_page_reads_a_whole_table(tmp_path: Path) -> None:
    """Each statement finds what it reads by an index, or stops at a number of rows."""
    db = open_database(tmp_path / "journal")
    for name, statement in statements("pages").items():
        names = dict.fromkeys(re.findall(r":(\w+)", statement), 1)
        plan = [str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", names)]
        scanned = [
            step for step in plan if re.search(rf"SCAN (calls|proposals|decisions|joined|totals)\b(?!{FEW})", step)
        ]
        assert [] == scanned or "ORDER BY number DESC LIMIT 10000" in statement, (name, plan)
    db.close()


async def test_the_demo_shows_everything_within_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_cheaply(monkeypatch)
    async with demo(tmp_path) as shown:
        await work(shown, every_s=0, number=14)
        office = shown.gateway.office
        states = {each.state for each in await office.calls()}
        assert {State.SUCCEEDED, State.UNKNOWN} == states
        assert {1, 2} == {each.needed for each in (await office.pages.waiting(50))[0]}
        assert [] != await office.pages.refused(0)
        await shown.gateway.journal.aclose()


async def test_the_demo_ends_also_while_a_call_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_cheaply(monkeypatch)
    async with demo(tmp_path) as shown:
        shown.stripe.faults.add("stall", times=None, path="balance_transactions")
        working = asyncio.create_task(work(shown, every_s=0))
        while not any(each.method == "POST" for each in shown.stripe.requests):
            await asyncio.sleep(0.01)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(working, 10)
        await shown.gateway.journal.aclose()


def test_the_demo_is_a_command() -> None:
    done = at_terminal("console", interrupt_at="both have to say yes", columns=200)
    assert 0 == done.code
    assert "Sign in as ada with the password" in done.out
