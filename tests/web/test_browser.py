"""
The console in a real browser: what people do there, from signing in to signing out.

Without Chromium these tests say that they did not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

pytest.importorskip("argon2")
pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")
from axe_playwright_python.base import AXE_FILE_PATH
from comers import hash_cheaply
from helpers import ledger
from playwright.async_api import async_playwright, expect

from ocp_stripe_balance import ApprovalRequiredError, OCPAgent, Settings
from ocp_stripe_balance.sandbox import Sandbox
from ocp_stripe_balance.serving.http import listening, serve
from ocp_stripe_balance.web.access.accounts import Accounts
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.demo import POLICY
from ocp_stripe_balance.web.gateway import Gateway
from ocp_stripe_balance.web.server import application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

PLACES = (
    "/overview",
    "/policy?customer=cus_1&verb=credit&amount=700&currency=usd&user=bot",
    "/tokens",
    "/reconcile",
    "/bulk",
)
PASSWORD = "correct horse battery"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Console:
    """
    A server, a browser, and an agent that asks.
    """

    def __init__(self, browser: Browser, url: str, stripe: Sandbox, gateway: Gateway) -> None:
        self.browser, self.url, self.stripe, self.gateway = browser, url, stripe, gateway
        self.customer = stripe.create_customer(name="Ada <b>Lovelace</b>", email="ada@example.com")
        self.asked = 0
        self.wrong: list[str] = []
        self.pages: dict[str, Page] = {}

    async def of(self, name: str) -> Page:
        """
        The inbox of somebody who has signed in.
        """
        if name not in self.pages:
            page = await (await self.browser.new_context()).new_page()
            page.set_default_timeout(10_000)
            page.on(
                "console",
                lambda said: self.wrong.append(f"{said.text} {said.location}") if said.type == "error" else None,
            )
            page.on("pageerror", lambda error: self.wrong.append(str(error)))
            page.on("request", lambda sent: None if sent.url.startswith(self.url) else self.wrong.append(sent.url))
            await page.goto(f"{self.url}/console")
            await page.fill("input[name=name]", name)
            await page.fill("input[name=password]", PASSWORD)
            await page.press("input[name=password]", "Enter")
            self.pages[name] = page
        await self.pages[name].goto(f"{self.url}/console")
        return self.pages[name]

    async def ask(self, amount: str = "75.00", **approval: Any) -> str:
        """
        The reference of a credit that waits for a person.
        """
        self.asked += 1
        reference = f"ticket-{self.asked}"
        with contextlib.suppress(ApprovalRequiredError):
            await self.again(reference, amount, **approval)
            raise AssertionError("it did not wait")
        return reference

    async def again(self, reference: str, amount: str = "75.00", **approval: Any) -> str:
        """
        What the agent's call, made again, comes to.
        """
        policy = {**POLICY, "approval": {**POLICY["approval"], **approval}}
        settings = Settings(**{**self.gateway.settings.model_dump(), "policy": policy})
        async with OCPAgent("support", "bot", settings=settings, journal=self.gateway.journal) as agent:
            made = await agent.credit(self.customer, amount, "usd", reference=reference, description="<i>sorry</i>")
        return str(made.data["id"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Console]:
    async with contextlib.AsyncExitStack() as stack:
        hash_cheaply(stack.enter_context(pytest.MonkeyPatch.context()))
        playwright = await stack.enter_async_context(async_playwright())
        path = shutil.which("chromium") or shutil.which("google-chrome") or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium here: playwright install chromium gets one")
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        stripe = await stack.enter_async_context(Sandbox())
        settings = Settings(
            api_key=stripe.api_key,
            api_base=stripe.url,
            journal=str(tmp_path_factory.mktemp("console") / "journal.sqlite3"),
            policy=POLICY,
            rate_limit="off",
        )
        gateway = Gateway(settings)
        accounts = Accounts(gateway.journal, "test")
        await accounts.add("ada", tuple(Role), password=PASSWORD)
        await accounts.add("grace", (Role.SEES, Role.DECIDES), password=PASSWORD)
        listener, url = listening("127.0.0.1", 0)
        serving = asyncio.create_task(serve(application(gateway), listener))
        made = Console(browser, url, stripe, gateway)
        yield made
        await browser.close()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


def card(page: Page, reference: str) -> Any:
    return page.locator("article.ask", has_text=reference)


async def faults(page: Page) -> list[str]:
    """
    What axe finds that keeps somebody from using a page.
    """
    await page.evaluate(Path(AXE_FILE_PATH).read_text("utf-8"))
    found = await page.evaluate("axe.run({resultTypes: ['violations']}).then(found => found.violations)")
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in {"serious", "critical"}]


async def test_a_call_comes_in_by_itself_and_is_approved_by_keyboard(console: Console) -> None:
    page = await console.of("ada")
    await expect(page.locator("article.ask")).to_have_count(0)
    await expect(page.locator("#bulk")).to_be_hidden()
    reference = await console.ask()
    await expect(card(page, reference)).to_be_visible()
    await expect(page.locator("#bulk")).to_be_visible()
    await expect(card(page, reference)).to_contain_text("Ada <b>Lovelace</b>")
    await expect(card(page, reference).locator(".untrusted")).to_contain_text("<i>sorry</i>")
    await page.keyboard.press("j")
    await page.keyboard.press("a")
    await page.keyboard.press("Enter")
    await expect(page.locator(".notice")).to_contain_text("approved by ada")
    entry = await console.again(reference)
    assert [entry] == [each["id"] for each in await ledger(console.stripe, console.customer)]


async def test_a_no_needs_a_reason(console: Console) -> None:
    page = await console.of("ada")
    reference = await console.ask("80.00")
    await card(page, reference).get_by_role("button", name="Deny").click()
    await expect(page.locator(".notice")).to_contain_text("a no needs a reason")
    await page.fill("input[name=reason]", "not our fault")
    await page.get_by_role("button", name="Deny").click()
    await expect(page.locator(".notice")).to_contain_text("denied by ada")
    with pytest.raises(Exception, match="not our fault"):
        await console.again(reference, "80.00")


async def test_several_are_approved_at_once_after_a_page_that_lists_them(console: Console) -> None:
    page = await console.of("ada")
    references = [await console.ask(amount) for amount in ("51.00", "52.00", "53.50")]
    await expect(page.locator("article.ask")).to_have_count(3)
    await page.get_by_label("Select all").check()
    await expect(page.locator("#sum")).to_have_text("3 selected: credit 156.50 usd")
    assert [] == await faults(page)
    await page.get_by_role("button", name="Approve selected").click()
    await expect(page.locator(".sums")).to_have_text("Together: credit 156.50 usd")
    assert [] == await faults(page)
    await page.get_by_role("button", name="Approve 3 calls").click()
    await expect(page.locator(".results .good")).to_have_count(3)
    assert await console.again(references[0], "51.00")


async def test_two_people_approve_what_one_may_not(console: Console) -> None:
    ada = await console.of("ada")
    reference = await console.ask("300.00")
    await card(ada, reference).get_by_role("button", name="Approve").click()
    await expect(ada.locator(".notice")).to_contain_text("1 more must approve it")
    await expect(card(ada, reference).locator(".objection")).to_contain_text("Your yes would not count")
    await expect(card(ada, reference).get_by_role("button", name="Approve")).to_have_count(0)
    grace = await console.of("grace")
    await card(grace, reference).get_by_role("button", name="Approve").click()
    await expect(grace.locator(".notice")).to_contain_text("approved by ada and grace")
    assert await console.again(reference, "300.00")


async def test_a_second_decision_and_one_too_late_are_refused_and_shown(console: Console) -> None:
    reference = await console.ask("90.00")
    ada, grace = await console.of("ada"), await console.of("grace")
    for page in (ada, grace):
        await card(page, reference).locator("h2 a").click()
        await expect(page.get_by_role("button", name="Approve")).to_be_visible()
    await grace.fill("input[name=reason]", "it is a duplicate")
    await grace.get_by_role("button", name="Deny").click()
    await ada.get_by_role("button", name="Approve").click()
    await expect(ada.locator(".notice.bad")).to_contain_text("Nothing was changed: it is denied by grace")
    late = await console.ask("91.00", expires="1s")
    await ada.goto(f"{console.url}/console")
    await card(ada, late).locator("h2 a").click()
    await expect(ada.locator("time.left")).to_have_text("expired")
    await ada.get_by_role("button", name="Approve").click()
    await expect(ada.locator(".notice.bad")).to_contain_text("its time is over")


async def test_a_call_is_found_read_and_reversed(console: Console) -> None:
    await console.again("small", "5.00")
    page = await console.of("ada")
    await page.get_by_role("link", name="Calls").click()
    await page.fill("input[name=q]", "ada@example.com")
    await page.keyboard.press("Enter")
    await expect(page.locator("table.calls tbody tr")).not_to_have_count(0)
    await page.fill("input[name=q]", "small")
    await page.keyboard.press("Enter")
    await expect(page.locator("table.calls tbody tr")).to_have_count(1)
    await page.locator("table.calls td[data-label=Key] a").click()
    await expect(page.locator(".timeline")).to_contain_text(re.compile("Let through.*Succeeded", re.DOTALL))
    assert [] == await faults(page)
    await page.get_by_role("link", name="Reverse").click()
    await expect(page.locator(".steps")).to_contain_text("debit 5.00 usd")
    assert [] == await faults(page)
    before = len(await ledger(console.stripe, console.customer))
    await page.get_by_role("button", name="Reverse it").click()
    await expect(page.locator(".notice")).to_contain_text("was debited 5.00 usd")
    assert before + 1 == len(await ledger(console.stripe, console.customer))


async def test_every_page_can_be_read_by_everybody_and_asks_nobody_else(console: Console) -> None:
    await console.again("a-reference-of-one-word-that-is-" + "long" * 30, "4.00")
    await console.ask("55.00")
    page = await console.of("ada")
    console.gateway.tokens.create("bot", tools=["getCustomersCustomer", "postCustomersCustomerBalanceTransactions"])
    for path in ("", "/calls", *PLACES):
        await page.goto(f"{console.url}/console{path}")
        assert path not in PLACES or [] == await faults(page), path
        await page.set_viewport_size({"width": 390, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390, path
        assert await page.evaluate("(nav => nav.scrollWidth <= nav.clientWidth)(document.querySelector('nav'))"), path
        await page.set_viewport_size({"width": 1280, "height": 720})
    await page.emulate_media(color_scheme="dark")
    for path in ("", "/overview"):
        await page.goto(f"{console.url}/console{path}")
        assert [] == await faults(page), path
    assert [] == [each for each in console.wrong if "400" not in each and "409" not in each and "403" not in each]


async def test_whoever_signs_out_is_out(console: Console) -> None:
    page = await console.of("grace")
    await page.get_by_role("button", name="Sign out").click()
    await page.goto(f"{console.url}/console/calls")
    assert "/sign-in" in page.url
    assert [] == await faults(page)
