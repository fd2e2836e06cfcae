"""
Webhooks: told until it has arrived, the same bytes under the same ID, to nobody who was not named.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from helpers import TOOL, connect, decide, order, proposals, run
from pages import DOCS, names_of
from places import look
from postgres import new_database
from programs import started

from ocp_stripe_balance import ApprovalRequiredError, ConfigurationError, OutcomeUnknownError, Settings
from ocp_stripe_balance._journal import Journal, deliveries
from ocp_stripe_balance.web.gateway import Gateway
from ocp_stripe_balance.web.hooks import courier, sending
from ocp_stripe_balance.web.hooks.courier import WAITS_S, Courier
from ocp_stripe_balance.web.hooks.endpoints import Endpoint, Endpoints, is_public

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocp_stripe_balance.sandbox import Sandbox

POLICY: dict[str, Any] = {
    "approval": {"above": {"usd": "20.00"}, "queue": True},
    "budgets": [{"per": "customer", "window": "1h", "credit": {"usd": "50.00"}}],
    "duplicate_window": "off",
}


class Receiver:
    """
    An endpoint that keeps what it gets, and answers as it is told.
    """

    def __init__(self) -> None:
        self.got: list[SimpleNamespace] = []
        self.status, self.hangs = 204, False
        self.came, self.is_over = asyncio.Event(), asyncio.Event()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append(SimpleNamespace(headers=dict(request.headers), body=await request.read(), path=request.path))
        self.came.set()
        if self.hangs:
            await self.is_over.wait()
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    @property
    def kinds(self) -> list[str]:
        return [json.loads(each.body)["type"] for each in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    made.is_over.set()
    await runner.cleanup()


class Desk:
    """
    A journal, its endpoints, and a time of its own.
    """

    def __init__(self, stripe: Sandbox, journal: str) -> None:
        self.values: dict[str, Any] = {"policy": POLICY, "journal": journal}
        self.settings = Settings(api_key=stripe.api_key, api_base=stripe.url, **self.values)
        self.endpoints = Endpoints(self.settings)
        self.late_s = 0.0
        """How far the time of the journal is ahead."""
        self.stripe = stripe

    @contextlib.asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        journal = Journal(self.settings.journal_place, clock=lambda: time.time() + self.late_s)
        try:
            yield journal
        finally:
            await journal.aclose()

    async def deliver(self, timeout_s: float = 5) -> tuple[int, int]:
        async with self.journal() as journal:
            return await Courier(self.settings, journal, self.endpoints, timeout_s=timeout_s).deliver()

    async def call(self, customer: str, amount: int, *, key: str | None = None, **more: Any) -> Any:
        async with await connect(self.stripe, max_attempts=1, **self.values) as agent:
            with contextlib.suppress(ApprovalRequiredError, OutcomeUnknownError):
                return await agent.call_tool(TOOL, order(customer, amount, **more), idempotency_key=key)


@pytest.fixture
def desk(stripe: Sandbox, tmp_path: Path) -> Desk:
    return Desk(stripe, str(tmp_path / "journal.sqlite3"))


def test_signature_is_that_of_the_standard() -> None:
    """The example that every library of Standard Webhooks is tested with."""
    key = Endpoint(name="a", url="", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").key
    signed = sending.signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == signed


@pytest.mark.promise("hooks.told")
async def test_what_happens_is_told_once_and_verifies(desk: Desk, receiver: Receiver, customer: str) -> None:
    """Waiting, decided, unknown and nearly spent, of whoever's calls; each by the receiver of the page."""
    verified = names_of(DOCS / "webhooks.md", "receiver")["verified"]
    await desk.call(customer, -25_00, reference="before")  # of what was before it, an endpoint is told nothing
    made = desk.endpoints.add(Endpoint(name="hook", url=receiver.url, console="https://console.test/"))
    await desk.call(customer, -30_00, reference="a <b> ticket")
    assert (1, 0) == await desk.deliver()
    async with desk.journal() as journal:
        asked = (await proposals(journal))[-1]
        await decide(journal, asked.approve(by="ana", how="oidc"))
    await desk.call(customer, -30_00, reference="a <b> ticket")
    await desk.call(customer, -10_00)
    desk.stripe.faults.add("reset", times=20, path="balance_transactions")
    await desk.call(customer, -1_00, reference="lost")
    assert [(3, 0), (0, 0)] == [await desk.deliver(), await desk.deliver()]
    said = [verified(each.headers, each.body, made.secret) for each in receiver.got]
    by_kind = {each["type"]: each["data"] for each in said}
    request = by_kind["approval_request.created"]
    assert ("requires_review", -30_00, "a <b> ticket") == (request["status"], request["amount"], request["reference"])
    assert f"https://console.test/console/proposals/{asked.id}" == request["url"]
    assert ("ana", "oidc") == tuple(by_kind["approval_request.approved"]["review"][name] for name in ("by", "how"))
    assert "unknown" == by_kind["customer_balance_transaction.unknown"]["status"]
    budget = by_kind["budget.nearly_spent"]
    assert (customer, 50_00, True) == (budget["whose"], budget["limit"], budget["spent"] >= 40_00)
    assert 4 == len({each.headers["webhook-id"] for each in receiver.got}) == len(said)
    with pytest.raises(ValueError, match="not signed"):
        verified(receiver.got[0].headers, receiver.got[0].body + b" ", made.secret)


