"""
Signing in with an OpenID provider: the authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636).

What the browser has to bring back, and what the token has to say, come from one secret that only that browser holds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import certifi
import httpx
import jwt

from ocp_stripe_balance._stripe.network import Network
from ocp_stripe_balance._stripe.wire import UnusableError, describe
from ocp_stripe_balance.errors import ConfigurationError
from ocp_stripe_balance.settings import is_loopback

if TYPE_CHECKING:
    import ssl

    from ocp_stripe_balance.settings import Settings

_ALGORITHMS = ["RS256", "ES256"]
_LONGEST_SUBJECT = 255  # of OpenID Connect Core, section 2
_LEEWAY_S = 60  # by which clocks differ
_KEPT_S, _AGAIN_S = 3600.0, 60.0
_PATIENCE_S, _MOST_BYTES = 10.0, 1_000_000


class ProviderError(Exception):
    """
    The provider did not say who that is.
    """


class _Known(NamedTuple):
    """
    What the provider says of itself.
    """

    facts: dict[str, Any]
    keys: list[jwt.PyJWK]
    at: float


class Provider:
    """
    The provider that the settings name.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Ask it nothing yet.

        Raises:
            ConfigurationError: a setting is missing.
        """
        if settings.oidc_issuer is None or settings.oidc_client_id is None:
            message = "OCP_STRIPE_OIDC_ISSUER and OCP_STRIPE_OIDC_CLIENT_ID are set together."
            raise ConfigurationError(message, hint="Set the other one too, or neither.")
        self.issuer, self._client_id = settings.oidc_issuer, settings.oidc_client_id
        self._secret, self._claim = settings.oidc_client_secret, settings.oidc_claim
        self._network = Network.of(settings)
        self._known: _Known | None = None
        self._context: ssl.SSLContext | None = None

    async def start(self, secret: str, redirect_uri: str) -> str:
        """
        Where the browser that holds *secret* goes to.

        Raises:
            ProviderError: the provider does not answer, or not as it should.
        """
        known = await self._about(_KEPT_S)
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid" if self._claim == "sub" else f"openid profile {self._claim}",
            "state": state_of(secret),
            "nonce": _derived(secret, "nonce"),
            "code_challenge": _text(hashlib.sha256(_derived(secret, "verifier").encode()).digest()),
            "code_challenge_method": "S256",
        }
        address = str(known.facts["authorization_endpoint"])
        return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(query)}"

    async def finish(self, secret: str, code: str, redirect_uri: str) -> str:
        """
        What the provider calls whom it sent back with *code* to the browser that holds *secret*.

        Raises:
            ProviderError: it does not say so, or nobody can know that it does.
        """
        known = await self._about(_KEPT_S)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": _derived(secret, "verifier"),
        }
        answer = await self._ask(str(known.facts["token_endpoint"]), **self._as_client(known.facts, form))
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise ProviderError("its answer has no ID token")
        return self._subject(await self._claims(token), _derived(secret, "nonce"))

    def _as_client(self, facts: dict[str, Any], form: dict[str, str]) -> dict[str, Any]:
        """
        The form as this client sends it.
        """
        if self._secret is None:
            return {"data": form | {"client_id": self._client_id}}
        secret, ways = self._secret.get_secret_value(), facts.get("token_endpoint_auth_methods_supported")
        if isinstance(ways, list) and "client_secret_basic" not in ways:
            return {"data": form | {"client_id": self._client_id, "client_secret": secret}}
        return {"data": form, "auth": (quote(self._client_id, safe=""), quote(secret, safe=""))}

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            key = await self._key(jwt.get_unverified_header(token).get("kid"))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=self._client_id,
                issuer=self.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except jwt.PyJWTError as error:
            raise ProviderError(f"its ID token is not good: {error}") from error
        return claims

    def _subject(self, claims: dict[str, Any], nonce: str) -> str:
        if not hmac.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
            raise ProviderError("its ID token is for another sign-in")
        is_for_several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if is_for_several else self._client_id) != self._client_id:
            raise ProviderError("its ID token is for another client")
        if self._claim == "email" and claims.get("email_verified") is not True:
            raise ProviderError("it has not verified the e-mail address")
        subject = claims.get(self._claim)
        if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
            raise ProviderError(f"its ID token has no {self._claim}")
        return subject

    async def _key(self, name: object) -> jwt.PyJWK:
        """
        The key of that name, or the only one where the token names none; new ones are looked for now and then.
        """
        for kept_s in (_KEPT_S, _AGAIN_S):
            keys = (await self._about(kept_s)).keys
            found = [each for each in keys if name is None or each.key_id == name]
            if len(found) == 1:
                return found[0]
        raise ProviderError("its ID token is signed with a key that is none of its own")

    async def _about(self, kept_s: float) -> _Known:
        if self._known is None or time.monotonic() - self._known.at > kept_s:
            facts = await self._ask(f"{self.issuer.removesuffix('/')}/.well-known/openid-configuration")
            if facts.get("issuer") != self.issuer:
                raise ProviderError(f"it calls itself otherwise than {self.issuer}")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                _check_address(name, facts.get(name))
            try:
                keys = jwt.PyJWKSet.from_dict(await self._ask(facts["jwks_uri"])).keys
            except jwt.PyJWTError as error:
                raise ProviderError(f"its keys cannot be read: {error}") from error
            self._known = _Known(facts, keys, time.monotonic())
        return self._known

    async def _ask(self, url: str, *, data: dict[str, str] | None = None, auth: Any = None) -> dict[str, Any]:
        """
        The JSON object that it answers; a POST where there is a form.
        """
        try:
            proxy = self._network.proxy_for(url)
            self._context = self._context or self._network.ssl_context(certifi.where())
            transport = httpx.AsyncHTTPTransport(verify=self._context, proxy=httpx.Proxy(proxy) if proxy else None)
            # Neither the environment nor a redirect says where the code and the secret go.
            async with (
                httpx.AsyncClient(transport=transport, timeout=_PATIENCE_S, trust_env=False) as client,
                client.stream("GET" if data is None else "POST", url, data=data, auth=auth) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise ProviderError(f"its answer at {url} is too long")
                answer = httpx.Response(response.status_code, content=bytes(body))
            found = answer.json() if answer.is_success else None
        except (httpx.HTTPError, httpx.InvalidURL, UnusableError, ValueError) as error:
            raise ProviderError(f"it does not answer at {url}: {describe(error)}") from error
        if not isinstance(found, dict):
            raise ProviderError(f"it answers {answer.status_code} at {url}")
        return found


def new_secret() -> str:
    """
    What a browser holds while its person is at the provider.
    """
    return secrets.token_urlsafe(32)


def state_of(secret: str) -> str:
    """
    What a browser that holds *secret* has to bring back.
    """
    return _derived(secret, "state")


def _derived(secret: str, what: str) -> str:
    return _text(hmac.digest(secret.encode(), what.encode(), "sha256"))


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _check_address(name: str, address: object) -> None:
    parts = urlsplit(address) if isinstance(address, str) else urlsplit("")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ProviderError(f"its {name} is no https:// address")
