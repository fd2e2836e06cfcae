"""
Many entries from one list, in Python: plan it, let a person approve it, run it, see how it went, take it back.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ocp_stripe_balance._host.contract import AgentContext, APIOptions, SharedJournal
from ocp_stripe_balance.bulk.choosing import Chosen, Where, choose
from ocp_stripe_balance.bulk.plan import question_of
from ocp_stripe_balance.bulk.planning import Expected, Wanted, plan_file
from ocp_stripe_balance.bulk.reading import Form
from ocp_stripe_balance.bulk.report import Status, standings, write_report
from ocp_stripe_balance.bulk.reversing import plan_reversal
from ocp_stripe_balance.bulk.rows import Common
from ocp_stripe_balance.bulk.running import Rows, Run
from ocp_stripe_balance.errors import ConfigurationError, NotSentError
from ocp_stripe_balance.plugin import StripeAPI
from ocp_stripe_balance.settings import Settings
from ocp_stripe_balance.verbs import CREATE, REVERSE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from ocp_stripe_balance._domain import Money, Scope
    from ocp_stripe_balance.bulk.plan import Plan
    from ocp_stripe_balance.models import Answer, Proposal


# Requests of a row beside the one that reads its customer; a reversal looks at the entry first, and marks it.
_READS, _WRITES = {CREATE: 0, REVERSE: 2}, {CREATE: 1, REVERSE: 2}


class Bulk:
    """
    Plans and their runs, opened by ``async with``.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        user: str | None = None,
        progress: Callable[[int], None] = lambda _number: None,
    ) -> None:
        """
        Read the settings; nothing is opened before it is needed.

        Args:
            settings: instead of those from the environment.
            user: who plans and runs, for the policy, the budgets and the audit.
            progress: told how many rows of a list were read, or written, so far.

        Raises:
            ConfigurationError: a setting is impossible, or the journal is switched off.
        """
        self.settings = settings or Settings()
        if self.settings.journal == "off":
            message = "The journal is switched off (OCP_STRIPE_JOURNAL=off), and it is what says who was paid."
            raise ConfigurationError(message, hint="Set OCP_STRIPE_JOURNAL to a path, or unset it.")
        self._context = AgentContext(agent_type="bulk", user=user)
        self._journal, self._progress = SharedJournal(self.settings), progress
        self._api = StripeAPI(self._options())
        self._others: list[StripeAPI] = []

    async def __aenter__(self) -> Self:
        """
        Itself.
        """
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Close the connections and the journal.
        """
        for api in (self._api, *self._others):
            await api.aclose()

    async def choose(self, target: Path, amount: Money, where: Where | None = None) -> Chosen:
        """
        Write a list of the customers for whom something holds, each with the same amount; `plan` takes it.

        Args:
            target: a file that is not there yet, ending in .csv.
            amount: of each entry, without a sign; who is billed in another currency is left out.
            where: which customers are meant; by default all.

        Raises:
            NotSentError: the list is there, or cannot be written.
            ToolError: Stripe cannot be read, or the API key or the policy does not let the customers be listed.
        """
        return await choose(self._api, target, amount, where or Where(), self._progress)

    async def plan(
        self,
        source: Path,
        out: Path,
        *,
        common: Common | None = None,
        form: Form | None = None,
        expected: Expected | None = None,
    ) -> Plan:
        """
        The plan of a list, written to *out*. Nothing is sent; customers are read.

        Args:
            source: a list: a file of CSV, TSV, JSON lines, or a spreadsheet (.xlsx).
            out: a file that is not there yet.
            common: what holds for every row that does not say otherwise.
            form: how the list is written.
            expected: how many rows and how much there should be.

        Raises:
            InvalidFileError: the list has mistakes, all of which are named.
            NotSentError: *out* is there, Stripe or the journal cannot be read, or the plan not be written.
        """
        wanted = Wanted(form or Form(), common or Common(), expected or Expected())
        return await plan_file(self._api, source, out, wanted, self._progress)

    async def run(  # noqa: PLR0913  what a run is told
        self,
        plan: Plan,
        *,
        limit: int | None = None,
        only_failed: bool = False,
        max_failed: float = 0.1,
        approver: Callable[[Proposal], Awaitable[Answer | None]] | None = None,
        asks_always: bool = False,
    ) -> Run:
        """
        A run of the plan, once a person approved it where the policy wants that; nothing is sent before it is iterated.

        Args:
            plan: what is sent; of what was sent before, nothing is sent again.
            limit: how many rows are sent at most.
            only_failed: whether rows that were never tried are left alone.
            max_failed: the share of the last hundred rows that may fail before the run pauses.
            approver: asked where the policy wants a person; without it, the plan waits in the queue of the policy.
            asks_always: ask the approver also where the policy does not want it.

        Raises:
            ApprovalRequiredError: it waits for a person.
            PolicyRefusedError: a person said no, or nobody can be asked.
            NotSentError: it is for another server, mode or account, its head says other sums than its rows, or the
                journal cannot be used.
        """
        self._check_scope(plan)
        question, many = question_of(plan), self._api.many
        is_ours = await many.has_planned(plan.key)
        await asyncio.to_thread(plan.check, is_ours=is_ours)
        await many.decide(question, approver, asks_always=asks_always)
        await many.note(question, "begun")
        rows = Rows(plan)
        api = StripeAPI(self._options(plan=rows))
        self._others.append(api)
        return Run(api, plan, rows, is_ours=is_ours, limit=limit, only_failed=only_failed, max_failed=max_failed)

    async def status(self, plan: Plan) -> Status:
        """
        How far a plan is.

        Raises:
            NotSentError: the plan was changed, or the journal cannot be read.
        """
        self._check_scope(plan)
        status = Status()
        async for standing in standings(self._api.many, plan):
            status.add(standing)
        return status

    async def report(self, plan: Plan, target: Path) -> Status:
        """
        Write what became of each row as CSV; how far the plan is.

        Raises:
            NotSentError: the plan was changed, the journal cannot be read, or the report not be written.
        """
        self._check_scope(plan)
        self._refuse_loss(plan, target)
        try:
            return await write_report(self._api.many, plan, target)
        except OSError as error:
            message = f"No report was written to {target}: {error.strerror or error}."
            raise NotSentError(message, hint="Name a file in a folder that is there.") from None

    async def reverse(self, plan: Plan, out: Path, *, metadata: Mapping[str, str] | None = None) -> Plan:
        """
        The plan of the opposites of all entries that *plan* made and that still stand, written to *out*; sends nothing.

        Args:
            plan: whose entries are taken back.
            out: a file that is not there yet.
            metadata: of the opposites, where the policy demands some.

        Raises:
            InvalidFileError: the policy would refuse some.
            NotSentError: there are none, the journal cannot be read, or the plan not be written.
        """
        self._check_scope(plan)
        return await plan_reversal(self._api, plan, out, metadata or {})

    def _refuse_loss(self, plan: Plan, target: Path) -> None:
        for kept in (plan.path, plan.source, self.settings.journal_place):
            if isinstance(kept, Path) and kept.exists() and target.exists() and target.samefile(kept):
                raise NotSentError(f"{target} is the plan, its list or the journal itself.", hint="Name another file.")

    def _check_scope(self, plan: Plan) -> None:
        ours = self._api.scope
        if plan.scope != ours:
            theirs, here = _place(plan.scope), _place(ours)
            hint = "Use the API key, the base URL and the account that the plan was made with."
            raise NotSentError(f"The plan is for another place ({theirs}) than this is ({here}).", hint=hint)

    def duration(self, plan: Plan) -> float | None:
        """
        About how many seconds the rows of a plan take at the rate that is kept to; None where none is.
        """
        from ocp_stripe_balance._stripe.pace import SHARE, limits_of  # what the first call needs

        limits = limits_of(self.settings.rate_limit, plan.scope.mode)
        per_minute = self.settings.policy_in_force.calls_per_minute
        times = [plan.number * 60 / per_minute] if per_minute is not None else []
        if limits is not None:
            is_read = plan.facts["customers_read"]
            reads = plan.number * _READS[plan.tool]
            reads += sum(plan.facts["customers_without_currency"].values()) if is_read else plan.number
            writes = plan.number * _WRITES[plan.tool]
            times += [(reads + writes) / (SHARE * limits[0]), plan.number / (SHARE * limits[1])]
        return max(times, default=None)

    def _options(self, **more: Any) -> APIOptions:
        return APIOptions(
            context=self._context,
            settings=self.settings,
            base_url=None,
            headers={},
            transport=None,
            journal=self._journal,
            **more,
        )


def _place(scope: Scope) -> str:
    return f"{scope.mode} mode, {scope.account or 'account of the key'}, {scope.base_url}"
