"""
The chaos run: workers that share a journal, are killed and restarted, fork in the middle of their calls, and lose the
journal for a moment, against a Stripe that fails. On a server, they are on two hosts with wrong clocks, are stopped
until others have their calls, and lose their sessions.

At the end, three witnesses must agree on every call: what callers were told, the journal, the ledger.

    python tests/chaos.py --calls 10000 --workers 4 --kills 60 --faults 0.3 --seeds 1 2 3
    python tests/chaos.py --journal postgres --stops 5 --ends 60 --timeout 5
    python tests/chaos.py --race 500 --processes 16
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from chaos_journals import FileJournal, ServerJournal, opened

from ocp_stripe_balance import OCPAgent, Settings, ToolError
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal import READING, is_alive, lease
from ocp_stripe_balance.sandbox import FaultKind, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOL = "postCustomersCustomerBalanceTransactions"
IN_FLIGHT = 16
CUSTOMERS = 20
MAX_ISSUES = 4
AWAY_S = 0.5
# Drawn for each request; refused connections come from the run itself, at random moments.
DRAWN = [kind for kind in FaultKind if kind is not FaultKind.REFUSE]
EXECUTED_OR_NOT = {
    FaultKind.RESET,
    FaultKind.STALL,
    FaultKind.SERVER_ERROR,
    FaultKind.SERVER_ERROR_STORED,
    FaultKind.BAD_GATEWAY,
}


@dataclass
class Job:
    """
    One decision, and all that its callers were told.
    """

    number: int
    parameters: dict[str, Any]
    key: str | None
    told: list[dict[str, Any]] = field(default_factory=list)
    issues: int = 0


def make_jobs(calls: int, customers: list[str], chance: random.Random) -> list[Job]:
    jobs = []
    for number in range(calls):
        parameters: dict[str, Any] = {
            "customer": chance.choice(customers),
            "amount": -chance.randint(1, 9),
            "currency": "usd",
        }
        kind = chance.random()
        if kind < 0.02:
            parameters["customer"] = f"cus_none{number}"  # Stripe will reject it
        elif kind < 0.03:
            parameters["amount"] = "5.00"  # we will
        elif kind < 0.15:
            parameters["reference"] = f"ticket-{number}"
        key = None if "reference" in parameters else f"job-{number}"
        jobs.append(Job(number, parameters, key))
    return jobs


# A worker: calls from stdin, what it was told to stdout.


# Wide enough for all; what is tried is whether their totals are what the calls add up to.
_BUDGETS = [
    {"per": per, "window": window, "credit": {"usd": "999999999.00"}}
    for per in ("customer", "all")
    for window in ("1h", "2s")  # calls leave the short one all the time
]


class Place(NamedTuple):
    """
    Where a worker works, and by which clock.
    """

    url: str
    api_key: str
    journal: str
    timeout_s: float
    margin_s: float
    host: str | None
    ahead_s: float
    counts: bool
    """Whether its policy adds calls up."""

    def enter(self) -> None:
        """
        Let this process be there.
        """
        lease._LEASE_MARGIN_S = self.margin_s  # so that a stop need not be long
        if (name := self.host) is not None:
            real = time.time
            socket.gethostname, time.time = lambda: name, lambda: real() + self.ahead_s


async def work(place: Place) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    # Many like calls, so without the guard against duplicates; customers are read like everything else.
    # As good as without a limit, which is shared: what is tested is what happens when requests collide.
    settings = Settings(
        api_key=place.api_key,
        api_base=place.url,
        journal=place.journal,
        timeout=place.timeout_s,
        policy={"duplicate_window": "off", "budgets": _BUDGETS if place.counts else []},
        rate_limit=1000,
    )
    tasks: set[asyncio.Task[None]] = set()
    async with OCPAgent(settings=settings) as agent:
        await agent.register_api("stripe")

        async def make(job: dict[str, Any]) -> None:
            try:
                result = await agent.call_tool(TOOL, job["parameters"], idempotency_key=job["key"])
                told = {"outcome": result.outcome, "id": result.data.get("id"), "key": result.idempotency_key}
            except ToolError as error:
                told = {"outcome": error.outcome, "key": error.idempotency_key, "error": type(error).__name__}
                told["is_about_journal"] = str(error).startswith("The journal at")
            os.write(1, (json.dumps({"number": job["number"], **told}) + "\n").encode())  # whole, also beside a child's

        def fork(jobs: list[dict[str, Any]]) -> None:
            """
            A child goes on with some calls, with the agent it inherits, while the calls of the parent are under way.
            """
            if os.fork() == 0:
                try:
                    asyncio.run(all_of(jobs))
                finally:
                    os._exit(0)

        async def all_of(jobs: list[dict[str, Any]]) -> None:
            await asyncio.gather(*map(make, jobs))

        while line := await reader.readline():
            job = json.loads(line)
            if isinstance(job, list):
                fork(job)
                continue
            task = asyncio.ensure_future(make(job))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


class Worker:
    """
    A worker process, restarted when it is killed.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.process: asyncio.subprocess.Process | None = None
        self.running: set[int] = set()

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--work",
            json.dumps(self.place),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    def send(self, job: Job) -> None:
        self._write(self._taken(job))

    def fork(self, jobs: list[Job]) -> None:
        """
        Let a child of the worker make these calls.
        """
        self._write([self._taken(job) for job in jobs])

    def _taken(self, job: Job) -> dict[str, Any]:
        job.issues += 1
        self.running.add(job.number)
        return {"number": job.number, "parameters": job.parameters, "key": job.key}

    def _write(self, what: object) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")


