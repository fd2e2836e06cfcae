"""
What the benchmarks share: the server and the workers as processes, slices of load, and the statistics over rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HERE = Path(__file__).parent
WARM_UP_CALLS = 200
_TRIAL_CALLS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """
    What one client did at one level in one round.
    """

    round: int
    in_flight: int
    client: str
    calls: int
    wall_s: float
    cpu_s: float
    p50_s: float
    p99_s: float
    peak_bytes: int
    """The most memory the process had until then."""

    @property
    def calls_per_s(self) -> float:
        """
        Throughput.
        """
        return self.calls / self.wall_s

    @property
    def cpu_per_call_s(self) -> float:
        """
        Time of the processor, in all threads.
        """
        return self.cpu_s / self.calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    How much load.
    """

    levels: Sequence[int]
    """Calls in flight."""
    slice_s: float
    calls: int | None = None
    """Per slice, instead of as many as fit its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """
    The median over rounds, and the extremes.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Self:
        """
        The spread of one figure per round.
        """
        values = list(figures)
        return cls(median=statistics.median(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    A figure that is wanted to be at least, or at most, so much.
    """

    name: str
    figure: Spread
    unit: str
    comparison: Literal["at least", "at most"]
    bound: float
    note: str = ""

    @property
    def is_met(self) -> bool:
        """
        Whether the median is on the right side.
        """
        median = self.figure.median
        return median >= self.bound if self.comparison == "at least" else median <= self.bound


class Worker:
    """
    One client in its own process.
    """

    def __init__(self, client: str, url: str, folder: Path, *, package: Path | None = None) -> None:
        """
        Start the process without waiting for it.

        Args:
            client: one of `clients.CLIENTS`.
            url: of the server.
            folder: where it may keep a journal.
            package: where our package is installed, if it is not to be that of this interpreter.
        """
        environment = clean_environment() | ({"PYTHONPATH": str(package)} if package else {})
        self._package = package
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), client, url, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._is_new = True

    def send(self, command: Mapping[str, Any]) -> None:
        """
        Give a command, and let it run.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """
        The answer to the oldest command.

        Raises:
            RuntimeError: the process ended, or runs another copy of the package.
        """
        if self._is_new:
            self._is_new = False
            imported = Path(self._read()["package"])
            if self._package is not None and self._package.resolve() not in imported.resolve().parents:
                raise RuntimeError(f"{imported} was imported, which is not in {self._package}")
        return self._read()

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """
        The answer to a command.
        """
        self.send(command)
        return self.receive()

    def close(self) -> None:
        """
        Let the process end.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended; what it wrote to stderr says why")
        answer: dict[str, Any] = json.loads(line)
        return answer


def clean_environment() -> dict[str, str]:
    """
    Our environment without settings of the package or of Stripe's SDK.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith(("OCP_", "STRIPE_"))}


@contextmanager
def running_server() -> Iterator[str]:
    """
    The URL of a server that lives as long as the block.
    """
    command = [sys.executable, str(HERE / "server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.communicate()  # closes its stdin, which ends it


@contextmanager
def running_workers(
    clients: Sequence[str], url: str, packages: Mapping[str, Path] | None = None
) -> Iterator[dict[str, Worker]]:
    """
    A new worker per client, by name, each with an empty folder.

    Args:
        clients: which clients to run.
        url: of the server.
        packages: copies of our package by name; then there is a worker ``{client}, {name}`` of each client for each.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {}
        for client in clients:
            for name, package in packages.items() if packages else [("", None)]:
                label = f"{client}, {name}" if name else client
                (folder / label).mkdir()
                workers[label] = Worker(client, url, folder / label, package=package)
                stack.callback(workers[label].close)
        yield workers


def warm_up(workers: Iterable[Worker], calls: int = WARM_UP_CALLS) -> None:
    """
    Let every worker make some calls, one worker after the other.
    """
    for worker in workers:
        worker.ask({"warm_up": calls})


def run_slice(worker: Worker, in_flight: int, plan: Plan) -> dict[str, Any]:
    """
    What the worker measured in one slice, after a trial that opens the connections and tells how many calls fit.
    """
    if plan.calls is not None:
        return worker.ask({"in_flight": in_flight, "calls": plan.calls})
    trial = worker.ask({"in_flight": in_flight, "calls": max(in_flight, _TRIAL_CALLS)})
    if trial["wall_s"] > 2 * plan.slice_s:
        return trial  # opening connections is lost in that, and the slow shall not take most of the time
    fitting = int(trial["calls"] / trial["wall_s"] * plan.slice_s)
    return worker.ask({"in_flight": in_flight, "calls": max(in_flight, fitting)})


def run_round(number: int, workers: Mapping[str, Worker], plan: Plan) -> list[Slice]:
    """
    A slice of every worker at every level, another worker first in every round.

    Levels ascend, because connections opened for many calls slow some clients down at few.
    """
    names = list(workers)
    order = names[number % len(names) :] + names[: number % len(names)]
    slices = []
    for in_flight in sorted(plan.levels):
        for name in order:
            progress(f"round {number + 1}: {in_flight} in flight, {name}")
            slices.append(
                Slice(round=number, in_flight=in_flight, client=name, **run_slice(workers[name], in_flight, plan))
            )
    return slices


def select(slices: Iterable[Slice], client: str, in_flight: int) -> dict[int, Slice]:
    """
    One client's slices at one level, by round.
    """
    return {each.round: each for each in slices if (each.client, each.in_flight) == (client, in_flight)}


def spread(slices: Sequence[Slice], figure: str, client: str, in_flight: int) -> Spread:
    """
    A figure over rounds; *figure* is an attribute of a slice.
    """
    return Spread.of(getattr(each, figure) for each in select(slices, client, in_flight).values())


def ratio(slices: Sequence[Slice], figure: str, client: str, peer: str, in_flight: int) -> Spread:
    """
    How many times the peer's figure a client's is. Taken within each round, so that drift of the machine cancels.
    """
    mine, other = select(slices, client, in_flight), select(slices, peer, in_flight)
    return Spread.of(getattr(mine[number], figure) / getattr(other[number], figure) for number in mine)


def progress(text: str) -> None:
    """
    Say on a terminal what is being done.
    """
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
