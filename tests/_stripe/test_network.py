"""
What stands between here and Stripe: a proxy and certificates, by setting, or of the environment where that is trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers import TEST_KEY, TOOL, UNGUARDED, order, run
from pydantic import SecretStr

from ocp_stripe_balance import ConfigurationError, NotSentError, OCPAgent, Settings
from ocp_stripe_balance._stripe.aiohttp_wire import AiohttpWire
from ocp_stripe_balance._stripe.network import Network
from ocp_stripe_balance._stripe.request import Request
from ocp_stripe_balance._stripe.wire import UnsentError, UnusableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST = "stripe.test"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REQUEST = Request(method="POST", url=f"https://{HOST}/v1/x", body=b"a=b", headers={}, api_key=SecretStr(TEST_KEY))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """
    A certificate for a host that nobody resolves, and its key.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run([*command, "-out", str(made), "-keyout", str(key)], check=True, capture_output=True)  # noqa: S603
    return made, key


class Proxy:
    """
    A proxy that opens a tunnel to one server, whatever host is asked for, or turns everybody away.
    """

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.target = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            if b" 200 " in self.answer:
                there, out = await asyncio.open_connection("127.0.0.1", self.target)
                await asyncio.gather(pump(reader, out), pump(there, writer))
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def behind(proxy: Proxy, certificate: tuple[Path, Path]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """
    The proxy's URL with a password, and the requests that came out of its other end.
    """
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)
            await reader.read()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    front = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.target = server.sockets[0].getsockname()[1]
    async with server, front:
        yield f"http://user:pass@127.0.0.1:{front.sockets[0].getsockname()[1]}", requests


async def test_a_proxy_carries_calls_and_sees_no_key(certificate: tuple[Path, Path]) -> None:
    """It is asked for a tunnel to the host, with its own password; the request goes through it under TLS."""
    proxy = Proxy()
    async with behind(proxy, certificate) as (url, requests):
        wire = AiohttpWire(Network(proxy=SecretStr(url), ca_file=str(certificate[0])))
        received = await wire.exchange(REQUEST, 5)
        await wire.aclose()
    assert 200 == received.status
    assert proxy.heads[0].startswith(f"CONNECT {HOST}:443 HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic" in proxy.heads[0]
    assert TEST_KEY.encode() not in b"".join(proxy.heads)
    assert requests[0].startswith(b"POST /v1/x HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", b"hm", b""]
)
async def test_a_proxy_that_says_no_leaves_the_call_unsent(certificate: tuple[Path, Path], said: bytes) -> None:
    """Nothing of the request was handed to it, and its password is not told."""
    proxy = Proxy(said)
    async with behind(proxy, certificate) as (url, requests):
        wire = AiohttpWire(Network(proxy=SecretStr(url), ca_file=str(certificate[0])))
        with pytest.raises(UnsentError) as caught:
            await wire.exchange(REQUEST, 5)
        await wire.aclose()
    assert [] == requests
    assert "pass" not in str(caught.value)
    assert (b"407" in said) == ("407" in str(caught.value))


