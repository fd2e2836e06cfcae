"""
A small async OCP host with the surface of the OCP Python SDK, for when the SDK is not installed.

APIs come from installed packages: each publishes a factory under the entry point group
``ocp_agent.apis``, called with `APIOptions`, that returns an `API`.
"""

from __future__ import annotations

import difflib
import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from ocp_stripe_balance._host.contract import API, AgentContext, APIOptions, SharedJournal
from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._text.plain import shown
from ocp_stripe_balance._text.secrets import concealed
from ocp_stripe_balance.errors import (
    APINotFound,
    ConfigurationError,
    InvalidParametersError,
    Problem,
    ToolError,
)
from ocp_stripe_balance.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from importlib.metadata import EntryPoint

    import httpx

    from ocp_stripe_balance._domain import ToolCall
    from ocp_stripe_balance._journal import Journal
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import Answer, DryRun, Proposal, ReconcileResult, ToolResult
    from ocp_stripe_balance.settings import Settings

_GROUP = "ocp_agent.apis"
_OURS = "stripe"
_HINT = "register it first: await agent.register_api(...)"


class OCPAgent(Verbs):
    """
    Registers installed APIs, finds their tools and calls them.

    Use it as ``async with OCPAgent() as agent``, or call `aclose` at the end.
    """

    def __init__(  # noqa: PLR0913, PLR0917  the SDK's signature, and two seams
        self,
        agent_type: str = "ai_agent",
        user: str | None = None,
        workspace: str | None = None,
        agent_goal: str | None = None,
        registry_url: str | None = None,
        enable_cache: bool = True,  # noqa: FBT001, FBT002  the SDK's signature
        *,
        settings: Settings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        approver: Callable[[Proposal], Awaitable[Answer | None]] | None = None,
        asks_always: bool = False,
        journal: Journal | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """
        Read the settings; nothing is opened before the first call.

        Args:
            agent_type: sent as OCP-Agent-Type: letters, digits, ``_``, ``-`` and ``.``.
            user: kept here; sent only where the setting ``share_context`` is on.
            workspace: kept here; sent only where the setting ``share_context`` is on.
            agent_goal: kept here; sent only where the setting ``share_context`` is on.
            registry_url: accepted for the SDK's sake; APIs come from installed packages.
            enable_cache: accepted for the SDK's sake; there is nothing to cache.
            settings: instead of those from the environment.
            transport: what is under httpx, instead of the default.
            approver: asked where the policy wants a person; it returns ``proposal.approve(by=…)`` or
                ``proposal.deny(by=…, reason=…)``, and anything else is no yes. None leaves the call in the queue of the
                policy, where that has one.
            asks_always: put every call to the approver, also where the policy does not want it.
            journal: instead of the one that the settings name.
            clock: the time in seconds since the Unix epoch, for tests; by default the journal's.

        Raises:
            ConfigurationError: a setting is misspelt or impossible, or *agent_type* cannot be a header.
        """
        with no_fork:
            from ocp_stripe_balance.settings import Settings  # pydantic costs 100 ms

        del registry_url, enable_cache
        if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,128}", agent_type):
            message = f"agent_type {agent_type!r} is not 1 to 128 letters, digits, '_', '-' or '.'."
            raise ConfigurationError(message)
        self.context = AgentContext(agent_type=agent_type, user=user, workspace=workspace, current_goal=agent_goal)
        self._settings = settings or Settings()
        self._transport = transport
        self._approver = approver
        self._asks_always = asks_always
        self._journal = SharedJournal(self._settings, journal, clock)
        self._apis: dict[str, API] = {}
        self._replaced: list[API] = []

    async def register_api(
        self,
        name: str,
        spec_url: str | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> API:
        """
        The API that an installed package publishes as *name*, ready to be called; ours is ``stripe``.

        Registering again returns the same API, or, with *base_url* or *headers*, replaces it.

        Raises:
            APINotFound: no installed package publishes it; OpenAPI discovery is the SDK's job.
            ConfigurationError: *base_url* or *headers* are impossible.
        """
        headers = concealed(headers)
        name = name.lower().strip()
        # Ours needs no look at what is installed, which takes long and finds nothing where metadata is missing.
        published = () if name == _OURS else entry_points(group=_GROUP, name=name)
        if not (published or name == _OURS) or spec_url is not None:
            names = sorted({_OURS, *entry_points(group=_GROUP).names})
            raise APINotFound(name, [name] if name in names else difflib.get_close_matches(name, names, n=3))
        if name in self._apis and base_url is None and headers is None:
            return self._apis[name]
        factory = _factory(published)
        api = factory(
            APIOptions(
                context=self.context,
                settings=self._settings,
                base_url=base_url,
                headers=concealed(headers or {}),
                transport=self._transport,
                approver=self._approver,
                asks_always=self._asks_always,
                journal=self._journal,
            )
        )
        if name in self._apis:
            self._replaced.append(self._apis[name])  # its calls may still be running
        self._apis[name] = api
        self.context.api_specs[name] = api.base_url
        self.context.add_interaction("api_registered", api.base_url, f"{len(api.tools)} tools", {"api_name": name})
        return api

    async def ready(self) -> None:
        """
        Register ``stripe`` where nothing is registered; calling a tool does so by itself, listing tools does not.
        """
        if not self._apis:
            await self.register_api(_OURS)

    def list_tools(self, api_name: str | None = None) -> list[ToolSpec]:
        """
        All tools, or those of one API.

        Raises:
            ValueError: *api_name* is not registered.
        """
        return [tool for api in self._select(api_name) for tool in api.tools]

    def get_tool(self, tool_name: str, api_name: str | None = None) -> ToolSpec | None:
        """
        The tool of that very name, short or long, or None.
        """
        return next((tool for tool in self.list_tools(api_name) if tool_name in tool.names), None)

    def search_tools(self, query: str, api_name: str | None = None) -> list[ToolSpec]:
        """
        The tools that share words with *query*, the best match first; all tools for an empty query.
        """
        words = _words(query)
        tools = self.list_tools(api_name)
        if not query.strip():
            return tools
        ranked = [(_score(tool, words), tool) for tool in tools]
        return [tool for score, tool in sorted(ranked, key=lambda pair: -pair[0]) if score > 0]

    def get_tool_documentation(self, tool_name: str, api_name: str | None = None) -> str:
        """
        The tool explained in Markdown: what it does, every parameter, examples, and what a call can end with.
        """
        for api in self._select(api_name):
            for tool in api.tools:
                if tool_name in tool.names:
                    return api.documentation(tool)
        return f"Tool '{tool_name}' not found"

    @overload
    async def call_tool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        api_name: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | ToolCall | None = None,
        dry_run: Literal[False] = False,
    ) -> ToolResult: ...

    @overload
    async def call_tool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        api_name: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | ToolCall | None = None,
        dry_run: Literal[True],
    ) -> DryRun: ...

    async def call_tool(  # noqa: PLR0913  the SDK's signature, and what money needs
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        api_name: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | ToolCall | None = None,
        dry_run: bool = False,
    ) -> ToolResult | DryRun:
        """
        Call a tool once: the money moves once or not at all, and you are told which.

        Args:
            tool_name: as `list_tools` names it, or the short name that ``export_tools('mcp')`` gives it.
            parameters: by name, as the tool's schema prescribes.
            api_name: where two APIs have a tool of that name.
            headers: Authorization, Stripe-Account, Stripe-Version and Idempotency-Key for this call only.
            idempotency_key: the name of this one decision; drawn where it is left out. A `ToolCall` is the ID that a
                model's host gave the call, which names one within its conversation.
            dry_run: go the whole way to the wire, policy included, and return the request and the verdict.

        Raises:
            NotSentError: nothing was sent; see its subclasses.
            RejectedError: Stripe said no, nothing moved.
            OutcomeUnknownError: it may have moved; call again with the same key.
            asyncio.CancelledError: cancelled before anything was sent.
        """
        headers = concealed(headers)
        api, tool = await self._find(tool_name, api_name)
        endpoint = f"{tool.method} {tool.path}"
        try:
            if dry_run:
                return await api.dry_run(tool, parameters, headers=headers, idempotency_key=idempotency_key)
            result = await api.call(tool, parameters, headers=headers, idempotency_key=idempotency_key)
        except ToolError as error:
            self.context.add_interaction(f"tool_error:{tool.name}", endpoint, error.outcome)
            raise
        facts = {"request_id": result.request_id, "replayed": result.replayed}
        self.context.add_interaction(f"tool_response:{tool.name}", endpoint, str(result.status_code), facts)
        return result

    async def iterate_tool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        api_name: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """
        The items of a tool that lists, one by one and a page at a time: up to ``limit``, or all without one.

        Raises:
            NotSentError: nothing was sent, or an answer did not come in time; what came so far is good.
            RejectedError: Stripe said no.
        """
        headers = concealed(headers)
        api, tool = await self._find(tool_name, api_name)
        async for item in api.iterate(tool, parameters, headers=headers):
            yield item
        self.context.add_interaction(f"tool_response:{tool.name}", f"{tool.method} {tool.path}", "listed")

    async def reconcile(self) -> list[ReconcileResult]:
        """
        What the ledger says of every unknown or interrupted call; settles them in the journal and moves no money.

        Raises:
            NotSentError: there is no API key, or the journal cannot be used.
        """
        await self.ready()
        return [finding for api in self._apis.values() for finding in await api.reconcile()]

    def update_goal(self, goal: str, summary: str | None = None) -> None:
        """
        Set what the agent is after.
        """
        self.context.update_goal(goal, summary)

    async def aclose(self) -> None:
        """
        Close all connections; the agent may be used again, and then opens new ones.
        """
        for api in [*self._apis.values(), *self._replaced]:
            await api.aclose()
        self._replaced.clear()

    def close(self) -> None:
        """
        Close what plain code opened over the background loop, such as LangChain's ``tool.invoke``.
        """
        with no_fork:
            from ocp_stripe_balance._host.background import run  # a thread that only sync programs need

        run(self.aclose())

    async def __aenter__(self) -> Self:
        """
        The agent itself.
        """
        return self

    async def __aexit__(self, *_: object) -> None:
        """
        Close all connections.
        """
        await self.aclose()

    async def _run(
        self, tool_name: str, parameters: Mapping[str, Any], idempotency_key: str | ToolCall | None
    ) -> ToolResult:
        await self.register_api(_OURS)
        return await self.call_tool(tool_name, parameters, _OURS, idempotency_key=idempotency_key)

    def _select(self, api_name: str | None) -> list[API]:
        if api_name is None:
            return list(self._apis.values())
        name = api_name.lower().strip()
        if name not in self._apis:
            raise ValueError(f"Unknown API: {api_name}. Register it first: await agent.register_api({api_name!r})")
        return [self._apis[name]]

    async def _find(self, tool_name: object, api_name: object) -> tuple[API, ToolSpec]:
        await self.ready()
        if api_name is not None and (not isinstance(api_name, str) or api_name.lower().strip() not in self._apis):
            problem = Problem(path="api_name", message=f"{shown(api_name)} is not registered", hint=_HINT)
            raise InvalidParametersError([problem])
        return _found(self._select(api_name if isinstance(api_name, str) else None), tool_name)


