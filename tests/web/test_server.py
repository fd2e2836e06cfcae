"""
The server before the tools: attacks over HTTP, and what stops each. What a browser could be made to do, what a client
can send, who says who it is, and what is kept of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TOOL, ledger, order, proposals, records, run, usual_journal
from programs import CLI, started

pytest.importorskip("uvicorn")
from serving import ASKS, as_caller, client, served, settings_for
from starlette.requests import Request

from ocp_stripe_balance import ConfigurationError, Settings
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.serving import http as listening_http
from ocp_stripe_balance.serving.http import check_reach
from ocp_stripe_balance.serving.tokens import Token, Tokens
from ocp_stripe_balance.web import gateway, protection
from ocp_stripe_balance.web.api.calls import Visit
from ocp_stripe_balance.web.gateway import Gateway

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

CALL = f"/tools/{TOOL}"
JSON = {"Content-Type": "application/json"}


async def raw(url: str, *pieces: bytes) -> bytes:
    """
    All that is answered on a connection that sends these bytes.
    """
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


# Who says who it is


async def test_guessed_tokens_are_all_told_the_same(stripe: Sandbox, customer: str) -> None:
    """256 random bits stop guessing; a name that there is, is answered as one that is not."""
    token = Tokens(Settings()).create("bot")
    guesses = ["", "Bearer", "Bearer bot", "Bearer bot.", f"Bearer {token}x", f"Basic {token}", "Bearer ../bot.x"]
    guesses += [f"Bearer nobody.{token[4:]}", "Bearer b\u00f6t.x", f"Bearer  {token}"]
    async with client(settings_for(stripe)) as http:
        answers = [
            await http.post(CALL, json=order(customer), headers={b"Authorization": each.encode("latin-1")})
            for each in guesses
        ]
        answers += [await http.post(f"{CALL}?token={token}", json=order(customer))]
        two = [("Authorization", f"Bearer {token}"), ("Authorization", "Bearer x")]
        answers += [await http.post(CALL, json=order(customer), headers=each) for each in (two, two[::-1])]
    assert {401} == {each.status_code for each in answers}
    assert 1 == len({each.text for each in answers})
    assert all(each.headers["www-authenticate"].startswith("Bearer realm=") for each in answers)
    assert [] == await ledger(stripe, customer)


async def test_what_a_client_says_of_itself_counts_for_nothing(stripe: Sandbox, customer: str) -> None:
    """Budgets count the token's name, whatever the OCP headers, a forwarded address or a parameter say."""
    policy = {"budgets": [{"per": "user", "window": "1h", "credit": {"usd": "8.00"}}]}
    token = Tokens(Settings()).create("bot")
    lies = {"OCP-User": "root", "OCP-Agent-Type": "human", "OCP-Context-ID": "ocp-x", "X-Forwarded-For": "127.0.0.1"}
    async with client(settings_for(stripe, policy=policy), token) as http:
        first = await http.post(CALL, json=order(customer, reference="a"))
        lied = await http.post(CALL, json=order(customer, reference="b"), headers=lies)
    assert [201, 403] == [first.status_code, lied.status_code]
    assert "budgets" in lied.json()["rule"]


async def test_a_proposal_is_its_callers_alone(stripe: Sandbox, customer: str) -> None:
    """Who guesses or reads the ID of another's learns nothing, not even that it is there."""
    tokens = Tokens(Settings())
    ada, bob = (as_caller(tokens.create(name)) for name in ("ada", "bob"))
    async with client(settings_for(stripe, policy=ASKS)) as http:
        waiting = await http.post(CALL, json=order(customer, -2500), headers=ada)
        where = waiting.headers["location"]
        assert 200 == (await http.get(where, headers=ada)).status_code
        theirs = await http.get(where, headers=bob)
        none = await http.get("/proposals/ap_000000000000", headers=bob)
        assert 401 == (await http.get(where)).status_code
    assert (404, none.text) == (theirs.status_code, theirs.text)