def test_the_environment_counts_only_where_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And to loopback there is never a proxy."""
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("SSL_CERT_FILE", "/missing")
    url = f"https://{HOST}/v1"
    assert (None, ["https_proxy", "SSL_CERT_FILE"]) == (Network().proxy_for(url), Network().ignored())
    trusting = Network(trusts_env=True)
    assert ("http://proxy.test:3128", []) == (trusting.proxy_for(url), trusting.ignored())
    monkeypatch.setenv("https_proxy", "socks5://proxy.test:1080")
    with pytest.raises(UnusableError, match="HTTPS_PROXY"):
        trusting.proxy_for(url)
    monkeypatch.setenv("no_proxy", HOST)
    assert None is trusting.proxy_for(url)
    own = Network(proxy=SecretStr("http://own.test:1"))
    assert ("http://own.test:1", None) == (own.proxy_for(url), own.proxy_for("https://127.0.0.1:1/v1"))
    with pytest.raises(UnusableError, match=r"SSL_CERT_FILE names /missing, .*: No such file"):
        trusting.ssl_context("")


async def test_what_is_ignored_is_said_where_no_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that needs its proxy names it in the environment, which is not trusted unasked."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    values = {"api_key": TEST_KEY, "api_base": f"https://{HOST}", "max_attempts": 1, "timeout": 5, **UNGUARDED}
    async with OCPAgent(settings=Settings(**values)) as agent:
        await agent.register_api("stripe")
        with pytest.raises(NotSentError, match="HTTPS_PROXY is set and not used; OCP_STRIPE_TRUST_ENV=true uses it"):
            await agent.call_tool(TOOL, order())
    done = run("doctor", OCP_STRIPE_TIMEOUT="2", STRIPE_API_BASE="http://127.0.0.1:9", STRIPE_API_KEY=TEST_KEY)
    assert "environment        HTTPS_PROXY is set and not used" in done.stdout


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("proxy", "proxy.test:3128"),
        ("proxy", "socks5://x"),
        ("proxy", "http://x:99999"),
        ("proxy", 3),
        ("ca_file", "/no"),
    ],
)
def test_impossible_settings_are_named(setting: str, value: object) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigurationError, match=f"OCP_STRIPE_{setting.upper()}"):
        Settings(**{setting: value})


def test_a_proxys_password_is_not_shown() -> None:
    """Neither in a repr nor in a refusal."""
    settings = Settings(proxy="http://user:hidden1@proxy.test:3128")
    assert "hidden1" not in repr(settings)
    with pytest.raises(ConfigurationError) as caught:
        Settings(proxy="ftp://user:hidden1@proxy.test")
    assert "hidden1" not in str(caught.value) + repr(caught.value)


async def told(**settings: object) -> ConfigurationError:
    """
    What a call says of a set-up that cannot work.
    """
    values = {"api_key": TEST_KEY, "api_base": f"https://{HOST}", "trust_env": True, "timeout": 30, **UNGUARDED}
    async with OCPAgent(settings=Settings(**{**values, **settings})) as agent:
        await agent.register_api("stripe")
        with pytest.raises(ConfigurationError) as caught:
            await agent.call_tool(TOOL, order())
    assert not caught.value.retryable
    assert 1 == caught.value.attempts
    return caught.value


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SSL_CERT_FILE", "/no/such.pem", "SSL_CERT_FILE names /no/such.pem, .*: No such file or directory"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE names .*: it has no certificates in PEM form"),
        ("SSL_CERT_DIR", "/no/such", "SSL_CERT_DIR names /no/such, .*: No such file or directory"),
        ("HTTPS_PROXY", "socks5://proxy.test:1080", "HTTPS_PROXY of the environment names no http:// proxy"),
    ],
)
async def test_what_cannot_be_used_is_named_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """Nothing is sent, no time is lost, and nobody is told to look at the network or to call again."""
    monkeypatch.setenv(variable, value)
    error = await told()
    assert re.search(said, str(error))
    assert "A person must mend what is named" in error.hint


async def test_a_file_of_certificates_that_went_away_is_named(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """It was there when the program began."""
    ca_file = tmp_path / "ca.pem"
    shutil.copy(certificate[0], ca_file)
    values = {"api_key": TEST_KEY, "api_base": f"https://{HOST}", "ca_file": str(ca_file), **UNGUARDED}
    async with OCPAgent(settings=Settings(**values)) as agent:
        await agent.register_api("stripe")
        ca_file.unlink()
        with pytest.raises(ConfigurationError, match="OCP_STRIPE_CA_FILE names"):
            await agent.call_tool(TOOL, order())


async def test_a_proxy_that_asks_for_a_password_is_no_passing_trouble(certificate: tuple[Path, Path]) -> None:
    """And neither is a certificate that nobody here trusts."""
    async with behind(Proxy(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"), certificate) as (url, _):
        assert "407" in str(await told(proxy=url))
    async with behind(Proxy(), certificate) as (url, requests):
        error = await told(proxy=url)
    assert "certificate verify failed" in str(error)
    assert "OCP_STRIPE_CA_FILE names other certificates" in str(error)
    assert [] == requests


def test_a_proxy_of_the_environment_is_read_as_others_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a scheme, and in capitals."""
    trusting, url = Network(trusts_env=True), f"https://{HOST}/v1"
    for given, meant in (("proxy.test:3128", "http://proxy.test:3128"), ("HTTP://proxy.test", "HTTP://proxy.test")):
        monkeypatch.setenv("HTTPS_PROXY", given)
        assert meant == trusting.proxy_for(url)