class Run:
    """
    One chaos run.
    """

    def __init__(self, options: argparse.Namespace, seed: int, folder: Path) -> None:
        self.options = options
        self.chance = random.Random(seed)
        self.seed, self.folder = seed, folder
        self.journal = ServerJournal() if options.journal == "postgres" else FileJournal(folder)
        self.began_at = time.time()
        self.kills = self.forks = self.taken_away = self.stops = self.ends = 0
        self.duplicates = 0
        self.finished: set[int] = set()
        self.resumed: dict[str, dict[str, Any]] = {}  # what the run itself was told of calls that it resumed, by key

    async def main(self) -> dict[str, Any]:
        began = time.monotonic()
        sandbox = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "ocp-stripe-balance"), "sandbox", "--json", "--seed", str(self.seed),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert sandbox.stdout is not None
        self.stripe = json.loads(await sandbox.stdout.readline())
        transport = httpx.AsyncHTTPTransport(retries=4)  # it refuses connections at times, ours too
        at = {"base_url": self.stripe["url"], "auth": (self.stripe["api_key"], "")}
        async with httpx.AsyncClient(transport=transport, **at) as http:
            try:
                customers = [(await http.post("/v1/customers")).json()["id"] for _ in range(CUSTOMERS)]
                self.jobs = make_jobs(self.options.calls, customers, self.chance)
                await self.set_faults(http)
                await self.drive(http)
                faults = (await http.get("/_sandbox/faults")).json()["met"]
                await http.delete("/_sandbox/faults")
                reconciled = await self.reconcile()
                ledger = [entry async for entry in entries(http, customers)]
            finally:
                sandbox.send_signal(signal.SIGINT)
                await sandbox.wait()
        report = await self.compare(ledger)
        return {
            "seed": self.seed,
            "seconds": round(time.monotonic() - began, 1),
            "calls": len(self.jobs),
            "issued": sum(job.issues for job in self.jobs),
            "issued twice at once": self.duplicates,
            "SIGKILLs": self.kills,
            "forks": self.forks,
            "journal taken away": self.taken_away,
            "stopped past the lease": self.stops,
            "sessions ended": self.ends,
            "faults": faults,
            "reconciled": reconciled,
            **report,
        }

    async def set_faults(self, http: httpx.AsyncClient) -> None:
        """
        Several kinds with one chance each, which together make the asked-for share of exchanges faulty.
        """
        texts = []
        for kind in DRAWN:
            seconds = 0.05 if kind is FaultKind.STALL else 0.2
            texts += [f"{kind}:seconds={seconds},executed={executed}" for executed in executions(kind)]
        each = 1 - (1 - self.options.faults) ** (1 / len(texts))
        for text in texts:
            answer = await http.post("/_sandbox/faults", content=f"{text},times=all,path=balance,probability={each}")
            answer.raise_for_status()

    async def drive(self, http: httpx.AsyncClient) -> None:
        workers = [Worker(self.place_of(number)) for number in range(self.options.workers)]
        self.waiting = list(reversed(self.jobs))
        harms = (self.kill(workers, http), self.take_away(), self.stop(workers), self.end_sessions())
        harm = [asyncio.ensure_future(each) for each in harms]
        await asyncio.gather(*(self.keep_busy(worker, workers) for worker in workers))
        await harm[1]  # the last time is due by now, and may have just begun
        for each in harm:
            each.cancel()
        for problem in await asyncio.gather(*harm, return_exceptions=True):
            if problem is not None and not isinstance(problem, asyncio.CancelledError):
                raise problem
        await self.journal.come()  # where a session that was killed at the very end took the others along

    def place_of(self, number: int) -> Place:
        """
        The place of a worker: the hosts take turns, and one worker in four counts nothing.
        """
        host = self.journal.hosts[number % len(self.journal.hosts)]
        times = (self.options.timeout, self.options.margin)
        counts = number % 4 < 3
        return Place(self.stripe["url"], self.stripe["api_key"], self.journal.name, *times, *host, counts)

    async def due(self, number: float, times: int) -> None:
        """
        Wait for a moment among so many that are spread over the run.
        """
        while len(self.finished) < number / times * len(self.jobs):
            await asyncio.sleep(0.002)

    async def take_away(self) -> None:
        """
        Take the journal away for a moment, a few times in a run.
        """
        for number in range(self.options.away):
            await self.due(number + 0.5, self.options.away)
            try:
                await self.journal.go()
                self.taken_away += 1
                await asyncio.sleep(0.3)
            finally:
                await self.journal.come()

    async def stop(self, workers: list[Worker]) -> None:
        """
        Stop a worker until its leases are over and others have its calls; then let it go on, as if it were its turn.
        """
        for number in range(self.options.stops):
            await self.due(number + 0.25, self.options.stops)
            worker = self.chance.choice(workers)
            process = worker.process
            if process is None or process.returncode is not None:
                continue
            process.send_signal(signal.SIGSTOP)
            self.stops += 1
            try:
                self.waiting += [self.jobs[number] for number in worker.running if number not in self.finished]
                await asyncio.sleep(self.options.timeout + self.options.margin + 1)
            finally:
                with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
                    process.send_signal(signal.SIGCONT)

    async def end_sessions(self) -> None:
        """
        Let the server end sessions of workers at random moments.
        """
        for number in range(self.options.ends):
            await self.due(number + self.chance.random(), self.options.ends)
            while not await self.journal.end_a_session(self.chance):
                await asyncio.sleep(0.05)
            self.ends += 1

    async def keep_busy(self, worker: Worker, workers: list[Worker]) -> None:
        """
        Feed one worker until every job is finished; what a killed worker left is issued again, under the same key.
        """
        await worker.start()
        while len(self.finished) < len(self.jobs):
            process = worker.process
            assert process is not None
            assert process.stdout is not None
            while self.waiting and len(worker.running) < IN_FLIGHT:
                due = (self.forks + 0.5) / (self.options.forks + 1) * len(self.jobs)
                if self.forks < self.options.forks and len(self.finished) >= due:
                    self.forks += 1
                    worker.fork([self.waiting.pop() for _ in range(min(4, len(self.waiting)))])
                    continue
                job = self.waiting.pop()
                worker.send(job)
                other = self.chance.choice(workers)
                if other is not worker and other.process is not None and self.chance.random() < 0.1:
                    other.send(job)
                    self.duplicates += 1
            try:
                line = await asyncio.wait_for(process.stdout.readline(), 0.05)
            except TimeoutError:
                continue
            if line:
                self.hear(worker, json.loads(line))
            else:
                await process.wait()
                self.waiting += [self.jobs[number] for number in worker.running if number not in self.finished]
                worker.running.clear()
                await worker.start()
        assert worker.process is not None
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert worker.process.stdout is not None
        async for line in worker.process.stdout:
            self.hear(worker, json.loads(line))
        await worker.process.wait()

    def hear(self, worker: Worker, told: dict[str, Any]) -> None:
        """
        Note what a caller was told; an open outcome is asked for again a few times, as an agent would.
        """
        job = self.jobs[told["number"]]
        job.told.append(told)
        is_open = told["outcome"] == "unknown" or told.get("error") in {"NotSentError", "RateLimitError"}
        if is_open and job.issues < MAX_ISSUES:
            # Where the journal is away, nothing else is begun meanwhile either.
            pause_s = AWAY_S if told.get("is_about_journal") else 0.0
            asyncio.get_running_loop().call_later(pause_s, self.take_back, worker, job)
        else:
            worker.running.discard(job.number)
            self.finished.add(job.number)
        if sys.stderr.isatty():
            done, width = len(self.finished), 40
            bar = "#" * (done * width // len(self.jobs))
            sys.stderr.write(f"\rseed {self.seed} [{bar:<{width}}] {done}/{len(self.jobs)} calls, {self.kills} kills ")

    def take_back(self, worker: Worker, job: Job) -> None:
        worker.running.discard(job.number)
        self.waiting.append(job)

    async def kill(self, workers: list[Worker], http: httpx.AsyncClient) -> None:
        """
        SIGKILL a worker at a random moment, spread over the run; now and then the port closes for a moment.
        """
        for number in range(self.options.kills):
            share = (number + self.chance.random()) / (self.options.kills + 1)
            alive: list[asyncio.subprocess.Process] = []
            while len(self.finished) < share * len(self.jobs) or not alive:
                await asyncio.sleep(0.002)
                processes = [worker.process for worker in workers if worker.process is not None]
                alive = [process for process in processes if process.returncode is None]
                if len(self.finished) == len(self.jobs):
                    return
            self.chance.choice(alive).kill()
            self.kills += 1
            if self.chance.random() < 0.3:
                await http.post("/_sandbox/faults", content="refuse:seconds=0.1")

    async def reconcile(self) -> dict[str, int]:
        """
        Reconcile, then resume what reading alone could not settle.
        """
        settings = Settings(
            api_key=self.stripe["api_key"], api_base=self.stripe["url"], journal=self.journal.name, rate_limit="off"
        )
        outcomes: Counter[str] = Counter()
        await self.leases_end()
        async with OCPAgent(settings=settings) as agent:
            api = await agent.register_api("stripe")
            for finding in await api.reconcile():
                outcomes[f"by reading: {finding.outcome}"] += 1
                if finding.outcome == "unknown":
                    try:
                        result = await api.resume(finding.key)
                        outcomes[f"by resuming: {result.outcome}"] += 1
                        self.resumed[finding.key] = {"outcome": result.outcome, "id": result.data.get("id")}
                    except ToolError as error:
                        outcomes[f"by resuming: {error.outcome}"] += 1
        return dict(outcomes)

    async def leases_end(self) -> None:
        """
        Wait until no call belongs to anybody: nobody sees from here that a process of another host has ended.
        """
        journal = opened(self.journal.name)
        sending = [State.SENDING]
        last = time.monotonic() + self.options.timeout + self.options.margin + 5
        while time.monotonic() < last and any(
            is_alive(call, journal.now())
            for call in await journal.run(lambda book: book.calls(states=sending), reach=READING)
        ):
            await asyncio.sleep(0.1)
        await journal.aclose()

    async def compare(self, ledger: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Hold what was told, the journal and the ledger against each other.
        """
        journal = opened(self.journal.name)
        recorded = {call.key: call for call in await journal.run(lambda book: book.calls())}
        decisions = await journal.run(lambda book: book.decisions())
        wrong_totals = await journal.run(lambda book: book.wrong_totals())
        await journal.aclose()
        times = [(call.key, at) for call in recorded.values() for at in (call.created_at, call.updated_at)]
        times += [(decision.key, decision.at) for decision in decisions]
        wrong_times = [key for key, at in times if not self.began_at - 5 < at < time.time() + 5]
        made: dict[str, list[str]] = {}
        for entry in ledger:
            made.setdefault(entry["metadata"]["ocp_call"], []).append(entry["id"])
        double = [key for key, ids in made.items() if len(ids) > 1]
        wrong: list[int | str] = []
        lost: list[int | str] = []
        unreadable: list[int] = []
        for job in self.jobs:
            keys = {told["key"] for told in job.told if told.get("key")}
            ids = [made_id for key in keys for made_id in made.get(key, [])]
            all_told = [*job.told, *(self.resumed[key] for key in keys if key in self.resumed)]
            outcomes = {told["outcome"] for told in all_told}
            told_ids = {told["id"] for told in all_told if told["outcome"] == "succeeded" and told.get("id")}
            if "succeeded" in outcomes and not ids:
                lost.append(job.number)
            is_denied = bool(ids) and outcomes <= {"rejected", "not_sent"}
            # Whoever cannot read the journal says what this attempt did; an earlier one was killed and said nothing.
            if is_denied and job.issues > len(job.told) and any(told.get("is_about_journal") for told in job.told):
                unreadable.append(job.number)
            elif is_denied or told_ids - set(ids):
                wrong.append(job.number)
        for key, call in recorded.items():
            if (call.state is State.SUCCEEDED) and key not in made:
                lost.append(key)
            if (call.state in {State.REJECTED, State.NOT_SENT}) and key in made:
                wrong.append(key)
        unrecorded = [key for key in made if key not in recorded]
        return {
            "entries": len(ledger),
            "told only that the journal cannot be read": len(unreadable),
            "told": dict(Counter(told["outcome"] for job in self.jobs for told in job.told)),
            "journal": dict(Counter(str(call.state) for call in recorded.values())),
            "violations": {
                "double": double,
                "lost": lost,
                "wrong statement": wrong,
                "unrecorded": unrecorded,
                "wrong total": wrong_totals,
                "wrong time": wrong_times,
            },
        }


def executions(kind: FaultKind) -> Iterator[bool]:
    yield False
    if kind in EXECUTED_OR_NOT:
        yield True


async def entries(http: httpx.AsyncClient, customers: list[str]) -> Any:
    for customer in customers:
        path = f"/v1/customers/{customer}/balance_transactions"
        after: dict[str, str] = {}
        while True:
            page = (await http.get(path, params={"limit": 100, **after})).json()
            for entry in page["data"]:
                yield entry
            if not page["has_more"]:
                break
            after = {"starting_after": page["data"][-1]["id"]}


# Many processes, one key.


def race_once(url: str, api_key: str, journal: str, customer: str, rounds: int, start: Any, told: Any) -> None:
    """
    One racer: at each start, the same call as everyone else.
    """

    async def main() -> None:
        policy = {"duplicate_window": "off"}
        settings = Settings(api_key=api_key, api_base=url, journal=journal, policy=policy, rate_limit="off")
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            for number in range(rounds):
                start.wait()
                parameters = {"customer": customer, "amount": -1, "currency": "usd"}
                result = await agent.call_tool(TOOL, parameters, idempotency_key=f"race-{number}")
                told.put((number, result.data["id"]))

    asyncio.run(main())


def race(rounds: int, processes: int, *, on_server: bool = False) -> dict[str, Any]:
    """
    How many entries each key made, and how many answers its callers were told.
    """
    import programs  # noqa: PLC0415  workers start sooner without it

    began = time.monotonic()
    context = programs.processes()
    with tempfile.TemporaryDirectory() as folder, Sandbox() as stripe:
        customer = stripe.create_customer()
        start, told = context.Barrier(processes), context.Queue()
        journal = ServerJournal() if on_server else FileJournal(Path(folder))
        arguments = (stripe.url, stripe.api_key, journal.name, customer, rounds, start, told)
        racers = [context.Process(target=race_once, args=arguments, daemon=True) for _ in range(processes)]
        for racer in racers:
            racer.start()
        answers: dict[int, list[str]] = {}
        for count in range(rounds * processes):
            number, transaction = told.get(timeout=120)
            answers.setdefault(number, []).append(transaction)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{count + 1} of {rounds * processes} answers ")
        for racer in racers:
            racer.join()
        http = httpx.Client(base_url=stripe.url, auth=(stripe.api_key, ""))
        made: Counter[str] = Counter()
        after: dict[str, str] = {}
        while True:
            path = f"/v1/customers/{customer}/balance_transactions"
            page = http.get(path, params={"limit": 100, **after}).json()
            made.update(entry["metadata"]["ocp_call"] for entry in page["data"])
            if not page["has_more"]:
                break
            after = {"starting_after": page["data"][-1]["id"]}
        http.close()
    return {
        "rounds": rounds,
        "processes": processes,
        "seconds": round(time.monotonic() - began, 1),
        "entries": sum(made.values()),
        "keys with one entry": sum(count == 1 for count in made.values()),
        "rounds in which all were told the same": sum(
            len(told_ids) == processes and len(set(told_ids)) == 1 for told_ids in answers.values()
        ),
    }


def show(report: dict[str, Any]) -> None:
    for name, value in report.items():
        if isinstance(value, dict):
            sys.stdout.write(f"  {name}\n")
            for key, item in sorted(value.items()):
                shown = f"{len(item)} {item[:5] if item else ''}" if isinstance(item, list) else item
                sys.stdout.write(f"    {key:<28}{shown}\n")
        else:
            sys.stdout.write(f"  {name:<42}{value}\n")


def run_seeds(kind: type[Run], title: str, options: argparse.Namespace) -> int:
    """
    The exit code of a run for each seed, each of whose reports is shown.
    """
    violations = 0
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            report = asyncio.run(kind(options, seed, Path(folder)).main())
        sys.stdout.write(f"\n{title}\n")
        show(report)
        sys.stdout.flush()
        violations += sum(len(found) for found in report["violations"].values())
    return 1 if violations else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="workers that are killed, a Stripe that fails, three witnesses")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--journal", choices=("file", "postgres"), default="file")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--forks", type=int, default=15, help="how often a worker forks in the middle of its calls")
    parser.add_argument("--away", type=int, default=10, help="how often the journal is taken away")
    parser.add_argument("--stops", type=int, default=0, help="how often a worker is stopped past its lease")
    parser.add_argument("--ends", type=int, default=0, help="how often the server ends a session")
    parser.add_argument("--timeout", type=float, default=8, help="seconds that a call may take")
    parser.add_argument("--margin", type=float, default=5, help="seconds that a lease is longer")
    parser.add_argument("--faults", type=float, default=0.3, help="share of faulty exchanges")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--race", type=int, metavar="ROUNDS", help="instead: processes that race for one key a round")
    parser.add_argument("--processes", type=int, default=16)
    options = parser.parse_args()
    if options.work:
        place = Place(*json.loads(options.work))
        place.enter()
        asyncio.run(work(place))
        return 0
    if options.race:
        report = race(options.race, options.processes, on_server=options.journal == "postgres")
        sys.stdout.write("\nrace\n")
        show(report)
        same = report["rounds in which all were told the same"]
        return 0 if options.race == same == report["keys with one entry"] == report["entries"] else 1
    return run_seeds(Run, "chaos", options)


if __name__ == "__main__":
    os.environ.pop("COLUMNS", None)
    sys.exit(main())
