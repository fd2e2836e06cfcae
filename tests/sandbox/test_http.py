"""
What the SDK never does: raw HTTP to the sandbox.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import httpx
import pytest
from helpers import client

from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def http(stripe: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with client(stripe) as connected:
        yield connected


async def test_keys_come_by_bearer_and_basic(stripe: Sandbox) -> None:
    """Both, and nothing else."""
    async with httpx.AsyncClient(base_url=stripe.url) as http:
        bearer = {"Authorization": f"Bearer {stripe.api_key}"}
        assert 200 == (await http.get("/v1/customers", headers=bearer)).status_code
        assert 200 == (await http.get("/v1/customers", auth=(stripe.api_key, ""))).status_code
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Basic ?"}, {"Authorization": "Digest x"}):
            answer = await http.get("/v1/customers", headers=headers)
            assert 401 == answer.status_code
            assert "You did not provide an API key" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/charges"),
        ("PUT", "/v1/customers"),
        ("GET", "/v1/customers/a/b"),
        ("DELETE", "/v1/customers"),
    ],
)
async def test_other_urls_are_not_there(http: httpx.AsyncClient, method: str, path: str) -> None:
    """404, as Stripe words it."""
    answer = await http.request(method, path)
    assert 404 == answer.status_code
    assert f"Unrecognized request URL ({method}: {path})" in answer.json()["error"]["message"]


async def test_json_bodies_are_not_taken(http: httpx.AsyncClient) -> None:
    """v1 takes forms."""
    assert 400 == (await http.post("/v1/customers", json={"name": "Ada"})).status_code


async def test_both_ways_to_write_a_list_are_read(http: httpx.AsyncClient, stripe: Sandbox) -> None:
    """expand[]= and expand[0]= mean the same."""
    customer = stripe.create_customer()
    for name in ("expand[]", "expand[0]"):
        form = {"amount": "1", "currency": "usd", name: "customer"}
        answer = await http.post(f"/v1/customers/{customer}/balance_transactions", data=form)
        assert "customer" == answer.json()["customer"]["object"]


async def test_query_and_body_are_one_bag(http: httpx.AsyncClient, stripe: Sandbox) -> None:
    """As at Stripe, where parameters of a POST may stand in either."""
    customer = stripe.create_customer()
    answer = await http.post(f"/v1/customers/{customer}/balance_transactions?amount=5", data={"currency": "usd"})
    assert 5 == answer.json()["amount"]


async def test_an_empty_customer_reaches_another_endpoint(http: httpx.AsyncClient) -> None:
    """Stripe collapses slashes, so an empty ID is a trap; the sandbox keeps it."""
    answer = await http.post("/v1/customers//balance_transactions", data={"description": "x"})
    assert "No such customer: 'balance_transactions'" == answer.json()["error"]["message"]


async def test_every_reply_has_stripes_headers(http: httpx.AsyncClient) -> None:
    """Request-Id, the version asked for, and for keyed posts the advice not to retry."""
    answer = await http.post("/v1/customers", headers={"Stripe-Version": "2026-09-30.endive", "Idempotency-Key": "k"})
    assert answer.headers["Request-Id"].startswith("req_")
    assert "2026-09-30.endive" == answer.headers["Stripe-Version"]
    assert "false" == answer.headers["Stripe-Should-Retry"]
    assert answer.headers["Request-Id"] == answer.headers["Original-Request"]


async def test_keys_are_forgotten_after_a_day() -> None:
    """From then on the same key runs a new request, which is why nothing may be resent so late."""
    now = [1_700_000_000.0]
    async with Sandbox(now=lambda: now[0]) as stripe, client(stripe) as http:
        customer = stripe.create_customer()
        path = f"/v1/customers/{customer}/balance_transactions"
        form, headers = {"amount": "-500", "currency": "usd"}, {"Idempotency-Key": "k"}
        ids = []
        for elapsed in (0, 23 * 3600, 3601):
            now[0] += elapsed
            ids.append((await http.post(path, data=form, headers=headers)).json()["id"])
        assert ids[0] == ids[1] != ids[2]


async def test_a_key_that_is_too_long_is_refused(http: httpx.AsyncClient) -> None:
    """255 characters, no more."""
    assert 200 == (await http.post("/v1/customers", headers={"Idempotency-Key": "k" * 255})).status_code
    assert 400 == (await http.post("/v1/customers", headers={"Idempotency-Key": "k" * 256})).status_code


async def test_faults_meet_what_they_are_aimed_at(stripe: Sandbox, http: httpx.AsyncClient) -> None:
    """By count, by path, by seeded chance, until cleared."""
    stripe.faults.add("rate_limit", times=2, path="^/v1/customers$")
    assert 404 == (await http.get("/v1/customers/cus_1")).status_code
    assert [429, 429, 200] == [(await http.get("/v1/customers")).status_code for _ in range(3)]
    stripe.faults.add("server_error", times=None, probability=0.5)
    statuses = [(await http.get("/v1/customers")).status_code for _ in range(100)]
    assert 30 < statuses.count(500) < 70
    stripe.faults.clear()
    assert 200 == (await http.get("/v1/customers")).status_code


def test_the_same_seed_draws_the_same_faults() -> None:
    """A run can be repeated."""
    draws = []
    for _ in range(2):
        faults = Sandbox(seed=7).faults
        faults.add("reset", times=None, probability=0.3)
        draws.append([faults.draw("/") is not None for _ in range(50)])
    assert draws[0] == draws[1]


def test_a_fault_that_does_not_exist_is_refused() -> None:
    """A slip of the finger in a test suite must not pass for a quiet day."""
    with pytest.raises(ValueError, match="earthquake"):
        Sandbox().faults.add("earthquake")


async def test_a_sandbox_with_a_file_survives_its_restart(tmp_path: Path) -> None:
    """Keys, customers, entries and idempotency keys are there again."""
    path = tmp_path / "stripe.json"
    async with Sandbox(path=path) as stripe, client(stripe) as http:
        customer = stripe.create_customer(name="Ada")
        target = f"/v1/customers/{customer}/balance_transactions"
        form, headers = {"amount": "-500", "currency": "usd"}, {"Idempotency-Key": "k"}
        first = await http.post(target, data=form, headers=headers)
        await http.post("/v1/customers", headers={"Stripe-Account": "acct_1"})
        key = stripe.api_key
    async with Sandbox(path=path) as stripe, client(stripe) as http:
        assert key == stripe.api_key
        again = await http.post(target, data=form, headers=headers)
        assert (first.json(), "true") == (again.json(), again.headers["Idempotent-Replayed"])
        assert -501 == (await http.post(target, data={**form, "amount": "-1"})).json()["ending_balance"]
        assert 1 == len((await http.get("/v1/customers", headers={"Stripe-Account": "acct_1"})).json()["data"])


async def test_faults_can_be_set_by_text_and_endpoint(stripe: Sandbox, http: httpx.AsyncClient) -> None:
    """As on the command line, and while it runs."""
    stripe.faults.add_text("rate_limit:times=1,path=customers")
    assert [429, 200] == [(await http.get("/v1/customers")).status_code for _ in range(2)]
    waiting = [{"kind": "server_error", "times": "all", "executed": False, "path": ""}]
    told = (await http.post("/_sandbox/faults", content="server_error:times=all")).json()
    assert {"waiting": waiting, "met": {"rate_limit": 1}} == told
    assert [500, 500] == [(await http.get("/v1/customers")).status_code for _ in range(2)]
    told["met"]["server_error"] = 2
    assert told == (await http.get("/_sandbox/faults")).json()
    assert {**told, "waiting": []} == (await http.delete("/_sandbox/faults")).json()
    assert 200 == (await http.get("/v1/customers")).status_code
    for wrong in ("earthquake", "reset:when=now", "reset:times=few"):
        assert 400 == (await http.post("/_sandbox/faults", content=wrong)).status_code


async def test_refused_connections_are_refused_for_a_while(stripe: Sandbox, http: httpx.AsyncClient) -> None:
    """At once, and then not any more."""
    stripe.faults.add("refuse", seconds=0.1)
    assert stripe._refusing
    await stripe._refusing
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", http.base_url.port or 0))
    assert stripe._listening_again
    await stripe._listening_again
    assert 200 == (await http.get("/v1/customers")).status_code


async def test_a_duplicated_delivery_is_two_entries_without_a_key(stripe: Sandbox, http: httpx.AsyncClient) -> None:
    """What a network may do to a request; with a key it is one entry, and the answer a replay."""
    customer = stripe.create_customer()
    target, form = f"/v1/customers/{customer}/balance_transactions", {"amount": "-500", "currency": "usd"}
    stripe.faults.add("duplicate", times=2)
    assert -1000 == (await http.post(target, data=form)).json()["ending_balance"]
    answer = await http.post(target, data=form, headers={"Idempotency-Key": "k"})
    assert (-1500, "true") == (answer.json()["ending_balance"], answer.headers["Idempotent-Replayed"])
