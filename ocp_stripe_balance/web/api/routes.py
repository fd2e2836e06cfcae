"""
The agents' side, as routes: what there is, calls by the name of a tool, and what became of those that wait.
"""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from ocp_stripe_balance._tools.documentation import documentation
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.errors import ToolError
from ocp_stripe_balance.web.api import documents, problems, requests
from ocp_stripe_balance.web.api.calls import Visit, facts_of
from ocp_stripe_balance.web.api.kinds import KINDS
from ocp_stripe_balance.web.api.problems import RequestError, as_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.serving.desk import Desk
    from ocp_stripe_balance.web.gateway import Gateway

    Endpoint = Callable[[Request], Awaitable[Response]]

_CLOSED = 499  # nobody reads it


def routes(gateway: Gateway) -> list[BaseRoute]:
    """
    All of them.
    """
    api = _Api(gateway)
    found: dict[str, Endpoint] = {
        "/openapi.json": api.openapi,
        "/registry": api.registry,
        "/registry/{api}": api.entry,
        "/search": api.search,
        "/tools": api.tools,
        "/tools/{tool}": api.tool,
        "/proposals/{proposal}": api.proposal,
        "/problems": _contents,
        "/problems/{kind}": _page,
    }
    calls = Route("/tools/{tool}", _answering(api.call), methods=["POST"])  # first, because most requests are calls
    return [calls, *(Route(path, _answering(endpoint), methods=["GET"]) for path, endpoint in found.items())]


def _answering(endpoint: Endpoint) -> Endpoint:
    """
    The endpoint, what it raises as an answer.
    """

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as error:
            return problems.refusal(request.base_url, error)
        except ToolError as error:
            return problems.failure(request.base_url, error)
        except ClientDisconnect:  # before all of the request was there
            return Response(status_code=_CLOSED)

    return answer


class _Api:
    """
    What agents ask for.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def openapi(self, request: Request) -> Response:
        """
        The OpenAPI document.
        """
        return as_json(documents.openapi(await self._offered(request), _base(request)))

    async def registry(self, _: Request) -> Response:
        """
        The APIs that there are, as a registry of OCP lists them.
        """
        return as_json([documents.summary()])

    async def entry(self, request: Request) -> Response:
        """
        The catalogue entry of the one API.
        """
        if request.path_params["api"].lower() != load_manifest().name:
            raise RequestError("not-found", "This server has one API: stripe.")
        return as_json(documents.catalogue(await self._offered(request), _base(request)))

    async def search(self, _: Request) -> Response:
        """
        What is like the name of an API that is not there: the one that is.
        """
        return as_json({"results": [documents.summary()]})

    async def tools(self, request: Request) -> Response:
        """
        The tools, as OCP describes them.
        """
        return as_json({"tools": [documents.definition(tool) for tool in await self._offered(request)]})

    async def tool(self, request: Request) -> Response:
        """
        One tool, with its schema and its documentation.
        """
        tool = _named(request, await self._offered(request))
        schema = {"parameters_schema": tool.parameters_json_schema, "documentation": documentation(tool)}
        return as_json({**documents.definition(tool), **schema})

    async def call(self, request: Request) -> Response:
        """
        The answer to a call.
        """
        desk = await self._desk(request)
        tool = _named(request, desk.offered)
        key = requests.key_of(request)
        parameters = await requests.parameters_of(request)
        return await Visit(self._gateway, desk, request, requests.wait_of(request)).answer(tool, parameters, key)

    async def proposal(self, request: Request) -> Response:
        """
        A proposal of the caller.
        """
        desk, wait_s = await self._desk(request), requests.wait_of(request)
        visit = Visit(self._gateway, desk, request, wait_s)
        until = asyncio.get_running_loop().time() + wait_s
        found = await visit.decided(request.path_params["proposal"], until)
        if found is None:
            raise RequestError("not-found", "There is no such proposal.")
        return as_json(facts_of(found), headers=visit.applied)

    async def _offered(self, request: Request) -> list[ToolSpec]:
        """
        The tools of the caller; all of them for who does not say who that is.
        """
        if "authorization" in request.headers:
            return (await self._desk(request)).offered
        return list(load_manifest().tools)

    async def _desk(self, request: Request) -> Desk:
        """
        The desk of the caller.

        Raises:
            RequestError: nobody who may has sent the request.
        """
        caller = self._gateway.gate.caller(request.scope["headers"])
        if caller is None:
            raise RequestError("unauthorized")
        return await self._gateway.desk_of(caller)


async def _contents(_: Request) -> Response:
    return problems.contents()


async def _page(request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind not in KINDS:
        raise RequestError("not-found", "There is no such problem.")
    return problems.page(kind)


def _base(request: Request) -> str:
    """
    The address of this server, as the client knows it.
    """
    return str(request.base_url).rstrip("/")


def _named(request: Request, tools: list[ToolSpec]) -> ToolSpec:
    """
    The tool that a request names.

    Raises:
        RequestError: this caller has none of that name.
    """
    name: Any = request.path_params["tool"]
    tool = next((each for each in tools if name in each.names), None)
    if tool is None:
        raise RequestError("not-found", f"The tools are {', '.join(each.name for each in tools)}.")
    return tool
