"""
The MCP server over HTTP: who is let in, under which names, and what becomes of calls whose client goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import ledger, order, proposals, records, usual_journal
from programs import CLI, started

from ocp_stripe_balance import ConfigurationError, Settings
from ocp_stripe_balance._domain import State
from ocp_stripe_balance.cli.mcp import _over_http

pytest.importorskip("mcp")
from mcp_host import ASKS, CREATE, VERSIONS, saying
from mcp_serving import HEADERS, USER, call_in, connected, hello, message, plain, served, settings_for

from ocp_stripe_balance.mcp import http as http_server
from ocp_stripe_balance.mcp.server import server_for
from ocp_stripe_balance.serving.gate import Gate
from ocp_stripe_balance.serving.http import LOOPBACK, listening, names_of, serve
from ocp_stripe_balance.serving.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocp_stripe_balance._journal import Record
    from ocp_stripe_balance.mcp.server import BalanceServer
    from ocp_stripe_balance.sandbox import Sandbox
    from ocp_stripe_balance.serving.tokens import Token


def told(result: Any) -> dict[str, Any]:
    """
    What a client was told of a call.
    """
    found: dict[str, Any] = result.structured_content
    return found


async def rows() -> list[Record]:
    async with usual_journal() as journal:
        return await records(journal)


@pytest.mark.parametrize("mode", VERSIONS)
async def test_a_client_lists_calls_and_is_refused(stripe: Sandbox, customer: str, mode: Any) -> None:
    async with served(settings_for(stripe)) as url, connected(url, mode=mode) as client:
        assert CREATE in {tool.name for tool in (await client.list_tools()).tools}
        made = await client.call_tool(CREATE, order(customer, reference="ticket-1"))
        refused = await client.call_tool(CREATE, order(customer, -999999, reference="ticket-2"))
    assert ("succeeded", "not_sent") == (told(made)["outcome"], told(refused)["outcome"])
    assert (False, True) == (made.is_error, refused.is_error)
    assert 1 == len(await ledger(stripe, customer))
    assert USER == (await rows())[0].intent.caller.user


@pytest.mark.parametrize("mode", VERSIONS)
@pytest.mark.parametrize(("said", "entries"), [("yes", 1), ("no", 0)])
async def test_a_client_is_asked(stripe: Sandbox, customer: str, mode: Any, said: str, entries: int) -> None:
    asked: list[str] = []
    async with (
        served(settings_for(stripe, policy=ASKS)) as url,
        connected(url, mode=mode, elicitation_callback=saying(asked, content={"decision": said})) as client,
    ):
        result = await client.call_tool(CREATE, order(customer, reference="ticket-1"))
    assert "credit 5.00 usd" in "".join(asked)
    assert bool(entries) is not result.is_error
    assert entries == len(await ledger(stripe, customer))
    async with usual_journal() as journal:
        (proposal,) = await proposals(journal)
    assert f"{USER} in the session" == proposal.decided_by


# Who is let in


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(Settings())


async def test_only_a_token_lets_in(stripe: Sandbox, tokens: Tokens) -> None:
    token = tokens.create("bot")
    async with served(settings_for(stripe), tokens) as url, plain() as http:
        for said in ("", "Bearer", "Bearer bot", f"Bearer {token}x", f"Basic {token}", f"Bearer  {token}"):
            refused = await http.post(url, json=hello(), headers={"Authorization": said})
            assert 401 == refused.status_code, said
            assert "bearer" in refused.headers["www-authenticate"].lower()
        assert 401 == (await http.post(url, json=hello())).status_code
        assert 401 == (await http.post(f"{url}?token={token}", json=hello())).status_code
        let_in = {"Authorization": f"Bearer {token}"}
        assert 200 == (await http.post(url, json=hello(), headers=let_in)).status_code
        tokens.revoke("bot")
        assert 401 == (await http.post(url, json=hello(), headers=let_in)).status_code


@pytest.mark.parametrize("mode", VERSIONS)
async def test_budgets_count_a_tokens_calls_as_its_callers(
    stripe: Sandbox, customer: str, tokens: Tokens, mode: Any
) -> None:
    """Each of two bots has a budget of its own, over all its sessions."""
    policy = {"budgets": [{"per": "user", "window": "1h", "credit": {"usd": "8.00"}}]}
    ada, bob = tokens.create("ada"), tokens.create("bob")
    outcomes = []
    async with served(settings_for(stripe, policy=policy), tokens) as url:
        for number, token in enumerate((ada, ada, bob, bob)):
            async with connected(url, token, mode=mode) as client:
                result = await client.call_tool(CREATE, order(customer, -500 - number, reference=f"t-{number}"))
                outcomes.append(told(result)["outcome"])
    assert ["succeeded", "not_sent", "succeeded", "not_sent"] == outcomes
    assert ["ada", "bob"] == [row.intent.caller.user for row in await rows()]


async def test_what_another_callers_call_was_is_not_told(stripe: Sandbox, customer: str, tokens: Tokens) -> None:
    """Neither to who has its reference, nor to who has its key; its own caller is told."""
    ada, bob = (tokens.create(name) for name in ("ada", "bob"))
    async with served(settings_for(stripe), tokens) as url:
        async with connected(url, ada) as client:
            made = told(await client.call_tool(CREATE, order(customer, reference="ticket-1")))
            own = told(await client.call_tool(CREATE, order(customer, -1, reference="ticket-1")))
        async with connected(url, bob) as client:
            others = [
                told(await client.call_tool(CREATE, order(customer, -1, **named)))
                for named in ({"reference": "ticket-1"}, {"idempotency_key": made["idempotency_key"]})
            ]
    entry = made["entry"]["id"]
    assert entry in own["message"]
    assert [("idempotency_conflict", True)] * 2 == [
        (each["error"], "of another caller" in each["message"]) for each in others
    ]
    assert not {entry, customer} & set(json.dumps(others).replace('"', " ").split())
    assert 1 == len(await ledger(stripe, customer))


async def test_a_session_is_its_callers_alone(stripe: Sandbox, customer: str, tokens: Tokens) -> None:
    """Whoever learns a session's ID, but has another token, finds no such session."""
    ada, bob = ({"Authorization": f"Bearer {tokens.create(name)}"} for name in ("ada", "bob"))
    async with served(settings_for(stripe), tokens) as url, plain() as http:
        session = (await http.post(url, json=hello(), headers=ada)).headers["mcp-session-id"]
        headers, body = call_in("legacy", session, CREATE, **order(customer, reference="ticket-1"))
        assert 404 == (await http.post(url, json=body, headers=bob | headers)).status_code
        assert 404 == (await http.delete(url, headers=bob | headers)).status_code
        assert 401 == (await http.post(url, json=body, headers=headers)).status_code
        assert [] == await ledger(stripe, customer)
        assert 200 == (await http.post(url, json=body, headers=ada | headers)).status_code
    assert 1 == len(await ledger(stripe, customer))


