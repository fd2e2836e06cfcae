"""
This package beside Stripe's SDK and the transports below both: speed, memory, start, and the targets for them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import inside
import report
import startup
import targets
from clients import CLIENTS
from measure import WARM_UP_CALLS, Plan, Slice, Target, progress, run_round, running_server, running_workers, warm_up

_MAX_HELD = 256


@dataclass(slots=True, kw_only=True)
class Results:
    """
    Everything that was measured, raw.
    """

    slices: list[Slice] = field(default_factory=list)
    held_calls: int
    """How many were in flight when memory was measured."""
    bytes_per_call: dict[str, list[float]] = field(default_factory=dict)
    """By client."""
    fsyncs_per_s: list[float] = field(default_factory=list)
    commits_per_s: list[float] = field(default_factory=list)
    """Of a PostgreSQL server."""
    starts: list[startup.Start] = field(default_factory=list)
    inside: dict[str, Any] = field(default_factory=dict)
    """What `inside.measure_inside` found; empty where it was left out."""

    def targets(self) -> list[Target]:
        """
        Every target that can be judged.
        """
        return [
            *targets.policy_targets(self.slices, self.fsyncs_per_s),
            *targets.speed_targets(self.slices),
            *targets.memory_targets(self.bytes_per_call, self.held_calls),
            *targets.journal_targets(self.slices, self.fsyncs_per_s),
            *targets.postgres_targets(self.slices, self.commits_per_s),
            *inside.targets(self.inside),
            *startup.targets(self.starts),
        ]


def measure(options: argparse.Namespace) -> Results:
    """
    All rounds. Processes are new in each, so that none is lucky or unlucky in all of them.
    """
    results = Results(held_calls=min(options.calls or _MAX_HELD, _MAX_HELD))
    plan = Plan(levels=options.levels, slice_s=0.2 if options.quick else 1.0, calls=options.calls)
    with running_server() as url:
        for number in range(options.rounds):
            progress(f"round {number + 1}: memory")
            # What a call through the gateway takes, is in the server.
            measured = [each for each in options.clients if each != "gateway"]
            _measure_memory(results, measured if number == 0 else ["ours"], url)
            with tempfile.TemporaryDirectory() as folder:
                results.fsyncs_per_s.append(targets.measure_fsyncs_per_s(Path(folder), 0.25))
                if "ours_postgres" in options.clients:
                    results.commits_per_s.append(targets.measure_commits_per_s(Path(folder) / "server", 0.25))
            with running_workers(options.clients, url) as workers:
                warm_up(workers.values(), options.warm_up)
                results.slices += run_round(number, workers, plan)
        progress("start")
        results.starts = startup.measure_starts(url, options.starts)
    if options.growth:
        results.inside = inside.measure_inside(
            options.rounds, options.growth, min(options.calls or inside.BATCH_CALLS, inside.BATCH_CALLS)
        )
    progress("")
    return results


def _measure_memory(results: Results, clients: list[str], url: str) -> None:
    """
    In processes of their own: memory freed after other calls would be taken again, and not be seen.
    """
    with running_workers(clients, url) as workers:
        for worker in workers.values():
            worker.send({"memory": results.held_calls})
        for client, worker in workers.items():
            figure = worker.receive()["bytes_per_call"]
            if figure is not None:
                results.bytes_per_call.setdefault(client, []).append(figure)


def show(results: Results) -> None:
    """
    Print the tables.
    """
    report.show_table(results.slices, results.bytes_per_call)
    if any(each.client == "ours" for each in results.slices):
        report.show_ratios(results.slices, "ours")
    if results.inside:
        inside.show(results.inside)
    report.show_targets(results.targets())
    for name, figure in startup.further_figures(results.starts).items():
        print(f"{name:<54}{report.in_words(figure):>24} ms")


def write(results: Results, environment: dict[str, str | int | None], folder: Path) -> None:
    """
    Write results.json, and the picture where matplotlib is installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judged = [{**asdict(target), "is_met": target.is_met} for target in results.targets()]
    document = {"environment": environment, **asdict(results), "targets": judged}
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
        return
    import picture  # noqa: PLC0415  only where matplotlib is

    picture.draw(results.slices, [folder / "speed.svg", folder / "speed.png"])


def main() -> None:
    """
    Measure, print, write.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds of short slices, and no growth: a minute")
    parser.add_argument("--rounds", type=int, help="5, or 2 where it is quick")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 16, 64, 256], help="calls in flight")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--calls", type=int, help="calls per slice, instead of as many as fit its time")
    parser.add_argument("--warm-up", type=int, default=WARM_UP_CALLS, help="calls of each client that nobody measures")
    parser.add_argument("--starts", type=int, default=5, help="processes started to measure the start")
    parser.add_argument(
        "--growth", type=int, help="up to how many calls and rows; 1,000,000, or none where it is quick"
    )
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="where results go")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    if options.growth is None:
        options.growth = 0 if options.quick else 1_000_000
    environment = report.environment()
    report.show_environment(environment)
    results = measure(options)
    show(results)
    write(results, environment, options.out)


if __name__ == "__main__":
    main()
