"""
Many calls at once: what would become of them, what a person decided about all, and what became of each.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple

from ocp_stripe_balance._calls.call import scope_of
from ocp_stripe_balance._calls.customers import KnownCustomer, SeenCustomer
from ocp_stripe_balance._calls.endings import Invalid
from ocp_stripe_balance._calls.order import Order
from ocp_stripe_balance._calls.planned import Plans
from ocp_stripe_balance._domain import Caller, Intent, Key, Origin
from ocp_stripe_balance._journal import READING
from ocp_stripe_balance._journal.keys import ended_keys, open_keys
from ocp_stripe_balance.models import PLAN

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ocp_stripe_balance._calls.approvers import Approver
    from ocp_stripe_balance._calls.customers import CustomerDirectory
    from ocp_stripe_balance._calls.planned import Question
    from ocp_stripe_balance._calls.preview import Foreseen, Previews
    from ocp_stripe_balance._calls.service import Service
    from ocp_stripe_balance._domain import Context, Money, Scope
    from ocp_stripe_balance._journal import Book, Decision, Journal, Record
    from ocp_stripe_balance._policy import Finding, Policy
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.errors import ToolError

_NO_KEY = Key("", Origin.DRAWN)  # which no call has


class OnRecord(NamedTuple):
    """
    What is on record of one call.
    """

    record: Record | None
    decision: Decision | None
    """The last one about a call that was not sent."""
    other: Record | None = None
    """Another call that has the key."""

    @property
    def was_refused(self) -> bool:
        """
        Whether the call was not let through when that was asked last.
        """
        decision = self.decision
        return self.other is not None or (decision is not None and decision.decision not in {"allowed", "approved"})


class Many:
    """
    Many calls of one registered API, with one access.
    """

    def __init__(  # noqa: PLR0913  what it is composed of
        self,
        *,
        server: str,
        access: Access,
        context: Context,
        policy: Policy,
        journal: Journal,
        service: Service,
        previews: Previews,
        customers: CustomerDirectory,
    ) -> None:
        """
        Prepare.
        """
        self.scope: Scope = scope_of(access, server)
        self.journal = journal
        self._access = access
        user = context.user
        self._caller = Caller(context.context_id, context.agent_type, None if user is None else str(user))
        self._policy = policy
        self._service = service
        self._previews = previews
        self._customers = customers

    async def foresee(
        self, tool: ToolSpec, batch: Sequence[tuple[object, KnownCustomer | None]]
    ) -> list[Foreseen | Invalid]:
        """
        What would become of each call, were it the only one; each comes with its customer, of whom no more is read.

        Raises:
            NotSentError: the journal cannot be read.
        """
        orders = [self._service.take(tool, parameters, self._access) for parameters, _ in batch]
        calls = [
            (self._service.prepare(order, self._access), SeenCustomer(customer, is_enough=True))
            for order, (_, customer) in zip(orders, batch, strict=True)
            if isinstance(order, Order)
        ]
        foreseen = iter(await self._previews.foresee(calls))
        return [order if isinstance(order, Invalid) else next(foreseen) for order in orders]

    async def over_budget(
        self, tool: ToolSpec, sums: Sequence[tuple[str, Money]], *, per_customer: bool
    ) -> list[Finding]:
        """
        What the budgets refuse of sums of several calls, which may be more than one call can move.

        Args:
            tool: of the calls.
            sums: each with a customer.
            per_customer: whether the budgets for each customer are asked, or the others.

        Raises:
            NotSentError: the journal cannot be read.
        """
        intents = [
            Intent(self.scope, self._caller, _NO_KEY, tool.name, customer, moved, None, "{}")
            for customer, moved in sums
        ]
        return await self._previews.over_budget(intents, per_customer=per_customer)

    async def decide(self, question: Question, approver: Approver | None, *, asks_always: bool) -> None:
        """
        Let a person decide on a plan, where the policy, or *asks_always*, wants that.

        Raises:
            ApprovalRequiredError: it waits for a person.
            PolicyRefusedError: a person said no, or nobody can be asked.
        """
        plans = Plans(self._policy, self.journal, approver, asks_always=asks_always)
        ending = await plans.decide(question, self.scope, self._caller)
        if ending is not None:
            ending.result()

    async def note(self, question: Question, ruling: Literal["planned", "begun"]) -> None:
        """
        Put on record that a plan was made, or that a run of it begins, and by whom.

        Raises:
            NotSentError: the journal cannot be used.
        """
        intent, who = question.intent(self.scope, self._caller), self._caller.user or "no named user"
        effect, now = json.loads(question.arguments)["effect"], self.journal.now
        await self.journal.run(
            lambda book: book.note(intent, ruling, now(), rule="plan", who=who, reason=effect), reach=READING
        )

    async def note_refusal(self, tool: ToolSpec, key: str, wanted: tuple[str, Money], error: ToolError) -> None:
        """
        Put on record why a call was not made; *wanted* is its customer and what it would have moved.

        Raises:
            NotSentError: the journal cannot be used.
        """
        intent = Intent(self.scope, self._caller, Key(key, Origin.REFERENCE), tool.name, *wanted, None, "{}")
        rule, reason, now = getattr(error, "rule", error.code_for_model), error.why.rstrip("."), self.journal.now
        await self.journal.run(
            lambda book: book.note(intent, "refused", now(), rule=rule, reason=reason), reach=READING
        )

    async def has_planned(self, key: str) -> bool:
        """
        Whether the plan of that key was made with this journal.

        Raises:
            NotSentError: the journal cannot be read.
        """
        made = (PLAN, "planned", self.scope)
        found = await self.journal.run(lambda book: book.decisions(key), reach=READING)
        return any((each.tool, each.decision, each.scope) == made for each in found)

    def know(self, customer: str, currency: str) -> None:
        """
        Take a customer as read who is billed in a currency, which nothing changes.
        """
        self._customers.know(self._access, customer, currency)

    async def look_up(self, keys: Sequence[str], *, with_decisions: bool = False) -> list[OnRecord]:
        """
        What is on record of the calls of those keys; *with_decisions*, also of those that were not sent.

        Raises:
            NotSentError: the journal cannot be read.
        """

        def one(book: Book, key: str) -> OnRecord:
            record = book.find_key(key, self.scope)
            decided = book.decisions(key) if with_decisions and (record is None or record.state.nothing_moved) else []
            here = [each for each in decided if each.scope == self.scope]
            last = [each for each in here if each.rule != "calls_per_minute"]  # for which a row only waits
            return OnRecord(record, last[-1] if last else None)

        return await self.journal.run(lambda book: [one(book, key) for key in keys], reach=READING)

    async def open_keys(self) -> set[str]:
        """
        The keys under which `look_up` finds a call whose outcome is to be found out.

        Raises:
            NotSentError: the journal cannot be read.
        """
        return await self.journal.run(lambda book: open_keys(book, self.scope), reach=READING)

    async def ended_keys(self, keys: Collection[str]) -> set[str]:
        """
        The keys, of some that follow from what is asked, whose own calls ended for good.

        Raises:
            NotSentError: the journal cannot be read.
        """
        return await self.journal.run(lambda book: ended_keys(book, keys, self.scope), reach=READING)
