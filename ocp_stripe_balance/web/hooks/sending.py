"""
One message to one endpoint: signed as Standard Webhooks has it, sent once, and whether it arrived.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import certifi
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from ocp_stripe_balance._stripe.network import Network
from ocp_stripe_balance._stripe.wire import UnusableError
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance._text.version import package_version
from ocp_stripe_balance.settings import is_loopback
from ocp_stripe_balance.web.hooks.endpoints import is_public

if TYPE_CHECKING:
    import ssl

    from ocp_stripe_balance.settings import Settings
    from ocp_stripe_balance.web.hooks.endpoints import Endpoint
    from ocp_stripe_balance.web.hooks.events import Event

TIMEOUT_S = 15.0
_ARRIVED, _MOVED, _GONE = 2, 3, 410


class Sent(NamedTuple):
    """
    What became of an attempt.
    """

    status: int | None
    note: str
    """What was wrong; empty where it arrived."""
    is_gone: bool = False
    """Whether the endpoint says that it wants nothing more."""


def payload(endpoint: Endpoint, event: Event) -> str:
    """
    What is sent about an event, the same in each attempt.
    """
    link = endpoint.console + event.path
    if endpoint.is_slack:
        return json.dumps({"text": f"{_escaped(event.text)}. <{link}|Look at it in the console>"})
    data = {**event.data, "url": link}
    return json.dumps({"type": event.kind, "timestamp": moment(event.at), "data": data})


def signature(key: bytes, message: str, timestamp: int, body: bytes) -> str:
    """
    The header ``webhook-signature``.
    """
    signed = f"{message}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class Sender:
    """
    The way to endpoints.
    """

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
        """
        Open nothing yet.
        """
        self._network = Network.of(settings)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._tls: ssl.SSLContext | None = None

    async def send(self, endpoint: Endpoint, message: str, body: str, *, attempt: int, now: float) -> Sent:
        """
        What became of one attempt to tell an endpoint something.
        """
        data, timestamp = body.encode(), int(now)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"ocp-stripe-balance/{package_version()}",
            "webhook-id": message,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(endpoint.key, message, timestamp, data),
            "webhook-attempt": str(attempt),
        }
        url = URL(endpoint.url, encoded=True)
        resolver = None if endpoint.is_private or is_loopback(url.host or "") else _PublicResolver()
        try:
            tls: ssl.SSLContext | bool = self._context() if url.scheme == "https" else True
            # A connection of its own: messages are few, and each endpoint has its own rule for addresses.
            connector = aiohttp.TCPConnector(resolver=resolver, force_close=True, ssl=tls)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=self._timeout, trust_env=False) as session,
                session.post(url, data=data, headers=headers, allow_redirects=False) as answer,
            ):
                status = answer.status  # what else it says is not read
        except UnusableError as error:
            return Sent(None, str(error))
        except TimeoutError:
            return Sent(None, "no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Sent(None, f"it could not be reached ({type(error).__name__})")
        if status // 100 == _ARRIVED:
            return Sent(status, "")
        moved = ", and redirects are not followed" if status // 100 == _MOVED else ""
        return Sent(status, f"it answered {status}{moved}", is_gone=status == _GONE)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = self._network.ssl_context(certifi.where())
        return self._tls


class _PublicResolver(AbstractResolver):
    """
    A name's addresses, where all of them are public: a name that was given must not lead into this network.
    """

    def __init__(self) -> None:
        self._all = ThreadedResolver(asyncio.get_running_loop())

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """
        The addresses.

        Raises:
            OSError: one is not public.
        """
        found = await self._all.resolve(host, port, family)
        if not all(is_public(each["host"]) for each in found):
            raise OSError("its name leads to an address that is not public")
        return found

    async def close(self) -> None:
        """
        Nothing is open.
        """


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
