"""
Who comes in by a password: what is kept, what is told, and what each attack is stopped by.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from places import ON_BOTH, look
from terminal import at_terminal, in_pipe

pytest.importorskip("argon2")
from argon2 import PasswordHasher
from comers import PASSWORD, Browser, Site, console

from ocp_stripe_balance import ConfigurationError, NotSentError
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.access.routes import own_path
from ocp_stripe_balance.web.access.sessions import IDLE_S, LONGEST_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from places import Place


@pytest.fixture
async def site(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """
    A server with one person who may do everything.
    """
    async with console(monkeypatch, journal=str(place)) as made:
        await made.add()
        yield made


@pytest.fixture
async def ana(site: Site) -> AsyncIterator[Browser]:
    """
    Her browser, signed in.
    """
    async with site.browser() as browser:
        assert 303 == (await browser.sign_in()).status_code
        yield browser


@ON_BOTH
async def test_who_signs_in_is_known_until_they_sign_out(ana: Browser) -> None:
    """From the redirect to the page, over the form, to the end; and all of it is in the audit."""
    site, held = ana.site, ana.cookies["session"]
    assert (await ana.get("/any")).text.startswith("ana password ")
    assert 200 == (await ana.sends()).status_code
    assert ["ana"] == site.done
    left = await ana.sends("/sign-out")
    assert (303, "/sign-in") == (left.status_code, left.headers["location"])
    assert "session" not in ana.cookies
    async with site.browser(cookies={"session": held}) as thief:
        assert "/sign-in?next=%2Fany%3Fa%3D1%252F" == (await thief.get("/any?a=1%2F")).headers["location"]
        assert 401 == (await thief.sends(csrf="")).status_code
    log = await site.log()
    assert [("made", "ana"), ("signed in", "ana")] == [each[:2] for each in log[:2]]
    assert [
        ("asked for", "ana", "POST /any"),
        ("asked for", "ana", "POST /sign-out"),
        ("signed out", "ana", ""),
    ] == log[2:]
    assert {"127.0.0.1"} == {each.address for each in await site.accounts.visits("ana", 4)}


@ON_BOTH
async def test_only_hashes_are_kept(ana: Browser, place: Place) -> None:
    """Who reads the journal can neither sign in nor take a session over."""
    with look(place) as db:
        tables = [list(map(tuple, db.execute(f"SELECT * FROM {name}"))) for name in ("people", "sessions", "visits")]  # noqa: S608
    text = str(tables)
    assert "$argon2id$" in text
    assert PASSWORD not in text
    assert ana.cookies["session"] not in text
    assert await ana.csrf() not in text


async def test_the_cookie_is_for_this_site_and_no_script(site: Site) -> None:
    async with site.browser() as browser:
        cookie = (await browser.sign_in()).headers["set-cookie"]
    assert re.fullmatch(r"session=[\w-]{43}; HttpOnly; Path=/; SameSite=lax", cookie)


async def test_a_session_that_the_browser_brought_is_never_the_one_it_gets(site: Site) -> None:
    """Who plants a cookie beforehand, their own good one too, is not in afterwards."""
    async with site.browser() as attacker, site.browser() as victim:
        await attacker.sign_in()
        planted = attacker.cookies["session"]
        victim.cookies.set("session", planted)
        await victim.sign_in()
        assert planted != victim.cookies.get("session", domain="127.0.0.1")
        assert 303 == (await attacker.get("/any")).status_code


async def test_what_another_site_sends_does_nothing(ana: Browser) -> None:
    """No token, a token of somebody else's session, and a page of elsewhere; the refusal is in the audit."""
    async with ana.site.browser() as other:
        await other.sign_in()
        others = await other.csrf()
    own = await ana.csrf()
    attacks: list[tuple[str, dict[str, str]]] = [
        *((csrf, {}) for csrf in ("", "0" * 64, others, "é")),
        *((own, {"Origin": origin}) for origin in ("https://evil.example", "null", "", "http://127.0.0.1:1")),
        (own, {"Origin": "https://127.0.0.1"}),
        (own, {"Sec-Fetch-Site": "cross-site"}),
        (own, {"Sec-Fetch-Site": "same-site"}),
        (own, {"Host": "evil.example"}),
        (own, {"X-CSRF-Token": ""}),
    ]
    for csrf, headers in attacks:
        known = len(await ana.site.log())
        refused = await ana.sends("/any", csrf, **headers)
        assert refused.status_code in {403, 421}, headers
        is_by_name = "misdirected" in refused.text  # before anybody looks who it is
        told = [each[:2] for each in (await ana.site.log())[known:]]
        assert told == ([] if is_by_name else [("refused", "ana")]), headers
    assert [] == ana.site.done