async def test_an_answer_is_good_for_the_caller_who_was_asked(stripe: Sandbox, customer: str, tokens: Tokens) -> None:
    """The sealed state moves nothing under another token, and the money once under its own, also handed in twice."""
    ada, bob = ({"Authorization": f"Bearer {tokens.create(name)}"} for name in ("ada", "bob"))
    async with served(settings_for(stripe, policy=ASKS), tokens) as url, plain() as http:
        headers, body = call_in("2026-07-28", None, CREATE, **order(customer, reference="ticket-1"))
        body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {"form": {}}}
        asked = (await http.post(url, json=body, headers=headers | ada)).json()["result"]
        yes = {"action": "accept", "content": {"decision": "yes"}}
        body["params"] |= {
            "requestState": asked["requestState"],
            "inputResponses": dict.fromkeys(asked["inputRequests"], yes),
        }
        assert "error" in (await http.post(url, json=body, headers=headers | bob)).json()
        assert [] == await ledger(stripe, customer)
        answers = [(await http.post(url, json=body, headers=headers | ada)).json()["result"] for _ in range(2)]
    (entry,) = await ledger(stripe, customer)
    assert [entry["id"]] * 2 == [each["structuredContent"]["entry"]["id"] for each in answers]


async def test_a_token_is_in_no_log_no_answer_and_no_row(
    stripe: Sandbox, customer: str, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is the API key, however much is logged and whatever is asked."""
    caplog.set_level(logging.DEBUG)
    token = tokens.create("bot")
    answers = []
    async with served(settings_for(stripe), tokens) as url:
        caplog.clear()
        async with plain() as http:
            let_in = {"Authorization": f"Bearer {token}"}
            session = (await http.post(url, json=hello(), headers=let_in)).headers["mcp-session-id"]
            for mode in VERSIONS:
                for tool in (CREATE, "nothing"):
                    headers, body = call_in(mode, session, tool, **order(customer, reference=mode))
                    answers.append(await http.post(url, json=body, headers=let_in | headers))
            for wrong in (b"{", b"[]", b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": 1}'):
                answers += [await http.post(url, content=wrong, headers=let_in | headers)]
            answers += [await http.post(url, json=hello(), headers={"Authorization": f"Bearer {token}x"})]
    texts = [repr((each.status_code, each.headers, each.text)) for each in answers]
    texts += [f"{record.name} {record.getMessage()}" for record in caplog.records if "httpc" not in record.name]
    texts.append(repr(tokens.caller_of(token)))
    with closing(sqlite3.connect(str(Settings().journal_place))) as database:
        texts.append("".join(database.iterdump()))
    secret = token.partition(".")[2]
    assert 2 == len(await ledger(stripe, customer))
    assert [] == [text for text in texts if secret in text or stripe.api_key in text]


# Under which names


_NAMES: list[tuple[dict[str, str], int]] = [
    ({"Host": "evil.example.com"}, 421),
    ({"Host": "evil.example.com:{port}"}, 421),
    ({"Host": "127.0.0.1.evil.example.com:{port}"}, 421),
    ({"Host": "localhost.evil.example.com"}, 421),
    ({"Host": ""}, 421),
    ({"Origin": "https://evil.example.com"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://localhost.evil.example.com:{port}"}, 403),
    ({"Host": "localhost:{port}"}, 200),
    ({"Host": "[::1]:{port}"}, 200),
    ({"Host": "tools.example.com"}, 200),
    ({"Host": "tools.example.com:443", "Origin": "https://tools.example.com"}, 200),
    ({"Origin": "http://127.0.0.1:{port}"}, 200),
]


@pytest.mark.parametrize("mode", VERSIONS)
async def test_a_request_names_this_server(stripe: Sandbox, tokens: Tokens, mode: Any) -> None:
    let_in = {"Authorization": f"Bearer {tokens.create('bot')}"}
    async with served(settings_for(stripe), tokens, "tools.example.com") as url, plain() as http:
        port = str(httpx.URL(url).port)
        for headers, status in _NAMES:
            sent = {name: value.replace("{port}", port) for name, value in headers.items()}
            known, body = (
                call_in("2026-07-28", None, "get_customer", customer="cus_1") if mode != "legacy" else ({}, hello())
            )
            answer = await http.post(url, json=body, headers=let_in | known | sent)
            assert status == answer.status_code, sent
            assert "access-control-allow-origin" not in answer.headers


async def test_no_page_of_elsewhere_is_let_in(stripe: Sandbox) -> None:
    """A browser asks first, with OPTIONS, whether a page may send JSON."""
    async with served(settings_for(stripe)) as url, plain() as http:
        asks = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
        answer = await http.options(url, headers=asks)
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert not answer.is_success


def test_where_others_can_reach_it_there_are_tokens_and_names() -> None:
    with pytest.raises(ConfigurationError, match="no token"):
        names_of("192.0.2.1", (), has_tokens=False)
    with pytest.raises(ConfigurationError, match="no token"):
        names_of("0.0.0.0", ("tools.example.com",), has_tokens=False)  # noqa: S104  refused
    with pytest.raises(ConfigurationError, match="no token"):
        names_of("127.0.0.1", ("tools.example.com",), has_tokens=False)
    with pytest.raises(ConfigurationError, match="allow-host"):
        names_of("::", (), has_tokens=True)
    assert ("tools.example.com",) == names_of("0.0.0.0", ("tools.example.com",), has_tokens=True)  # noqa: S104  as above
    assert ("[2001:db8::1]",) == names_of("2001:db8::1", (), has_tokens=True)


def test_a_port_in_use_is_said() -> None:
    listener, url = listening("127.0.0.1", 0)
    with listener, pytest.raises(ConfigurationError, match="Nobody can listen"):
        listening("127.0.0.1", int(url.split(":")[2].split("/")[0]))


# Hostile input

_DEEP = b'{"a":' * 30_000 + b"1" + b"}" * 30_000
# What is done to a call that would be sent, or to its headers.
_SPOILT: list[tuple[Callable[[bytes], bytes], dict[str, str]]] = [
    (lambda _: b"", {}),
    (lambda _: b"{", {}),
    (lambda _: b"null", {}),
    (lambda _: b"[]", {}),
    (lambda _: b"\xff\xfe", {}),
    (lambda _: _DEEP, {}),
    (lambda call: b"[" + call + b"]", {}),
    (lambda call: b"[" + call + b"," + call + b"]", {}),
    (lambda call: b" " * (1024 * 1024) + call, {}),
    (lambda call: call + call, {}),
    (lambda call: call.replace(b'"id": 1', b'"id": {}'), {}),
    (lambda call: call.replace(b'"id": 1, ', b""), {}),
    (lambda call: call.replace(b"2.0", b"1.0"), {}),
    (lambda call: call.replace(b'"params": {', b'"params": [{')[:-1] + b"]}", {}),
    (lambda call: call.replace(b"tools/call", b"tools/\\u0000"), {}),
    (lambda call: call, {"Content-Type": "text/plain"}),
    (lambda call: call, {"Content-Type": "application/x-www-form-urlencoded"}),
    (lambda call: call, {"Accept": "text/html"}),
    (lambda call: call, {"MCP-Protocol-Version": "1999-01-01"}),
]


@pytest.mark.parametrize("mode", VERSIONS)
async def test_what_is_no_call_moves_nothing_and_hurts_nobody(stripe: Sandbox, customer: str, mode: Any) -> None:
    """After all of it, the same call as it should be is made, by the same session."""
    async with served(settings_for(stripe)) as url, plain() as http:
        session = (await http.post(url, json=hello())).headers["mcp-session-id"]
        known, call = call_in(mode, session, CREATE, **order(customer, reference="ticket-1"))
        content = json.dumps(call).encode()
        for number, (spoil, headers) in enumerate(_SPOILT):
            answer = await http.post(url, content=spoil(content), headers=known | headers)
            # One without an ID is a notification, and taken for what it is: nothing to do.
            is_refused = 400 <= answer.status_code < 500 or answer.status_code == 202 or '"error"' in answer.text
            assert is_refused, (number, answer.text)
            assert "Traceback" not in answer.text
            assert [] == await ledger(stripe, customer), number
        answer = await http.post(url, content=content, headers=known)
        assert 200 == answer.status_code
    assert 1 == len(await ledger(stripe, customer))


# Clients that go away


async def row_in(state: State) -> Record:
    while not (found := [row for row in await rows() if row.state is state]):
        await asyncio.sleep(0.05)
    return found[0]


@pytest.mark.parametrize("mode", VERSIONS)
async def test_a_client_that_goes_leaves_a_truthful_row_and_joins_when_it_is_back(
    stripe: Sandbox, customer: str, mode: Any
) -> None:
    """The call was sent; its client lost the connection, came back, and called again before Stripe had answered."""
    stripe.faults.add("stall", executed=True, path="balance_transactions$", seconds=0.5)
    async with served(settings_for(stripe)) as url:
        async with plain() as http:
            session = (await http.post(url, json=hello())).headers["mcp-session-id"]
            headers, body = call_in(mode, session, CREATE, **order(customer, reference="ticket-1"))
            calling = asyncio.create_task(http.post(url, json=body, headers=headers))
            while not stripe.faults.met["stall"]:
                await asyncio.sleep(0.01)
            calling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await calling
        async with connected(url, mode=mode) as client:
            again = told(await client.call_tool(CREATE, order(customer, reference="ticket-1")))
    (entry,) = await ledger(stripe, customer)
    assert ("succeeded", entry["id"]) == (again["outcome"], again["entry"]["id"])
    (row,) = await rows()
    assert (State.SUCCEEDED, entry["id"]) == (row.state, row.transaction_id)


@pytest.mark.parametrize("mode", VERSIONS)
async def test_what_was_not_sent_when_the_client_went_is_not_sent(stripe: Sandbox, customer: str, mode: Any) -> None:
    """The server was still reading the customer. The older protocol goes on; either way the row says what is so."""
    stripe.faults.add("stall", path=f"{customer}$", seconds=0.3)
    async with served(settings_for(stripe)) as url, plain() as http:
        session = (await http.post(url, json=hello())).headers["mcp-session-id"]
        headers, body = call_in(mode, session, CREATE, **order(customer, reference="ticket-1"))
        calling = asyncio.create_task(http.post(url, json=body, headers=headers))
        while not stripe.faults.met["stall"]:
            await asyncio.sleep(0.01)
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling
        if mode == "legacy":
            await row_in(State.SUCCEEDED)
    assert len(await ledger(stripe, customer)) == len(await rows()) == (1 if mode == "legacy" else 0)


@pytest.mark.parametrize("mode", VERSIONS)
@pytest.mark.parametrize(("seconds", "patience_s", "state"), [(0.3, 30, State.SUCCEEDED), (30, 0.3, State.UNKNOWN)])
async def test_a_server_that_is_ended_still_tells_what_became_of_a_call(
    stripe: Sandbox,
    customer: str,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    seconds: float,
    patience_s: float,
    state: State,
) -> None:
    """Where Stripe takes longer than a server that is ended may, that nobody knows."""
    monkeypatch.setattr(http_server, "_PATIENCE_S", patience_s)
    stripe.faults.add("stall", executed=True, path="balance_transactions$", seconds=seconds)
    async with plain() as http:
        async with served(settings_for(stripe)) as url:
            session = (await http.post(url, json=hello())).headers["mcp-session-id"]
            headers, body = call_in(mode, session, CREATE, **order(customer, reference="ticket-1"))
            calling = asyncio.create_task(http.post(url, json=body, headers=headers))
            while not stripe.faults.met["stall"]:
                await asyncio.sleep(0.01)
        answer = await calling
    (entry,) = await ledger(stripe, customer)
    assert [state] == [row.state for row in await rows()]
    assert f'"outcome":"{state}"' in answer.text.replace(": ", ":")
    assert (entry["id"] in answer.text) is (state is State.SUCCEEDED)


@pytest.mark.parametrize("mode", VERSIONS)
async def test_many_sessions_with_one_reason_pay_once(stripe: Sandbox, customer: str, mode: Any) -> None:
    async with served(settings_for(stripe)) as url:

        async def call() -> str:
            async with connected(url, mode=mode) as client:
                result = await client.call_tool(CREATE, order(customer, reference="ticket-1"))
                return str(told(result)["entry"]["id"])

        ids = await asyncio.gather(*(call() for _ in range(5)))
    (entry,) = await ledger(stripe, customer)
    assert {entry["id"]} == set(ids)


# The command


def test_the_command_serves_until_it_is_ended(stripe_thread: Sandbox) -> None:
    """It prints where, lets every program of the machine in, and says so; and its tools are those that were chosen."""
    stripe = stripe_thread
    variables = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
    command = [*started(), CLI, "mcp", "--http", "--port", "0", "--tools", "get_customer"]
    with _started(command, variables) as (server, url):
        answer = httpx.post(url, json=hello(), headers=HEADERS, trust_env=False)
        session = answer.headers["mcp-session-id"]
        listed = httpx.post(
            url, json=message("tools/list"), headers={**HEADERS, "Mcp-Session-Id": session}, trust_env=False
        )
        server.send_signal(signal.SIGTERM)
        assert 0 == server.wait(timeout=30)
        assert server.stderr is not None
        said = server.stderr.read()
    assert 200 == answer.status_code
    assert ["get_customer"] == re.findall(r'"name":"(\w+)"', listed.text)
    assert "No token was ever made" in said
    assert "Traceback" not in said


async def test_who_comes_for_the_first_time_while_the_server_ends_calls_nothing(stripe: Sandbox, customer: str) -> None:
    """Its desk is opened after the others were closed, and is closed too."""

    async def server_of(caller: Token) -> BalanceServer:
        return server_for(caller.name, settings_for(stripe))

    listener, url = listening("127.0.0.1", 0)
    app = http_server.application(server_of, names=LOOPBACK, gate=Gate(None, USER))
    serving = asyncio.create_task(serve(app, listener))
    headers, body = call_in("2026-07-28", None, CREATE, **order(customer, reference="ticket-1"))
    async with plain() as http:
        await http.get(url)  # it has started
        await app.state.close()
        told = await http.post(url + http_server.PATH, json=body, headers=headers)
    serving.cancel()
    await asyncio.wait([serving])
    assert "the server is being ended" in told.text
    assert [] == await ledger(stripe, customer)


async def test_the_first_token_closes_an_open_server(stripe: Sandbox, tokens: Tokens) -> None:
    """At once, with the sessions that were begun without one; and it stays closed whatever becomes of the folder."""
    async with served(settings_for(stripe), tokens) as url, plain() as http:
        session = (await http.post(url, json=hello())).headers["mcp-session-id"]
        headers, body = call_in("legacy", session, "get_customer", customer="cus_1")
        assert 200 == (await http.post(url, json=body, headers=headers)).status_code
        let_in = {"Authorization": f"Bearer {tokens.create('bot')}"}
        assert 401 == (await http.post(url, json=body, headers=headers)).status_code
        assert 404 == (await http.post(url, json=body, headers=headers | let_in)).status_code
        assert 200 == (await http.post(url, json=hello(), headers=let_in)).status_code
        shutil.rmtree(tokens.folder)
        assert 401 == (await http.post(url, json=hello())).status_code


async def test_a_token_is_wanted_once_one_was_made(
    stripe: Sandbox, tokens: Tokens, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after it was revoked: to take the last key away opens no door."""
    made = tokens.create("bot")
    tokens.revoke("bot")
    settings = settings_for(stripe)

    async def server_of(caller: Token) -> BalanceServer:
        return server_for(caller.name, settings)

    serving = asyncio.create_task(_over_http(server_of, settings, "127.0.0.1", 0, []))
    while not (url := capsys.readouterr().out.strip()):
        await asyncio.sleep(0)
    async with plain() as http:
        for headers in ({}, {"Authorization": f"Bearer {made}"}):
            assert 401 == (await http.post(url, json=hello(), headers=headers)).status_code
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


@contextlib.contextmanager
def _started(command: list[str], variables: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen(  # noqa: S603  our own program
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}
    ) as server:
        assert server.stdout is not None
        try:
            yield server, server.stdout.readline().strip()
        finally:
            server.kill()
