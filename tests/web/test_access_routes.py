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
TABLE: dict[str, str | set[Role]] = {
    "GET /health": EVERYBODY,
    "GET /ready": EVERYBODY,
    "GET /sign-in": EVERYBODY,
    "POST /sign-in": EVERYBODY,
    "GET /oidc/start": EVERYBODY,
    "GET /oidc/callback": EVERYBODY,
    "POST /sign-out": set(),
    "GET /any": set(),
    "POST /any": set(),
    **{f"{method} /{role}": {role} for role in Role for method in ("GET", "POST")},
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


async def test_every_route_is_for_whom_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route that is not in the table fails, and so does one that lets in who has all roles but the one it needs."""
    named = {"oidc_issuer": "https://op.example", "oidc_client_id": "console"}
    async with console(monkeypatch, journal=str(tmp_path / "journal"), **named) as site:
        found = dict(routes(site.app.router.routes))
        assert set(TABLE) == set(found)
        needed = {name: getattr(endpoint, "needed", None) for name, endpoint in found.items()}
        assert {name: for_whom for name, for_whom in TABLE.items() if isinstance(for_whom, set)} == {
            name: set(roles) for name, roles in needed.items() if roles is not None
        }
        await site.add("all")
        await site.add("none", [])
        for role in Role:
            await site.add(f"not-{role}", set(ALL) - {role})
        async with site.browser() as nobody, site.browser() as browser:
            for name, for_whom in TABLE.items():
                if isinstance(for_whom, set):
                    method, path = name.split()
                    path = re.sub(r"\{[^}]*\}", "x", path)
                    answer = await nobody.request(method, path)
                    assert {"GET": 303, "POST": 401}[method] == answer.status_code, name
            for role in Role:
                await browser.sign_in(f"not-{role}", PASSWORD)
                csrf = await browser.csrf()
                for name, for_whom in TABLE.items():
                    if isinstance(for_whom, set) and role in for_whom:
                        method, path = name.split()
                        path, headers = re.sub(r"\{[^}]*\}", "x", path), {"Origin": site.url, "X-CSRF-Token": csrf}
                        answer = await browser.request(method, path, headers=headers)
                        assert (403, True) == (answer.status_code, "has not the role" in answer.text), name
