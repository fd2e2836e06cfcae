"""
Who comes in over an OpenID provider, and every way in which somebody else does not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("argon2")
import jwt
from comers import Browser, OpenID, Site, console, path_of, provider
from cryptography.hazmat.primitives.asymmetric import rsa

from ocp_stripe_balance import ConfigurationError, Settings
from ocp_stripe_balance.web.access import oidc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import httpx


@pytest.fixture
async def op() -> AsyncIterator[OpenID]:
    """
    A provider.
    """
    async with provider() as made:
        yield made


@pytest.fixture
async def site(op: OpenID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """
    A server that knows one person of the provider's.
    """
    named = {"oidc_issuer": op.url, "oidc_client_id": op.client_id, "oidc_client_secret": op.secret}
    async with console(monkeypatch, journal=str(tmp_path / "journal"), **named) as made:
        await made.add(known_as=(op.url, "sub-1"))
        yield made


async def way_back(browser: Browser) -> str:
    """
    Where the provider sends a browser that began here.
    """
    away = await browser.get("/oidc/start?next=/any")
    assert 303 == away.status_code
    async with Browser(browser.site) as other:
        return path_of((await other.get(away.headers["location"])).headers["location"])


async def through(browser: Browser) -> httpx.Response:
    """
    There and back.
    """
    return await browser.get(await way_back(browser))


async def test_who_is_known_comes_in(site: Site, op: OpenID) -> None:
    """With PKCE, state and nonce; the secret of it stays here, and the cookie of the way is gone."""
    async with site.browser() as browser:
        assert "/oidc/start?next=%2Fany" in (await browser.get("/sign-in?next=/any")).text
        back = await through(browser)
        assert (303, "/any") == (back.status_code, back.headers["location"])
        assert (await browser.get("/any")).text.startswith("ana oidc ")
        assert ["session"] == list(browser.cookies)
    (asked,) = op.asked
    assert ("code", "S256", "openid") == (asked["response_type"], asked["code_challenge_method"], asked["scope"])
    assert 3 == len({asked["state"], asked["nonce"], asked["code_challenge"]})
    assert ("signed in", "ana", "") == (await site.log())[-1]


def claimed(**claims: Any) -> Callable[[OpenID], None]:
    def spoil(op: OpenID) -> None:
        changed = {name: value(op) if callable(value) else value for name, value in claims.items()}
        op.spoil = lambda good: {name: each for name, each in {**good, **changed}.items() if each is not None}

    return spoil


def signed(sign: Callable[[OpenID, dict[str, Any]], str]) -> Callable[[OpenID], None]:
    def spoil(op: OpenID) -> None:
        op.sign = lambda claims: sign(op, claims)

    return spoil


def with_public_key(op: OpenID, claims: dict[str, Any]) -> str:
    """
    What takes the provider's public key for a shared secret.
    """
    algorithm = jwt.get_algorithm_by_name("HS256")
    good = jwt.encode(claims, "x" * 32, "HS256", headers={"kid": "RS256"})
    body = good.rpartition(".")[0]
    return f"{body}.{jwt.utils.base64url_encode(algorithm.sign(body.encode(), op.public_pem())).decode()}"


ATTACKS = {
    "issuer": claimed(iss="https://evil.example"),
    "audience": claimed(aud="another"),
    "audiences": claimed(aud=["console", "another"]),
    "party": claimed(azp="another"),
    "nonce": claimed(nonce="0"),
    "no nonce": claimed(nonce=None),
    "expired": claimed(exp=lambda _: int(time.time()) - 120),
    "no end": claimed(exp=None),
    "of tomorrow": claimed(iat=lambda _: int(time.time()) + 86400),
    "subject": claimed(sub="sub-2"),
    "no subject": claimed(sub=None),
    "subject of no text": claimed(sub=1),
    "unsigned": signed(lambda _, claims: jwt.encode(claims, "", "none", headers={"kid": "RS256"})),
    "public key": signed(with_public_key),
    "another key": signed(
        lambda _, claims: jwt.encode(
            claims, rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256", headers={"kid": "RS256"}
        )
    ),
    "cut off": signed(lambda op, claims: op._signed(claims)[:-6]),
    "no token": signed(lambda _op, _claims: ""),
}


async def test_a_token_that_is_not_good_lets_nobody_in(site: Site, op: OpenID) -> None:
    """Nor does it make an account; why is in the audit, and not in the answer."""
    good = op.spoil, op.sign
    async with site.browser() as browser:
        for attack, spoil in ATTACKS.items():
            op.spoil, op.sign = good
            spoil(op)
            back = await through(browser)
            assert (403, []) == (back.status_code, list(browser.cookies)), attack
            assert ("refused", "") == (await site.log())[-1][:2]
            assert "token" not in back.text
        op.spoil, op.sign = good
        assert 303 == (await through(browser)).status_code
    assert ["ana"] == [each.name for each in await site.accounts.all()]


async def test_a_browser_comes_back_once_and_by_its_own_way(site: Site, op: OpenID) -> None:
    """Another browser's state, another's code, the same again, none: nobody is signed in as the attacker either."""
    async with site.browser() as victim, site.browser() as attacker:
        stolen = await way_back(attacker)
        assert 403 == (await victim.get(stolen)).status_code, "it never went away"
        own = await way_back(victim)
        code = stolen.partition("code=")[2].partition("&")[0]
        assert 403 == (await victim.get(stolen)).status_code, "the state is the other browser's"
        assert code in op.codes, "the provider was not even asked"
        own = await way_back(victim)
        state = own.partition("state=")[2]
        injected = await victim.get(f"/oidc/callback?code={code}&state={state}")
        assert 403 == injected.status_code, "the code is bound to the other browser's verifier"
        again = await way_back(victim)
        held = dict(victim.cookies)
        assert 303 == (await victim.get(again)).status_code
        async with site.browser(cookies=held) as replay:
            assert 403 == (await replay.get(again)).status_code, "the provider knows each code once"
        assert 403 == (await victim.get("/oidc/callback?error=access_denied")).status_code


async def test_who_is_disabled_does_not_come_in(site: Site) -> None:
    await site.accounts.disable("ana")
    async with site.browser() as browser:
        assert 403 == (await through(browser)).status_code
    assert ("refused", "ana", "disabled") == (await site.log())[-1]


async def test_who_the_provider_knows_gets_no_second_way_in(site: Site) -> None:
    with pytest.raises(ConfigurationError, match="has no password here"):
        await site.accounts.change_password("ana", "another long password")
    async with site.browser() as browser:
        assert 403 == (await browser.sign_in("ana", "another long password")).status_code


async def test_new_keys_of_the_provider_are_found(site: Site, op: OpenID, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then: no token makes this server ask it more than once a minute."""
    async with site.browser() as browser:
        assert 303 == (await through(browser)).status_code
        op.use_curve()
        assert 403 == (await through(browser)).status_code
        monkeypatch.setattr(oidc, "_AGAIN_S", 0.0)  # as if that minute had passed
        assert 303 == (await through(browser)).status_code


