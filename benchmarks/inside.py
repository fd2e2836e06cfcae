"""
What a call costs in this package alone, over an exchange that answers at once: step by step, and as more was called.

As a script it measures in its own process and prints JSON, as ``python benchmarks/inside.py steps`` does for one part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import HERE, Spread, Target, clean_environment, progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from ocp_stripe_balance import OCPAgent
    from ocp_stripe_balance._stripe.request import Request
    from ocp_stripe_balance._stripe.wire import Received

BATCH_CALLS = 200
_MAX_US = 60
_MAX_GROWTH = 1.1
_FIRST_CALLS = 1_000
_URL = "http://127.0.0.1:9"
_OTHER = "cus_other"


class _Canned:
    """
    Instead of a network: the entry that was asked for, at once.
    """

    def __init__(self) -> None:
        from ocp_stripe_balance._stripe.wire import Headers, Received  # noqa: PLC0415  imported where it is measured

        names = (b"Content-Type", b"Request-Id", b"Idempotency-Key", b"Original-Request", b"Stripe-Version")
        headers = [(name, b"value") for name in names]
        self._answers = {
            customer: Received(200, Headers(headers), json.dumps(_entry(customer)).encode())
            for customer in [*map(_customer, range(100)), _OTHER]
        }

    async def exchange(self, request: Request, remaining_s: float) -> Received:  # noqa: ARG002  it needs no time
        return self._answers[request.url.split("/")[5]]

    async def aclose(self) -> None:
        pass


def _customer(number: int) -> str:
    return f"cus_bench{number % 100:03d}"


def _entry(customer: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("checkout_session", "credit_note", "customer_account", "description", "invoice"))
    return {
        "id": "cbtxn_1MrU9qLkdIwHu7ixhdjxGBgI",
        "object": "customer_balance_transaction",
        "amount": -500,
        "created": 1680216086,
        "currency": "usd",
        "customer": customer,
        "ending_balance": -500,
        "livemode": False,
        "metadata": {},
        "type": "adjustment",
        **nothing,
    }


@contextlib.asynccontextmanager
async def _agent(journal: str, **settings: Any) -> AsyncIterator[OCPAgent]:
    from clients import agent_settings  # noqa: PLC0415  imported where it is measured

    from ocp_stripe_balance import OCPAgent  # noqa: PLC0415  imported where it is measured

    async with OCPAgent(settings=agent_settings(_URL, journal=journal, **settings)) as agent:
        api: Any = await agent.register_api("stripe")
        api._operations._client._wire = _Canned()
        yield agent


def _parameters(number: int) -> dict[str, Any]:
    return {"customer": _customer(number), "amount": -500, "currency": "usd", "description": "Sorry for the delay"}


async def _us_per_call(
    call: Callable[[int], Awaitable[object]], numbers: itertools.count[int], in_flight: int, calls: int
) -> float:
    """
    Microseconds of the processor per call, over one batch.
    """
    batch = itertools.islice(numbers, calls)

    async def take() -> None:
        for number in batch:
            await call(number)

    began = time.process_time()
    await asyncio.gather(*(take() for _ in range(in_flight)))
    return (time.process_time() - began) / calls * 1e6


async def _steps(batch: int) -> dict[str, float]:
    """
    Microseconds per step, and of the whole call: the best of many batches, because whatever else runs only adds.
    """
    from clients import TOOL  # noqa: PLC0415  imported where it is measured

    from ocp_stripe_balance._calls.customers import SeenCustomer  # noqa: PLC0415  imported where it is measured
    from ocp_stripe_balance._calls.delivery import result_of  # noqa: PLC0415  imported where it is measured
    from ocp_stripe_balance._domain import Key, Origin, Outcome, State  # noqa: PLC0415  imported where it is measured

    async with _agent("off") as agent:
        api: Any = agent._apis["stripe"]
        made, access, tool, numbers = api._operations, api._access, agent.get_tool(TOOL), itertools.count()
        service, journal, delivery = made._service, made.journal, made._service._delivery
        admission, seen = service._admission, SeenCustomer()
        assert tool is not None

        async def whole(number: int) -> object:
            return await agent.call_tool(TOOL, _parameters(number), idempotency_key=f"call_{number}")

        for _ in range(5):
            await _us_per_call(whole, numbers, 1, batch)
        order = service.take(tool, _parameters(1), access, "call_x")
        call = service.prepare(order, access)
        lease = journal.leases.new(journal.now() + 60)
        record = (await journal.run(lambda book: admission.admit(book, call, seen, lease, journal.now()))).record
        request = delivery.request(call, record)
        reply = await made._client.execute(request, tool=TOOL, idempotency_key="k")

        async def admitted(number: int) -> object:
            another = call._replace(intent=call.intent._replace(key=Key(f"key_{number}", Origin.CALLER)))
            return await journal.run(lambda book: admission.admit(book, another, seen, lease, journal.now()))

        async def sent(_: int) -> object:
            request = delivery.request(call, record)
            return await made._client.execute(request, tool=TOOL, idempotency_key="k", timeout_s=60)

        async def settled(_: int) -> object:
            outcome = Outcome(State.UNKNOWN, attempts=1, status=200, answer=reply.body.text)
            return await journal.run(lambda book: book.settle(record, outcome, journal.now()))

        def plain(work: Callable[[int], object]) -> Callable[[int], Awaitable[object]]:
            async def run(number: int) -> object:
                return work(number)

            return run

        measured: dict[str, Callable[[int], Awaitable[object]]] = {
            "find the tool": lambda _: agent._find(TOOL, None),
            "validate the parameters": plain(lambda n: service.take(tool, _parameters(n), access, f"call_{n}")),
            "encode, and draft the record": plain(lambda _: service.prepare(order, access)),
            "policy and admission": admitted,
            "send, but for the exchange, and decode": sent,
            "check the response, and build the result": plain(lambda _: result_of(tool, record, reply, ())),
            "record the outcome": settled,
        }
        nothing = min([await _us_per_call(plain(lambda _: None), numbers, 1, batch) for _ in range(20)])
        steps = {
            name: min([await _us_per_call(step, numbers, 1, batch) for _ in range(40)]) - nothing
            for name, step in measured.items()
        }
        steps["the whole call"] = min([await _us_per_call(whole, numbers, 1, batch) for _ in range(60)])
    return steps


def _spin_s() -> float:
    """
    How long this machine takes just now for work that never changes.
    """
    times_s = []
    for _ in range(20):
        began = time.process_time()
        sum(range(20_000))
        times_s.append(time.process_time() - began)
    return statistics.median(times_s)


async def _growth(last: int, batch: int) -> dict[str, float]:
    """
    Microseconds per call by how many calls came before, in units of what the machine took for other work just then.
    """
    from clients import TOOL  # noqa: PLC0415  imported where it is measured

    found: dict[str, float] = {}
    async with _agent("off") as agent:
        numbers = itertools.count()

        async def call(number: int) -> object:
            return await agent.call_tool(TOOL, _parameters(number), idempotency_key=f"call_{number}")

        for level in [each for each in (_FIRST_CALLS, 10_000, 100_000, 1_000_000) if each < last] + [last]:
            while (made := next(numbers)) < level - _FIRST_CALLS // 2:
                progress(f"growth: {made:,} calls") if made % 10_000 == 0 else None
                await call(made)
            spin_s = _spin_s()
            batches = [await _us_per_call(call, numbers, 1, batch) for _ in range(20)]
            found[str(level)] = statistics.mean(batches) / ((spin_s + _spin_s()) / 2) / 1e6
    return found


async def _journal(rows: int, batch: int) -> dict[str, Any]:
    """
    Microseconds per call under the README's policy, with few calls in its windows and with that many, in turns.

    Beside it the query plans.
    """
    from clients import README_POLICY, TOOL, what_the_readme_requires  # noqa: PLC0415  imported where it is measured

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "small", Path(folder) / "large"]
        numbers = itertools.count()

        def caller(agent: OCPAgent) -> Callable[[int], Awaitable[object]]:
            return lambda number: agent.call_tool(
                TOOL, _parameters(number) | what_the_readme_requires(number), idempotency_key=f"call_{number}"
            )

        for path, number in zip(paths, (min(rows, _FIRST_CALLS), rows), strict=True):
            async with _agent(str(path)) as first:
                await caller(first)(next(numbers))
            _fill(path, number)
        policy = README_POLICY
        async with _agent(str(paths[0]), policy=policy) as small, _agent(str(paths[1]), policy=policy) as large:
            both = caller(small), caller(large)
            pairs = [[await _us_per_call(call, numbers, 64, batch) for call in both] for _ in range(20)]
        plans = await _plans(paths[1])
    growth = [large_us / small_us for small_us, large_us in pairs[5:]]
    return {"growth": growth, "plans": plans}


async def _postgres(rows: int, batch: int) -> dict[str, Any]:
    """
    Seconds per call, not of the processor alone, with few and with many calls in a journal on a server, in turns.
    """
    from clients import (  # noqa: PLC0415  as above
        README_POLICY,
        TOOL,
        new_database,
        running_postgres,
        what_the_readme_requires,
    )

    numbers = itertools.count()

    async def batch_s(agent: OCPAgent) -> float:
        async def take() -> None:
            for number in batch_numbers:
                parameters = _parameters(number) | what_the_readme_requires(number)
                await agent.call_tool(TOOL, parameters, idempotency_key=f"call_{number}")

        batch_numbers, began = itertools.islice(numbers, batch), time.perf_counter()
        await asyncio.gather(*(take() for _ in range(64)))
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder, running_postgres(Path(folder)) as url:
        urls = [url, await asyncio.to_thread(new_database, url)]
        for each, number in zip(urls, (min(rows, _FIRST_CALLS), rows), strict=True):
            async with _agent(each) as first:
                parameters = _parameters(0) | what_the_readme_requires(0)
                await first.call_tool(TOOL, parameters, idempotency_key="call_first")
            await asyncio.to_thread(_fill_server, each, number)
        async with (
            _agent(urls[0], policy=README_POLICY) as small,
            _agent(urls[1], policy=README_POLICY) as large,
        ):
            pairs = [[await batch_s(agent) for agent in (small, large)] for _ in range(20)]
    return {"growth": [large_s / small_s for small_s, large_s in pairs[5:]]}


def _fill_server(url: str, rows: int) -> None:
    """
    As `_fill`.
    """
    import psycopg  # noqa: PLC0415  as above

    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET search_path TO ocp_stripe_balance")
        db.execute("SET session_replication_role TO replica")  # no triggers: nothing is added up yet
        for table, own in (("calls", "id"), ("decisions", "number")):
            found = db.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND column_name != %s "
                "ORDER BY ordinal_position",
                [table, own],
            )
            names = [name for (name,) in found]
            other = _others(rows, "lpad((n % 100)::text, 3, '0')")
            values = ", ".join(other.get(name, f'"{name}"') for name in names)
            columns = ", ".join(f'"{name}"' for name in names)
            db.execute(
                f"INSERT INTO {table} ({columns}) SELECT {values} "  # noqa: S608  our own names
                f"FROM (SELECT * FROM {table} LIMIT 1) AS one, generate_series(1, {rows}) AS numbers (n)".encode()
            )
        db.execute("ANALYZE")


def _others(rows: int, customer: str) -> dict[str, str]:
    """
    What differs in the copies of a call: they are of one day.
    """
    step_s = 86400 / rows
    times = {name: f"{name} - n * {step_s}" for name in ("created_at", "updated_at", "spent_at", "at")}
    return {"key": "'old-' || n", "reference": "'old-' || n", "customer": f"'cus_bench' || {customer}", **times}


def _fill(path: Path, rows: int) -> None:
    """
    Copy the one call there is, with other keys, customers and times, until there are so many within a day.
    """
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        other = _others(rows, "printf('%03d', n % 100)")
        for table, own in (("calls", "id"), ("decisions", "number")):
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != own]
            values = ", ".join(other.get(name, name) for name in names)
            db.execute(
                f"INSERT INTO {table} ({', '.join(names)}) "  # noqa: S608  our own names
                f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows}) "
                f"SELECT {values} FROM (SELECT * FROM {table} LIMIT 1), numbers"
            )
        db.commit()


async def _plans(path: Path) -> dict[str, str]:
    """
    How SQLite finds the rows of each statement of one call that looks for some, under a policy of every kind of rule.
    """
    from clients import EVERY_RULE, TOOL, all_that_is_required  # noqa: PLC0415  imported where it is measured

    found: dict[str, str] = {}
    statements: list[str] = []
    async with _agent(str(path), policy=EVERY_RULE) as agent:
        api: Any = agent._apis["stripe"]
        journal = api._operations.journal
        await journal.run(lambda book: book.db.set_trace_callback(statements.append))  # in the thread that owns it
        # Of its own customer: those of the batches were all alike.
        parameters = {**_parameters(1), **all_that_is_required(1), "customer": _OTHER}
        await agent.call_tool(TOOL, parameters)
        await journal.run(lambda book: book.db.set_trace_callback(None))
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in statements:
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT INTO windows")):
                plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
                found[statement] = "; ".join(plan)
    return found


def _measure(*arguments: str, batch: int) -> Any:
    """
    What this script says in a process of its own.
    """
    command = [sys.executable, str(HERE / "inside.py"), *arguments, "--batch", str(batch)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=clean_environment()).stdout)


def measure_inside(rounds: int, calls: int, batch: int) -> dict[str, Any]:
    """
    Steps in several processes, and growth up to so many calls and rows; each figure of batches of so many calls.
    """
    steps = []
    for number in range(rounds):
        progress(f"steps: {number + 1} of {rounds}")
        steps.append(_measure("steps", batch=batch))
    progress(f"growth: up to {calls:,} calls")
    growth = _measure("growth", str(calls), batch=batch)
    progress(f"a journal of {calls:,} rows")
    journal = _measure("journal", str(calls), batch=batch)
    progress(f"a server of {calls:,} rows")
    postgres = _measure("postgres", str(calls), batch=batch)
    return {"calls": calls, "steps": steps, "growth": growth, "journal": journal, "postgres": postgres}


def targets(inside: dict[str, Any]) -> list[Target]:
    """
    The bounds on what this package adds, and on its growth.
    """
    if not inside:
        return []
    growth, calls = inside["growth"], inside["calls"]
    whole = Spread.of(each["the whole call"] for each in inside["steps"])
    grown = Spread.of([growth[str(calls)] / growth[str(_FIRST_CALLS)]])
    in_journal = Spread.of(inside["journal"]["growth"])
    return [
        Target(name="one call outside the transport", figure=whole, unit="µs", comparison="at most", bound=_MAX_US),
        Target(
            name=f"{calls:,}th call to the 1,000th", figure=grown, unit="x", comparison="at most", bound=_MAX_GROWTH
        ),
        Target(
            name=f"{calls:,} calls in the windows of the README's policy, to {_FIRST_CALLS:,}",
            figure=in_journal,
            unit="x",
            comparison="at most",
            bound=_MAX_GROWTH,
        ),
        Target(
            name=f"the same with the journal on PostgreSQL, and the time of a call, to {_FIRST_CALLS:,}",
            figure=Spread.of(inside["postgres"]["growth"]),
            unit="x",
            comparison="at most",
            bound=_MAX_GROWTH,
        ),
    ]


def show(inside: dict[str, Any]) -> None:
    """
    Print the profile by step, the growth, and the query plans.
    """
    print("\noutside the transport, journal off                        µs")
    for name in inside["steps"][0]:
        figure = Spread.of(each[name] for each in inside["steps"])
        print(f"  {name:<50}{figure.median:>8.1f} ({figure.low:.1f}-{figure.high:.1f})")
    first = inside["growth"][str(_FIRST_CALLS)]
    print("\ncalls before   cost of one, to the 1,000th")
    for level, figure in inside["growth"].items():
        print(f"{int(level):>12,}   {figure / first:.2f}")
    print(f"\nquery plans of one call, in a journal of {inside['calls']:,} rows")
    for statement, plan in inside["journal"]["plans"].items():
        print(f"  {' '.join(statement.split())[:90]}\n      {plan}")


def main() -> None:
    """
    Measure in this process, and print JSON.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("steps", "growth", "journal", "postgres"))
    parser.add_argument("calls", type=int, nargs="?", default=10_000)
    parser.add_argument("--batch", type=int, default=BATCH_CALLS, help="calls that are timed at once")
    options = parser.parse_args()
    sys.modules["opentelemetry"] = None  # type: ignore[assignment] # the base install is measured
    measured: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]] = {
        "steps": lambda: _steps(options.batch),
        "growth": lambda: _growth(options.calls, options.batch),
        "journal": lambda: _journal(options.calls, options.batch),
        "postgres": lambda: _postgres(options.calls, options.batch),
    }
    print(json.dumps(asyncio.run(measured[options.what]())))


if __name__ == "__main__":
    main()
