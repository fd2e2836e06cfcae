"""
Who may use which route: every one is in a table, and does what the table says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("argon2")
from comers import ALL, PASSWORD, console
from starlette.routing import Mount, Route

from ocp_stripe_balance.web.access.person import Role

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.routing import BaseRoute

# Whom a route is for: everybody, callers with a token, or people with these roles.
EVERYBODY, CALLERS = "everybody", "callers"
SEES, DECIDES, TOKENS = Role
METHODS = ("GET", "POST")
TABLE: dict[str, str | set[Role]] = {
    "GET /health": EVERYBODY,
    "GET /ready": EVERYBODY,
    "GET /problems": EVERYBODY,
    "GET /problems/{kind}": EVERYBODY,
    "GET /openapi.json": EVERYBODY,
    "GET /registry": EVERYBODY,
    "GET /registry/{api}": EVERYBODY,
    "GET /search": EVERYBODY,
    "GET /mcp": CALLERS,
    "GET /tools": EVERYBODY,
    "GET /tools/{tool}": EVERYBODY,
    "POST /tools/{tool}": CALLERS,
    "GET /proposals/{proposal}": CALLERS,
    "GET /": set(),
    "* /static": EVERYBODY,
    "GET /sign-in": EVERYBODY,
    "POST /sign-in": EVERYBODY,
    "GET /oidc/start": EVERYBODY,
    "GET /oidc/callback": EVERYBODY,
    "POST /sign-out": set(),
    "GET /console": {SEES},
    "GET /console/events": {SEES},
    "GET /console/proposals/{id}": {SEES},
    "POST /console/proposals/{id}": {DECIDES},
    "GET /console/confirm": {DECIDES},
    "POST /console/decide": {DECIDES},
    "GET /console/calls": {SEES},
    "GET /console/calls.csv": {SEES},
    "GET /console/calls/{key:path}": {SEES},
    "GET /console/customers/{id:path}": {SEES},
    **{f"{method} /console/{act}": {DECIDES} for act in ("reconcile", "resume", "reverse") for method in METHODS},
    "GET /console/bulk": {SEES},
    "POST /console/bulk": {DECIDES},
    "GET /console/bulk/{id}": {SEES},
    "GET /console/bulk/of/{key}": {SEES},
    **{f"{method} /console/bulk/{{id}}/run": {DECIDES} for method in METHODS},
    **{f"POST /console/bulk/{{id}}/{act}": {DECIDES} for act in ("stop", "reverse")},
    "POST /console/bulk/{id}/count": {SEES},
    "GET /console/bulk/{id}/report.csv": {SEES},
    "GET /console/overview": {SEES},
    "GET /console/policy": {SEES},
    **{f"{method} /console/tokens{act}": {TOKENS} for act in ("", "/revoke") for method in METHODS},
    "GET /any": set(),
    "POST /any": set(),
    **{f"{method} /{role}": {role} for role in Role for method in METHODS},
}


def routes(found: list[BaseRoute], before: str = "") -> Iterator[tuple[str, Any]]:
    """
    Every method and path of a server, each with what answers it.
    """
    for each in found:
        if isinstance(each, Route):
            for method in sorted((each.methods or {"GET"}) - {"HEAD"}):
                yield f"{method} {before}{each.path}", each.endpoint
        elif isinstance(each, Mount) and each.routes:
            yield from routes(each.routes, before + each.path)
        else:
            yield f"* {before}{getattr(each, 'path', each)}", each


def request_of(name: str) -> tuple[str, str]:
    """
    A method, and a path that a route answers.
    """
    method, path = name.split()
    return method, re.sub(r"\{[^}]*\}", "x", path)


async def test_every_route_is_for_whom_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route that is not in the table fails, and so does one that lets in who has all roles but the one it needs."""
    named = {"oidc_issuer": "https://op.example", "oidc_client_id": "console"}
    people = {name: roles for name, roles in TABLE.items() if isinstance(roles, set)}
    async with console(monkeypatch, journal=str(tmp_path / "journal"), **named) as site:
        found = dict(routes(site.app.router.routes))
        assert set(TABLE) == set(found)
        needed = {name: getattr(endpoint, "needed", None) for name, endpoint in found.items()}
        assert people == {name: set(roles) for name, roles in needed.items() if roles is not None}
        site.gateway.tokens.create("bot")
        for role in Role:
            await site.add(f"not-{role}", set(ALL) - {role})
        async with site.browser() as nobody, site.browser() as browser:
            for name in people:
                method, path = request_of(name)
                answer = await nobody.request(method, path)
                assert {"GET": 303, "POST": 401}[method] == answer.status_code, name
            for role in Role:
                await browser.sign_in(f"not-{role}", PASSWORD)
                headers = {"Origin": site.url, "X-CSRF-Token": await browser.csrf()}
                for name in [name for name, roles in people.items() if role in roles]:
                    method, path = request_of(name)
                    answer = await browser.request(method, path, headers=headers)
                    assert (403, True) == (answer.status_code, "does not have the role" in answer.text), name
            for name in [name for name, for_whom in TABLE.items() if for_whom == CALLERS]:
                method, path = request_of(name)
                assert 401 == (await browser.request(method, path)).status_code, f"{name}: a person is no caller"


async def test_everybody_comes_to_a_page_that_is_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may only make tokens is not met by a refusal; and who is refused can sign out from there."""
    async with console(monkeypatch, journal=str(tmp_path / "journal")) as site, site.browser() as browser:
        await site.add("tom", {TOKENS})
        await site.add("vera", {SEES, TOKENS})
        for name, place in (("tom", "/console/tokens"), ("vera", "/console")):
            assert "/" == (await browser.sign_in(name, PASSWORD, next="")).headers["location"]
            assert place == (await browser.get("/")).headers["location"]
        await browser.sign_in("tom", PASSWORD)
        assert 'action="/sign-out"' in (await browser.get("/console")).text
