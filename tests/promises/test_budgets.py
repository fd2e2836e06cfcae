"""
No sequence of calls, restarts and workers exceeds a budget.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, admit, draft, ledger, order, settle, verdict
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from places import ON_BOTH, Other, Place, Places, before_each_row, look, opened, settings_on_server
from programs import processes

from ocp_stripe_balance import OCPAgent, PolicyRefusedError, Settings
from ocp_stripe_balance._calls.endings import Refused
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal import Journal, Record
from ocp_stripe_balance._policy import Policy
from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocp_stripe_balance._calls.call import Call
    from ocp_stripe_balance._journal import Book

HOUR = 3600
MARGIN = 5  # a lease is so much longer than the call may take
LEASE = 60
# per, window in seconds, limit in cents
BUDGETS = [("customer", 1 * HOUR, 600), ("user", 2 * HOUR, 900), ("all", 4 * HOUR, 1500)]
POLICY = Policy(
    duplicate_window="off",
    budgets=[
        {"per": per, "window": f"{window}s", "credit": {"usd": f"{limit / 100:.2f}"}} for per, window, limit in BUDGETS
    ],
)
FATES = ["succeeded", "rejected", "not_sent", "unknown", "unknown, executed", "crash", "crash, executed"]
KEYS = st.sampled_from([f"k{number}" for number in range(25)])


def amount(call: Any) -> int:
    return int(call.intent.money.amount)


def whose(call: Any, per: str) -> Any:
    """
    Whose budget a call is of.
    """
    return {"customer": call.intent.customer, "user": call.intent.caller.user, "all": ""}[per]


class Spending(RuleBasedStateMachine):
    """
    Calls that succeed, fail, hang, crash and are sent again, on a journal that is closed and opened in between.

    Beside it the ledger, which Stripe would keep: what was executed, when.
    """

    engine = "file"

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000.0
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.places = Places(self.engine, Path(self.folder.name))
        self.ledger: dict[str, tuple[float, Record]] = {}
        self.journals: list[Journal] = []

    @initialize()
    def start_workers(self) -> None:
        self.journals = [self.open() for _ in range(2)]
        self.other = Other(self.places("journal"))
        self.looking = contextlib.ExitStack()
        self.seen = self.looking.enter_context(look(self.places("journal")))

    def read(self, read: Callable[[Book], Any]) -> Any:
        """
        What the journal has, as another program would find it: without the way through a worker's thread.
        """
        return self.other.work(read)

    def open(self) -> Journal:
        return Journal(self.places("journal"), clock=lambda: self.now, open_database=opened)

    # Few choices among many: to draw each part takes longer than the call.
    @rule(
        key=KEYS,
        what=st.sampled_from(list(product([50, 200, 300, 400, 550, 601], ["a", "b"], ["ann", "bob", None]))),
        how=st.sampled_from(list(product([0, 1], FATES))),
        seconds=st.floats(0, LEASE),
        share=st.floats(0, 1),
    )
    def call(
        self, key: str, what: tuple[int, str, str | None], how: tuple[int, str], seconds: float, share: float
    ) -> None:
        self.issue(key, *what, *how, seconds, share)

    def issue(
        self,
        key: str,
        cents: int,
        customer: str,
        user: str | None,
        worker: int,
        fate: str,
        seconds: float,
        share: float,
    ) -> None:
        """
        One call, from its claim to what becomes of it; Stripe executes it somewhere on the way, if at all.
        """
        call = draft(key, -cents, customer=customer, user=user)
        journal = self.journals[worker]
        known = self.read(lambda book: book.find(call.intent))
        call = call if known is None else call._replace(intent=known.intent)
        admitted = self.loop.run_until_complete(admit(journal, call, POLICY, timeout_s=LEASE - MARGIN))
        found = verdict(admitted)
        if found == "refused" and isinstance(admitted, Refused):
            self.assert_refusal_is_needed(call)
        if found not in {"send", "resume"}:
            return
        begun, record = self.now, admitted.record
        if fate == "succeeded" or "executed" in fate:
            self.ledger.setdefault(key, (begun + share * seconds, record))  # once per key, as Stripe does
        self.now = begun + seconds
        if "crash" in fate:
            return
        if key in self.ledger and fate in {"rejected", "not_sent"}:
            fate = "unknown"  # after an executed attempt nobody can know better
        if found == "resume" and fate == "not_sent":
            fate = "unknown"
        state = State(fate.partition(",")[0])
        is_final = state in {State.SUCCEEDED, State.REJECTED}
        self.loop.run_until_complete(settle(journal, record, state, is_final=is_final))

    def assert_refusal_is_needed(self, refused: Call) -> None:
        """
        Some budget has no room, with everything counted that moved or may have since the window began.
        """
        calls = [
            call
            for call in self.read(lambda book: book.calls())
            if call.state.may_have_moved and call.key != refused.intent.key.text
        ]
        assert any(
            -sum(
                amount(call)
                for call in calls
                if whose(call, per) == whose(refused, per) and max(call.updated_at, call.spent_at) > self.now - window
            )
            - amount(refused)
            > limit
            for per, window, limit in BUDGETS
        )

    @rule(seconds=st.sampled_from([1.0, 30.0, 200.0, 600.0, 1700.0, 3590.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(worker=st.integers(0, 1), key=KEYS)
    def call_again(self, worker: int, key: str) -> None:
        """
        A key that is known, or not.
        """
        self.issue(key, 300, "a", "ann", worker, "succeeded", 40.0, 1.0)

    @rule(worker=st.integers(0, 1))
    def restart(self, worker: int) -> None:
        self.loop.run_until_complete(self.journals[worker].aclose())
        self.journals[worker] = self.open()

    @rule()
    def everyone_dies(self) -> None:
        """
        Owners that are no more, so that crashed calls can be taken over at once.
        """
        self.seen.execute("UPDATE calls SET owner_pid = ? WHERE owner != ''", (2**22 + 1,))

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        """
        However the window is laid: it is enough to end it at each execution.
        """
        for per, window, limit in BUDGETS:
            for end, last in self.ledger.values():
                spent = -sum(
                    amount(call)
                    for at, call in self.ledger.values()
                    if end - window < at <= end and whose(call, per) == whose(last, per)
                )
                assert spent <= limit, (per, spent, limit)

    @invariant()
    def the_totals_are_what_the_rows_add_up_to(self) -> None:
        if self.journals:
            assert [] == self.read(lambda book: book.wrong_totals())

    def teardown(self) -> None:
        if self.journals:
            self.looking.close()
            self.other.close()
        for journal in self.journals:
            self.loop.run_until_complete(journal.aclose())
        self.places.close()
        self.loop.close()
        self.folder.cleanup()


Spending.TestCase.settings = hypothesis_settings(max_examples=70, stateful_step_count=50, deadline=None)
TestSpending = Spending.TestCase


class SpendingOnServer(Spending):
    engine = "postgres"


SpendingOnServer.TestCase.settings = settings_on_server(Spending, max_examples=5)
TestSpendingOnServer = SpendingOnServer.TestCase


async def test_a_crashed_call_counts_from_the_last_moment_it_can_have_moved_money(place: Place) -> None:
    """Its lease is that moment, when it was first sent and again when it was resumed."""
    now = [1_800_000_000.0]
    journal = Journal(place, clock=lambda: now[0])

    async def found(key: str, cents: int) -> str:
        return verdict(await admit(journal, draft(key, cents, customer="a"), POLICY, timeout_s=LEASE - MARGIN))

    assert "send" == await found("crashed", -600)
    now[0] += HOUR + LEASE - 1
    assert "refused" == await found("other", -1)
    assert "resume" == await found("crashed", -600)
    now[0] += HOUR + LEASE - 1
    assert "refused" == await found("other", -1)
    now[0] += 10
    assert "send" == await found("other", -300)
    await journal.aclose()


async def test_what_was_settled_late_counts_from_then(place: Place) -> None:
    """The money moved somewhere between the claim and the answer: the answer is the later of the two."""
    now = [1_800_000_000.0]
    journal = Journal(place, clock=lambda: now[0])
    first = await admit(journal, draft("slow", -600, customer="a"), POLICY)
    now[0] += LEASE
    await settle(journal, first.record, State.SUCCEEDED)
    for seconds, expected in ((HOUR - 1, "refused"), (1, "send")):
        now[0] += seconds
        assert expected == verdict(await admit(journal, draft("other", -1, customer="a"), POLICY))
    await journal.aclose()


LIMIT, STEP = 2000, 70


def spend(url: str, api_key: str, journal: str, customers: list[str], start: Any, told: Any) -> None:
    """
    One worker: credits as long as the policy lets it.
    """
    policy = {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": f"{LIMIT / 100:.2f}"}}]}

    async def main() -> None:
        settings = Settings(api_key=api_key, api_base=url, journal=journal, policy=policy, rate_limit="off")
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            start.wait()
            for made in range(LIMIT):
                customer = customers[made % len(customers)]
                try:
                    await agent.call_tool(TOOL, order(customer, -STEP, reference=f"{os.getpid()}-{made}"))
                except PolicyRefusedError as error:
                    told.put((made, error.rule))
                    return

    asyncio.run(main())


@contextlib.contextmanager
def slowly_recorded(place: Place) -> Iterator[None]:
    """
    On a server, others would have the time to look at the budget before a call is on record.
    """
    if isinstance(place, Path):
        yield
    else:
        with before_each_row(place, "PERFORM pg_sleep(0.02)", of="INSERT"):
            yield


@ON_BOTH
@pytest.mark.promise("closed.budget")
async def test_eight_processes_spend_one_budget(place: Place) -> None:
    """Never over, and at the end less than one call is left: nothing is in flight any more."""
    context = processes()
    with Sandbox() as stripe:
        customers = [stripe.create_customer() for _ in range(3)]
        start, told = context.Barrier(8), context.Queue()
        arguments = (stripe.url, stripe.api_key, str(place), customers, start, told)
        workers = [context.Process(target=spend, args=arguments, daemon=True) for _ in range(8)]
        with slowly_recorded(place):
            for worker in workers:
                worker.start()
            answers = [told.get(timeout=50) for _ in workers]
            for worker in workers:
                worker.join()
        entries = [entry for customer in customers for entry in await ledger(stripe, customer)]
        spent = -sum(entry["amount"] for entry in entries)
    journal = Journal(place)
    assert [] == await journal.run(lambda book: book.wrong_totals())
    await journal.aclose()
    assert {"budgets[0].credit.usd"} == {rule for _, rule in answers}
    assert spent == sum(made for made, _ in answers) * STEP
    assert LIMIT - STEP < spent <= LIMIT
