"""
The sandbox's limits: what is beyond them is a 429 as Stripe words it, and was not executed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from helpers import client, ledger

from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    import httpx

FORM = {"amount": "-500", "currency": "usd"}


def told(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json().get("error", {})
    return answer.status_code, error.get("code"), answer.headers.get("Stripe-Rate-Limited-Reason")


async def test_what_is_beyond_the_limit_is_refused_until_a_second_has_passed() -> None:
    """All endpoints together, counted over the last second; the refused do not count."""
    now = [1_700_000_000.0]
    async with Sandbox(rate_limit=3, now=lambda: now[0]) as stripe, client(stripe) as http:
        statuses = []
        for step in (0, 0.4, 0.3, 0.2, 0, 0.11, 0, 0.4):
            now[0] += step
            statuses.append((await http.get("/v1/customers")).status_code)
        assert [200, 200, 200, 429, 429, 200, 429, 200] == statuses
        assert (429, "rate_limit", "global-rate") == told(await http.get("/v1/customers"))
        assert {"admitted": 5, "seconds": pytest.approx(1.41), "refused": {"global-rate": 4}} == stripe.limits.counts()


async def test_each_endpoint_has_its_own_limit() -> None:
    """Whatever the ID; another endpoint goes on, and another account has limits of its own."""
    now = [1_700_000_000.0]
    sandbox = Sandbox(rate_limit=9, endpoint_rate_limit=2, now=lambda: now[0])
    async with sandbox as stripe, client(stripe) as http:
        customers = [stripe.create_customer() for _ in range(3)]
        answers = [await http.get(f"/v1/customers/{customer}") for customer in customers]
        assert [200, 200, 429] == [answer.status_code for answer in answers]
        assert (429, "rate_limit", "endpoint-rate") == told(answers[-1])
        assert 200 == (await http.get("/v1/customers")).status_code
        other = await http.get(f"/v1/customers/{customers[0]}", headers={"Stripe-Account": "acct_1"})
        assert 404 == other.status_code


async def test_a_429_leaves_the_idempotency_key_free() -> None:
    """Stripe's limiters stand before its keys: the same request later is the first under its key."""
    now = [1_700_000_000.0]
    async with Sandbox(rate_limit=1, now=lambda: now[0]) as stripe, client(stripe) as http:
        path = f"/v1/customers/{stripe.create_customer()}/balance_transactions"
        await http.get("/v1/customers")
        assert 429 == (await http.post(path, data=FORM, headers={"Idempotency-Key": "k"})).status_code
        now[0] += 1
        answer = await http.post(path, data=FORM, headers={"Idempotency-Key": "k"})
        assert (200, None) == (answer.status_code, answer.headers.get("Idempotent-Replayed"))


async def test_a_second_write_on_a_held_customer_is_a_lock_timeout() -> None:
    """It may be repeated under its key; reads and other customers are not held."""
    async with Sandbox(lock_s=1.0) as stripe, client(stripe) as http:
        customer, other = stripe.create_customer(), stripe.create_customer()
        path = f"/v1/customers/{customer}/balance_transactions"
        first = asyncio.ensure_future(http.post(path, data=FORM))
        while len(stripe.requests) < 1:
            await asyncio.sleep(0.01)
        second = await http.post(path, data=FORM, headers={"Idempotency-Key": "k"})
        assert (429, "lock_timeout", None) == told(second)
        assert "true" == second.headers["Stripe-Should-Retry"]
        assert 200 == (await http.get(f"/v1/customers/{customer}")).status_code
        assert 200 == (await http.post(f"/v1/customers/{other}/balance_transactions", data=FORM)).status_code
        assert 200 == (await first).status_code
        assert 200 == (await http.post(path, data=FORM, headers={"Idempotency-Key": "k"})).status_code
        assert (2, 1) == (len(await ledger(stripe, customer)), stripe.limits.refused["lock_timeout"])


@pytest.mark.parametrize("wrong", [{"rate_limit": 0}, {"endpoint_rate_limit": -1}, {"lock_s": -1}])
def test_impossible_limits_are_refused(wrong: dict[str, float]) -> None:
    """At once, not at the first request."""
    with pytest.raises(ValueError, match="positive number of requests per second"):
        Sandbox(**wrong)  # type: ignore[arg-type] # a dict forgets which is which
