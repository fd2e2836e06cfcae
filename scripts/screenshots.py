"""
Takes the pictures of the console in docs/: the demo, after its agent has worked for a while.

With a folder as argument, takes every page there, at three widths, light and dark, to be looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from playwright.async_api import async_playwright

from ocp_stripe_balance.serving.http import listening, serve
from ocp_stripe_balance.web.demo import Demo, demo, work
from ocp_stripe_balance.web.server import application

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

DOCS = Path(__file__).parents[1] / "docs"
TICKETS = 24
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


async def signed_in(browser: Browser, url: str, name: str, password: str) -> Page:
    """
    A page of somebody who is in.
    """
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{url}/console")
    await page.fill("input[name=name]", name)
    await page.fill("input[name=password]", password)
    await page.press("input[name=password]", "Enter")
    await page.wait_for_url("**/console")
    return page


async def take(page: Page, path: str, file: Path, size: tuple[int, int], scheme: Scheme) -> None:
    """
    One picture.
    """
    width, height = size
    await page.set_viewport_size({"width": width, "height": height})
    await page.emulate_media(color_scheme=scheme)
    await page.goto(path, wait_until="load")
    await page.screenshot(path=file, scale="css", full_page=file.parent != DOCS)


async def prepare(page: Page, url: str, shown: Demo) -> str:
    """
    The address of a call that a person has approved; one proposal has one of two.
    """
    await work(shown, every_s=0, number=TICKETS)
    await page.goto(f"{url}/console")
    for amount in ("320.00", "75.00"):
        card = page.locator("article.ask", has_text=f"credit {amount}").first
        reference = await card.locator(".untrusted dd").first.inner_text()
        await card.get_by_role("button", name="Approve").click()
        await page.wait_for_url("**done=**")
    await work(shown, every_s=0, number=TICKETS)  # every call again, as agents do: what was approved is made
    await page.goto(f"{url}/console/calls?q={reference}")
    return str(await page.locator("td[data-label=Key] a").first.get_attribute("href"))


async def main(folder: Path | None) -> int:
    """
    Take them.
    """
    with TemporaryDirectory() as place:
        async with async_playwright() as playwright, demo(Path(place)) as shown:
            listener, url = listening("127.0.0.1", 0)
            serving = asyncio.create_task(serve(application(shown.gateway), listener))
            path = shutil.which("chromium") or playwright.chromium.executable_path
            browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = await signed_in(browser, url, "ada", shown.passwords["ada"])
            call = await prepare(page, url, shown)
            if folder is None:
                await take(page, f"{url}/console", DOCS / "console-inbox.png", (1200, 760), "light")
                await take(page, f"{url}/console", DOCS / "console-narrow.png", (390, 800), "dark")
                await take(page, url + call, DOCS / "console-call.png", (1024, 720), "light")
            else:
                paths = {"inbox": "/console", "call": call}
                paths |= {name: f"/console/{name}" for name in ("calls", "overview", "tokens", "reconcile")}
                paths["policy"] = "/console/policy?customer=cus_1&verb=credit&amount=70&currency=usd&user=bot"
                for name, at in paths.items():
                    for width in (390, 1024, 1600):
                        for scheme in SCHEMES:
                            await take(page, url + at, folder / f"{name}-{width}-{scheme}.png", (width, 900), scheme)
            await browser.close()
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]) if sys.argv[1:] else None)))
