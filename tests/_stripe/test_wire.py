"""
The request on the wire, byte for byte, read from a bare socket.
"""

from __future__ import annotations

import asyncio
import json
import platform
from importlib.metadata import version
from typing import Any

import pytest
from helpers import TEST_KEY, TOOL, UNGUARDED, entry_of, order

from ocp_stripe_balance import OCPAgent, Settings

USER_AGENT = f"ocp-stripe-balance/{version('ocp-stripe-balance')} Python/{platform.python_version()}"


class Recorder:
    """
    A server that keeps the bytes of each request and answers with one transaction.
    """

    def __init__(self) -> None:
        self.received: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        form = await reader.readexactly(length)
        self.received.append(head + form)
        body = json.dumps(entry_of(head.split(b" ")[1], form)).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        )
        writer.write(body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def send(parameters: dict[str, Any], *, calls: int = 1, **more: Any) -> tuple[bytes, int]:
    """
    The bytes of the last call's request, and the port they went to.
    """
    recorder = Recorder()
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    values = {"api_key": TEST_KEY, "api_base": f"http://127.0.0.1:{port}", **UNGUARDED, **more.pop("settings", {})}
    settings = Settings(**values)
    async with server, OCPAgent(settings=settings, **more.pop("agent", {})) as agent:
        agent.context.context_id = "ocp-0123abcd"
        await agent.register_api("stripe")
        for _ in range(calls):
            await agent.call_tool(TOOL, parameters, **more)
    assert calls == len(recorder.received)
    return recorder.received[-1], port


def expected(port: int, body: bytes, *, customer: str = "cus_1", key: str = "k", extra: str = "") -> bytes:
    head = (
        f"POST /v1/customers/{customer}/balance_transactions HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {TEST_KEY}\r\n"
        "Stripe-Version: 2026-10-28.endive\r\n"
        f"User-Agent: {USER_AGENT}\r\n"
        "Accept: application/json\r\n"
        "Accept-Encoding: identity\r\n"
        "OCP-Context-ID: ocp-0123abcd\r\n"
        "OCP-Agent-Type: ai_agent\r\n"
        "OCP-Version: 1.0\r\n"
        f"{extra}"
        f"Idempotency-Key: {key}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize(
    ("parameters", "body"),
    [
        (order(), b"amount=-500&currency=usd&metadata%5Bocp_call%5D=k"),
        (order(amount=1, currency="JPY"), b"amount=1&currency=jpy&metadata%5Bocp_call%5D=k"),
        (order(amount=-500.0, currency="Kwd"), b"amount=-500&currency=kwd&metadata%5Bocp_call%5D=k"),
        (order(amount=99999999999), b"amount=99999999999&currency=usd&metadata%5Bocp_call%5D=k"),
        (
            order(description="50% off & more = a+b\nÿ€😀"),
            b"amount=-500&currency=usd&description=50%25+off+%26+more+%3D+a%2Bb%0A%C3%BF%E2%82%AC%F0%9F%98%80"
            b"&metadata%5Bocp_call%5D=k",
        ),
        (
            order(metadata={"order": "6735", "a.b c": "x&y", "empty": ""}),
            b"amount=-500&currency=usd&metadata%5Border%5D=6735&metadata%5Ba.b+c%5D=x%26y&metadata%5Bempty%5D="
            b"&metadata%5Bocp_call%5D=k",
        ),
        (order(metadata={}), b"amount=-500&currency=usd&metadata%5Bocp_call%5D=k"),
        (order(metadata=""), b"amount=-500&currency=usd&metadata%5Bocp_call%5D=k"),
        (
            order(expand=["customer", "invoice.customer"]),
            b"amount=-500&currency=usd&metadata%5Bocp_call%5D=k&expand%5B0%5D=customer&expand%5B1%5D=invoice.customer",
        ),
        (order(description=None, metadata=None, expand=None), b"amount=-500&currency=usd&metadata%5Bocp_call%5D=k"),
        (order(expand=[]), b"amount=-500&currency=usd&metadata%5Bocp_call%5D=k"),
    ],
)
async def test_body_is_the_form_stripe_reads(parameters: dict[str, Any], body: bytes) -> None:
    """Numbers, text, metadata and expand arrive exactly so, in the manifest's order."""
    raw, port = await send(parameters, idempotency_key="k")
    assert expected(port, body) == raw


@pytest.mark.parametrize(
    ("customer", "segment"),
    [
        ("cus_9s6XKzkNRiz8i3", "cus_9s6XKzkNRiz8i3"),
        ("a:b@c;d=e&f+g", "a%3Ab%40c%3Bd%3De%26f%2Bg"),
        ("...", "..."),
        ("~._-", "~._-"),
        ("{customer}", "%7Bcustomer%7D"),
        ("!\"$'()*,<>[]^`|", "%21%22%24%27%28%29%2A%2C%3C%3E%5B%5D%5E%60%7C"),
    ],
)
@pytest.mark.promise("path.stays")
async def test_customer_stays_one_segment_of_the_path(customer: str, segment: str) -> None:
    """Whatever a customer's ID may hold is percent-encoded, and stays so down to the socket."""
    raw, port = await send(order(customer), idempotency_key="k")
    assert expected(port, b"amount=-500&currency=usd&metadata%5Bocp_call%5D=k", customer=segment) == raw


@pytest.mark.parametrize("way", ["argument", "header"])
async def test_key_is_sent_from_each_of_its_places(way: str) -> None:
    """The key may be an argument or a header, and is the same header on the wire."""
    ways: dict[str, dict[str, Any]] = {
        "argument": {"idempotency_key": "call 1!"},
        "header": {"headers": {"Idempotency-Key": "call 1!"}},
    }
    raw, port = await send(order(), **ways[way])
    assert expected(port, b"amount=-500&currency=usd&metadata%5Bocp_call%5D=call+1%21", key="call 1!") == raw


async def test_account_and_version_are_sent_where_set() -> None:
    """Stripe-Account goes out where set, and the pinned version can be changed."""
    raw, _ = await send(order(), settings={"account": "acct_1", "api_version": "2026-09-30.endive"})
    assert b"\r\nStripe-Account: acct_1\r\n" in raw
    assert b"\r\nStripe-Version: 2026-09-30.endive\r\n" in raw


async def test_headers_of_one_call_win_over_settings() -> None:
    """A call may act on another account, with another key and version."""
    headers = {"Authorization": "Bearer rk_test_other", "Stripe-Account": "acct_2", "stripe-version": "2026-01-01"}
    raw, _ = await send(order(), settings={"account": "acct_1"}, headers=headers)
    assert b"\r\nAuthorization: Bearer rk_test_other\r\n" in raw
    assert b"\r\nStripe-Account: acct_2\r\n" in raw
    assert b"\r\nStripe-Version: 2026-01-01\r\n" in raw


async def test_user_workspace_and_goal_stay_here_by_default() -> None:
    """Who the agent works for is nobody's business, and the session never is."""
    who = {"user": "alice", "workspace": "w", "agent_goal": "be kind"}
    raw, _ = await send(order(), agent=who)
    assert b"alice" not in raw
    assert b"be kind" not in raw
    assert b"OCP-Session" not in raw


async def test_user_workspace_and_goal_are_sent_where_switched_on() -> None:
    """Switched on, they are sent within OCP's limits and as plain ASCII."""
    who = {"user": "alice\r\nX-Evil: 1", "workspace": "w" * 200, "agent_goal": "süß"}
    raw, _ = await send(order(), agent=who, settings={"share_context": True})
    assert b"\r\nOCP-User: alice??X-Evil: 1\r\n" in raw
    assert b"\r\nOCP-Workspace: " + b"w" * 128 + b"\r\n" in raw
    assert b"\r\nOCP-Current-Goal: s??\r\n" in raw
    assert b"OCP-Session" not in raw


@pytest.mark.parametrize(
    ("parameters", "body"),
    [
        (order(), b"amount=-500&currency=usd"),
        (order(metadata={}), b"amount=-500&currency=usd&metadata="),
        (order(metadata=""), b"amount=-500&currency=usd&metadata="),
        (order(metadata={"a": "b"}), b"amount=-500&currency=usd&metadata%5Ba%5D=b"),
        (order(reference="ticket 812"), b"amount=-500&currency=usd&metadata%5Bocp_reference%5D=ticket+812"),
    ],
)
async def test_the_tag_can_be_switched_off(parameters: dict[str, Any], body: bytes) -> None:
    """Without tag_calls the metadata is the caller's own, and the reference where there is one."""
    raw, port = await send(parameters, idempotency_key="k", settings={"tag_calls": False})
    assert expected(port, body) == raw


async def test_a_reference_is_sent_as_metadata() -> None:
    """Beside the caller's own metadata and the tag."""
    raw, port = await send(order(metadata={"a": "b"}, reference="t-1"), idempotency_key="k")
    body = b"amount=-500&currency=usd&metadata%5Ba%5D=b&metadata%5Bocp_call%5D=k&metadata%5Bocp_reference%5D=t-1"
    assert expected(port, body) == raw


async def test_cookies_are_never_sent_back() -> None:
    """A second call to a server that set a cookie has the same headers as the first."""
    raw, port = await send(order(), calls=2)
    assert b"\r\nCookie:" not in raw
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in raw
