"""
The registration module: publishes the tools to an agent, and hands every call to the rooms that make it.

    parameters -> schema -> customer -> policy and journal -> Stripe -> schema -> ToolResult
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING

from ocp_stripe_balance._domain import Scope
from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._stripe.access import Access
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.errors import ConfigurationError, InvalidParametersError, Problem
from ocp_stripe_balance.settings import check_api_base, server_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from typing import Any

    from ocp_stripe_balance._calls.many import Many
    from ocp_stripe_balance._calls.operations import Operations
    from ocp_stripe_balance._domain import Mode
    from ocp_stripe_balance._host.contract import APIOptions
    from ocp_stripe_balance._policy import Finding
    from ocp_stripe_balance._telemetry import WatchedCall
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import DryRun, ReconcileResult, ToolResult
    from ocp_stripe_balance.settings import Settings


class StripeAPI:
    """
    The tools of this package, registered with one agent.
    """

    def __init__(self, options: APIOptions) -> None:
        """
        Publish the tools under *options*; opens nothing and needs no API key.

        Raises:
            ConfigurationError: the base URL or a header is impossible.
        """
        manifest, settings = load_manifest(), options.settings
        self.name = manifest.name
        self.title = manifest.display_name
        self.description = manifest.description
        self.version = manifest.version
        self.tools = manifest.tools
        try:
            self.base_url = settings.api_base if options.base_url is None else check_api_base(options.base_url)
        except ValueError as error:
            message = f"base_url: {error}."
            raise ConfigurationError(message) from None
        self._options = options
        _check_journal(settings)
        self._access = Access(
            api_key=settings.api_key, account=settings.account, api_version=settings.api_version
        ).override(options.headers)
        self._lazy_operations: Operations | None = None

    async def call(
        self, tool: ToolSpec, parameters: object, *, headers: Mapping[str, str] | None, idempotency_key: object
    ) -> ToolResult:
        """
        One call, made once.

        Raises:
            ToolError: with the outcome.
            asyncio.CancelledError: cancelled before anything was sent.
        """
        with self._watch(tool, parameters, idempotency_key) as watched, watched.current():
            access = self._access.override(headers or {})
            ending = await self._operations.call(tool, parameters, access, idempotency_key)
            return watched.succeeded(ending.result())

    async def iterate(
        self, tool: ToolSpec, parameters: object, *, headers: Mapping[str, str] | None
    ) -> AsyncIterator[dict[str, Any]]:
        """
        The items of a list one by one: up to ``limit``, or all where there is none.

        Raises:
            InvalidParametersError: the call breaks the schema, or the tool does not list.
            ToolError: as for every call that reads.
        """
        with self._watch(tool, parameters, None) as watched:
            access = self._access.override(headers or {})
            async with contextlib.aclosing(self._operations.iterate(tool, parameters, access)) as items:
                while True:
                    with watched.current():  # not where the reader of the items runs
                        item = await anext(items, None)
                    if item is None:
                        return
                    yield item

    async def dry_run(
        self, tool: ToolSpec, parameters: object, *, headers: Mapping[str, str] | None, idempotency_key: object
    ) -> DryRun:
        """
        What `call` would send, and whether it would; sends and records nothing, though the customer may be read.

        Raises:
            InvalidParametersError: the call breaks the schema.
            ToolError: the customer or the journal cannot be read.
        """
        access = self._access.override(headers or {})
        return await self._operations.preview(tool, parameters, access, idempotency_key)

    async def explain(
        self, tool: ToolSpec, parameters: object, mode: Mode | None = None
    ) -> tuple[list[Finding], DryRun]:
        """
        What every rule of the policy says of a call, and what would become of it. Needs no key, and reads no customer.

        Args:
            tool: what would be called.
            parameters: of the call.
            mode: of the API key it would be called with; by default of the one there is, else test.

        Raises:
            InvalidParametersError: the call breaks the schema.
            NotSentError: the journal cannot be read.
        """
        if tool.reverses:
            message, hint = "the policy speaks of the opposite entry, which is not known yet", "use call --dry-run"
            raise InvalidParametersError([Problem(path="tool_name", message=message, hint=hint)])
        mode = mode or (self._access.mode if self._access.api_key else "test")
        return await self._operations.explain(tool, parameters, self._access, mode)

    @property
    def scope(self) -> Scope:
        """
        The server, the mode and the account that calls are for.
        """
        access = self._access
        return Scope(server_of(self.base_url), access.mode, access.account or "")

    @property
    def many(self) -> Many:
        """
        Many calls at once: what would become of them, and what became of each.
        """
        return self._operations.many(self._access)

    async def resume(self, key: str) -> ToolResult:
        """
        The result of the recorded call of that key, sent again under the same key where its outcome is open.

        Raises:
            InvalidParametersError: there is no such call in this mode and account.
            OutcomeUnknownError: it is older than 23 hours, or its outcome is still open.
            ToolError: as for every call.
        """
        return (await self._operations.resume(key, self._access)).result()

    async def reconcile(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> list[ReconcileResult]:
        """
        Settle every unknown or interrupted call of this base URL and mode by reading Stripe; moves no money.

        Args:
            progress: told after each call how many of how many are done.

        Raises:
            NotSentError: there is no API key, or the journal cannot be used.
        """
        return await self._operations.reconcile(self._access, progress)

    def documentation(self, tool: ToolSpec) -> str:
        """
        The tool explained in Markdown.
        """
        with no_fork:
            from ocp_stripe_balance._tools.documentation import documentation  # that only a reader needs

        return documentation(tool)

    async def aclose(self) -> None:
        """
        Close the HTTP client and the journal.
        """
        if self._lazy_operations is not None:
            await self._lazy_operations.aclose()

    @property
    def _operations(self) -> Operations:
        if self._lazy_operations is None:
            with no_fork:
                from ocp_stripe_balance._calls.operations import Operations  # 150 ms that only a call needs

            self._lazy_operations = Operations(self.base_url, self.tools, self._options)
        return self._lazy_operations

    def _watch(self, tool: ToolSpec, parameters: object, call_id: object) -> WatchedCall:
        """
        What watches a call to its outcome, also where it ends before there are operations.
        """
        call_id = getattr(call_id, "id", call_id)  # of a ToolCall
        name = call_id if isinstance(call_id, str) else None
        return _watched_call()(tool, parameters, name, has_details=self._options.settings.trace_details)


@cache
def _watched_call() -> type[WatchedCall]:
    with no_fork:
        from ocp_stripe_balance._telemetry import WatchedCall  # that only a call needs

    return WatchedCall


def _check_journal(settings: Settings) -> None:
    """
    Budgets, calls per minute and the queue of proposals hold over all agents, and outlive the process.

    Raises:
        ConfigurationError: the policy has one of them, and the journal is off.
    """
    policy = settings.policy_in_force
    if settings.journal == "off" and (policy.counts or policy.approval.queue):
        message = (
            "The policy has budgets, calls_per_minute or a queue of proposals, and the journal that keeps them is off."
        )
        raise ConfigurationError(message, hint="Set OCP_STRIPE_JOURNAL to a path, or unset it.")
