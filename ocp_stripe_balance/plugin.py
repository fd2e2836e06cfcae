"""
The registration module: publishes the tools to an agent, and composes the way of a call.

    parameters -> schema -> policy -> journal -> executor -> schema -> ToolResult
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._access import Access
from ocp_stripe_balance._documentation import documentation
from ocp_stripe_balance._manifest import load_manifest
from ocp_stripe_balance._policy import check_mode
from ocp_stripe_balance._schema import ParameterValidator
from ocp_stripe_balance.errors import ConfigurationError, InvalidParametersError, Problem
from ocp_stripe_balance.settings import check_api_base, mode_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance._calls import Calls
    from ocp_stripe_balance._manifest import ToolSpec
    from ocp_stripe_balance._reconcile import Finding
    from ocp_stripe_balance.agent import APIOptions
    from ocp_stripe_balance.models import ToolResult
    from ocp_stripe_balance.settings import Mode

_KEY_PARAMETER = "idempotency_key"
_MAX_METADATA_KEYS = 50  # https://docs.stripe.com/metadata
_HOW_TO_GIVE_A_KEY = (
    "Give an API key in one of three ways: set STRIPE_SECRET_KEY, set STRIPE_API_KEY, or pass "
    "headers={'Authorization': 'Bearer sk_test_…'} to register_api or call_tool. To try the tool without a Stripe "
    "account, run 'ocp-stripe-balance sandbox' and set the two variables it prints."
)


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
        self._access = Access(
            api_key=settings.api_key, account=settings.account, api_version=settings.api_version
        ).override(options.headers)
        self._lazy_calls: Calls | None = None
        self._parameters = {tool.name: ParameterValidator(tool.parameters_json_schema) for tool in self.tools}

    async def call(
        self, tool: ToolSpec, parameters: object, *, headers: Mapping[str, str] | None, idempotency_key: str | None
    ) -> ToolResult:
        """
        The way of a call, one pass.

        Raises:
            ToolError: with the outcome.
            asyncio.CancelledError: cancelled before anything was sent.
        """
        access = self._access.override(headers or {})
        arguments, key = self._validate(tool, parameters, access.idempotency_key, idempotency_key)
        mode = self._mode(access, tool.name)
        check_mode(mode, allow_live=self._options.settings.allow_live, tool=tool.name)
        return await self._calls.make(tool, arguments, key, access, mode)

    async def resume(self, key: str) -> ToolResult:
        """
        The result of the recorded call of that key, sent again under the same key where its outcome is open.

        Raises:
            InvalidParametersError: there is no such call in this mode and account.
            OutcomeUnknownError: it is older than 23 hours, or its outcome is still open.
            ToolError: as for every call.
        """
        mode = self._mode(self._access, "resume")
        check_mode(mode, allow_live=self._options.settings.allow_live, tool="resume")
        return await self._calls.resume(key, self._access, mode)

    async def reconcile(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> list[Finding]:
        """
        Settle every unknown or interrupted call of this base URL and mode by reading Stripe; moves no money.

        Args:
            progress: told after each call how many of how many are done.

        Raises:
            NotSentError: there is no API key, or the journal cannot be used.
        """
        return await self._calls.reconcile(self._access, self._mode(self._access, "reconcile"), progress)

    def documentation(self, tool: ToolSpec) -> str:
        """
        The tool explained in Markdown.
        """
        return documentation(tool)

    async def aclose(self) -> None:
        """
        Close the HTTP client and the journal.
        """
        if self._lazy_calls is not None:
            await self._lazy_calls.aclose()

    @property
    def _calls(self) -> Calls:
        if self._lazy_calls is None:
            from ocp_stripe_balance._calls import Calls  # noqa: PLC0415  httpx and SQLite cost 80 ms

            self._lazy_calls = Calls(self.base_url, self.tools, self._options)
        return self._lazy_calls

    def _mode(self, access: Access, tool: str) -> Mode:
        if access.api_key is None:
            message = "Nothing was sent: there is no API key."
            raise ConfigurationError(message, hint=_HOW_TO_GIVE_A_KEY, tool=tool)
        return mode_of(access.secret)

    def _validate(self, tool: ToolSpec, parameters: object, *keys: str | None) -> tuple[dict[str, Any], str | None]:
        """
        The arguments, and the key if the caller gave one: in one of three places, the same in each.
        """
        validator = self._parameters[tool.name]
        arguments, problems = validator.check(parameters)
        given = [key for key in (*keys, arguments.get(_KEY_PARAMETER)) if key is not None]
        if len({key if isinstance(key, str) else id(key) for key in given}) > 1:
            hint = "give it once: as idempotency_key=, as the parameter, or as the header Idempotency-Key"
            problems.append(Problem(path=_KEY_PARAMETER, message="is given twice, with different values", hint=hint))
        elif given and _KEY_PARAMETER not in arguments and (not problems or arguments):
            arguments, problems = validator.check({**_named(parameters), _KEY_PARAMETER: given[0]})
        if not problems:
            problems = self._tag_problems(arguments)
        if problems:
            raise InvalidParametersError(problems, tool=tool.name)
        return arguments, arguments.pop(_KEY_PARAMETER, None)

    def _tag_problems(self, arguments: dict[str, Any]) -> list[Problem]:
        """
        Where the caller's metadata leaves no room for ours under Stripe's limit of 50 keys.
        """
        ours = int(self._options.settings.tag_calls) + ("reference" in arguments)
        room = _MAX_METADATA_KEYS - ours
        if len(arguments.get("metadata") or {}) <= room:
            return []
        message = f"has {len(arguments['metadata'])} keys; at most {room} are left"
        hint = f"Stripe allows {_MAX_METADATA_KEYS}, and this tool adds {ours} of its own (ocp_call, ocp_reference)"
        return [Problem(path="metadata", message=message, hint=hint)]


def _named(parameters: object) -> Mapping[str, Any]:
    return parameters if isinstance(parameters, Mapping) else {}