def _factory(published: Iterable[EntryPoint]) -> Callable[[APIOptions], API]:
    """
    What makes the API that another package publishes, or ours.
    """
    with no_fork:
        from ocp_stripe_balance.plugin import StripeAPI  # pydantic

        ours: Any = StripeAPI
        made: Callable[[APIOptions], API] = next((each.load() for each in published), ours)
    return made


def _found(apis: Sequence[API], tool_name: object) -> tuple[API, ToolSpec]:
    """
    The tool of that name, and whose it is.

    Raises:
        InvalidParametersError: there is none; the hint names the near ones.
    """
    for api in apis:
        for tool in api.tools:
            if isinstance(tool_name, str) and tool_name in tool.names:
                return api, tool
    asked = tool_name if isinstance(tool_name, str) else ""
    kind = int("_" in asked)  # as short names have
    names = {tool.names[kind].lower(): tool.names[kind] for api in apis for tool in api.tools}
    near = difflib.get_close_matches(asked[:255].lower(), names, n=3, cutoff=0.4)
    if near:
        hint = f"did you mean {' or '.join(names[name] for name in near)}?"
    else:
        hint = f"the tools are {', '.join(names.values())}"
    raise InvalidParametersError([Problem(path="tool_name", message=f"there is no tool {shown(tool_name)}", hint=hint)])


def _words(text: str) -> set[str]:
    """
    The words of a text in lower case, camelCase taken apart, plurals and single letters aside.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return {re.sub(r"s$", "", word) for word in re.findall(r"[a-z0-9]{2,}", spaced.lower())}


def _score(tool: ToolSpec, words: set[str]) -> int:
    """
    How well a tool answers a query: a word found in its name counts most, then tags, description and parameters.
    """
    places = (
        (8, _words(tool.name)),
        (4, _words(" ".join(tool.tags))),
        (2, _words(tool.description)),
        (1, _words(" ".join(tool.parameters))),
    )
    return sum(next((weight for weight, place in places if word in place), 0) for word in words)
