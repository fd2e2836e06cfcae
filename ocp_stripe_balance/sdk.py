"""
The door for the OCP Python SDK: publishes the tools to an agent of the SDK's own, and takes them back.

It translates, and nothing else: a call goes the way of every call. The SDK's surface it meets is that of
version 0.3.0 (https://github.com/opencontextprotocol/ocp-python).
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._host.contract import APIOptions, SharedJournal
from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._text.secrets import concealed
from ocp_stripe_balance._tools.manifest import tool_named
from ocp_stripe_balance.agent import OCPAgent
from ocp_stripe_balance.errors import ConfigurationError, ToolError
from ocp_stripe_balance.plugin import StripeAPI

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from typing import Self

    import httpx

    from ocp_stripe_balance._domain import ToolCall
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import Answer, DryRun, Proposal, ToolResult
    from ocp_stripe_balance.settings import Settings

_WRAPPED = ("register_api", "call_tool")
_MISSING = object()
# What each agent paid, which it remembers over registrations, also where the journal is in memory.
_RECORDS: weakref.WeakKeyDictionary[Any, SharedJournal] = weakref.WeakKeyDictionary()


def register(
    agent: Any,
    *,
    sync: bool = False,
    settings: Settings | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    approver: Callable[[Proposal], Awaitable[Answer | None]] | None = None,
) -> Registration:
    """
    Publish the tools to *agent*, an `OCPAgent` of the OCP Python SDK.

    Afterwards ``agent.register_api('stripe')`` returns the published API, awaited or not, and ``agent.call_tool`` on
    its tools goes this package's way: it is to be awaited, or with *sync* returns the result. Registering again
    replaces the first registration.

    Args:
        agent: of the SDK; everything else it does stays as it is.
        sync: for programs without an event loop.
        settings: instead of those from the environment.
        transport: what is under httpx, instead of the default.
        approver: as for `ocp_stripe_balance.OCPAgent`.

    Raises:
        ConfigurationError: *agent* is not the SDK's, or a setting is impossible.
    """
    with no_fork:
        from ocp_stripe_balance.settings import Settings  # pydantic

    if isinstance(agent, OCPAgent):
        message = "This agent is this package's own, and needs no registration: await agent.register_api('stripe')."
        raise ConfigurationError(message)
    module = next(
        (
            sys.modules[cls.__module__]
            for cls in type(agent).__mro__
            if hasattr(sys.modules[cls.__module__], "OCPAPISpec")
        ),
        None,
    )
    if module is None or not hasattr(agent, "known_apis"):
        message = f"A Python {type(agent).__name__} is not an OCPAgent of the OCP SDK."
        raise ConfigurationError(message, hint="Pass ocp_agent.OCPAgent(), or use ocp_stripe_balance.OCPAgent.")
    settings = settings or Settings()
    former = getattr(vars(agent).get("call_tool"), "__self__", None)
    if isinstance(former, Registration):
        former.unregister()
    journal = _RECORDS.get(agent)
    if journal is None or not journal.is_of(settings):
        journal = _RECORDS[agent] = SharedJournal(settings)
    return Registration(agent, module, settings, transport, approver, journal=journal, sync=sync)


class Registration:
    """
    The tools as published to one agent of the SDK.
    """

    def __init__(  # noqa: PLR0913  what an API is made with
        self,
        agent: Any,
        module: Any,
        settings: Settings,
        transport: httpx.AsyncBaseTransport | None,
        approver: Callable[[Proposal], Awaitable[Answer | None]] | None,
        *,
        journal: SharedJournal,
        sync: bool,
    ) -> None:
        """
        Stand in for two methods of *agent*; *module* is where its class has the SDK's types from.
        """
        self._agent = agent
        self._module = module
        self._settings = settings
        self._transport = transport
        self._approver = approver
        self._journal = journal
        self.is_sync = sync
        self._apis = [self._api()]
        self._spec: Any = None
        self._is_active = True
        self._former: dict[str, Any] = {name: vars(agent).get(name, _MISSING) for name in _WRAPPED}
        self._theirs = {name: getattr(agent, name) for name in _WRAPPED}
        self._former_spec: Any = _MISSING
        self._former_source: Any = _MISSING
        for name in _WRAPPED:
            setattr(agent, name, getattr(self, name))

    def register_api(
        self,
        name: str,
        spec_url: str | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """
        The published API for ``stripe``, awaited or not; whatever the SDK returns for any other name.

        Raises:
            ConfigurationError: *base_url* or *headers* are impossible.
        """
        if self._api_name(name) != self.api.name or spec_url is not None or not self._is_active:
            return self._theirs["register_api"](name, spec_url, base_url, headers)
        if base_url is not None or headers is not None:
            self._apis.append(self._api(base_url, headers))
            self._spec = None
        if self._spec is None or self._agent.known_apis.get(self.api.name) is not self._spec:
            self._publish()
        return self._spec

    def call_tool(  # noqa: PLR0913  the SDK's signature, and what money needs
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        api_name: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | ToolCall | None = None,
        dry_run: bool = False,
    ) -> Any:
        """
        The result of one of our tools, to be awaited unless the registration is sync; of any other, what the SDK does.

        Raises:
            ToolError: with the outcome.
        """
        tool = self._ours(tool_name, api_name)
        if tool is None:
            return self._theirs["call_tool"](tool_name, parameters, api_name, headers)
        calling = self._call(tool, parameters, headers, idempotency_key, dry_run=dry_run)
        if not self.is_sync:
            return calling
        with no_fork:
            from ocp_stripe_balance._host.background import run  # a thread that only sync programs need

        return run(calling)

    @property
    def api(self) -> StripeAPI:
        """
        The API as it was registered last.
        """
        return self._apis[-1]

    def unregister(self) -> None:
        """
        Put everything back as it was; connections stay open until `aclose` or `close`.
        """
        self._is_active = False
        for name, former in self._former.items():
            if getattr(vars(self._agent).get(name), "__self__", None) is not self:
                continue  # somebody wrapped it once more: theirs to undo
            if former is _MISSING:
                delattr(self._agent, name)
            else:
                setattr(self._agent, name, former)
        if self._spec is not None and self._agent.known_apis.get(self.api.name) is self._spec:
            _put_back(self._agent.known_apis, self.api.name, self._former_spec)
            _put_back(self._agent.context.api_specs, self.api.name, self._former_source)
        self._spec = None

    async def aclose(self) -> None:
        """
        Unregister, and close all connections.
        """
        self.unregister()
        for api in self._apis:
            await api.aclose()

    def close(self) -> None:
        """
        The same for a sync registration.
        """
        with no_fork:
            from ocp_stripe_balance._host.background import run  # a thread that only sync programs need

        run(self.aclose())

    async def __aenter__(self) -> Self:
        """
        The registration itself.
        """
        return self

    async def __aexit__(self, *_: object) -> None:
        """
        Unregister and close.
        """
        await self.aclose()

    def __enter__(self) -> Self:
        """
        The registration itself.
        """
        return self

    def __exit__(self, *_: object) -> None:
        """
        Unregister and close.
        """
        self.close()

    def _api(self, base_url: str | None = None, headers: Mapping[str, str] | None = None) -> StripeAPI:
        return StripeAPI(
            APIOptions(
                context=self._agent.context,
                settings=self._settings,
                base_url=base_url,
                headers=concealed(headers or {}),
                transport=self._transport,
                journal=self._journal,
                approver=self._approver,
            )
        )

    def _publish(self) -> None:
        """
        Add the API to those the agent knows, as its own registration does.
        """
        api, agent = self.api, self._agent
        if self._former_spec is _MISSING:
            self._former_spec = agent.known_apis.get(api.name, _MISSING)
            self._former_source = agent.context.api_specs.get(api.name, _MISSING)
        self._spec = _awaitable(self._module.OCPAPISpec)(
            base_url=api.base_url,
            title=api.title,
            version=api.version,
            description=api.description,
            tools=[_tool(self._module.OCPTool, tool) for tool in api.tools],
            raw_spec={},
            name=api.name,
        )
        agent.known_apis[api.name] = self._spec
        agent.context.add_api_spec(api.name, api.base_url)
        facts = {"api_name": api.name, "api_title": api.title, "tool_count": len(api.tools), "base_url": api.base_url}
        agent.context.add_interaction(
            action="api_registered",
            api_endpoint=api.base_url,
            result=f"Published {len(api.tools)} tools",
            metadata={**facts, "source": "ocp-stripe-balance"},
        )

    def _ours(self, tool_name: str, api_name: str | None) -> ToolSpec | None:
        """
        Our tool, where the agent itself finds ours under that name.
        """
        if self._spec is None:
            return None
        try:
            found = self._agent.get_tool(tool_name, api_name)
        except (ValueError, AttributeError):  # an API it does not know, or no name at all
            return None
        if not any(found is each for each in self._spec.tools):
            return None
        return tool_named(self.api.tools, tool_name)

    async def _call(
        self,
        tool: ToolSpec,
        parameters: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        idempotency_key: str | ToolCall | None,
        *,
        dry_run: bool,
    ) -> ToolResult | DryRun:
        """
        The way of every call, and what it leaves in the agent's history: never the parameters.
        """
        headers, endpoint = concealed(headers), f"{self.api.base_url}{tool.path}"
        if dry_run:
            return await self.api.dry_run(tool, parameters, headers=headers, idempotency_key=idempotency_key)
        note = self._agent.context.add_interaction
        note(f"tool_call:{tool.name}", endpoint, "executing", {"tool_name": tool.name, "method": tool.method})
        try:
            result = await self.api.call(tool, parameters, headers=headers, idempotency_key=idempotency_key)
        except ToolError as error:
            why = {"error_type": type(error).__name__, "outcome": error.outcome}
            note(f"tool_error:{tool.name}", endpoint, f"Error: {error.reason}", why)
            raise
        facts = {"status_code": result.status_code, "success": result.ok, "replayed": result.replayed}
        note(f"tool_response:{tool.name}", endpoint, f"{result.status_code} {result.reason}", facts)
        return result

    @staticmethod
    def _api_name(name: object) -> object:
        return name.lower().strip() if isinstance(name, str) else name


def _awaitable(spec: type[Any]) -> type[Any]:
    """
    The SDK's class of APIs, of which an instance may be awaited.
    """

    def wait(self: Any) -> Generator[None, None, Any]:
        yield from ()
        return self

    return type("PublishedAPI", (spec,), {"__await__": wait})


def _tool(cls: type[Any], tool: ToolSpec) -> Any:
    """
    The tool as the SDK has it.
    """
    return cls(
        name=tool.name,
        description=tool.description,
        method=tool.method,
        path=tool.path,
        parameters=tool.parameters,
        response_schema=tool.response_schema,
        operation_id=tool.operation_id,
        tags=list(tool.tags),
    )


def _put_back(known: dict[str, Any], name: str, former: Any) -> None:
    if former is _MISSING:
        known.pop(name, None)
    else:
        known[name] = former
