"""
The chaos run of the gateway: agents over HTTP that are killed in the middle of their calls, a server that is killed
and started again, and a Stripe that fails. What waits for a person waits on, as it was.

As `chaos_mcp_http.py`, whose sessions these are without MCP; each call has a key of the agent's own.

    python tests/chaos_gateway.py --sessions 100 --seconds 60 --server-every 5
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import chaos_mcp_http

if TYPE_CHECKING:
    import subprocess

    import chaos
    import httpx

_CALL = "/tools/create_balance_transaction"
_WAITING = 10
_ASKS = """
[limits]
credit = { other = "99999.00" }
debit = { other = "99999.00" }
[approval]
above = { other = "50000.00" }
queue = true
"""


class Agents(chaos_mcp_http.Sessions):
    """
    One run.
    """

    words = ("serve",)
    policy = chaos_mcp_http.Sessions.policy + _ASKS

    async def drive(self, http: httpx.AsyncClient) -> None:
        """
        The same, with some calls in the inbox that nobody decides.
        """
        self.asked: dict[int, Any] = {}
        await super().drive(http)
        assert _WAITING == len(self.asked)

    async def serve(self, port: int) -> subprocess.Popen[str]:
        """
        A server process, once it listens; the inbox is filled at the first, and as it was at each other one.
        """
        server = await super().serve(port)
        async with aiohttp.ClientSession(self.url) as http:
            for number in range(_WAITING):
                found = await self.waiting_call(http, number)
                assert found == self.asked.setdefault(number, found), "it is another one"
        return server

    async def waiting_call(self, http: aiohttp.ClientSession, number: int) -> dict[str, Any]:
        """
        The proposal of a call that waits; where Stripe fails, it is asked again.
        """
        body = {"customer": self.customers[0], "amount": -5_000_100 - number, "currency": "usd"}
        key = {"Idempotency-Key": f"inbox-{number}"}
        where = None
        while where is None:
            async with http.post(_CALL, json=body, headers=key) as answer:
                where = answer.headers.get("Location")
        async with http.get(where) as answer:
            found: dict[str, Any] = await answer.json()
        assert "waiting" == found["state"]
        return found

    async def begin(self, http: aiohttp.ClientSession) -> dict[str, str]:
        """
        Nothing: there are no sessions.
        """
        del http
        return {}

    async def answer(self, http: aiohttp.ClientSession, known: dict[str, str], job: chaos.Job) -> dict[str, Any]:
        """
        What a call was answered, in the words of a model's answer.

        Raises:
            aiohttp.ClientError: the server is gone.
        """
        key = {"Idempotency-Key": f'"job-{job.number}"'}
        async with http.post(_CALL, json=job.parameters, headers=known | key) as answer:
            told: dict[str, Any] = await answer.json(content_type=None)
        return {**told, "entry": told.get("data", {}), "message": told.get("detail", "")}


if __name__ == "__main__":
    sys.exit(chaos_mcp_http.main(Agents, "the gateway"))
