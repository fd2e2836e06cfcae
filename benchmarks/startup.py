"""
What a program pays before its first call: the import, the registration, and what the first call does once.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from measure import HERE, Spread, Target, clean_environment

_NO_TELEMETRY = "import sys; sys.modules['opentelemetry'] = None; "  # the base install is measured
_CALLS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """
    One start: three processes, one after the other.
    """

    bare_s: float
    import_s: float
    """A process that does nothing but the import."""
    agent_s: float
    """Until there is an agent, in a process that has done nothing yet: most modules are imported only here."""
    register_s: float
    first_call_s: float
    median_call_s: float


def measure_starts(url: str, count: int) -> list[Start]:
    """
    Several starts, after one that nobody measures, which fills the caches of files.
    """
    return [_start(url) for _ in range(count + 1)][1:]


def _start(url: str) -> Start:
    bare_s = _wall_s(["-c", "pass"])
    import_s = _wall_s(["-c", _NO_TELEMETRY + "import ocp_stripe_balance"])
    program = [sys.executable, str(HERE / "startup.py"), url]
    done = subprocess.run(program, check=True, capture_output=True, text=True, env=clean_environment())
    return Start(bare_s=bare_s, import_s=import_s, **json.loads(done.stdout))


def _wall_s(arguments: list[str]) -> float:
    began = time.perf_counter()
    # Away from any folder the package could be imported from by chance.
    subprocess.run([sys.executable, *arguments], check=True, env=clean_environment(), cwd=Path(sys.prefix))
    return time.perf_counter() - began


def targets(starts: list[Start]) -> list[Target]:
    """
    The bounds on import and registration.
    """
    return [
        Target(
            name="import ocp_stripe_balance, over bare python",
            figure=Spread.of((start.import_s - start.bare_s) * 1e3 for start in starts),
            unit="ms",
            comparison="at most",
            bound=100,
        ),
        Target(
            name="register_api('stripe') in a new process",
            figure=Spread.of(start.register_s * 1e3 for start in starts),
            unit="ms",
            comparison="at most",
            bound=5,
        ),
    ]


def further_figures(starts: list[Start]) -> dict[str, Spread]:
    """
    Milliseconds that have no target, by what they are spent on.
    """
    return {
        "from import to an agent": Spread.of(start.agent_s * 1e3 for start in starts),
        "first call, over the median of those after it": Spread.of(
            (start.first_call_s - start.median_call_s) * 1e3 for start in starts
        ),
    }


def _measure_here(url: str) -> None:
    """
    Register and call in this very process, and print what it took.
    """
    sys.modules["opentelemetry"] = None  # type: ignore[assignment] # the base install is measured
    # Imported only here: whoever imports this module measures other processes.
    import asyncio  # noqa: PLC0415
    import statistics  # noqa: PLC0415

    began = time.perf_counter()
    from ocp_stripe_balance import OCPAgent, Policy, Settings  # noqa: PLC0415

    async def main() -> None:
        more = {"rate_limit": "off"} if "rate_limit" in Settings.model_fields else {}
        settings = Settings(
            api_key="sk_test_benchmark",
            api_base=url,
            journal="off",
            customer_check="off",
            policy=Policy(duplicate_window="off"),
            **more,
        )
        async with OCPAgent(settings=settings) as agent:
            times_s = [began, time.perf_counter()]
            await agent.register_api("stripe")
            times_s.append(time.perf_counter())
            for _ in range(_CALLS):
                parameters = {"customer": "cus_1", "amount": -500, "currency": "usd"}
                await agent.call_tool("postCustomersCustomerBalanceTransactions", parameters)
                times_s.append(time.perf_counter())
        agent_s, register_s, first_call_s, *others_s = (after - before for before, after in itertools.pairwise(times_s))
        median_call_s = statistics.median(others_s)
        measured = {"agent_s": agent_s, "register_s": register_s, "first_call_s": first_call_s}
        print(json.dumps({**measured, "median_call_s": median_call_s}))

    asyncio.run(main())


if __name__ == "__main__":
    _measure_here(sys.argv[1])