async def test_a_key_of_another_caller_moves_nothing_and_tells_nothing(stripe: Sandbox, customer: str) -> None:
    """A key is one decision's, over all tokens: with other words it is refused, with the same it is not made again."""
    tokens = Tokens(Settings())
    ada, bob = (as_caller(tokens.create(name)) for name in ("ada", "bob"))
    key = {"Idempotency-Key": "k-1"}
    async with client(settings_for(stripe)) as http:
        made = await http.post(CALL, json=order(customer, description="for Ada only"), headers=ada | key)
        other = await http.post(CALL, json=order(customer, -1), headers=bob | key)
        same = await http.post(CALL, json=order(customer, description="for Ada only"), headers=bob | key)
        own = await http.post(CALL, json=order(customer, -1), headers=ada | key)
    assert [201, 422, 200] == [made.status_code, other.status_code, same.status_code]
    assert customer not in other.text
    assert made.json()["data"]["id"] not in other.text
    assert made.json()["data"]["id"] in own.text
    assert 1 == len(await ledger(stripe, customer))


async def test_what_another_caller_asked_first_is_waited_for_too(stripe: Sandbox, customer: str) -> None:
    """One decision is put to a person once; whoever was told of it may hold for it, and look what became of it."""
    tokens = Tokens(Settings())
    ada, bob = (as_caller(tokens.create(name)) for name in ("ada", "bob"))
    async with client(settings_for(stripe, policy=ASKS)) as http:
        first = await http.post(CALL, json=order(customer, -2500), headers=ada)
        where = first.headers["location"]
        held = asyncio.create_task(http.post(CALL, json=order(customer, -2500), headers={**bob, "Prefer": "wait=30"}))
        while (await http.get(where, headers=bob)).status_code != 200:
            await asyncio.sleep(0.01)
        async with BackOffice(Settings()) as office:
            await office.decide((await office.proposal(where.rpartition("/")[2])).approve(by="bo"))
        assert 201 == (await held).status_code
        assert ["used", "used"] == [(await http.get(where, headers=each)).json()["state"] for each in (ada, bob)]
    async with usual_journal() as journal:
        (record,) = await records(journal)
    assert "ada" == record.intent.caller.user  # who asked, and so not who approves
    assert 1 == len(await ledger(stripe, customer))


async def test_a_held_request_of_a_token_that_was_revoked_sends_nothing(stripe: Sandbox, customer: str) -> None:
    tokens = Tokens(Settings())
    headers = {**as_caller(tokens.create("bot")), "Prefer": "wait=30"}
    async with client(settings_for(stripe, policy=ASKS)) as http, usual_journal() as journal:
        held = asyncio.create_task(http.post(CALL, json=order(customer, -2500), headers=headers))
        while not (found := await proposals(journal)):
            await asyncio.sleep(0.01)
        tokens.revoke("bot")
        async with BackOffice(Settings()) as office:
            await office.decide(found[0].approve(by="bo"))
        assert 202 == (await held).status_code
        assert 401 == (await http.get(f"/proposals/{found[0].id}", headers=headers)).status_code
    assert [] == await ledger(stripe, customer)


async def test_a_reference_of_another_caller_tells_nothing_of_its_call(stripe: Sandbox, customer: str) -> None:
    tokens = Tokens(Settings())
    ada, bob = (as_caller(tokens.create(name)) for name in ("ada", "bob"))
    async with client(settings_for(stripe)) as http:
        made = await http.post(CALL, json=order(customer, reference="t-1"), headers={**ada, "Idempotency-Key": "adas"})
        keys = {"Idempotency-Key": "bobs"}
        other = await http.post(CALL, json=order(customer, -1, reference="t-1"), headers=bob | keys)
    assert [201, 422] == [made.status_code, other.status_code]
    assert ("bobs", True) == (other.json()["idempotency_key"], "reference" in other.json()["detail"])
    assert not {"adas", made.json()["data"]["id"], customer} & set(other.text.replace('"', " ").split())


