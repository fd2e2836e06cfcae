"""
How long a list takes: planned, then run by a process that is killed again and again, against a sandbox without a limit.

At the end, every customer's balance at the sandbox is compared: each row is there once.

    python benchmarks/bulk.py --rows 100000 --kills 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from measure import clean_environment

from ocp_stripe_balance import Settings
from ocp_stripe_balance.bulk import Bulk, Common, open_plan
from ocp_stripe_balance.sandbox import Sandbox

_EVERY = 20
"""After how many rows a run says how far it is."""


def amount_of(number: int) -> int:
    """
    What the customer of that number is credited, in cents.
    """
    return 500 + number % 700


def stand_in(folder: Path, rows: int) -> None:
    """
    Be the sandbox, with a list of customers that have a currency, until somebody ends it.
    """
    with Sandbox() as stripe:
        customers = [stripe.create_customer(balance=1) for _ in range(rows)]
        lines = [f"{each},{amount_of(number) / 100:.2f}\n" for number, each in enumerate(customers)]
        (folder / "list.csv").write_text("".join(["customer,amount\n", *lines]))
        print(json.dumps({"api_base": stripe.url, "api_key": stripe.api_key}), flush=True)
        sys.stdin.read()


async def work(step: str, folder: Path, stripe: dict[str, Any]) -> None:
    """
    Plan the list, or run its plan, and say how far it is; at the end, how much memory it took.
    """
    settings = Settings(**stripe, journal=str(folder / "journal.sqlite3"), rate_limit="off")
    done = 0
    async with Bulk(settings, user="benchmark") as bulk:
        if step == "plan":
            common = Common(reference="outage", direction="credit", currency="usd")
            await bulk.plan(folder / "list.csv", folder / "list.plan", common=common)
        else:
            async for _ in await bulk.run(open_plan(folder / "list.plan")):
                done += 1
                if done % _EVERY == 0:
                    print(done, flush=True)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{done} {memory_mb:.0f}", flush=True)


def begun(*words: str) -> subprocess.Popen[str]:
    """
    This program in a process of its own.
    """
    command = [sys.executable, __file__, *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment())


def life(*words: str, most: int | None = None) -> tuple[int, int]:
    """
    How many rows ended in a process, which is killed after *most*; else how many MB it took in the end, too.
    """
    with begun(*words) as process:
        done = memory_mb = 0
        assert process.stdout is not None
        for line in process.stdout:
            done, *last = map(int, line.split())
            memory_mb = sum(last)
            if most is not None and done >= most:
                process.kill()
                break
    assert process.wait() == 0 or most is not None
    return done, memory_mb


def wrong_balances(stripe: dict[str, Any], folder: Path) -> int:
    """
    How many customers have not been credited exactly once, as the sandbox lists them.
    """
    _, *lines = (folder / "list.csv").read_text().splitlines()
    numbers = {line.split(",")[0]: number for number, line in enumerate(lines)}
    right = 0
    with httpx.Client(base_url=stripe["api_base"], auth=(stripe["api_key"], ""), trust_env=False) as http:
        page, params = {"has_more": True}, {"limit": "100"}
        while page["has_more"]:
            page = http.get("/v1/customers", params=params).json()
            right += sum(each["balance"] == 1 - amount_of(numbers[each["id"]]) for each in page["data"])
            params["starting_after"] = page["data"][-1]["id"]
    return len(numbers) - right


def measured(folder: Path, rows: int, kills: int) -> bool:
    """
    Whether each row is there once, after figures were printed.
    """
    with begun("stripe", str(folder), str(rows)) as sandbox:
        assert sandbox.stdout is not None
        stripe = json.loads(sandbox.stdout.readline())
        words = (str(folder), json.dumps(stripe))
        began = time.monotonic()
        _, memory_mb = life("plan", *words)
        print(f"planned {rows:,} rows in {time.monotonic() - began:.1f} s, {memory_mb} MB", flush=True)
        began, done = time.monotonic(), 0
        for number in range(kills):
            done += life("run", *words, most=max(rows // (kills + 1), 1))[0]
            print(f"kill {number + 1} after {time.monotonic() - began:.1f} s and {done:,} rows", flush=True)
        _, memory_mb = life("run", *words)
        print(f"run in {time.monotonic() - began:.1f} s with {kills} kills, {memory_mb} MB", flush=True)
        wrong = wrong_balances(stripe, folder)
        print(f"not credited exactly once: {wrong}")
        sandbox.kill()
    return not wrong


def main() -> int:
    """
    Measure; or be one of the processes of it, which are told so by their first word.
    """
    if sys.argv[1:2] == ["stripe"]:
        stand_in(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    if sys.argv[1:2] in (["plan"], ["run"]):
        asyncio.run(work(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])))
        return 0
    parser = argparse.ArgumentParser(description="a list that is planned, and run by processes that are killed")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measured(Path(folder), options.rows, options.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
