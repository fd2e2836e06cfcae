"""
How much of Stripe's rate limit gets through, and how many 429s it costs, with and without turns.

Twice the limit is offered to the sandbox in a process of its own, which counts every last second, the strictest way.

Several processes of one journal ("hosts") divide it; then one is killed halfway, and what the others get through from
five seconds later on is counted.

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
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from measure import clean_environment

from ocp_stripe_balance import OCPAgent, Policy, Settings, ToolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_TOOL = "postCustomersCustomerBalanceTransactions"
_CUSTOMERS = 40
_WINDOW_S = 1.1  # after which the sandbox has forgotten what was sent
_TIMES = 2
"""How many times the limit is offered."""
_BACK_S = 5.0
"""When the share of a host that was killed is with the others again."""


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


@contextlib.asynccontextmanager
async def _running_hosts(stripe: dict[str, Any], plan: dict[str, Any], number: int) -> AsyncIterator[list[Any]]:
    """
    So many processes that have everything imported, and wait to be told to offer.
    """
    command = [sys.executable, __file__, "--host", json.dumps({**stripe, **plan})]
    hosts = [
        await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()
        )
        for _ in range(number)
    ]
    try:
        for host in hosts:
            assert host.stdout is not None
            await host.stdout.readline()
        yield hosts
    finally:
        for host in hosts:
            with contextlib.suppress(ProcessLookupError):
                host.kill()
            await host.wait()


async def offer(stripe: dict[str, Any], limit_per_s: float, seconds: float, rate_limit: object, **how: Any) -> Figures:
    """
    Offer too much for so many seconds, evenly, and ask the sandbox what came of it.

    *how* says by how many hosts on which journal; where one *is_killed* halfway, the last seconds are counted only.
    """
    number, is_killed = how.get("hosts", 1), how.get("is_killed", False)
    async with httpx.AsyncClient(base_url=stripe["url"], auth=(stripe["api_key"], "")) as http:
        plan = {"customers": await _customers(http), "seconds": seconds, "journal": how.get("journal", "off")}
        plan |= {"offered": int(_TIMES * limit_per_s * seconds / number), "rate_limit": rate_limit}
        async with _running_hosts(stripe, plan, number) as hosts:
            await asyncio.sleep(_WINDOW_S)
            before = (await http.get("/_sandbox/limits")).json()
            for order, host in enumerate(hosts):
                host.stdin.write(f"{order}\n".encode())
            if is_killed:
                await asyncio.sleep(seconds / 2)
                hosts[0].kill()
                await asyncio.sleep(_BACK_S)
                before = (await http.get("/_sandbox/limits")).json()
                seconds = seconds / 2 - _BACK_S
            await asyncio.sleep(seconds)
            after = (await http.get("/_sandbox/limits")).json()
    return _figures(plan["offered"] * number, before, after, limit_per_s, seconds)


async def _host(plan: dict[str, Any]) -> None:
    """
    One of the processes that offer.
    """
    settings = Settings(
        api_key=plan["api_key"],
        api_base=plan["url"],
        journal=plan["journal"],
        customer_check="off",
        policy=Policy(duplicate_window="off"),
        timeout=plan["seconds"],
        rate_limit=plan["rate_limit"],
    )
    customers = plan["customers"]
    async with OCPAgent(settings=settings) as agent:
        await agent.register_api("stripe")
        await agent.call_tool("getCustomersCustomer", {"customer": customers[0]})  # what happens once is not measured
        print("ready", flush=True)
        order = int(await asyncio.to_thread(sys.stdin.readline))
        await _calls(agent, customers[order:] + customers[:order], plan["offered"], plan["seconds"], str(order))


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


async def _calls(agent: OCPAgent, customers: list[str], offered: int, seconds: float, host: str) -> None:
    async def call(number: int, customer: str) -> None:
        await asyncio.sleep(number / offered * seconds)
        parameters = {"customer": customer, "amount": -1, "currency": "usd", "reference": f"offer-{host}-{number}"}
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
    parser.add_argument("--hosts", type=int, nargs="*", default=[2], help="how many processes divide it")
    parser.add_argument(
        "--journal", help="of the hosts: a file, or the URL of a server; by default a file of their own"
    )
    parser.add_argument("--host", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        asyncio.run(_host(json.loads(options.host)))
        return
    print(f"{'limit':>6}  {'turns':<16}  {'offered':>7}  {'through/s':>9}  {'of limit':>8}  {'429s':>6}")
    for limit_per_s in options.limits:
        for rate_limit, name in ((limit_per_s, "yes"), ("off", "no")):
            _measure(limit_per_s, name, options.seconds, rate_limit)
        for number in options.hosts:
            for is_killed in (False, True):
                seconds = options.seconds + 2 * _BACK_S if is_killed else options.seconds
                with tempfile.TemporaryDirectory() as folder:
                    how = {"journal": options.journal or f"{folder}/journal", "hosts": number, "is_killed": is_killed}
                    name = f"{number} hosts{', 1 killed' if is_killed else ''}"
                    _measure(limit_per_s, name, seconds, limit_per_s, **how)


def _measure(limit_per_s: float, name: str, seconds: float, rate_limit: object, **how: Any) -> None:
    with running_sandbox(limit_per_s) as stripe:
        found = asyncio.run(offer(stripe, limit_per_s, seconds, rate_limit, **how))
    print(
        f"{limit_per_s:6g}  {name:<16}  {found.offered:7}  {found.through_per_s:9.1f}"
        f"  {found.share_of_limit:8.1%}  {found.share_of_429s:6.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