# What a browser could be made to do


_TRICKS: list[tuple[dict[str, str], int]] = [
    ({"Host": "evil.example.com"}, 421),
    ({"Host": "127.0.0.1.evil.example.com"}, 421),
    ({"Host": "localhost:x"}, 421),
    ({"Host": ""}, 421),
    ({"Origin": "https://evil.example.com"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://[::1"}, 403),
    ({"Origin": "http://localhost.evil.example.com"}, 403),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Type": "application/json; charset=utf-16"}, 415),
    ({"Content-Encoding": "gzip"}, 415),
    ({"X-Forwarded-Host": "evil.example.com", "X-Original-URL": "/health", "X-HTTP-Method-Override": "GET"}, 201),
    ({"Origin": "http://localhost:3000", "Host": "LOCALHOST:1"}, 200),
]


async def test_a_page_of_elsewhere_and_headers_that_trick_reach_nothing(stripe: Sandbox, customer: str) -> None:
    """Names of hosts, what a form may send, and headers that some servers obey. The last two come in."""
    body = json.dumps(order(customer))
    async with client(settings_for(stripe)) as http:
        answers = [
            await http.post(CALL, content=body, headers=JSON | {"Idempotency-Key": "k"} | headers)
            for headers, _ in _TRICKS
        ]
        asked = await http.options(
            CALL, headers={"Origin": "http://localhost", "Access-Control-Request-Method": "POST"}
        )
    assert [status for _, status in _TRICKS] == [each.status_code for each in answers]
    assert not [name for each in [*answers, asked] for name in each.headers if name.startswith("access-control")]
    assert 405 == asked.status_code
    assert 1 == len(await ledger(stripe, customer))


async def test_every_answer_keeps_a_browser_from_more(stripe: Sandbox) -> None:
    async with client(settings_for(stripe)) as http:
        answers = [await http.get(path) for path in ("/problems", "/problems/rejected", "/none", "/health", "/mcp")]
        page = await http.get("/none", headers={"Accept": "text/html"})
    for each in [*answers, page]:
        assert "default-src 'none'" in each.headers["content-security-policy"]
        assert ("nosniff", "no-store") == (each.headers["x-content-type-options"], each.headers["cache-control"])
    assert (404, True) == (page.status_code, page.headers["content-type"].startswith("text/html"))


# What a client can send


_BODIES: list[tuple[str | bytes, int]] = [
    ("", 422),
    ("[]", 400),
    ("null", 400),
    ("{", 400),
    ('{"amount": -500, "amount": -50000, %s}', 400),
    ('{"amount": -500, "\\u0061mount": -50000, %s}', 400),
    ('{"amount": NaN, %s}', 400),
    ('{"amount": -1e999, %s}', 400),
    ('{"amount": -' + "9" * 5000 + ", %s}", 400),
    ('{"amount": -' + "9" * 500 + ", %s}", 422),
    ('{"amount": -500.5, %s}', 422),
    ('{"amount": true, %s}', 422),
    ('{"amount": -500, "__proto__": {"admin": true}, %s}', 422),
    ('{"amount": -500, "metadata": {"a[b]": "c"}, %s}', 422),
    ('{"amount": -500, "currency": "usd", "customer": "../charges"}', 422),
    ('{"amount": -500, "currency": "usd", "customer": "cus_1/../../x?y#z"}', 422),
    ('{"amount": -500, "description": "\\ud800", %s}', 422),
    ('{"a":' * 100_000 + "1" + "}" * 100_000, 400),
    (b'{"amount": -500, "description": "\xff"}', 400),
    (b"\x1f\x8b\x08", 400),
]


async def test_no_body_that_is_not_plain_moves_money(stripe: Sandbox, customer: str) -> None:
    """Names twice, numbers that are none, paths in a name, depth, bytes: the one JSON reader, and the schema."""
    rest = f'"currency": "usd", "customer": "{customer}"'
    async with client(settings_for(stripe)) as http:
        for body, status in _BODIES:
            sent = body.replace("%s", rest).encode() if isinstance(body, str) else body
            answer = await http.post(CALL, content=sent, headers=JSON)
            assert (status, "not_sent") == (answer.status_code, answer.json()["outcome"]), body[:60]
    assert [] == await ledger(stripe, customer)


async def test_however_deep_a_body_is_it_is_told_that_nothing_was_sent(stripe: Sandbox, customer: str) -> None:
    """What the reader just takes must not fail after it: that tells that money may have moved."""
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    async with Gateway(settings_for(stripe)) as gate:
        desk = await gate.desk_of(Token("bot"))
        visit = Visit(gate, desk, Request({"type": "http", "headers": [], "path": "/", "server": ("localhost", 1)}), 0)
        answer = await visit.answer(desk.tools[TOOL], order(customer, metadata=deep), "k")
    assert (422, "not_sent") == (answer.status_code, json.loads(bytes(answer.body))["outcome"])


async def test_no_path_or_method_reaches_a_tool_by_another_name(stripe: Sandbox, customer: str) -> None:
    body, statuses = order(customer), {}
    async with client(settings_for(stripe)) as http:
        for path in (
            f"{CALL}/",
            f"/{CALL}",
            "/tools/%2e%2e/health",
            f"/tools/x%2f{TOOL}",
            f"{CALL}%00",
            f"{CALL};a",
            "/tools/POST",
            "/tools/..;/x",
            f"{CALL}?amount=-9",
        ):
            statuses[path] = (await http.post(http.base_url.copy_with(raw_path=path.encode()), json=body)).status_code
        for method in ("PUT", "PATCH", "DELETE", "TRACE"):
            statuses[method] = (await http.request(method, CALL, json=body)).status_code
    assert {404, 405, 400} == set(statuses.values()), statuses
    assert [400] == [statuses[f"{CALL}?amount=-9"]]
    assert [] == await ledger(stripe, customer)


async def test_keys_that_are_not_clear_are_refused(stripe: Sandbox, customer: str) -> None:
    async with client(settings_for(stripe)) as http:
        for headers in (
            [("Idempotency-Key", '"a')],
            [("Idempotency-Key", '"a" b')],
            [("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
            [("Idempotency-Key", "a"), ("idempotency_key", "b")],
        ):
            assert 400 == (await http.post(CALL, json=order(customer), headers=headers)).status_code
        for key in ("", "k" * 256, '""'):
            assert 422 == (await http.post(CALL, json=order(customer), headers={"Idempotency-Key": key})).status_code
    assert [] == await ledger(stripe, customer)


async def test_smuggled_requests_are_refused(stripe: Sandbox, customer: str) -> None:
    """Where a proxy and this server could disagree where a request ends."""
    body = json.dumps(order(customer)).encode()
    head = (
        f"POST {CALL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n".encode()
    )
    length, chunk = b"Content-Length: %d\r\n" % len(body), b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with served(settings_for(stripe)) as url:
        for request in (
            head + length + b"Transfer-Encoding: chunked\r\n\r\n" + chunk,
            head + length + b"Content-Length: 3\r\n\r\n" + body,
            head + b"Transfer-Encoding: xchunked\r\n\r\n" + chunk,
            head + b"Transfer-Encoding : chunked\r\n\r\n" + chunk,
            head + b"Host: evil.example.com\r\n" + length + b"\r\n" + body,
            head.replace(b"\r\n", b"\n") + length + b"\n\n" + b"\0" + body,
        ):
            answer = await raw(url, request)
            assert b"400" in answer.split(b"\r\n")[0], request
        assert b"201" in (await raw(url, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)).split(b"\r\n")[0]
    assert 1 == len(await ledger(stripe, customer))


# How much, and how slowly


async def test_too_much_is_refused(stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a body that says how long it is, and of one that does not; of headers."""
    monkeypatch.setattr(protection, "MAX_BODY", 2000)
    long = json.dumps(order(customer, description="x" * 3000)).encode()

    async def chunks() -> Any:
        yield long[:1500]
        yield long[1500:]

    async with client(settings_for(stripe)) as http:
        assert 413 == (await http.post(CALL, content=long, headers=JSON)).status_code
        assert 413 == (await http.post(CALL, content=chunks(), headers=JSON)).status_code
        assert 431 == (await http.get("/health", headers={"OCP-Session": "x" * 70_000})).status_code
        assert 200 == (await http.get("/health", headers={"OCP-Session": "x" * 50_000})).status_code


async def test_no_form_that_takes_its_time_is_read(stripe: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks may send one: in an encoding that takes hours, longer than people type, or only the half of one."""
    kind = "multipart/form-data; boundary=x; {}=punycode"
    body = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\na-99\r\n--x--\r\n'
    head = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    async with client(settings_for(stripe)) as http:
        url = str(http.base_url).rstrip("/")
        site = {"Origin": url}
        for name in ("charset", "Charset", "charset*0"):
            headers = site | {"Content-Type": kind.format(name)}
            assert 400 == (await http.post("/sign-in", content=body, headers=headers)).status_code
        assert 413 == (await http.post("/sign-in", content=b"&" * 70_000, headers=site)).status_code
        _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(head + f"Origin: {url}\r\nContent-Length: 99\r\n\r\nname=".encode())
        await writer.drain()
        assert 200 == (await http.get("/sign-in")).status_code
        writer.close()
        assert 200 == (await http.get("/sign-in")).status_code
    assert [] == [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


async def test_who_takes_no_answer_is_cut_off(stripe: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is not kept by asking for much and reading nothing."""
    monkeypatch.setattr(listening_http, "_RECEIVE_S", 0.2)
    async with client(settings_for(stripe)) as http:
        with socket.socket() as taker:
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            taker.connect((http.base_url.host, http.base_url.port))
            taker.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    taker.send(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
                    await asyncio.sleep(0)
            cut = select.poll()
            cut.register(taker, 0)
            assert await asyncio.to_thread(cut.poll, 10_000), "nobody cut it off"


async def test_who_sends_slowly_is_cut_off(stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether nothing comes, half a head, or half a body; who asks for what takes its time is not."""
    monkeypatch.setattr(listening_http, "_RECEIVE_S", 0.2)
    head = (
        f"POST {CALL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n".encode()
    )
    stripe.faults.add("stall", seconds=0.5, path="balance_transactions$")
    async with client(settings_for(stripe)) as http:
        url = str(http.base_url).rstrip("/")
        slow = asyncio.create_task(http.post(CALL, json=order(customer)))
        for pieces in ((b"",), (head,), (head, b"\r\n{}")):
            with pytest.raises((ConnectionError, AssertionError)):
                assert await raw(url, *pieces)
        assert 201 == (await slow).status_code


async def test_there_are_only_so_many_connections(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has no request makes room for another; those that have one keep it."""
    monkeypatch.setattr(listening_http, "_MAX_CONNECTIONS", 2)
    stripe.faults.add("stall", seconds=2, times=2, path="balance_transactions$")
    async with client(settings_for(stripe)) as http:
        host, port = http.base_url.host, http.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        calls = []
        for number, each in enumerate("ab", 1):
            calls.append(asyncio.create_task(http.post(CALL, json=order(customer, reference=each))))
            while number > len([each for each in stripe.requests if each.method == "POST"]):
                await asyncio.sleep(0.01)
        assert b"" == await reader.read(), "the one without a request made room"
        writer.close()
        async with httpx.AsyncClient(trust_env=False) as third:
            with pytest.raises(httpx.TransportError):
                await third.get(f"http://{host}:{port}/health")
        assert [201, 201] == [each.status_code for each in await asyncio.gather(*calls)]


def test_the_body_of_an_answer_does_not_wait_until_the_head_has_arrived() -> None:
    """What asyncio sees to for other sockets; clients are slow to say that something has come."""
    listener, _ = listening_http.listening("127.0.0.1", 0)
    with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connections_leave_files_for_the_journal_and_for_stripe(monkeypatch: pytest.MonkeyPatch) -> None:
    resource, asked = pytest.importorskip("resource"), []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 600))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert (300, [(600, 600)]) == (listening_http._protocol(None).most, asked)


# What is kept of it


async def test_no_secret_is_logged_kept_or_told(
    stripe: Sandbox, customer: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tokens, the API key and OCP-Session, which has an agent's whole history; also where the server fails."""
    caplog.set_level(logging.DEBUG)
    token = Tokens(Settings()).create("bot")
    history = {"OCP-Session": "c2VjcmV0LWhpc3Rvcnk=", "Cookie": "session=secret-cookie"}
    answers = []
    async with client(settings_for(stripe), token) as http:
        answers.append(await http.post(CALL, json=order(customer), headers=history))
        answers.append(await http.post(CALL, json=order(customer, "x"), headers=history))
        answers.append(await http.post(CALL, json=order(customer), headers=history | as_caller(f"{token}x")))
        answers.append(await http.get("/none", headers=history))
    texts = [repr((each.status_code, each.headers, each.text)) for each in answers]
    texts += [record.getMessage() for record in caplog.records if "httpc" not in record.name] + [*capfd.readouterr()]
    with closing(sqlite3.connect(str(Settings().journal_place))) as database:
        texts.append("".join(database.iterdump()))
    secrets = [token.partition(".")[2], stripe.api_key, "c2VjcmV0", "secret-cookie"]
    assert [] == [(each, text) for text in texts for each in secrets if each in text]


# When clients go, and when it ends


async def test_a_client_that_goes_away_leaves_no_call_unrecorded(stripe: Sandbox, customer: str) -> None:
    """It goes on, and the same request is told the outcome."""
    stripe.faults.add("stall", executed=True, path="balance_transactions$", seconds=0.3)
    body = json.dumps(order(customer)).encode()
    head = f"POST {CALL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
    async with client(settings_for(stripe)) as http:
        _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while not stripe.faults.met["stall"]:
            await asyncio.sleep(0.01)
        writer.close()
        told = await http.post(CALL, json=order(customer), headers={"Idempotency-Key": "k"})
    assert (200, "true") == (told.status_code, told.headers["idempotent-replayed"])
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.parametrize(("sent", "status", "outcome"), [(True, 504, "unknown"), (False, 503, "not_sent")])
async def test_a_server_that_ends_tells_what_is_known(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch, sent: bool, status: int, outcome: str
) -> None:
    """Of a call that was sent, and of one that waits for a person."""
    monkeypatch.setattr(gateway, "_PATIENCE_S", 0.1)
    stripe.faults.add("stall", executed=True, path="balance_transactions$" if sent else "customers/", seconds=5)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        async with served(settings_for(stripe)) as url:
            calling = asyncio.create_task(http.post(f"{url}{CALL}", json=order(customer)))
            while not stripe.faults.met["stall"]:
                await asyncio.sleep(0.01)
        answer = await calling
    assert (status, outcome) == (answer.status_code, answer.json()["outcome"])


async def test_mcp_has_the_same_tokens_limits_and_desk(stripe: Sandbox, customer: str) -> None:
    """What one token calls over both counts once, and nobody comes in without one."""
    tokens = Tokens(Settings())
    reader = as_caller(tokens.create("reader", tools=["get_customer"], rate=2))
    # A client may want an answer as an event.
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28"}
    meta: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {}}
    meta["io.modelcontextprotocol/protocolVersion"] = "2026-07-28"
    meta["io.modelcontextprotocol/clientInfo"] = {"name": "test", "version": "1"}
    params = {"name": "get_customer", "arguments": {"customer": customer}, "_meta": meta}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    named = {"Mcp-Method": "tools/call", "Mcp-Name": "get_customer"}
    async with client(settings_for(stripe)) as http:
        assert 401 == (await http.post("/mcp", json=call, headers=headers | named)).status_code
        assert 200 == (await http.post("/tools/get_customer", json={"customer": customer}, headers=reader)).status_code
        texts = [(await http.post("/mcp", json=call, headers=headers | named | reader)).text for _ in range(2)]
    assert "is in credit" in texts[0] or customer in texts[0]
    assert "token.rate" in texts[1]


# Where it can be reached


async def test_it_speaks_tls(stripe: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, to make a certificate")
    made, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-out", made, "-keyout", key], check=True, capture_output=True)  # noqa: S603  as found
    context = ssl.create_default_context(cafile=made)
    async with (
        served(settings_for(stripe), certificate=(made, key)) as url,
        httpx.AsyncClient(verify=context, trust_env=False) as http,
    ):
        address = url.replace("http://127.0.0.1", "https://localhost")
        entry = await http.get(f"{address}/registry/stripe")
        with pytest.raises(httpx.TransportError):
            await http.get(f"{url}/health")
    monkeypatch.setattr(listening_http, "_HANDSHAKE_S", 0.2)
    async with served(settings_for(stripe), certificate=(made, key)) as url:
        assert b"" == await raw(url.replace("https", "http")), "who says nothing is cut off"
    assert address == entry.json()["base_url"]
    with pytest.raises(ConfigurationError, match="cannot be used"):
        async with served(settings_for(stripe), certificate=(key, made)):
            await asyncio.sleep(0)


def test_elsewhere_it_is_reached_behind_tls_or_a_named_proxy() -> None:
    with pytest.raises(ConfigurationError, match="can be read on the way"):
        check_reach("0.0.0.0", (), is_tls=False, proxy=None)  # noqa: S104  refused
    with pytest.raises(ConfigurationError, match=r"as pay\.example\.com"):
        check_reach("127.0.0.1", ("pay.example.com",), is_tls=False, proxy=None)
    with pytest.raises(ConfigurationError, match="no address"):
        check_reach("127.0.0.1", (), is_tls=False, proxy="nginx")
    check_reach("127.0.0.1", (), is_tls=False, proxy=None)
    check_reach("0.0.0.0", (), is_tls=True, proxy=None)  # noqa: S104  behind TLS
    check_reach("127.0.0.1", ("pay.example.com",), is_tls=False, proxy="127.0.0.1")


@pytest.mark.parametrize(("proxy", "scheme"), [("127.0.0.1", "https"), ("192.0.2.9", "http"), (None, "http")])
async def test_the_named_proxy_alone_says_who_asks(stripe: Sandbox, proxy: str | None, scheme: str) -> None:
    async with client(settings_for(stripe), proxy=proxy) as http:
        entry = await http.get("/registry/stripe", headers={"X-Forwarded-Proto": "https"})
    assert entry.json()["base_url"].startswith(f"{scheme}://")


async def test_another_machine_than_the_named_proxy_is_not_let_in(
    stripe: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could say what it likes, and be overheard."""
    monkeypatch.setattr(listening_http, "is_loopback", lambda _: False)  # this machine is another one here
    for proxy, is_in in (("127.0.0.1", True), ("192.0.2.9", False)):
        async with client(settings_for(stripe), proxy=proxy) as http:
            with contextlib.nullcontext() if is_in else pytest.raises(httpx.TransportError):
                assert 200 == (await http.get("/health")).status_code


async def test_the_command_serves_until_it_is_ended(stripe: Sandbox, customer: str) -> None:
    """It prints its address; what it would not do, it says at once."""
    environment = {**os.environ, "STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
    words = [*started(), CLI, "serve", "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
        assert 200 == (await http.get("/ready")).status_code
        assert 201 == (await http.post(CALL, json=order(customer))).status_code
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert (0, True) == (process.returncode, b"every program of this machine may call" in said)
    refused = run("serve", "--host", "0.0.0.0", stripe=stripe)  # noqa: S104  refused
    assert (2, True) == (refused.returncode, "--tls-cert" in refused.stderr)
