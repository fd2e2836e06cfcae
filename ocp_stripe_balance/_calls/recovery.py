"""
Calls on record: making one again under its own key, and finding out what became of those that are open.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from ocp_stripe_balance._calls.call import recorded, scope_of
from ocp_stripe_balance._calls.endings import Invalid
from ocp_stripe_balance._calls.reconcile import look_for, open_still
from ocp_stripe_balance._domain import Origin, Outcome, State
from ocp_stripe_balance._journal import READING, is_alive
from ocp_stripe_balance._tools.manifest import tool_at, tool_named
from ocp_stripe_balance.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocp_stripe_balance._calls.call import Call
    from ocp_stripe_balance._calls.reads import Reader
    from ocp_stripe_balance._journal import Journal, Record
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import ReconcileResult

_SETTLED_BY = "settled by calls reconcile"


class Recovery:
    """
    The calls on record of one registered API.
    """

    def __init__(
        self, tools: Sequence[ToolSpec], server: str, journal: Journal, reader: Reader, *, timeout_s: float
    ) -> None:
        """
        Prepare.
        """
        self._tools = tools
        self._server = server
        self._journal = journal
        self._reader = reader
        self._timeout_s = timeout_s

    async def find(self, key: str, access: Access, deadline: float) -> Call | Invalid:
        """
        The recorded call of that key, to be made again, found by *deadline*.

        Raises:
            NotSentError: the journal cannot be read.
        """
        scope = scope_of(access, self._server)
        record = await self._journal.run(lambda book: book.find_key(key, scope), deadline, READING)
        if record is None:
            message = f"the journal has no call of that key for {self._server} in {scope.mode} mode"
            others = await self._journal.run(lambda book: book.calls_of("key", key), deadline, READING)
            scopes = {each.intent.scope for each in others}
            places = " and ".join(sorted(f"{each.base_url} in {each.mode} mode" for each in scopes))
            hint = "ocp-stripe-balance calls list shows the calls there are"
            if places:
                hint = f"it has one for {places}: use that base URL (STRIPE_API_BASE), API key and account"
            return Invalid([Problem(path="key", message=message, hint=hint)])
        if record.intent.key.origin is Origin.REVERSAL and record.state.nothing_moved:
            message = "is of a reversal of which nothing moved, and the entry may have been reversed meanwhile"
            hint = "reverse it again: that looks first"
            return Invalid([Problem(path="key", message=message, hint=hint)])
        return recorded(record, self._tool_of(record), access)

    async def reconcile(self, access: Access, progress: Callable[[int, int], None]) -> list[ReconcileResult]:
        """
        Settle every unknown or interrupted call of this base URL and mode by reading Stripe; moves no money.

        Each ledger has the time of one call.

        *progress* is told after each call how many of how many are done.

        Raises:
            NotSentError: the journal cannot be used.
        """
        mode, now = access.mode, self._journal.now
        found = await self._journal.run(lambda book: book.open_calls(self._server, mode), reach=READING)
        records = [record for record in found if not is_alive(record, now())]
        settlements = []
        for done, record in enumerate(records, 1):
            settlement = await self.settle(record, access, asyncio.get_running_loop().time() + self._timeout_s)
            settlements.append(settlement)
            progress(done, len(records))
        return settlements

    async def settle(self, record: Record, access: Access, deadline: float) -> ReconcileResult:
        """
        Find out what became of one open call by reading the customer's ledger by *deadline*, in the loop's time.

        Raises:
            NotSentError: the journal cannot be used.
        """
        intent, now = record.intent, self._journal.now
        if intent.money is None or intent.customer is None:
            return open_still(record, "It moves no money. Resume it, or look at the entry that it updates.")
        customer, reach = intent.customer, self._journal.reach(intent)
        calls = await self._journal.run(lambda book: book.calls_of("customer", customer), reach=READING)
        known = {each.key for each in calls}
        lister = tool_at(self._tools, "GET", self._tool_of(record).path)
        access = access.for_account(intent.scope.account or None)
        ledger = self._reader.iterate(lister, {"customer": customer}, access, deadline)
        settlement = await look_for(record, ledger, known, now())
        if settlement.transaction is not None:
            outcome = Outcome(
                State.SUCCEEDED,
                is_final=True,
                status=200,
                answer=json.dumps(settlement.transaction),
                transaction_id=str(settlement.transaction["id"]),
                note=f"{_SETTLED_BY}: the entry is in Stripe's ledger",
            )
            await self._journal.run(lambda book: book.settle(record, outcome, now(), is_found_later=True), reach=reach)
        elif settlement.outcome == "not_sent":
            outcome = Outcome(State.NOT_SENT, note=f"{_SETTLED_BY}: it was never applied")
            await self._journal.run(lambda book: book.settle(record, outcome, now()), reach=reach)
        return settlement

    def _tool_of(self, record: Record) -> ToolSpec:
        return tool_named(self._tools, record.intent.tool)
