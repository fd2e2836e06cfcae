"""
The chaos run of the MCP server: sessions over HTTP that are killed in the middle of their calls, a server that is
killed and started again, and a Stripe that fails.

What a killed session left, another one calls again, for the same reason; now and then two do at once. At the end, the
three witnesses of `chaos.py` must agree on every call.

    python tests/chaos_mcp_http.py --sessions 100 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import chaos

if TYPE_CHECKING:
    import httpx

_PATH = "/mcp"
_TOOL = "create_balance_transaction"
_VERSIONS = ["2025-11-25", "2026-07-28"]
_POLICY = """duplicate_window = "off"
[[budgets]]
per = "user"
window = "1h"
credit = { usd = "999999999.00" }
"""


class Sessions(chaos.Run):
    """
    One run.
    """

    def __init__(self, options: argparse.Namespace, seed: int, folder: Path) -> None:
        """
        Make up calls, for their customers' sake: those of the sessions are made up as time goes.
        """
        options.calls, options.journal, options.timeout, options.margin = 2 * chaos.CUSTOMERS, "file", 8, 5
        super().__init__(options, seed, folder)

    async def drive(self, http: httpx.AsyncClient) -> None:
        """
        Let sessions call until the time is over, and others finish what killed ones left.
        """
        del http
        (self.folder / "policy.toml").write_text(_POLICY)
        self.is_over, self.waiting, self.server_kills = False, [], 0
        named = {job.parameters["customer"] for job in self.jobs}
        self.customers = sorted(each for each in named if "none" not in each)
        self.jobs = []
        server, self.url = await started(self, "mcp", "--http", "--port", "0")
        sessions = [asyncio.create_task(self.session()) for _ in range(self.options.sessions)]
        began = time.monotonic()
        for kill in range(1, int(self.options.seconds / self.options.every) + 1):
            await asyncio.sleep(began + kill * self.options.every - time.monotonic())
            victim = self.chance.choice([each for each in sessions if not each.done()])
            victim.cancel()
            sessions.append(asyncio.create_task(self.session()))
            self.kills += 1
            if kill % self.options.server_every == 0:
                server.kill()
                ended(server)
                port = self.url.split(":")[2].split("/")[0]
                server, self.url = await started(self, "mcp", "--http", "--port", port)
                self.server_kills += 1
        self.is_over = True
        done, _ = await asyncio.wait(sessions)
        assert [] == [each for each in done if not each.cancelled() and each.exception()]
        await self.session()
        server.terminate()
        assert 0 == ended(server)

    async def session(self) -> None:
        """
        Call until there is nothing left; connect again where the connection is lost.
        """
        while not (self.is_over and not self.waiting):
            # Whatever a lost connection becomes, and a session that a new server does not know.
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, LookupError):
                timeout = aiohttp.ClientTimeout(total=15)
                async with aiohttp.ClientSession(
                    self.url.removesuffix(_PATH), headers=_HEADERS, timeout=timeout
                ) as http:
                    version = self.chance.choice(_VERSIONS)
                    known = {"MCP-Protocol-Version": version}
                    if version == _VERSIONS[0]:
                        known["Mcp-Session-Id"] = await opened(http, version)
                    while (job := self.next_job()) is not None:
                        await self.call(http, known, job)
                        await asyncio.sleep(self.chance.random() * 0.2)
            await asyncio.sleep(0.2)

    def next_job(self) -> chaos.Job | None:
        """
        What was left, or something new while there is time; now and then also for a second session.
        """
        if self.waiting:
            return self.waiting.pop(0)
        if self.is_over:
            return None
        (job,) = chaos.make_jobs(1, self.customers, self.chance)
        job.number, job.key = len(self.jobs), None
        job.parameters["reference"] = job.parameters["description"] = f"ticket-{job.number}"
        self.jobs.append(job)
        if self.chance.random() < 0.1:
            self.waiting.append(job)
            self.duplicates += 1
        return job

    async def call(self, http: aiohttp.ClientSession, known: dict[str, str], job: chaos.Job) -> None:
        """
        Make a call, and note what was told; what ended without an answer waits for another session.
        """
        job.issues += 1
        try:
            told = await answer_to(http, known, "tools/call", name=_TOOL, arguments=job.parameters)
        except BaseException:
            self.waiting.append(job)
            raise
        about = str(told.get("message", ""))
        job.told.append(
            {
                "outcome": told["outcome"],
                "id": told.get("entry", {}).get("id"),
                "key": told.get("idempotency_key"),
                "is_about_journal": about.startswith("The journal at"),
            }
        )
        if (told["outcome"] == "unknown" or told.get("next") == "call_again") and len(job.told) < chaos.MAX_ISSUES:
            self.waiting.append(job)

    async def compare(self, ledger: list[dict[str, Any]]) -> dict[str, Any]:
        """
        By the keys, as in the other run; and by the reason, which each entry has in its description.
        """
        report = await super().compare(ledger)
        made = Counter(entry["description"] for entry in ledger)
        report["violations"]["double"] += [reason for reason, times in made.items() if times > 1]
        return report


async def started(run: chaos.Run, *words: str) -> tuple[subprocess.Popen[str], str]:
    """
    A server process of ours for the sandbox and the journal of a run, once it listens, and its address.
    """
    settings = {
        "STRIPE_SECRET_KEY": run.stripe["api_key"],
        "STRIPE_API_BASE": run.stripe["url"],
        "OCP_STRIPE_JOURNAL": run.journal.name,
        "OCP_STRIPE_POLICY": str(run.folder / "policy.toml"),
        "OCP_STRIPE_TIMEOUT": "8",
        "OCP_STRIPE_RATE_LIMIT": "off",
    }
    server = subprocess.Popen(  # noqa: S603  our own program
        [str(Path(sys.executable).parent / "ocp-stripe-balance"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **settings},
    )
    assert server.stdout is not None
    return server, (await asyncio.to_thread(server.stdout.readline)).strip()


def ended(server: subprocess.Popen[str]) -> int:
    """
    The exit code of a server that was told to end.
    """
    assert server.stdout is not None
    server.stdout.close()
    return server.wait(timeout=60)


# As little of a client as it takes: a hundred of the SDK's keep two cores busy by themselves.

_HEADERS = {"Accept": "application/json, text/event-stream"}


async def opened(http: aiohttp.ClientSession, version: str) -> str:
    """
    The ID of a new session of the older protocol.

    Raises:
        aiohttp.ClientError: the server is gone.
    """
    about = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "chaos", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about}
    async with http.post(_PATH, json=hello) as answer:
        answer.raise_for_status()
        await answer.read()
        return answer.headers["Mcp-Session-Id"]


async def answer_to(http: aiohttp.ClientSession, known: dict[str, str], method: str, **params: Any) -> dict[str, Any]:
    """
    What a tool call was answered.

    Raises:
        aiohttp.ClientError: the server is gone, or does not know the session.
        LookupError: there was no result.
    """
    if "Mcp-Session-Id" not in known:
        known = known | {"Mcp-Method": method, "Mcp-Name": params["name"]}
        prefix = "io.modelcontextprotocol/"
        version = known["MCP-Protocol-Version"]
        params["_meta"] = {f"{prefix}protocolVersion": version, f"{prefix}clientCapabilities": {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    async with http.post(_PATH, json=body, headers=known) as answer:
        answer.raise_for_status()
        text = await answer.text()
    messages = (
        [text] if text.startswith("{") else [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    )
    told: dict[str, Any] = json.loads(messages[-1])["result"]["structuredContent"]
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description="MCP sessions that are killed, a Stripe that fails, three witnesses")
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=1, help="seconds between two sessions that are killed")
    parser.add_argument("--server-every", type=int, default=20, help="after how many of those the server is killed")
    parser.add_argument("--faults", type=float, default=0.1, help="share of faulty exchanges")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Sessions(options, options.seed, Path(folder))
        report = asyncio.run(run.main())
    sys.stdout.write("\nMCP sessions\n")
    chaos.show(report | {"server killed": run.server_kills})
    return 1 if any(report["violations"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
