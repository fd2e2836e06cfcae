"""
The chaos run of bulk: workers that run one plan at once, are killed and begin again, against a Stripe that fails; with
the journal on a server, on two hosts with wrong clocks.

At the end, three witnesses must agree to the minor unit: the report, the journal, the ledger.

    python tests/chaos_bulk.py --rows 2000 --workers 4 --kills 40 --faults 0.3 --seeds 1 2 3
    python tests/chaos_bulk.py --journal postgres
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import programs
from chaos import DRAWN, Place, executions
from chaos_journals import FileJournal, ServerJournal, opened

from ocp_stripe_balance import Settings
from ocp_stripe_balance._domain import State
from ocp_stripe_balance.bulk import Bulk, Common, open_plan
from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.sandbox import FaultKind, Sandbox

if TYPE_CHECKING:
    from ocp_stripe_balance.bulk import Plan


def work(place: Place, path: Path) -> None:
    """
    A worker: the plan, again and again until nothing is to do; what is unknown by then, one more run finds out.
    """
    place.enter()

    async def main() -> None:
        plan = open_plan(path)
        async with Bulk(settings_of(place), user="worker") as bulk:
            while True:
                try:
                    async for _ in await bulk.run(plan, max_failed=1.0):
                        pass
                    status = await bulk.status(plan)
                except NotSentError:  # the journal is busy
                    continue
                if plan.number == status.rows["succeeded"] + status.rows["unknown"]:
                    return

    asyncio.run(main())


def settings_of(place: Place) -> Settings:
    return Settings(
        api_key=place.api_key,
        api_base=place.url,
        journal=place.journal,
        rate_limit="off",
        timeout=place.timeout_s,
        policy={"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "999999999.00"}}]},
    )


class Chaos:
    """
    One run of it.
    """

    def __init__(self, stripe: Sandbox, folder: Path, seed: int, *, on_server: bool) -> None:
        self.stripe, self.folder = stripe, folder
        self.journal = ServerJournal() if on_server else FileJournal(folder)
        self.chance = random.Random(seed)
        self.kills = 0

    def place(self, number: int = 0) -> Place:
        """
        The place of a worker: the hosts take turns.
        """
        host = self.journal.hosts[number % len(self.journal.hosts)]
        return Place(self.stripe.url, self.stripe.api_key, self.journal.name, 8, 2, *host, counts=True)

    def plan(self, rows: int) -> Plan:
        """
        The plan of a file: one customer in ten twice, one amount in fifty refused by Stripe.
        """
        lines, customer = ["customer,amount,direction,key"], ""
        for number in range(rows):
            customer = self.stripe.create_customer() if number % 10 or not number else customer
            verb = self.chance.choice(["credit", "credit", "debit"])
            lines.append(f"{customer},{self.chance.randint(1, 900)}.{self.chance.randint(10, 99)},{verb},{number}")
        source = self.folder / "in.csv"
        source.write_text("\n".join(lines))

        async def made() -> Plan:
            async with Bulk(settings_of(self.place())) as bulk:
                common = Common(reference="outage", currency="usd")
                return await bulk.plan(source, self.folder / "in.plan", common=common)

        return asyncio.run(made())

    def fail(self, share: float) -> None:
        texts = []
        for kind in DRAWN:
            seconds = 0.05 if kind is FaultKind.STALL else 0.2
            texts += [f"{kind}:seconds={seconds},executed={executed}" for executed in executions(kind)]
        each = 1 - (1 - share) ** (1 / len(texts))
        for text in texts:
            self.stripe.faults.add_text(f"{text},times=all,path=balance_transactions,probability={each}")

    def drive(self, workers: int, kills: int) -> None:
        """
        Run the plan by so many workers at once, and kill one again and again.
        """

        def begun(number: int) -> Any:
            worker = programs.processes().Process(target=work, args=(self.place(number), self.folder / "in.plan"))
            worker.start()
            return worker

        running = [begun(number) for number in range(workers)]
        while any(each.is_alive() for each in running):
            time.sleep(self.chance.uniform(0.05, 0.5))
            victim = self.chance.randrange(workers)
            if self.kills < kills and running[victim].is_alive():
                running[victim].kill()
                running[victim].join()
                self.kills += 1
                running[victim] = begun(victim)
        assert [0] * workers == [each.exitcode for each in running]

    def finish(self) -> None:
        """
        Run it once more, by a Stripe that does not fail: what stays unknown has an error stored under its key.
        """
        self.stripe.faults.clear()
        last = programs.processes().Process(target=work, args=(self.place(), self.folder / "in.plan"))
        last.start()
        last.join()
        assert 0 == last.exitcode

    def witnesses(self, plan: Plan) -> dict[str, Any]:
        """
        What the report, the journal and the ledger say, and where they differ.
        """
        report = asyncio.run(self._reported(plan))
        journal = asyncio.run(self._journalled())
        made: dict[str, list[tuple[str, str, int]]] = {}
        for entry in self._entries(sorted({row["customer"] for row in report})):
            made.setdefault(entry["metadata"]["ocp_call"], []).append((entry["id"], entry["customer"], entry["amount"]))
        rows = {row.key: row for block in plan.blocks() for row in block}
        wrong = [key for key in made if key not in rows or len(made[key]) > 1]
        for told in report:
            row, entries = rows[told["key"]], made.get(told["key"], [])
            record = journal.get(told["key"])
            is_paid = told["outcome"] == "succeeded"
            wanted = [(told["entry"], row.customer, row.moved.amount)] if is_paid else []
            recorded = record is not None and record.state is State.SUCCEEDED and record.transaction_id == told["entry"]
            if entries != wanted or recorded != is_paid:
                wrong.append(told["key"])
        sums = {
            "report": sum(rows[told["key"]].moved.amount for told in report if told["outcome"] == "succeeded"),
            "journal": sum(
                each.intent.money.amount
                for each in journal.values()
                if each.state is State.SUCCEEDED and each.intent.money is not None
            ),
            "ledger": sum(amount for entries in made.values() for _, _, amount in entries),
        }
        outcomes = Counter(each["outcome"] for each in report)
        return {"kills": self.kills, "told": dict(outcomes), "sums": sums, "wrong": wrong}

    async def _reported(self, plan: Plan) -> list[dict[str, str]]:
        target = self.folder / "report.csv"
        async with Bulk(settings_of(self.place())) as bulk:
            await bulk.report(plan, target)
        with target.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    async def _journalled(self) -> dict[str, Any]:
        journal = opened(self.journal.name)
        try:
            return {call.key: call for call in await journal.run(lambda book: book.calls())}
        finally:
            await journal.aclose()

    def _entries(self, customers: list[str]) -> list[dict[str, Any]]:
        found = []
        with httpx.Client(base_url=self.stripe.url, auth=(self.stripe.api_key, "")) as http:
            for customer in customers:
                path = f"/v1/customers/{customer}/balance_transactions"
                found += http.get(path, params={"limit": 100}).json()["data"]
        return found


def run(
    folder: Path, *, rows: int, workers: int, kills: int, faults: float, seed: int, on_server: bool = False
) -> dict[str, Any]:
    with Sandbox(seed=seed) as stripe:
        chaos = Chaos(stripe, folder, seed, on_server=on_server)
        plan = chaos.plan(rows)
        chaos.fail(faults)
        chaos.drive(workers, kills)
        chaos.finish()
        return chaos.witnesses(plan)


def main() -> int:
    parser = argparse.ArgumentParser(description="workers on one plan that are killed, three witnesses")
    parser.add_argument("--journal", choices=("file", "postgres"), default="file")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--faults", type=float, default=0.3, help="share of faulty exchanges")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    violations = 0
    for seed in options.seeds:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = run(
                Path(folder),
                rows=options.rows,
                workers=options.workers,
                kills=options.kills,
                faults=options.faults,
                seed=seed,
                on_server=options.journal == "postgres",
            )
        sys.stdout.write(f"seed {seed}, {time.monotonic() - began:.0f} s: {found}\n")
        sys.stdout.flush()
        violations += len(found["wrong"]) + (len(set(found["sums"].values())) > 1)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