async def test_slack_gets_a_text_without_a_models_words(desk: Desk, receiver: Receiver, customer: str) -> None:
    """And only the events that were named."""
    desk.endpoints.add(
        Endpoint(
            name="slack",
            url=receiver.url,
            is_slack=True,
            events=("approval_request.created", "customer_balance_transaction.unknown"),
        )
    )
    await desk.call(customer, -30_00, reference="<!channel> pay", description="now")
    async with desk.journal() as journal:
        await decide(journal, (await proposals(journal))[-1].deny(by="ana"))
    assert (1, 0) == await desk.deliver()
    text = json.loads(receiver.got[0].body)["text"]
    assert text.startswith(f"Waiting for approval: credit 30.00 usd for {customer}, asked for by no named user. <http")
    assert "channel" not in text
    desk.stripe.faults.add("reset", path="balance_transactions")
    await desk.call(customer, -1_00, key="k|now>_<!here>")
    assert (1, 0) == await desk.deliver()
    assert 1 == json.loads(receiver.got[1].body)["text"].count("<")


async def test_a_key_writes_no_link_of_its_own(desk: Desk, receiver: Receiver, customer: str) -> None:
    """Callers choose keys, and a key stands in the link."""
    desk.endpoints.add(Endpoint(name="slack", url=receiver.url, is_slack=True))
    desk.stripe.faults.add("reset", executed=True, path="balance_transactions$")
    async with await connect(desk.stripe, max_attempts=1, **desk.values) as agent:
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order(customer), idempotency_key="k>. <https://evil.example|Approve")
    assert (1, 0) == await desk.deliver()
    text = json.loads(receiver.got[0].body)["text"]
    assert (1, 1, 1) == (text.count("<"), text.count("|"), text.count(">")), text


@pytest.mark.promise("hooks.told")
@pytest.mark.parametrize("trouble", ["fails", "hangs", "redirects", "is gone"])
async def test_what_did_not_arrive_is_sent_again(desk: Desk, receiver: Receiver, customer: str, trouble: str) -> None:
    """The same bytes and ID, which attempt it is, and later each time; a redirect is not followed, a 410 is the end."""
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    await desk.call(customer, -30_00)
    receiver.status = {"fails": 500, "redirects": 307, "is gone": 410}.get(trouble, 204)
    receiver.hangs = trouble == "hangs"
    for wait_s in (0, *WAITS_S[:2]):
        desk.late_s += wait_s + 1
        assert (0, 1 if trouble != "is gone" or not wait_s else 0) == await desk.deliver(timeout_s=0.2)
        assert (0, 0) == await desk.deliver(), "not before the wait is over"
    receiver.status, receiver.hangs = 204, False
    desk.late_s += WAITS_S[2] + 1
    assert (1 if trouble != "is gone" else 0, 0) == await desk.deliver()
    assert 1 == len({(each.headers["webhook-id"], each.body) for each in receiver.got})
    assert {"/hook"} == {each.path for each in receiver.got}
    attempts = [each.headers["webhook-attempt"] for each in receiver.got]
    assert (["1", "2", "3", "4"] if trouble != "is gone" else ["1"]) == attempts


async def test_it_is_given_up_after_days(desk: Desk, receiver: Receiver, customer: str) -> None:
    """And the list says so."""
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url, events=("approval_request.created",)))
    await desk.call(customer, -30_00)
    receiver.status = 503
    for wait_s in (0, *WAITS_S, 86400):
        desk.late_s += wait_s + 1
        await desk.deliver()
    assert len(WAITS_S) + 1 == len(receiver.got)
    (told,) = json.loads(run("webhooks", "list", "--json", OCP_STRIPE_JOURNAL=desk.values["journal"]).stdout)[
        "endpoints"
    ]
    assert (0, 1, "it answered 503") == (told["waiting"], told["given_up"], told["last_failure"])


