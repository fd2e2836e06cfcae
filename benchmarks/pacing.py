"""
How much of Stripe's rate limit gets through, and how many 429s it costs, with and without turns.

Twice the limit is offered to the sandbox in a process of its own, which counts every last second, the strictest way.

    python benchmarks/pacing.py --seconds 8
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from measure import clean_environment

from ocp_stripe_balance import OCPAgent, Policy, Settings, ToolError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOOL = "postCustomersCustomerBalanceTransactions"
_CUSTOMERS = 40
_WINDOW_S = 1.1  # after which the sandbox has forgotten what was sent
_TIMES = 2
"""How many times the limit is offered."""


class Figures(NamedTuple):
    """
    What the sandbox counted.
    """

    offered: int
    through_per_s: float
    share_of_limit: float
    share_of_429s: float


@contextlib.contextmanager
def running_sandbox(limit_per_s: float) -> Iterator[dict[str, Any]]:
    """
    The URL and key of a sandbox that lives as long as the block.
    """
    program = shutil.which("ocp-stripe-balance", path=str(Path(sys.executable).parent))
    assert program is not None
    command = [program, "sandbox", "--json", "--rate-limit", str(limit_per_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


async def offer(stripe: dict[str, Any], limit_per_s: float, seconds: float, rate_limit: object) -> Figures:
    """
    Offer too much for so many seconds, evenly, and ask the sandbox what came of it.
    """
    async with httpx.AsyncClient(base_url=stripe["url"], auth=(stripe["api_key"], "")) as http:
        customers = await _customers(http)
        settings = Settings(
            api_key=stripe["api_key"],
            api_base=stripe["url"],
            journal="off",
            customer_check="off",
            policy=Policy(duplicate_window="off"),
            timeout=seconds,
            rate_limit=rate_limit,
        )
        offered = int(_TIMES * limit_per_s * seconds)
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            await agent.call_tool(
                "getCustomersCustomer", {"customer": customers[0]}
            )  # what happens once is not measured
            await asyncio.sleep(_WINDOW_S)
            before = (await http.get("/_sandbox/limits")).json()
            with contextlib.suppress(TimeoutError, ToolError):  # those under way at the end
                await asyncio.wait_for(_calls(agent, customers, offered, seconds), seconds)
            after = (await http.get("/_sandbox/limits")).json()
    return _figures(offered, before, after, limit_per_s, seconds)


async def _customers(http: httpx.AsyncClient) -> list[str]:
    made: list[str] = []
    while len(made) < _CUSTOMERS:
        answer = await http.post("/v1/customers")
        if answer.is_success:
            made.append(answer.json()["id"])
        else:
            await asyncio.sleep(0.1)
    await asyncio.sleep(_WINDOW_S)
    return made


async def _calls(agent: OCPAgent, customers: list[str], offered: int, seconds: float) -> None:
    async def call(number: int, customer: str) -> None:
        await asyncio.sleep(number / offered * seconds)
        parameters = {"customer": customer, "amount": -1, "currency": "usd", "reference": f"offer-{number}"}
        with contextlib.suppress(ToolError):
            await agent.call_tool(_TOOL, parameters)

    await asyncio.gather(*(call(*each) for each in zip(range(offered), itertools.cycle(customers))))


def _figures(
    offered: int, before: dict[str, Any], after: dict[str, Any], limit_per_s: float, seconds: float
) -> Figures:
    through = after["admitted"] - before["admitted"]
    refused = sum(after["refused"].values()) - sum(before["refused"].values())
    return Figures(offered, through / seconds, through / seconds / limit_per_s, refused / (through + refused))


def main() -> None:
    """
    Measure, and print a line for each limit with and without turns.
    """
    parser = argparse.ArgumentParser(description=__doc__.strip().partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each is offered")
    parser.add_argument("--limits", type=float, nargs="+", default=[25.0, 100.0], help="requests per second")
    options = parser.parse_args()
    print(f"{'limit':>6}  {'turns':<5}  {'offered':>7}  {'through/s':>9}  {'of limit':>8}  {'429s':>6}")
    for limit_per_s in options.limits:
        for rate_limit in (limit_per_s, "off"):
            with running_sandbox(limit_per_s) as stripe:
                found = asyncio.run(offer(stripe, limit_per_s, options.seconds, rate_limit))
            turns = "no" if rate_limit == "off" else "yes"
            print(
                f"{limit_per_s:6g}  {turns:<5}  {found.offered:7}  {found.through_per_s:9.1f}"
                f"  {found.share_of_limit:8.1%}  {found.share_of_429s:6.1%}"
            )


if __name__ == "__main__":
    main()
