"""
What is told to those who wait, and to those who come, while the server ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import TOOL, ledger, order

pytest.importorskip("uvicorn")
from serving import ASKS, USER, as_caller, serving, settings_for

from ocp_stripe_balance import Settings
from ocp_stripe_balance.serving.tokens import Tokens
from ocp_stripe_balance.web.gateway import Gateway
from ocp_stripe_balance.web.server import application

if TYPE_CHECKING:
    from ocp_stripe_balance.models import Proposal
    from ocp_stripe_balance.sandbox import Sandbox

CALL = f"/tools/{TOOL}"
WAITS = {"Prefer": "wait=60"}


class Watched(Gateway):
    """
    A gateway that says when so many requests have looked whether somebody has decided.
    """

    def __init__(self, settings: Settings, number: int) -> None:
        super().__init__(settings, USER)
        self.left, self.is_waited = number, asyncio.Event()

    async def proposal(self, proposal_id: str) -> Proposal | None:
        found = await super().proposal(proposal_id)
        self.left -= 1
        if not self.left:
            self.is_waited.set()
        return found


async def test_who_waits_for_a_person_is_told_that_it_waits_when_the_server_ends(
    stripe: Sandbox, customer: str
) -> None:
    """Nobody is cut off: a call that is held, and a look at its proposal."""
    gateway = Watched(settings_for(stripe, policy=ASKS), 3)  # one of which does not wait
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        async with serving(application(gateway)) as url:
            asked = await http.post(url + CALL, json=order(customer, -2500, reference="a"))
            where = asked.headers["location"]
            again = order(customer, -2500, reference="a")
            held = [
                asyncio.create_task(http.post(url + CALL, json=again, headers=WAITS)),
                asyncio.create_task(http.get(url + where, headers=WAITS)),
            ]
            await asyncio.wait_for(gateway.is_waited.wait(), 5)
            assert not any(each.done() for each in held)
        call, look = await asyncio.gather(*held)
    assert (202, where) == (call.status_code, call.headers["location"])
    assert (200, "waiting") == (look.status_code, look.json()["state"])


async def test_who_comes_for_the_first_time_while_the_server_ends_calls_nothing(stripe: Sandbox, customer: str) -> None:
    """Its desk is opened after the others were closed, and is closed too."""
    tokens = Tokens(Settings())
    headers: dict[str, Any] = as_caller(tokens.create("late")) | WAITS
    app = application(Gateway(settings_for(stripe), USER))
    async with serving(app) as url, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        await app.state.close()
        told = await http.post(url + CALL, json=order(customer), headers=headers)
    assert (503, "not_sent") == (told.status_code, told.json()["outcome"])
    assert "the server is being ended" in told.json()["detail"]
    assert [] == await ledger(stripe, customer)
