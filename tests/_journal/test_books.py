"""
The journal in memory and the journal in a file are one journal: the same steps, the same answers.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import TOOL
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ocp_stripe_balance._journal import Admission, Call, State, file
from ocp_stripe_balance._journal.book import Book, Settled
from ocp_stripe_balance._journal.claim import claim_call
from ocp_stripe_balance._journal.memory import MemoryBook
from ocp_stripe_balance._journal.sqlite import SqliteBook
from ocp_stripe_balance._policy import Finding, History

if TYPE_CHECKING:
    from collections.abc import Callable

BASE_URL = "https://s.test"
STATES = [State.NOT_SENT, State.SUCCEEDED, State.UNKNOWN, State.REJECTED]


@st.composite
def drafts(draw: st.DrawFn) -> Call:
    """
    Of few customers, amounts and reasons, so that they meet.
    """
    amount, reference = draw(st.sampled_from([-5, -5, 5, 0])), draw(st.sampled_from(["r", "s", None]))
    return Call(
        base_url=BASE_URL,
        mode="test",
        account=draw(st.sampled_from(["", "", "", "acct_1"])),
        key=draw(st.sampled_from("abcde")),
        tool=draw(st.sampled_from([TOOL, TOOL, TOOL, "other"])),
        customer=draw(st.sampled_from(["cus_1", "cus_1", "cus_2"])),
        amount=amount,
        currency=draw(st.sampled_from(["usd", "usd", "eur"])),
        reference=reference,
        arguments=json.dumps([amount, reference]),
        path="/p",
        body=b"",
        api_version="v",
        context_id="c",
    )


def looks_around(history: History) -> Finding | None:
    """
    A rule that names whatever it finds.
    """
    found = [history.alike(600), history.denied(), history.in_another_currency()]
    keys = [None if each is None else each.key for each in found]
    if keys == [None, None, None]:
        return None
    return Finding(verdict="ask", rule="r", message=str(keys), hint="")


ADMISSIONS = st.sampled_from(
    [
        None,
        Admission(rule=lambda _: None, resume_rule=lambda _: None),
        Admission(rule=looks_around, resume_rule=looks_around),
    ]
)


class BookMachine(RuleBasedStateMachine):
    """
    Claims, outcomes, denials and rehearsals in any order, under a clock that is set back now and then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.claimed: list[Call] = []

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.db = file.open_database(Path(self.folder.name) / "journal")
        self.db.execute("PRAGMA synchronous = OFF")
        self.db.execute("BEGIN")
        self.books: list[Book] = [SqliteBook(self.db), MemoryBook()]

    def both(self, ask: Callable[[Book], Any]) -> Any:
        file, memory = (ask(book) for book in self.books)
        assert file == memory
        return file

    def everything(self) -> Any:
        """
        All that the books hold.
        """
        calls = self.both(lambda book: book.select(key=None, states=(), since=0.0, customer=None, limit=-1))
        return calls, self.both(lambda book: book.decisions(None))

    def claiming(self, draft: Call, admission: Admission | None, *, has_own_key: bool) -> Callable[[Book], Any]:
        owner, now = f"elsewhere:1:{len(self.claimed)}", self.now
        return lambda book: claim_call(
            book, draft, owner, now, has_own_key=has_own_key, lease_s=60, admission=admission
        )

    @rule(draft=drafts(), admission=ADMISSIONS, has_own_key=st.booleans())
    def claim(self, draft: Call, admission: Admission | None, has_own_key: bool) -> None:
        self.claimed.append(self.both(self.claiming(draft, admission, has_own_key=has_own_key)).call)

    @rule(draft=drafts(), admission=ADMISSIONS, has_own_key=st.booleans())
    def rehearse(self, draft: Call, admission: Admission | None, has_own_key: bool) -> None:
        before = self.everything()
        work = self.claiming(draft, admission, has_own_key=has_own_key)
        self.both(lambda book: book.attempt(work))
        assert before == self.everything()

    @rule(data=st.data(), state=st.sampled_from(STATES), is_final=st.booleans(), is_found_later=st.booleans())
    def settle(self, data: st.DataObject, state: State, is_final: bool, is_found_later: bool) -> None:
        if not self.claimed:
            return
        call = data.draw(st.sampled_from(self.claimed))
        answer = json.dumps({"id": f"cbtxn_{call.key}"})
        outcome = Settled(state, is_final, 1, 200, "req_1", answer, "n", is_found_later)
        self.both(lambda book: book.settle(call, outcome, self.now))

    @rule(
        draft=drafts(), decision=st.sampled_from(["denied", "denied", "approved"]), who=st.sampled_from(["ann", "bob"])
    )
    def decide(self, draft: Call, decision: Any, who: str) -> None:
        self.both(lambda book: book.note(draft, decision, self.now, rule="approval", who=who, reason="no"))

    @rule(seconds=st.sampled_from([0, 1, 70, 70, 400, 4000, 86000, -30, -700]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(draft=drafts(), window_s=st.sampled_from([1, 70, 600, 90000]))
    def look_around(self, draft: Call, window_s: float) -> None:
        self.both(lambda book: book.surroundings(draft, self.now).alike(window_s))
        self.both(lambda book: book.surroundings(draft, self.now).denied_itself())
        self.both(lambda book: book.surroundings(draft, self.now).denied())
        self.both(lambda book: book.surroundings(draft, self.now).in_another_currency())
        self.both(lambda book: book.by_reference(draft))
        self.both(lambda book: book.by_key(draft.key, draft.base_url, draft.mode, draft.account))
        self.both(lambda book: book.decisions(draft.key))
        self.both(lambda book: book.standing_proposal(draft, self.now))

    @rule(
        key=st.sampled_from("abc") | st.none(),
        states=st.lists(st.sampled_from(State), max_size=2),
        age_s=st.sampled_from([0, 100, 1e9]),
        customer=st.sampled_from(["cus_1", "cus_2", None]),
        limit=st.integers(-1, 3),
    )
    def select(self, key: str | None, states: list[State], age_s: float, customer: str | None, limit: int) -> None:
        since = self.now - age_s
        self.both(lambda book: book.select(key=key, states=states, since=since, customer=customer, limit=limit))

    @rule(draft=drafts())
    def ask_whose(self, draft: Call) -> None:
        if 1 == len({call.customer for call in self.everything()[0] if call.key == draft.key}):
            self.both(lambda book: book.customer_of(f"cbtxn_{draft.key}", BASE_URL, "test", draft.account))

    @invariant()
    def the_books_hold_the_same(self) -> None:
        if hasattr(self, "books"):
            self.everything()

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.db.close()
            self.folder.cleanup()


BookMachine.TestCase.settings = hypothesis_settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBookMachine = BookMachine.TestCase