async def test_who_says_nothing_of_where_it_comes_from_does_nothing(ana: Browser) -> None:
    assert 403 == (await ana.post("/any", data={"csrf": await ana.csrf()})).status_code
    assert (
        200 == (await ana.post("/any", headers={"Origin": ana.site.url, "X-CSRF-Token": await ana.csrf()})).status_code
    )


async def test_nobody_is_signed_in_by_another_site(site: Site) -> None:
    """Who would then decide as somebody else, and not know."""
    async with site.browser() as browser:
        form = {"name": "ana", "password": PASSWORD}
        for headers in ({"Origin": "http://127.0.0.1:1"}, {"Origin": "https://evil.example"}, {}):
            refused = await browser.post("/sign-in", data=form, headers=headers)
            assert (403, None) == (refused.status_code, refused.headers.get("set-cookie"))


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil",
        "/\t/evil.example",
        "javascript:x()",
        "x",
        "",
        "/a\\..\\b",
        "/\r\nSet-Cookie: a=b",
        "/é",
    ],
)
def test_nobody_is_sent_elsewhere(path: str) -> None:
    assert "/" == own_path(path)


async def test_who_signs_in_goes_on_where_they_were(site: Site) -> None:
    """Quoted into the form, and checked when it comes back."""
    way = "/console/calls?q=%22%3E%3Cscript%3E&x=1"
    async with site.browser() as browser:
        page = await browser.get("/sign-in", params={"next": way})
        assert 'value="/console/calls?q=%22%3E%3Cscript%3E&amp;x=1"' in page.text
        assert way == (await browser.sign_in(next=way)).headers["location"]
        assert way == (await browser.get("/sign-in", params={"next": way})).headers["location"]
    async with site.browser() as browser:
        assert "/" == (await browser.sign_in(next="//evil.example")).headers["location"]
        assert "<script>" not in (await browser.sign_in('"><script>', "x")).text