async def test_a_provider_that_says_something_else_of_itself_is_not_used(site: Site, op: OpenID) -> None:
    cases = {"issuer": "https://evil.example", "token_endpoint": "http://evil.example/token", "jwks_uri": None}
    async with site.browser() as browser:
        for name, said in cases.items():
            op.facts = {name: said}
            assert 502 == (await browser.get("/oidc/start")).status_code, name


def test_an_address_counts_where_the_provider_has_verified_it() -> None:
    named = {"oidc_issuer": "https://op.example", "oidc_client_id": "console", "oidc_claim": "email"}
    provider = oidc.Provider(Settings(**named))
    claims = {"aud": "console", "sub": "sub-1", "nonce": "n", "email": "ana@example.com"}
    for verified in ({}, {"email_verified": False}, {"email_verified": "true"}):
        with pytest.raises(oidc.ProviderError, match="verified"):
            provider._subject({**claims, **verified}, "n")
    assert "ana@example.com" == provider._subject({**claims, "email_verified": True}, "n")


def test_half_a_provider_is_none() -> None:
    for half in ({"oidc_issuer": "https://op.example"}, {"oidc_client_id": "console"}):
        with pytest.raises(ConfigurationError, match="set together"):
            oidc.Provider(Settings(**half))
    for issuer in ("http://op.example", "https://u@op.example", "https://op.example/?a", "op.example"):
        with pytest.raises(ConfigurationError, match="OIDC_ISSUER"):
            Settings(oidc_issuer=issuer)
