"""
Many MCP sessions, each with a server process of its own, over one journal and a Stripe that fails: every second one is
killed and started again. They make the same decisions, and many calls are sent twice at once.

At the end, what clients were told, the journal and the ledger must agree on every decision.

    python tests/chaos_mcp.py --sessions 20 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ocp_stripe_balance import OCPAgent, Settings
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.errors import ToolError
from ocp_stripe_balance.sandbox import Sandbox

CUSTOMERS, LEAST_DECISIONS = 10, 20
_META = "io.modelcontextprotocol"


class GoneError(Exception):
    """
    The server was killed.
    """


class Session:
    """
    A host's session with a server process, in one of the two versions.
    """

    def __init__(self, environment: dict[str, str], *, is_modern: bool) -> None:
        self._environment, self._is_modern = environment, is_modern
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """
        Start a server, and another one where it is killed before it answers.
        """
        while True:
            try:
                return await self._start()
            except GoneError:
                continue

    async def _start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "ocp-stripe-balance"), "mcp",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self._environment},
        )  # fmt: skip
        self._reading = asyncio.ensure_future(self._read(self.process))
        if not self._is_modern:
            about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
            await self._ask("initialize", about)
            self._write({"method": "notifications/initialized"})

    async def call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """
        What the client is told.

        Raises:
            GoneError: nothing.
        """
        answer = await self._ask("tools/call", {"name": "create_balance_transaction", "arguments": arguments})
        told: dict[str, Any] = answer["result"]["structuredContent"]
        return told

    def kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()

    async def close(self) -> int:
        """
        Close the connection, as a host does; the server's exit code.
        """
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.process.wait()

    async def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._reading is not None
        if self._reading.done():
            raise GoneError
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        if self._is_modern:
            version = {f"{_META}/protocolVersion": "2026-07-28", f"{_META}/clientCapabilities": {}}
            params = {**params, "_meta": version}
        self._write({"id": number, "method": method, "params": params})
        heard: dict[str, Any] = await answer
        return heard

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            message = json.loads(line)
            if "id" in message:
                self._waiting.pop(message["id"]).set_result(message)
        await process.wait()
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.set_exception(GoneError())


class Chaos:
    """
    One run.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.chance = random.Random(options.seed)
        self.told: dict[str, list[dict[str, Any]]] = {}
        self.customers: list[str] = []
        self.kills = self.twice = 0
        self.until = 0.0

    async def main(self, folder: Path) -> dict[str, Any]:
        (folder / "policy.toml").write_text('duplicate_window = "off"\n')
        journal = str(folder / "journal.sqlite3")
        async with Sandbox(seed=self.options.seed) as stripe:
            self.customers = [stripe.create_customer() for _ in range(CUSTOMERS)]
            environment = {"STRIPE_API_BASE": stripe.url, "STRIPE_SECRET_KEY": stripe.api_key}
            environment |= {"OCP_STRIPE_JOURNAL": journal, "OCP_STRIPE_POLICY": str(folder / "policy.toml")}
            environment |= {"OCP_STRIPE_RATE_LIMIT": "off", "OCP_STRIPE_TIMEOUT": "8"}
            for kind in ("reset", "stall", "server_error", "bad_gateway"):
                faulty = f"{kind}:times=all,path=balance,probability=0.05,seconds=0.2,executed="
                for executed in ("true", "false"):
                    stripe.faults.add_text(faulty + executed)
            sessions = [Session(environment, is_modern=bool(number % 2)) for number in range(self.options.sessions)]
            await asyncio.gather(*(each.start() for each in sessions))
            self.until = time.monotonic() + self.options.seconds
            harm = asyncio.ensure_future(self.kill(sessions))
            await asyncio.gather(*map(self.use, sessions))
            await harm
            codes = Counter(await asyncio.gather(*(each.close() for each in sessions)))
            stripe.faults.clear()
            found = await self.find_out(stripe, journal)
            entries = await self.ledger(stripe)
        return {**self.report(entries), "found out later": found, "exit codes": dict(codes)}

    async def use(self, session: Session) -> None:
        """
        Make calls until the time is over, each of them until it is settled, whatever happens to the server.
        """
        while time.monotonic() < self.until:
            await self.settle(session, self.decision())

    def decision(self) -> dict[str, Any]:
        """
        A new one, or one that any session has made before.
        """
        number = self.chance.randrange(max(LEAST_DECISIONS, len(self.told) * 2))
        said = {"customer": self.customers[number % CUSTOMERS], "amount": -1 - number % 9, "currency": "usd"}
        return {**said, "reference": f"ticket-{number}"}

    async def settle(self, session: Session, said: dict[str, Any]) -> None:
        told = self.told.setdefault(said["reference"], [])
        is_twice = self.chance.random() < 0.3
        self.twice += is_twice
        for _ in range(4):
            answers = await asyncio.gather(*(session.call(said) for _ in range(1 + is_twice)), return_exceptions=True)
            heard = [each for each in answers if isinstance(each, dict)]
            told += heard
            if len(heard) < len(answers):
                await session.start()
            elif all(each["outcome"] in {"succeeded", "rejected"} for each in heard):
                return

    async def kill(self, sessions: list[Session]) -> None:
        while time.monotonic() < self.until:
            await asyncio.sleep(1)
            self.chance.choice(sessions).kill()
            self.kills += 1

    async def find_out(self, stripe: Sandbox, journal: str) -> dict[str, int]:
        """
        What became of calls that nobody was told the end of: by reading, then by resuming.
        """
        outcomes: Counter[str] = Counter()
        settings = Settings(api_key=stripe.api_key, api_base=stripe.url, journal=journal, rate_limit="off")
        async with BackOffice(settings) as office:
            for finding in await office.reconcile():
                outcomes[f"by reading: {finding.outcome}"] += 1
                if finding.outcome == "unknown":
                    try:
                        outcomes[f"by resuming: {(await office.resume(finding.key)).outcome}"] += 1
                    except ToolError as error:
                        outcomes[f"by resuming: {error.outcome}"] += 1
        return dict(outcomes)

    async def ledger(self, stripe: Sandbox) -> list[dict[str, Any]]:
        settings = Settings(api_key=stripe.api_key, api_base=stripe.url, journal="off", rate_limit="off")
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            pages = [agent.iterate_tool("list_balance_transactions", {"customer": each}) for each in self.customers]
            return [entry for page in pages async for entry in page]

    def report(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """
        The ledger, and what is wrong with what was told of it.
        """
        made: dict[str, set[str]] = {}
        for entry in entries:
            made.setdefault(entry["metadata"]["ocp_reference"], set()).add(entry["id"])
        wrong = []
        for reference, told in self.told.items():
            ids, outcomes = made.get(reference, set()), {each["outcome"] for each in told}
            said = {each["entry"]["id"] for each in told if each["outcome"] == "succeeded"}
            if said - ids or (ids and outcomes and outcomes <= {"rejected", "not_sent"}):
                wrong.append(reference)
        return {
            "sessions": self.options.sessions,
            "SIGKILLs": self.kills,
            "decisions": len(self.told),
            "calls answered": sum(map(len, self.told.values())),
            "sent twice at once": self.twice,
            "told": dict(Counter(each["outcome"] for told in self.told.values() for each in told)),
            "entries": len(entries),
            "double": [reference for reference, ids in made.items() if len(ids) > 1],
            "wrong": wrong,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(Chaos(parser.parse_args()).main(Path(folder)))
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 1 if report["double"] or report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