async def test_a_name_that_is_nobodys_is_told_and_worked_on_as_any(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer, after the same work: an unknown name, a disabled one, one without a password, one of junk."""
    await site.add("bob")
    await site.accounts.disable("bob")
    await site.add("eve", known_as=("https://op.example", "1"))
    looked_at: list[str] = []
    verify = PasswordHasher.verify

    def seen(hasher: PasswordHasher, kept: str, password: bytes) -> bool:
        looked_at.append(kept.rsplit("$", 2)[0])
        return verify(hasher, kept, password)

    monkeypatch.setattr(PasswordHasher, "verify", seen)
    told = set()
    async with site.browser() as browser:
        for name in ("ana", "nobody", "bob", "eve", "\0'; --", "Ü" * 5000):
            answer = await browser.sign_in(name, "wrong password")
            told.add((answer.status_code, answer.text.replace(f'value="{name}"', ""), answer.headers.get("set-cookie")))
            told.add((answer.status_code, re.sub(r'value="[^"]*"', "", answer.text), None))
        bob = await browser.sign_in("bob")
    assert 403 == bob.status_code
    assert 1 == len({re.sub(r'value="[^"]*"|autofocus', "", str(each[1])) for each in told})
    assert {(403, None)} == {(each[0], each[2]) for each in told}
    assert (7, 1) == (len(looked_at), len(set(looked_at)))
    names = {name for what, name, _ in await site.log() if what == "refused"}
    assert {"ana", "bob", "eve", ""} == names, "what is nobody's name may be a password"


async def test_who_guesses_waits_longer_each_time_and_never_for_ever(
    site: Site, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the right password, also after a restart; elsewhere the person comes in as before."""
    async with site.browser() as known:
        await known.sign_in()
    async with site.browser(address="127.0.0.2") as guesser:
        waits = []
        for _ in range(18):
            answer = await guesser.sign_in("ana", "wrong")
            if answer.status_code == 429:
                waits.append(int(answer.headers["retry-after"]))
                assert f"{waits[-1]} second" in answer.text
                site.clock.now += waits[-1] - 0.5
                assert 429 == (await guesser.sign_in()).status_code
                site.clock.now += 1
                await guesser.sign_in("ana", "wrong")
        assert [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300] == waits
        async with console(monkeypatch, journal=str(place)) as restarted:
            restarted.clock.now = site.clock.now
            async with restarted.browser(address="127.0.0.2") as elsewhere:
                assert 429 == (await elsewhere.sign_in()).status_code
        async with site.browser() as known:
            assert 303 == (await known.sign_in()).status_code, "at an address that she came from before"
        with look(place) as db:
            assert "name ana" not in {each["whose"] for each in db.execute("SELECT whose FROM attempts")}
        site.clock.now += 300
        assert 303 == (await guesser.sign_in()).status_code
        assert 403 == (await guesser.sign_in("ana", "wrong")).status_code, "all is forgiven"


async def test_an_address_that_tries_many_names_waits(site: Site) -> None:
    """What it says of itself in headers changes nothing, nor does an account of its own in between."""
    async with site.browser() as guesser:
        for number in range(21):
            if number % 5 == 4:
                assert 303 == (await guesser.sign_in()).status_code
            headers = {"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}", "Origin": site.url}
            form = {"name": f"name{number}", "password": "wrong"}
            assert 403 == (await guesser.post("/sign-in", data=form, headers=headers)).status_code
        assert 429 == (await guesser.sign_in("another")).status_code
    assert {"127.0.0.1", ""} == {each.address for each in await site.accounts.visits(None, 100)}


async def test_behind_a_proxy_with_tls_the_cookie_is_for_this_host_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy that the server was told of says who asks and how; nobody else does."""
    async with console(monkeypatch, journal=str(place), proxy="127.0.0.1") as site:
        await site.add()
        form = {"name": "ana", "password": PASSWORD}
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
        own = {"Origin": site.url.replace("http:", "https:")}
        async with site.browser(address="127.0.0.2") as other, site.browser() as proxy:
            assert 403 == (await other.post("/sign-in", data=form, headers=headers | own)).status_code
            assert 403 == (await proxy.post("/sign-in", data=form, headers=headers | {"Origin": site.url})).status_code
            cookie = (await proxy.post("/sign-in", data=form, headers=headers | own)).headers["set-cookie"]
            held = {"Cookie": cookie.partition(";")[0]}
            assert 200 == (await proxy.get("/any", headers=headers | held)).status_code
            planted = {"Cookie": held["Cookie"].removeprefix("__Host-")}
            assert 303 == (await proxy.get("/any", headers=headers | planted)).status_code
        assert re.fullmatch(r"__Host-session=[\w-]{43}; HttpOnly; Path=/; SameSite=lax; Secure", cookie)
        assert "203.0.113.9" == (await site.accounts.visits("ana", 1))[0].address


async def test_a_hundred_guesses_at_once_are_a_hundred_guesses(site: Site) -> None:
    async with site.browser() as guesser:
        answers = await asyncio.gather(*(guesser.sign_in("ana", "wrong") for _ in range(30)))
    assert 6 == [each.status_code for each in answers].count(403)


@pytest.mark.parametrize("change", ["password", "disable", "idle", "open page", "longest"])
async def test_a_session_ends(ana: Browser, change: str) -> None:
    """With another password, with the account, where nobody is there any more, and in any case in the end."""
    site = ana.site
    match change:
        case "password":
            await site.accounts.change_password("ana", "another long password")
        case "disable":
            await site.accounts.disable("ana")
            assert 403 == (await ana.sign_in()).status_code
            await site.accounts.enable("ana")
        case "idle":
            site.clock.now += IDLE_S - 1
            assert 200 == (await ana.get("/any")).status_code
            site.clock.now += IDLE_S - 1
            assert 200 == (await ana.get("/any")).status_code
            site.clock.now += IDLE_S
        case "open page":
            site.clock.now += IDLE_S - 1
            assert 200 == (await ana.get("/any", headers={"Sec-Fetch-Dest": "empty"})).status_code
            site.clock.now += 1
        case _:
            end = site.clock.now + LONGEST_S
            while site.clock.now < end - IDLE_S:
                assert 200 == (await ana.get("/any")).status_code
                site.clock.now += IDLE_S - 1
            site.clock.now = end - 90
            assert 200 == (await ana.get("/any")).status_code
            site.clock.now = end
    assert 303 == (await ana.get("/any")).status_code
    password = "another long password" if change == "password" else PASSWORD
    assert 303 == (await ana.sign_in("ana", password)).status_code


@ON_BOTH
async def test_what_is_taken_is_gone_at_once(ana: Browser) -> None:
    """A role, and coming in at all; on either engine."""
    assert 200 == (await ana.get("/decides")).status_code
    await ana.site.accounts.change_roles("ana", [Role.SEES])
    refused = await ana.get("/decides")
    assert (403, True) == (refused.status_code, "does not have the role" in refused.text)
    assert 200 == (await ana.get("/sees")).status_code
    assert ("refused", "ana") == (await ana.site.log())[-1][:2]
    await ana.site.accounts.disable("ana")
    await ana.site.accounts.enable("ana")
    assert 303 == (await ana.get("/sees")).status_code
    assert 303 == (await ana.sign_in()).status_code
    await ana.site.accounts.change_password("ana", "another long password")
    assert 303 == (await ana.get("/sees")).status_code


@ON_BOTH
async def test_a_hash_of_yesterdays_parameters_is_made_anew(site: Site, place: Place) -> None:
    def kept() -> str:
        with look(place) as db:
            return str(db.execute("SELECT password FROM people").fetchone()[0])

    with look(place) as db:
        old = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash(PASSWORD)
        db.execute("UPDATE people SET password = ?", (old,))
    async with site.browser() as browser:
        await browser.sign_in("ana", "wrong")
        assert old == kept()
        assert 303 == (await browser.sign_in()).status_code
        assert "t=1" in kept()
        assert 303 == (await browser.sign_in()).status_code


async def test_accounts_are_made_once_and_with_a_password_worth_it(site: Site) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("ana", {"password": PASSWORD}, "already"),
        ("bob", {"password": "short"}, "12 to 1024"),
        ("Bob!", {"password": PASSWORD}, "a to z"),
    ]
    for name, how, word in cases:
        with pytest.raises(ConfigurationError, match=word):
            await site.add(name, **how)
    with pytest.raises(ConfigurationError, match="There is no account"):
        await site.accounts.disable("anna")
    assert ["ana"] == [each.name for each in await site.accounts.all()]


@pytest.mark.parametrize(("typed", "code"), [((PASSWORD, PASSWORD), 0), ((PASSWORD, "another one"), 2)])
def test_a_password_is_typed_twice_where_nobody_sees_it(
    typed: tuple[str, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(typed)
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    assert code == at_terminal("people", "add", "ana", "--role", "sees").code
    assert ("ana" in in_pipe("people", "list").out) is (code == 0)


async def test_the_page_needs_no_script_and_helps_password_managers(site: Site) -> None:
    async with site.browser() as browser:
        page = (await browser.get("/sign-in")).text
    assert 'autocomplete="username"' in page
    assert 'autocomplete="current-password"' in page
    assert not re.search(r"<script|style=|<style| on\w+=|https?://", page)


async def test_where_the_journal_cannot_be_used_nobody_comes_in(ana: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done that could not be put on record before."""

    async def fails(*_: object, **__: object) -> None:
        raise NotSentError("/secret/path is full")

    monkeypatch.setattr(ana.site.gateway.journal, "run", fails)
    for answer in (await ana.get("/any"), await ana.sends(csrf=""), await ana.sign_in()):
        assert (503, True, False) == (answer.status_code, "Nothing was done" in answer.text, "secret" in answer.text)
    assert [] == ana.site.done


async def test_a_body_of_junk_is_refused_and_no_more(site: Site) -> None:
    headers = {"Origin": site.url, "Content-Type": "multipart/form-data; boundary=x"}
    file = b'--x\r\nContent-Disposition: form-data; name="name"; filename="a"\r\n\r\nx\r\n--x--\r\n'
    async with site.browser() as browser:
        assert 400 == (await browser.post("/sign-in", content=file, headers=headers)).status_code
        answer = await browser.post("/sign-in", content=b"\xff=&&name", headers={"Origin": site.url})
        assert 403 == answer.status_code
        with pytest.raises(httpx.LocalProtocolError):
            await browser.get("/any", headers={"Cookie": "session=a\r\nb"})
        assert 303 == (await browser.get("/any", headers={"Cookie": "session=" + "x" * 3000})).status_code
