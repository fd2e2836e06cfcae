"""
One call of a tool over HTTP: joined where it is under way, held while a person decides, and answered.

A proposal is a row of the journal, and so is what was decided about it: a request that waits looks at that row, and
then makes the same call again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import traceback
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._calls.call import in_one_spelling
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance._text.secrets import redact
from ocp_stripe_balance._tools.validation import KEY_PARAMETER, parameter_validator
from ocp_stripe_balance.errors import ApprovalRequiredError, NotSentError, OutcomeUnknownError, ToolError
from ocp_stripe_balance.serving.desk import landed
from ocp_stripe_balance.web.api import problems
from ocp_stripe_balance.web.api.problems import as_json
from ocp_stripe_balance.web.gateway import AGENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Hashable

    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import Proposal, ToolResult
    from ocp_stripe_balance.serving.desk import Desk
    from ocp_stripe_balance.serving.flights import Flight
    from ocp_stripe_balance.web.gateway import Gateway

_POLL_S = 0.5
_DECIDED = {"approved", "denied", "used"}
_log = logging.getLogger("ocp_stripe_balance")


class Visit:
    """
    One request to call a tool.
    """

    def __init__(self, gateway: Gateway, desk: Desk, request: Request, wait_s: int) -> None:
        """
        Take the request, which wants to wait so many seconds for a person.
        """
        self._gateway, self._desk, self._request, self._wait_s = gateway, desk, request, wait_s
        self._is_joined = False

    @property
    def applied(self) -> dict[str, str]:
        """
        The header that says how long it was ready to wait.
        """
        return {"Preference-Applied": f"wait={self._wait_s}"} if self._wait_s else {}

    async def answer(self, tool: ToolSpec, parameters: dict[str, Any], key: str | None) -> Response:
        """
        The answer to a call of a tool under a key.
        """
        if (task := asyncio.current_task()) is not None:
            self._desk.received(task)
        try:
            return self._succeeded(tool, await self._result(tool, parameters, key))
        except ApprovalRequiredError as waiting:
            headers = {"Location": f"/proposals/{waiting.proposal_id}", **self.applied}
            return as_json(waiting.to_dict(), 202, headers)
        except ToolError as error:
            return problems.failure(self._request.base_url, error)
        except Exception:  # noqa: BLE001  the client would be told its text, and that is no outcome
            _log.error("a call failed as it should not: %s", redact(traceback.format_exc()))
            return self._failed(tool)

    def _succeeded(self, tool: ToolSpec, result: ToolResult) -> Response:
        """
        The answer to a call that succeeded.
        """
        is_repeat = not tool.reads and (result.replayed or self._is_joined)
        headers = {"Idempotent-Replayed": "true"} if is_repeat else {}
        status = 201 if result.moved and not is_repeat else 200
        return as_json(result.to_dict(), status, {**headers, **self.applied})

    async def _result(self, tool: ToolSpec, parameters: dict[str, Any], key: str | None) -> ToolResult:
        """
        The result of the call, after a person decided where somebody has to.

        Raises:
            ToolError: it did not succeed.
        """
        self._desk.count()
        until = asyncio.get_running_loop().time() + self._wait_s
        while True:
            try:
                return await self._made(tool, parameters, key)
            except ApprovalRequiredError as waiting:
                proposal = await self.decided(waiting.proposal_id, until, is_told=True)
                if proposal is None or proposal.state not in _DECIDED:
                    raise
                # By the name of what was decided: under no key, it would be another call.
                parameters, key = {**parameters, KEY_PARAMETER: proposal.key}, None

    async def _made(self, tool: ToolSpec, parameters: dict[str, Any], key: str | None) -> ToolResult:
        """
        The result of the call, together with the same call of this caller where that is under way.
        """
        self._is_joined = True

        async def make(_: Flight) -> ToolResult:
            self._is_joined = False
            return await self._desk.call(tool, parameters, key)

        return await landed(self._desk.join(tool, _name_of(tool, parameters, key), make), tool)

    async def decided(self, proposal_id: str, until: float, *, is_told: bool = False) -> Proposal | None:
        """
        The proposal once somebody has decided, or as it is at that time, when the client is gone, or the server ends.

        None where this caller has none of that name, or its token is good no more. Where a call of its own *is_told* of
        the proposal, it is also this caller's, whoever asked first.

        Raises:
            NotSentError: the journal cannot be used.
        """
        loop = asyncio.get_running_loop()
        while True:
            proposal = await self._gateway.proposal(proposal_id)
            is_let_in = self._gateway.gate.caller(self._request.scope["headers"]) is not None
            if proposal is None or not is_let_in or not self._is_own(proposal, is_told=is_told):
                return None
            left_s = until - loop.time()
            is_over = left_s <= 0 or self._desk.is_closed or proposal.state != "waiting"
            if is_over or await self._request.is_disconnected():
                return proposal
            await asyncio.sleep(min(left_s, _POLL_S))

    def _is_own(self, proposal: Proposal, *, is_told: bool) -> bool:
        if (proposal.user, proposal.agent_type) == (self._desk.caller, AGENT_TYPE):
            return True
        if is_told:
            self._desk.joined.add(proposal.id)
        return proposal.id in self._desk.joined

    def _failed(self, tool: ToolSpec) -> Response:
        """
        What is told where this program is at fault: of a call that changes something, that it may have.
        """
        error = (NotSentError if tool.reads else OutcomeUnknownError)("The server failed.", tool=tool.name)
        told = error.to_dict()
        return problems.problem(self._request.base_url, "server-fault", told.pop("message"), **told)


def facts_of(proposal: Proposal) -> dict[str, Any]:
    """
    A proposal as its caller sees it.
    """
    nexts = {"waiting": "call_again_once_approved", "denied": "stop_and_tell"}
    return {
        "id": proposal.id,
        "state": proposal.state,
        "next": nexts.get(proposal.state, "call_again"),
        "tool": proposal.tool,
        "idempotency_key": proposal.key,
        "effect": proposal.effect,
        "parameters": proposal.parameters,
        "rule": proposal.rule,
        "why": proposal.why,
        "asked_at": moment(proposal.asked_at),
        "expires_at": moment(proposal.expires_at),
        "decided_at": None if proposal.decided_at is None else moment(proposal.decided_at),
        "reason": proposal.reason,
    }


def _name_of(tool: ToolSpec, parameters: dict[str, Any], key: str | None) -> Hashable:
    """
    What makes two calls of a caller the same; a call that is not valid is like no other.

    Under one key, the journal knows the same call in other words.
    """
    if key is not None:
        with contextlib.suppress(RecursionError):  # nested deeper than any parameter
            return AGENT_TYPE, key, tool.name, json.dumps(parameters, sort_keys=True)
    arguments, invalid = parameter_validator(tool).check(parameters)
    return object() if invalid else (AGENT_TYPE, None, tool.name, in_one_spelling(tool, arguments))
