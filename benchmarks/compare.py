"""
The working tree beside another revision of it: how many times that one's speed, CPU and latency it has.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import report
from measure import HERE, Plan, Slice, Spread, progress, ratio, run_round, running_server, running_workers, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = HERE.parent
NEW, OLD = "working tree", "reference"
_CLIENTS = ("ours", "ours_journal", "ours_readme", "ours_policy", "ours_postgres")
_FIGURES = {"calls_per_s": "calls/s", "cpu_per_call_s": "CPU per call", "p50_s": "p50", "p99_s": "p99"}


@contextmanager
def _checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """
    A work tree of the revision, gone after the block.
    """
    _git("worktree", "add", "--quiet", "--detach", str(folder), revision)
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True)


def _install(source: Path, target: Path) -> None:
    # Without isolation: the backend is among the tools already, and nothing needs to be downloaded.
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)


def ratios(slices: Sequence[Slice]) -> dict[tuple[int, str, str], Spread]:
    """
    Working tree to reference, by level, client and figure.
    """
    found = {}
    for in_flight in sorted({each.in_flight for each in slices}):
        for client in dict.fromkeys(each.client.partition(", ")[0] for each in slices):
            for figure in _FIGURES:
                of = ratio(slices, figure, f"{client}, {NEW}", f"{client}, {OLD}", in_flight)
                found[in_flight, client, figure] = of
    return found


def show(found: dict[tuple[int, str, str], Spread]) -> None:
    """
    Print the ratios.
    """
    print(f"\n{NEW} to {OLD}{'':<5}" + "".join(f"{name:>24}" for name in _FIGURES.values()))
    for in_flight, client in dict.fromkeys((in_flight, client) for in_flight, client, _ in found):
        cells = [report.in_words(found[in_flight, client, figure]) for figure in _FIGURES]
        print(f"{in_flight:>9}  {client:<16}" + "".join(f"{cell:>24}" for cell in cells))


def measure(packages: dict[str, Path], options: argparse.Namespace) -> list[Slice]:
    """
    Both revisions, a slice of one right after the same slice of the other.
    """
    plan = Plan(levels=options.levels, slice_s=0.25, calls=options.calls)
    slices: list[Slice] = []
    with running_server() as url:
        for number in range(options.rounds):
            with running_workers(options.clients, url, packages) as workers:
                warm_up(workers.values())
                slices += run_round(number, workers, plan)
    progress("")
    return slices


def main() -> None:
    """
    Build both, measure, print.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", help="a commit, tag or branch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 16, 64, 256], help="calls in flight")
    parser.add_argument("--clients", nargs="+", choices=_CLIENTS, default=list(_CLIENTS))
    parser.add_argument("--calls", type=int, help="calls per slice, instead of as many as fit a quarter second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packages = {NEW: Path(folder) / "new", OLD: Path(folder) / "old"}
        progress("building")
        with _checked_out(options.revision, Path(folder) / "tree") as tree:
            _install(tree, packages[OLD])
        _install(ROOT, packages[NEW])
        report.show_environment(report.environment())
        show(ratios(measure(packages, options)))


if __name__ == "__main__":
    main()