async def test_what_nobody_looked_at_expires_and_is_told(desk: Desk, receiver: Receiver, customer: str) -> None:
    """In their order; and the gateway tells by itself."""
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    await desk.call(customer, -30_00)
    desk.late_s = 86401
    assert (2, 0) == await desk.deliver()
    assert ["approval_request.created", "approval_request.expired"] == receiver.kinds
    await desk.call(customer, -30_00, reference="more")
    receiver.came.clear()
    async with Gateway(desk.settings), asyncio.timeout(30):
        await receiver.came.wait()
    assert "approval_request.created" == receiver.kinds[-1]


async def test_of_two_yes_the_second_is_told_and_many_are_told_some_at_a_time(
    desk: Desk, receiver: Receiver, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first yes decides nothing yet."""
    for module in (courier, deliveries):
        monkeypatch.setattr(module, "AT_ONCE", 1)
    desk.values["policy"] = {**POLICY, "approval": {**POLICY["approval"], "two_people_above": {"usd": "25.00"}}}
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    await desk.call(customer, -30_00)
    async with desk.journal() as journal:
        for person in ("ana", "bob"):
            await decide(journal, (await proposals(journal))[0].approve(by=person))
    async with desk.journal() as journal:
        told = Courier(desk.settings, journal, desk.endpoints)
        assert [(1, 0), (0, 0), (1, 0), (0, 0)] == [await told.deliver() for _ in range(4)]
    assert ["approval_request.created", "approval_request.approved"] == receiver.kinds
    approvals = json.loads(receiver.got[1].body)["data"]["approvals"]
    assert ["ana", "bob"] == [each["by"] for each in approvals]


@pytest.mark.parametrize("engine", ["file", "server"])
async def test_servers_share_the_work(
    engine: str, stripe: Sandbox, tmp_path: Path, receiver: Receiver, customer: str
) -> None:
    """Three at once tell each event once; a message that another server is at is left to it."""
    desk = Desk(stripe, str(tmp_path / "journal.sqlite3") if engine == "file" else new_database())
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    stripe.faults.add("reset", path="balance_transactions")
    await desk.call(customer, -1_00, reference="lost")
    for number in range(5):
        await desk.call(customer, -30_00, reference=f"r{number}")
    results = await asyncio.gather(*(desk.deliver() for _ in range(3)))
    assert 6 == sum(arrived for arrived, _ in results) == len(receiver.got)
    assert 6 == len({each.headers["webhook-id"] for each in receiver.got})
    for number in range(4):
        await desk.call(customer, -10_00, reference=f"spent {number}")
    assert (1, 0) == await desk.deliver()
    assert "budget.nearly_spent" == receiver.kinds[-1]


@pytest.mark.parametrize("where", ["_collected", "_tell"])
async def test_fault_of_ours_ends_no_telling(
    desk: Desk, receiver: Receiver, customer: str, monkeypatch: pytest.MonkeyPatch, caplog: Any, where: str
) -> None:
    """It is in the log, without a secret, and what it kept is told a little later."""
    real, faults = getattr(Courier, where), iter([f"broken by {desk.stripe.api_key}"])

    def fails_once(*args: Any, **more: Any) -> Any:
        for fault in faults:
            raise ValueError(fault)
        return real(*args, **more)

    monkeypatch.setattr(Courier, where, fails_once)
    monkeypatch.setattr(courier, "_LOOK_S", 0.01)
    monkeypatch.setattr(courier, "_LEASE_S", 0)
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    await desk.call(customer, -30_00)
    async with desk.journal() as journal, Courier(desk.settings, journal, desk.endpoints).at_work():
        async with asyncio.timeout(30):
            await receiver.came.wait()
    assert "webhooks wait: Traceback" in caplog.text
    assert "broken by" in caplog.text
    assert desk.stripe.api_key not in caplog.text


@pytest.mark.promise("hooks.told")
async def test_message_of_a_killed_process_is_sent_again(desk: Desk, receiver: Receiver, customer: str) -> None:
    """kill -9 in the middle: the next process sends the same under the same ID, and says that it is the second time."""
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    await desk.call(customer, -30_00)
    receiver.hangs = True
    words = [*started(), str(Path(started()[0]).parent / "ocp-stripe-balance"), "webhooks", "deliver"]
    environment = {**os.environ, "OCP_STRIPE_JOURNAL": desk.values["journal"]}
    process = subprocess.Popen(words, env=environment)  # noqa: S603  ours
    async with asyncio.timeout(30):
        await receiver.came.wait()
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.wait)
    receiver.hangs = False
    assert (0, 0) == await desk.deliver(), "the other may still be at it"
    with look(Path(desk.values["journal"])) as db:
        db.execute("UPDATE deliveries SET next_at = 0")
    assert (1, 0) == await desk.deliver()
    assert 1 == len({(each.headers["webhook-id"], each.body) for each in receiver.got})
    assert ["1", "2"] == [each.headers["webhook-attempt"] for each in receiver.got]


async def test_removed_endpoint_is_told_nothing_more(desk: Desk, receiver: Receiver, customer: str) -> None:
    """Not what was under way either; and the next one of that name is not told it."""
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    await desk.call(customer, -30_00)
    receiver.hangs, receiver.status = True, 500
    under_way = asyncio.create_task(desk.deliver(timeout_s=30))
    async with asyncio.timeout(30):
        await receiver.came.wait()
        place = {"OCP_STRIPE_JOURNAL": desk.values["journal"]}
        assert 0 == (await asyncio.to_thread(run, "webhooks", "remove", "hook", **place)).returncode
        receiver.is_over.set()
        assert (0, 1) == await under_way
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    desk.late_s = WAITS_S[0] + 1
    assert (0, 0) == await desk.deliver()


async def test_a_long_window_is_told_once(desk: Desk, receiver: Receiver, customer: str) -> None:
    """Also where it is longer than other messages are kept."""
    today = int(time.time() // 86400)
    days = next(each for each in range(60, 366) if today % each < each - 16)  # one that goes on as long
    budget = {"per": "customer", "window": f"{days}d", "credit": {"usd": "50.00"}}
    desk.values["policy"] = {**POLICY, "budgets": [budget]}
    desk.settings = Settings(**desk.values)
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    for number in range(4):
        await desk.call(customer, -10_00, reference=f"spent {number}")
    assert (1, 0) == await desk.deliver()
    desk.late_s = courier._KEPT_S + 1
    assert (0, 0) == await desk.deliver()
    assert ["budget.nearly_spent"] == receiver.kinds


async def test_certificates_are_those_of_calls(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the environment names where it is trusted; what cannot be read is told."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    settings = Settings(**desk.values, trust_env=True)
    desk.endpoints.add(Endpoint(name="hook", url="https://127.0.0.1:1/"))
    sent = await sending.Sender(settings).send(desk.endpoints.one("hook"), "m", "{}", attempt=1, now=1)
    assert (None, True) == (sent.status, "SSL_CERT_FILE" in sent.note)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https://u:p@example.com/",
        "https:///x",
        "https://exa mple.com/",
        "x",
    ],
)
def test_impossible_endpoint_is_refused(desk: Desk, url: str) -> None:
    """Only https, or http to this machine; no password in it."""
    with pytest.raises(ConfigurationError, match=r"The URL|is none"):
        desk.endpoints.add(Endpoint(name="hook", url=url))
    for wrong in (
        Endpoint(name="../x", url="https://e.test/"),
        Endpoint(name="x", url="https://e.test/", events=("y",)),
    ):
        with pytest.raises(ConfigurationError):
            desk.endpoints.add(wrong)


async def test_name_that_leads_into_the_private_network_is_not_sent_to(desk: Desk, receiver: Receiver) -> None:
    """Unless it was said to be private; an address that was named is."""
    resolver = sending._PublicResolver()
    with pytest.raises(OSError, match="not public"):
        await resolver.resolve("localhost", 443)
    for address, expected in {
        "10.0.0.1": False,
        "::ffff:192.168.0.1": False,
        "fe80::1%eth0": False,
        "1.1.1.1": True,
    }.items():
        assert expected is is_public(address)
    desk.endpoints.add(Endpoint(name="hook", url=receiver.url))
    assert (
        "" == (await sending.Sender(desk.settings).send(desk.endpoints.one("hook"), "m", "{}", attempt=1, now=1)).note
    )


def test_commands_keep_the_secret(desk: Desk) -> None:
    """It is printed once, and kept in a file that nobody else can read."""
    place = {"OCP_STRIPE_JOURNAL": desk.values["journal"]}
    secret = run("webhooks", "add", "https://hooks.test/secret-path", "--name", "one", **place).stdout.strip()
    assert 32 == len(base64.b64decode(secret.removeprefix("whsec_")))
    file = desk.endpoints.folder / "one"
    assert (0o600, 0o700) == (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode))
    listed = run("webhooks", "list", **place)
    assert "hooks.test" in listed.stdout
    assert not {"secret-path", secret} & set(listed.stdout.split())
    assert "secret" not in repr(desk.endpoints.one("one"))
    failed = run("webhooks", "test", "one", **place)
    assert (2, True) == (failed.returncode, "could not be reached" in failed.stderr)
    assert "secret-path" not in failed.stdout + failed.stderr
    assert 0 == run("webhooks", "remove", "one", **place).returncode
    assert 2 == run("webhooks", "remove", "one", **place).returncode
