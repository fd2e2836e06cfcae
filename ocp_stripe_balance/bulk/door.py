"""
Many entries from one file, in Python: plan it, let a person approve it, run it, see how it went, take it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ocp_stripe_balance._host.contract import AgentContext, APIOptions, SharedJournal
from ocp_stripe_balance.bulk.planning import Expected, plan_file
from ocp_stripe_balance.bulk.reading import Form
from ocp_stripe_balance.bulk.rows import Common
from ocp_stripe_balance.plugin import StripeAPI
from ocp_stripe_balance.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from ocp_stripe_balance.bulk.plan import Plan


class Bulk:
    """
    Plans and their runs, opened by ``async with``.
    """

    def __init__(self, settings: Settings | None = None, *, user: str | None = None) -> None:
        """
        Read the settings; nothing is opened before it is needed.

        Args:
            settings: instead of those from the environment.
            user: who plans and runs, for the policy, the budgets and the audit.

        Raises:
            ConfigurationError: a setting is impossible.
        """
        self.settings = settings or Settings()
        self._context = AgentContext(agent_type="bulk", user=user)
        self._journal = SharedJournal(self.settings)
        self._api = StripeAPI(self._options())

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
        await self._api.aclose()

    async def plan(  # noqa: PLR0913  as for plan_file
        self,
        source: Path,
        out: Path,
        *,
        common: Common | None = None,
        form: Form | None = None,
        expected: Expected | None = None,
        progress: Callable[[str, int], None] = lambda _what, _done: None,
    ) -> Plan:
        """
        The plan of a file, written to *out*. Nothing is sent; customers are read.

        Args:
            source: a file of CSV, TSV, JSON lines, or a spreadsheet (.xlsx).
            out: a file that is not there yet.
            common: what holds for every row that does not say otherwise.
            form: how the file is written.
            expected: how many rows and how much there should be.
            progress: told what was done with how many more rows.

        Raises:
            InvalidFileError: the file has mistakes, all of which are named.
            NotSentError: Stripe or the journal cannot be read, or the plan not be written.
        """
        return await plan_file(
            self._api,
            source,
            out,
            form=form or Form(),
            common=common or Common(),
            expected=expected or Expected(),
            progress=progress,
        )

    def duration(self, plan: Plan) -> float | None:
        """
        About how many seconds the rows of a plan take at the rate that is kept to; None where none is.
        """
        from ocp_stripe_balance._stripe.pace import SHARE, limits_of  # what the first call needs

        limits, per_minute = (
            limits_of(self.settings.rate_limit, plan.scope.mode),
            self.settings.policy_in_force.calls_per_minute,
        )
        per_s = [SHARE * min(limits)] if limits is not None else []
        per_s += [per_minute / 60] if per_minute is not None else []
        return plan.number / min(per_s) if per_s else None

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
