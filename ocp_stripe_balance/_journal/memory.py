"""
The journal in this process's memory, where it is off: the same rules, until the process ends.

Budgets, calls per minute and the queue of proposals need the file (`plugin` refuses them without it), so there is
nothing here to count money or to hold proposals with.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, NoReturn

from ocp_stripe_balance._journal.history import CURRENCY_WINDOW_S, DENIAL_WINDOW_S
from ocp_stripe_balance._journal.rows import COLUMNS, Call, Decision, State, decision_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ocp_stripe_balance._journal.book import Settled
    from ocp_stripe_balance._journal.rows import Ruling
    from ocp_stripe_balance._policy import Direction, Per
    from ocp_stripe_balance.models import Answer, Proposal

_MOVED = frozenset({State.SENDING, State.SUCCEEDED, State.UNKNOWN})
_MAX_AUDIT = 1000
_Key = tuple[str, str, str, str]
_Place = tuple[float, int, _Key]
"""When a call was made, the how manyth it is, and its name."""


# A plain tuple of plain values, which the garbage collector does not look at again and again.
_Row = tuple[Any, ...]
_STATE = COLUMNS.index("state")
_NAMES = {state: state.value for state in State}
_STATES = {state.value: state for state in State}


def _row_of(call: Call) -> _Row:
    return (*call[:_STATE], _NAMES[call.state], *call[_STATE + 1 :])


def _call_of(row: _Row) -> Call:
    return Call._make((*row[:_STATE], _STATES[row[_STATE]], *row[_STATE + 1 :]))


class MemoryBook:
    """
    The `Book` of one process.
    """

    def __init__(self) -> None:
        """
        Know nothing yet.
        """
        self._calls: dict[_Key, _Row] = {}
        # Names only, because a call is replaced when it is settled; oldest first, also where the clock is set back.
        self._by_customer: defaultdict[str, list[_Place]] = defaultdict(list)
        self._by_reference: defaultdict[tuple[str | None, str], list[_Place]] = defaultdict(list)
        self._numbers = itertools.count()
        self._denied: list[Decision] = []
        # What is decided about every call is made a `Decision` only when somebody reads it.
        self._audit: deque[tuple[Call | Proposal, Ruling, float, str, str, str]] = deque(maxlen=_MAX_AUDIT)

    def attempt(self, work: Callable[[Any], Any]) -> Any:
        """
        The result of *work*, with everything that it changed undone.
        """
        return work(_Rehearsal(self))

    def by_key(self, key: str, base_url: str, mode: str, account: str) -> Call | None:
        """
        The call of that key in that namespace.
        """
        row = self._calls.get((key, base_url, mode, account))
        return None if row is None else _call_of(row)

    def by_reference(self, draft: Call) -> Call | None:
        """
        The first call of the same business reason that moved money or may have.
        """
        same = (draft.tool, draft.base_url, draft.mode, draft.account)
        for _, _, key in self._by_reference.get((draft.reference, draft.customer), ()):
            call = _call_of(self._calls[key])
            if call.state in _MOVED and (call.tool, call.base_url, call.mode, call.account) == same:
                return call
        return None

    def surroundings(self, draft: Call, now: float) -> MemoryHistory:
        """
        What is known around *draft*.
        """
        return MemoryHistory(self, draft, now)

    def around(self, draft: Call) -> Iterator[Call]:
        """
        The other calls for the draft's customer that moved money or may have, newest first.
        """
        scope = draft.namespace[1:]
        for _, _, key in reversed(self._by_customer.get(draft.customer, [])):
            if key[0] != draft.key and key[1:] == scope and (row := self._calls[key])[_STATE] in _MOVED:
                yield _call_of(row)

    def denials(self, draft: Call) -> Iterator[Decision]:
        """
        Every no of a person in the draft's base URL, mode and account, newest first.
        """
        for decision in reversed(self._denied):
            if (decision.base_url, decision.mode, decision.account) == draft.namespace[1:]:
                yield decision

    def insert(self, draft: Call, owner: str, now: float, lease_until: float) -> Call:
        """
        Record a draft as under way.
        """
        call = draft.begun(owner, now, lease_until)
        key = call.namespace
        self._calls[key] = _row_of(call)
        place = (call.created_at, next(self._numbers), key)
        for places in self._places(call):
            bisect.insort(places, place)
        return call

    def take_over(self, call: Call, owner: str, now: float, lease_until: float) -> Call:
        """
        Let *owner* send a recorded call again.
        """
        taken = call.taken_over(owner, now, lease_until)
        self._calls[call.namespace] = _row_of(taken)
        return taken

    def delete(self, call: Call) -> None:
        """
        Forget a call of which nothing was sent.
        """
        key = call.namespace
        del self._calls[key]
        for places in self._places(call):
            first = bisect.bisect_left(places, (call.created_at,))
            del places[next(index for index in range(first, len(places)) if places[index][2] == key)]

    def _places(self, call: Call) -> Iterator[list[_Place]]:
        yield self._by_customer[call.customer]
        if call.reference is not None:
            yield self._by_reference[call.reference, call.customer]

    def settle(self, call: Call, outcome: Settled, now: float) -> bool:
        """
        Record an outcome, and whether that was possible.
        """
        key = call.namespace
        row = self._calls.get(key)
        if row is None:
            return False
        _, is_final, attempts, *_, created_at, _, spent_at, owner, _ = row[_STATE:]
        state, will_be_final, more, status, request_id, answer, note, is_found_later = outcome
        if is_final or not (will_be_final or owner == call.owner):
            return False
        became = (_NAMES[state], will_be_final, attempts + more, status, request_id, answer, note)
        self._calls[key] = (*row[:_STATE], *became, created_at, now, spent_at if is_found_later else now, "", 0.0)
        return True

    def note(  # noqa: PLR0913  what an audit asks
        self, subject: Call | Proposal, ruling: Ruling, at: float, *, rule: str, who: str, reason: str
    ) -> None:
        """
        Add a decision to the audit, which here is the newest thousand; a person's no is never forgotten.
        """
        self._audit.append((subject, ruling, at, rule, who, reason))
        if ruling == "denied":
            self._denied.append(decision_on(subject, ruling, at, rule=rule, who=who, reason=reason))

    def keep(self, window_s: float) -> None:
        """
        Nothing is pruned.
        """

    def prune(self, before: float, now: float, *, with_references: bool, keep_s: float) -> NoReturn:
        """
        Pruning is for files.
        """
        raise NotImplementedError

    def select(
        self, *, key: str | None, states: Sequence[State], since: float, customer: str | None, limit: int
    ) -> list[Call]:
        """
        Calls, oldest first.
        """
        found = [
            call
            for call in map(_call_of, self._calls.values())
            if call.created_at >= since
            and (not states or call.state in states)
            and customer in {None, call.customer}
            and key in {None, call.key}
        ]
        found.sort(key=lambda call: call.created_at)
        return found if limit < 0 else found[:limit]

    def customer_of(self, transaction: str, base_url: str, mode: str, account: str) -> str | None:
        """
        The customer of the call that made an entry.
        """
        for key, row in self._calls.items():
            call = _call_of(row)
            if key[1:] == (base_url, mode, account) and call.moves_money and call.transaction_id == transaction:
                return call.customer
        return None

    def decisions(self, key: str | None) -> list[Decision]:
        """
        The newest of the audit, oldest first.
        """
        return [
            decision_on(subject, ruling, at, rule=rule, who=who, reason=reason)
            for subject, ruling, at, rule, who, reason in self._audit
            if key in {None, subject.key}
        ]

    def proposals(self, now: float) -> list[Proposal]:  # noqa: ARG002  of the file
        """
        None: they are kept in a file only.
        """
        return []

    def standing_proposal(self, subject: Call | Proposal, now: float) -> None:
        """
        None: they are kept in a file only.
        """

    def use_up(self, proposal: Proposal) -> NoReturn:
        """
        Proposals are kept in a file only.
        """
        raise NotImplementedError

    def ask(self, proposal: Proposal, now: float) -> NoReturn:
        """
        Proposals are kept in a file only.
        """
        raise NotImplementedError

    def answer(self, proposal: Proposal, answer: Answer, now: float) -> NoReturn:
        """
        Proposals are kept in a file only.
        """
        raise NotImplementedError


class _Rehearsal(MemoryBook):
    """
    Reads another book, and changes nothing.
    """

    def __init__(self, book: MemoryBook) -> None:
        self.__dict__ = book.__dict__

    def insert(self, draft: Call, owner: str, now: float, lease_until: float) -> Call:
        return draft.begun(owner, now, lease_until)

    def take_over(self, call: Call, owner: str, now: float, lease_until: float) -> Call:
        return call.taken_over(owner, now, lease_until)

    def delete(self, call: Call) -> None:
        pass

    def settle(self, call: Call, outcome: Settled, now: float) -> NoReturn:
        raise NotImplementedError

    def note(  # noqa: PLR0913  what an audit asks
        self, subject: Call | Proposal, ruling: Ruling, at: float, *, rule: str, who: str, reason: str
    ) -> None:
        pass


class MemoryHistory:
    """
    The `Surroundings` of one draft.
    """

    def __init__(self, book: MemoryBook, draft: Call, now: float) -> None:
        """
        Look around *draft*.
        """
        self.now = now
        self._book = book
        self._draft = draft

    def alike(self, window_s: float) -> Call | None:
        """
        The newest other call to the same customer with the same amount and currency, not told apart by a reference.
        """
        draft = self._draft
        for call in self._book.around(draft):
            if call.created_at <= self.now - window_s:
                return None
            if (call.amount, call.currency, call.tool) == (draft.amount, draft.currency, draft.tool) and (
                call.reference is None or draft.reference is None or call.reference == draft.reference
            ):
                return call
        return None

    def denied_itself(self) -> Decision | None:
        """
        A person's no to this very key.
        """
        return next((each for each in self._book.denials(self._draft) if each.key == self._draft.key), None)

    def denied(self) -> Decision | None:
        """
        A person's no to the same business reason, or within a day to the same amount, under another key.
        """
        draft = self._draft
        for each in self._book.denials(draft):
            is_same_reason = draft.reference is not None and each.reference == draft.reference
            is_same_amount = (each.amount, each.currency) == (draft.amount, draft.currency)
            is_recent = each.at > self.now - DENIAL_WINDOW_S
            is_other = each.key != draft.key and each.customer == draft.customer
            if is_other and (is_same_reason or (is_same_amount and is_recent)):
                return each
        return None

    def in_another_currency(self) -> Call | None:
        """
        Another recent call for this customer in another currency that moved money or may have.
        """
        draft, since = self._draft, self.now - CURRENCY_WINDOW_S
        found = [
            call
            for call in self._book.around(draft)
            if call.currency != draft.currency and call.moves_money and call.spent_at > since
        ]
        return found[-1] if found else None

    def spent(self, per: Per, direction: Direction, window_s: float) -> NoReturn:
        """
        Budgets need the file.
        """
        raise NotImplementedError

    def room_at(self, per: Per, direction: Direction, window_s: float, at_most: int) -> NoReturn:
        """
        Budgets need the file.
        """
        raise NotImplementedError

    def started(self, window_s: float) -> NoReturn:
        """
        Calls per minute need the file.
        """
        raise NotImplementedError

    def counts(self, window_s: float) -> NoReturn:
        """
        Budgets need the file.
        """
        raise NotImplementedError
