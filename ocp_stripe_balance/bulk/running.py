"""
A run of a plan: its rows through the way of every call, several at a time.

What became of each row is in the journal, under the row's own key, and nowhere else: so a run that ended, however it
ended, goes on where it is run again, and several can run one plan. What is open is found out first. A block in which
another process has a call under way is left to it, and looked at again at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from ocp_stripe_balance._calls.admission import OF_PLAN
from ocp_stripe_balance._domain import State, sent
from ocp_stripe_balance._journal import is_alive
from ocp_stripe_balance._tools.manifest import tool_named
from ocp_stripe_balance.bulk.report import look_up, note_unless_told
from ocp_stripe_balance.errors import (
    AuthenticationError,
    ConfigurationError,
    NotSentError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PolicyRefusedError,
    ToolError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from ocp_stripe_balance._calls.many import OnRecord
    from ocp_stripe_balance._domain import Intent
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.bulk.plan import Plan, PlannedRow
    from ocp_stripe_balance.plugin import StripeAPI

_IN_FLIGHT = 32
_LAST, _LEAST = 100, 20  # rows among which the share of failures is looked at
_OTHERS_S = 1.0  # before the rows of other processes are looked at again
_GRACE_S = 10.0  # for calls that may have been sent, where the run is stopped
_LOOK = "getBalanceCalls"

Outcome = Literal["succeeded", "rejected", "not_sent", "unknown"]


class RowResult(NamedTuple):
    """
    What became of one row in this run.
    """

    row: PlannedRow
    outcome: Outcome
    entry: str | None = None
    """Of the ledger, where it succeeded."""
    error: ToolError | None = None
    """Where it did not."""


class Rows:
    """
    The rows of a plan that are under way: what the policy asks whether a call is one of them.
    """

    def __init__(self, plan: Plan) -> None:
        """
        Begin with none.
        """
        self.key = plan.key
        self._under_way: dict[str, PlannedRow] = {}

    def add(self, row: PlannedRow) -> None:
        """
        Know a row, which was proven against the plan's digest.
        """
        self._under_way[row.key] = row

    def remove(self, row: PlannedRow) -> None:
        """
        Forget it.
        """
        self._under_way.pop(row.key, None)

    def __contains__(self, key: str) -> bool:
        """
        Whether the row of that key is under way here.
        """
        return key in self._under_way

    def has(self, intent: Intent) -> bool:
        """
        Whether that very call is one of them.
        """
        row = self._under_way.get(intent.key.text)
        return row is not None and (row.customer, row.moved) == (intent.customer, intent.money)


class Run:
    """
    One run, by ``async for`` over the results of its rows.
    """

    def __init__(  # noqa: PLR0913  what a run is of
        self,
        api: StripeAPI,
        plan: Plan,
        rows: Rows,
        *,
        is_ours: bool,
        limit: int | None = None,
        only_failed: bool = False,
        max_failed: float = 0.1,
        in_flight: int = _IN_FLIGHT,
    ) -> None:
        """
        Prepare.

        Args:
            api: whose calls are the rows of this plan.
            plan: whose rows are sent.
            rows: those under way.
            is_ours: whether it was made with this journal: what it says of customers is then not asked again.
            limit: how many rows are sent at most.
            only_failed: whether rows that were never tried are left alone.
            max_failed: the share of the last hundred rows that may fail before the run pauses.
            in_flight: how many rows are under way at once.
        """
        self.plan = plan
        self.done = Counter[Outcome]()
        """How many rows ended how in this run."""
        self.stopped: str | None = None
        """Why it ended before the end of the plan."""
        self._api, self._rows, self._many, self._is_ours = api, rows, api.many, is_ours
        self._tool: ToolSpec = tool_named(api.tools, plan.tool)
        self._left, self._only_failed, self._max_failed = limit, only_failed, max_failed
        self._in_flight = in_flight
        self._lately: deque[bool] = deque(maxlen=_LAST)
        self._tried = set[str]()
        """Keys of rows that did not succeed in this run."""
        self._tasks: dict[asyncio.Task[RowResult], asyncio.Event] = {}
        self._not_before = 0.0
        self._others = set[int]()
        """Blocks that are left to other processes, by their number."""

    @property
    def waits_s(self) -> float:
        """
        How many seconds it waits for the minute of the policy's ``calls_per_minute``; 0 where it does not.
        """
        return max(self._not_before - self._many.journal.now(), 0.0)

    async def __aiter__(self) -> AsyncIterator[RowResult]:
        """
        The result of each row, as they come. Who is cancelled gets those under way, and then the end.

        Raises:
            NotSentError: the plan was changed, or the journal cannot be used; what is under way ended before.
        """
        try:
            for wanted, waits in ((_is_open, False), (self._is_due, True), (_is_open, True)):
                async for result in self._sweep(wanted, waits=waits):
                    yield result
        except asyncio.CancelledError:
            self.stopped = "it was interrupted"
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            for result in await self._land():
                yield result
        finally:
            await self._land()

    async def _sweep(self, wanted: Callable[[OnRecord], bool], *, waits: bool) -> AsyncIterator[RowResult]:
        """
        Make the calls of all rows that are *wanted*; where it *waits*, until other processes are at none of them.
        """
        among = None
        while self.stopped is None:
            self._others = set()
            async with contextlib.aclosing(self._rows_that_are(wanted, among)) as rows:
                async for row in rows:
                    while len(self._tasks) >= self._in_flight:
                        for result in await self._some():
                            yield result
                    if not self._takes(row):
                        break
            while self._tasks:
                for result in await self._some():
                    yield result
            if not (waits and self._others):
                return
            among = self._others
            await asyncio.sleep(_OTHERS_S)

    async def _rows_that_are(
        self, wanted: Callable[[OnRecord], bool], among: set[int] | None
    ) -> AsyncGenerator[PlannedRow, None]:
        open_keys = await self._many.open_keys() if wanted is _is_open else None
        for number, block in enumerate(self.plan.blocks()):
            if open_keys == set():
                return
            if among is not None and number not in among:
                continue
            # Most of a plan has ended, and is not looked up one by one again.
            keys = {row.key for row in block}
            if open_keys is None:
                keys -= await self._many.ended_keys(keys)
            else:
                keys &= open_keys
                open_keys -= keys
            if not keys:
                continue
            rows = [row for row in block if row.key in keys]
            found = await look_up(self._many, rows, with_decisions=self._only_failed)
            if any(self._is_others(each) for each in found):
                self._others.add(number)
                continue
            for row, on_record in zip(rows, found, strict=True):
                if wanted(on_record) and row.key not in self._tried:
                    yield row

    def _is_due(self, on_record: OnRecord) -> bool:
        """
        Whether a row is still to be paid.
        """
        record = on_record.record
        if record is None:
            return not self._only_failed or on_record.was_refused
        return not record.outcome.is_final

    def _is_others(self, on_record: OnRecord) -> bool:
        record = on_record.record
        is_alive_now = record is not None and is_alive(record, self._many.journal.now())
        return is_alive_now and record is not None and record.key not in self._rows

    def _takes(self, row: PlannedRow) -> bool:
        """
        Whether the call of a row is made now; not where the run has stopped.
        """
        if self._left == 0:
            self.stopped = "the limit of rows is reached"
        if self.stopped is not None:
            return False
        self._left = None if self._left is None else self._left - 1
        self._rows.add(row)
        is_sent = asyncio.Event()
        self._tasks[asyncio.create_task(self._make(row, is_sent))] = is_sent
        return True

    async def _some(self) -> list[RowResult]:
        """
        The results of the rows that end next.
        """
        ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            del self._tasks[task]
        return [self._ended(task) for task in ended]

    async def _land(self) -> list[RowResult]:
        """
        Let the rows under way end; those that were not sent are stopped.
        """
        for task, is_sent in self._tasks.items():
            if not is_sent.is_set():
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.wait(self._tasks)
        ended, self._tasks = list(self._tasks), {}
        return [self._ended(task) for task in ended if not task.cancelled()]

    def _ended(self, task: asyncio.Task[RowResult]) -> RowResult:
        result = task.result()
        self._rows.remove(result.row)
        self.done[result.outcome] += 1
        self._lately.append(result.outcome != "succeeded")
        if result.error is not None:
            self._tried.add(result.row.key)
            self._weigh(result.error)
        return result

    def _weigh(self, error: ToolError) -> None:
        """
        Look whether to go on after a row that failed.
        """
        failed, ended = sum(self._lately), len(self._lately)
        if self.stopped is not None:
            return
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            self.stopped = f"Stripe does not let this API key do it: {error.message}"
        elif isinstance(error, ConfigurationError) or (isinstance(error, PolicyRefusedError) and error.rule == OF_PLAN):
            self.stopped = error.why
        elif ended >= _LEAST and failed > self._max_failed * ended:
            self.stopped = f"{failed} of the last {ended} rows failed; the last one: {error.args[0]}"

    async def _make(self, row: PlannedRow, is_sent: asyncio.Event) -> RowResult:
        """
        What becomes of one row.
        """
        sent.set(is_sent)
        begun = self._many.journal.now()
        while True:
            await asyncio.sleep(self._not_before - self._many.journal.now())
            try:
                if row.is_billed and self._is_ours:
                    self._many.know(row.customer, row.moved.currency)
                result = await self._api.call(self._tool, row.parameters, headers=None, idempotency_key=None)
            except OutcomeUnknownError as error:
                return await self._found_out(row, error)
            except ToolError as error:
                free_at = _free_at(error)
                if free_at is None:
                    with contextlib.suppress(NotSentError):  # the journal may be what failed
                        await note_unless_told(self._many, self._tool, row, error, begun)
                    return RowResult(row, error.outcome, error=error)
                self._not_before = max(self._not_before, free_at)
            else:
                return RowResult(row, "succeeded", str(result.data.get("id")))

    async def _found_out(self, row: PlannedRow, error: OutcomeUnknownError) -> RowResult:
        """
        What the ledger says of a row whose outcome the same call again does not tell; not where the run has stopped.
        """
        if self.stopped is not None:
            return RowResult(row, "unknown", error=error)
        look = tool_named(self._api.tools, _LOOK)
        with contextlib.suppress(ToolError):
            await self._api.call(look, {"key": row.key}, headers=None, idempotency_key=None)
            record = (await look_up(self._many, [row]))[0].record
            if record is not None and record.state is State.SUCCEEDED:
                return RowResult(row, "succeeded", record.transaction_id)
        return RowResult(row, "unknown", error=error)


def _is_open(on_record: OnRecord) -> bool:
    """
    Whether the outcome of a row is to be found out.
    """
    return on_record.record is not None and on_record.record.state.is_open


def _free_at(error: ToolError) -> float | None:
    """
    When a row may be sent that only waits for the minute of the policy's ``calls_per_minute``.
    """
    if not isinstance(error, PolicyRefusedError) or error.rule != "calls_per_minute" or error.free_at is None:
        return None
    return datetime.fromisoformat(error.free_at).replace(tzinfo=UTC).timestamp()
