"""
The console's server in the test's own loop, with pages of each role, people who come to it, and an OpenID provider.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

pytest.importorskip("argon2")
import jwt
from argon2 import PasswordHasher
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from serving import serving
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Route

from ocp_stripe_balance import Settings
from ocp_stripe_balance.web.access import passwords
from ocp_stripe_balance.web.access.accounts import Accounts
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.gateway import Gateway
from ocp_stripe_balance.web.server import application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from starlette.requests import Request

PASSWORD = "correct horse battery"
ALL = tuple(Role)


class Clock:
    """
    A time that stands until it is moved.
    """

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Site:
    """
    A server under test, and what is behind it.
    """

    def __init__(self, gateway: Gateway, url: str, clock: Clock, app: Starlette) -> None:
        self.gateway, self.url, self.clock, self.app = gateway, url, clock, app
        self.accounts = Accounts(gateway.journal, "test")
        self.done: list[str] = []

    async def add(self, name: str = "ana", roles: Iterable[Role] = ALL, **how: Any) -> None:
        await self.accounts.add(name, roles, **(how or {"password": PASSWORD}))

    async def log(self) -> list[tuple[str, str, str]]:
        """
        What was noted, oldest first: what, of whom, why.
        """
        return [(each.what, each.name, each.detail) for each in reversed(await self.accounts.visits(None, 1000))]

    def browser(self, **how: Any) -> Browser:
        return Browser(self, **how)

    async def echo(self, request: Request) -> PlainTextResponse:
        """
        A page of somebody's, which says who is there.
        """
        person = request.state.person
        if request.method == "POST":
            self.done.append(person.name)
        return PlainTextResponse(f"{person.name} {person.how} {request.state.csrf}")


class Browser(httpx.AsyncClient):
    """
    A client that says where a request comes from, as browsers do.
    """

    def __init__(self, site: Site, *, address: str = "127.0.0.1", **how: Any) -> None:
        transport = httpx.AsyncHTTPTransport(local_address=address, verify=False)
        super().__init__(base_url=site.url, transport=transport, trust_env=False, timeout=30, **how)
        self.site = site

    async def sign_in(self, name: str = "ana", password: str = PASSWORD, **more: str) -> httpx.Response:
        headers = {"Origin": self.site.url, "Sec-Fetch-Site": "same-origin"}
        return await self.post("/sign-in", data={"name": name, "password": password, **more}, headers=headers)

    async def csrf(self) -> str:
        return (await self.get("/any")).text.split()[-1]

    async def sends(self, path: str = "/any", csrf: str | None = None, **headers: str) -> httpx.Response:
        """
        A form of the site's own page.
        """
        form = {"csrf": await self.csrf() if csrf is None else csrf}
        return await self.post(path, data=form, headers={"Origin": self.site.url, **headers})


def hash_cheaply(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "PasswordHasher", cheap)


@contextlib.asynccontextmanager
async def console(monkeypatch: pytest.MonkeyPatch, *, proxy: Any = None, **settings: Any) -> AsyncIterator[Site]:
    """
    The whole server, with a page for anybody who is in, and one for each role; hashes are cheap.
    """
    hash_cheaply(monkeypatch)
    gateway, clock = Gateway(Settings(**settings)), Clock()
    gateway.journal._clock = clock
    app = application(gateway)
    async with serving(app, proxy=proxy) as url:
        site = Site(gateway, url, clock, app)
        pages = {"/any": signed_in()(site.echo)} | {f"/{role}": signed_in(role)(site.echo) for role in Role}
        app.router.routes[:0] = [Route(path, page, methods=["GET", "POST"]) for path, page in pages.items()]
        yield site


class OpenID:
    """
    A provider: it knows one client and one person, and its tokens can be spoilt.
    """

    client_id, secret = "console", "s/cret &:"

    def __init__(self) -> None:
        self.url = ""
        self.key: Any = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.algorithm: str | None = "RS256"
        self.spoil: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.sign: Callable[[dict[str, Any]], str] = self._signed
        self.facts: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[dict[str, str]] = []
        paths = {"/.well-known/openid-configuration": self._about, "/keys": self._keys, "/authorize": self._authorize}
        self.app = Starlette(
            routes=[
                *(Route(path, page) for path, page in paths.items()),
                Route("/token", self._token, methods=["POST"]),
            ]
        )
        self.app.state.close = partial(asyncio.sleep, 0)

    def use_curve(self) -> None:
        """
        Let there be a new key, of the other kind.
        """
        self.key, self.algorithm = ec.generate_private_key(ec.SECP256R1()), "ES256"

    def public_pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415  for one attack

        pem: bytes = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def _signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.key, self.algorithm, headers={"kid": str(self.algorithm)})

    async def _about(self, _: Request) -> JSONResponse:
        addresses = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
        facts = {"issuer": self.url, **{name: self.url + path for name, path in addresses.items()}}
        return JSONResponse(facts | self.facts)

    async def _keys(self, _: Request) -> JSONResponse:
        kind = jwt.algorithms.RSAAlgorithm if self.algorithm == "RS256" else jwt.algorithms.ECAlgorithm
        public = kind.to_jwk(self.key.public_key(), as_dict=True)
        return JSONResponse({"keys": [{**public, "kid": self.algorithm, "use": "sig"}]})

    async def _authorize(self, request: Request) -> RedirectResponse:
        asked = dict(request.query_params)
        self.asked.append(asked)
        code = f"code{len(self.codes)}"
        self.codes[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 303)

    async def _token(self, request: Request) -> JSONResponse:
        form = dict(parse_qsl((await request.body()).decode()))
        given = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        asked = self.codes.pop(form["code"], None)  # each is good once
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        is_good = (
            asked is not None
            and given == f"{self.client_id}:s%2Fcret%20%26%3A"
            and base64.urlsafe_b64encode(digest).decode().rstrip("=") == asked["code_challenge"]
            and form["redirect_uri"] == asked["redirect_uri"]
        )
        if asked is None or not is_good:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        now = int(time.time())
        claims = {"iss": self.url, "aud": self.client_id, "sub": "sub-1", "iat": now, "exp": now + 300}
        return JSONResponse({"id_token": self.sign(self.spoil({**claims, "nonce": asked["nonce"]}))})


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[OpenID]:
    """
    A provider on a socket of its own.
    """
    made = OpenID()
    async with serving(made.app) as made.url:
        yield made


def path_of(url: str) -> str:
    """
    The path and the query of an address.
    """
    return re.sub(r"^\w+://[^/]+", "", url) if urlsplit(url).netloc else url
