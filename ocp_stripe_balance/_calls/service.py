"""
One call made once: claimed in the journal, sent, and its outcome recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._calls.guard import Guard, Intent, nobody_to_ask, refusal
from ocp_stripe_balance._calls.order import Order, take_order
from ocp_stripe_balance._calls.reads import Reads
from ocp_stripe_balance._calls.reconcile import Settlement, look_for, open_still
from ocp_stripe_balance._calls.replay import (
    conflict,
    derived_key,
    differing_words,
    foreseen,
    held,
    interrupted,
    known_elsewhere,
    recall,
    still_running,
    too_old,
)
from ocp_stripe_balance._calls.reversal import Reversal, Reversals, Siblings, already, is_reversal, reversing
from ocp_stripe_balance._journal import Call, Claim, Journal, State, Verdict
from ocp_stripe_balance._policy import Finding, decide
from ocp_stripe_balance._stripe.client import Executor, Reply
from ocp_stripe_balance._stripe.headers import stripe_headers
from ocp_stripe_balance._stripe.pace import pace_of
from ocp_stripe_balance._stripe.request import WireRequest, build_request, encode_headers
from ocp_stripe_balance._telemetry import WatchedCall
from ocp_stripe_balance._tools.validation import parameter_validator, response_validator
from ocp_stripe_balance.errors import (
    InvalidParametersError,
    NotSentError,
    OutcomeUnknownError,
    PolicyRefusedError,
    Problem,
    RejectedError,
    ToolError,
)
from ocp_stripe_balance.models import Answer, DryRun, ToolResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from ocp_stripe_balance._host.contract import APIOptions
    from ocp_stripe_balance._journal import Admission
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.settings import Mode

_KEY_PARAMETER = "idempotency_key"
_to_sorted_json = json.JSONEncoder(sort_keys=True).encode
_POLL_S = 0.02
_MAX_POLL_S = 0.25
# Verdicts after which nothing can have been sent under this key, so that a cancellation is just that.
_NOTHING_SENT = {
    Verdict.SEND,
    Verdict.KEY_TAKEN,
    Verdict.REFERENCE_TAKEN,
    Verdict.PROPOSAL_TAKEN,
    Verdict.REFUSED,
    Verdict.UNREAD,
    Verdict.ASK,
}


class Calls:
    """
    The journal and the executor of one registered API, and what happens between them.
    """

    def __init__(self, base_url: str, tools: Sequence[ToolSpec], options: APIOptions) -> None:
        """
        Prepare; nothing is opened before the first call.
        """
        settings = options.settings
        self._base_url = base_url
        self._tools = tools
        self._options = options
        self._journal = Journal(settings.journal_path)
        self._executor = Executor(
            timeout_s=settings.timeout,
            max_attempts=settings.max_attempts,
            transport=options.transport,
            has_details=settings.trace_details,
            pace=pace_of(settings.rate_limit, base_url),
        )
        self._guard = Guard(settings, self._journal, options.approver, asks_always=options.asks_always)
        self._reads = Reads(base_url, options, self._executor)
        self._reversals = Reversals(base_url, options, self._journal, self._reads, self._executor)

    def watch(self, tool: ToolSpec, parameters: object, call_id: str | None) -> WatchedCall:
        """
        What tells others of a call that begins now.
        """
        return WatchedCall(tool, parameters, call_id, has_details=self._options.settings.trace_details)

    def order(self, tool: ToolSpec, parameters: object, access: Access, idempotency_key: str | None) -> Order:
        """
        The valid call that *parameters* make.

        Raises:
            InvalidParametersError: listing everything that is wrong.
        """
        keys, tags = (access.idempotency_key, idempotency_key), self._options.settings.tag_calls
        return take_order(tool, parameter_validator(tool), parameters, keys, tags_calls=tags, api_key=access.api_key)

    async def make(self, tool: ToolSpec, order: Order, access: Access, mode: Mode) -> ToolResult:
        """
        The result of a validated call: sent, or answered from the one it repeats.

        Raises:
            ToolError: with the outcome.
            asyncio.CancelledError: cancelled before anything was sent.
        """
        return await self._once(tool, self._intent(tool, order, access, mode), access, has_own_key=order.has_own_key)

    async def read(self, tool: ToolSpec, order: Order, access: Access, mode: Mode) -> ToolResult:
        """
        The answer to a call that only reads.

        Raises:
            PolicyRefusedError: the policy does not allow calls in this mode, or for this customer.
            NotSentError: no answer in time.
            RejectedError: Stripe said no.
        """
        await self._pass_gate(self._intent(tool, order, access, mode))
        return await self._reads.fetch(tool, order.arguments, access)

    async def iterate(self, tool: ToolSpec, order: Order, access: Access, mode: Mode) -> AsyncGenerator[Any, None]:
        """
        The items of a list one by one, a page at a time.

        Raises:
            ToolError: as for `read`.
        """
        await self._pass_gate(self._intent(tool, order, access, mode))
        async with contextlib.aclosing(self._reads.iterate(tool, order.arguments, access)) as items:
            async for item in items:
                yield item

    async def reverse(self, tool: ToolSpec, order: Order, access: Access, mode: Mode) -> ToolResult:
        """
        The opposite of an entry, made once.

        Raises:
            PolicyRefusedError: it was reversed already, it cannot be, or the policy does not allow it.
            ToolError: as for every call.
        """
        try:
            wanted, opposite = await self._opposite(tool, order, access, mode)
            result = await self.make(wanted.siblings.create, opposite, access, mode)
        except ToolError as error:
            raise reversing(tool, error) from None
        if result.attempts == 0:  # another caller's, just now
            raise already(wanted, result.data.get("id"))
        return await self._reversals.link(wanted, result)

    async def _opposite(
        self, tool: ToolSpec, order: Order, access: Access, mode: Mode, *, is_rehearsal: bool = False
    ) -> tuple[Reversal, Order]:
        wanted = Reversal(
            tool=tool,
            siblings=Siblings.of(tool, self._tools),
            transaction=order.arguments["transaction"],
            customer=await self._reversals.customer_of(order, access, mode),
            access=access,
            mode=mode,
        )
        whose = replace(order, arguments={**order.arguments, "customer": wanted.customer})
        await self._pass_gate(self._intent(tool, whose, access, mode), is_rehearsal=is_rehearsal)
        return wanted, await self._reversals.opposite(wanted, order)

    async def foresee(self, tool: ToolSpec, order: Order, access: Access, mode: Mode) -> DryRun:
        """
        What `make` would send, and whether it would. Moves nothing and records nothing.

        Raises:
            ToolError: the customer cannot be read, or the journal.
        """
        if tool.reverses:
            wanted, order = await self._opposite(tool, order, access, mode, is_rehearsal=True)
            tool = wanted.siblings.create
        if tool.reads:
            return (await self.explain(tool, order, access, mode))[1]
        intent = self._guard.with_known_customer(self._intent(tool, order, access, mode))
        warnings: list[str] = []
        claim = await self._rehearse(intent, has_own_key=order.has_own_key)
        if claim.verdict is Verdict.UNREAD:
            get = partial(self._read, access, intent.call.account)
            intent, warnings = await self._with_customer(intent, get, is_rehearsal=True)
            claim = await self._rehearse(intent, has_own_key=order.has_own_key)
        return self._foreseen(tool, claim, intent, access, warnings)

    def _foreseen(
        self, tool: ToolSpec, claim: Claim, intent: Intent, access: Access, warnings: Sequence[str] = ()
    ) -> DryRun:
        if tool.reads:
            request = self._reads.request(tool, intent.arguments, access)
        else:
            request = self._request(tool, claim.call, access)
        if claim.verdict is Verdict.ASK and claim.finding is not None and not self._guard.can_ask:
            claim = replace(claim, verdict=Verdict.REFUSED, finding=nobody_to_ask(claim.finding))
        told, why, rule = foreseen(claim, intent.call)
        if tool.reads and told == "send":
            why = "The call would be sent; it only reads."
        return DryRun(
            verdict=told,
            message=why,
            rule=rule,
            method=request.method,
            url=request.url,
            headers={**request.headers, "Authorization": "Bearer [api key]"},
            body=request.body.decode("ascii"),
            idempotency_key=None if tool.reads else claim.call.key,
            warnings=tuple(warnings),
        )

    async def explain(self, tool: ToolSpec, order: Order, access: Access, mode: Mode) -> tuple[list[Finding], DryRun]:
        """
        What every rule says of a call, and what would become of it; the customer is not read.

        Raises:
            NotSentError: the journal cannot be read.
        """
        intent = self._guard.with_known_customer(self._intent(tool, order, access, mode))
        said: list[Finding] = []
        if tool.reads:
            said += self._guard.standing(intent.call)
            stop = decide(said)
            claim = Claim(verdict=Verdict.REFUSED if stop else Verdict.SEND, call=intent.call, finding=stop)
            return said, self._foreseen(tool, claim, intent, access)
        claim = await self._rehearse(intent, has_own_key=order.has_own_key, said=said)
        return said, self._foreseen(tool, claim, intent, access)

    async def resume(self, key: str, access: Access, mode: Mode) -> ToolResult:
        """
        The result of the recorded call of that key, sent again under the same key where its outcome is open.

        Raises:
            InvalidParametersError: there is no such call in this mode and account.
            OutcomeUnknownError: it is older than 23 hours, or its outcome is still open.
            ToolError: as for every call.
        """
        account = access.account or ""
        call = await self._journal.find(key, base_url=self._base_url, mode=mode, account=account)
        if call is None:
            hint = "ocp-stripe-balance journal list shows the calls there are"
            message = f"the journal has no call of that key for {self._base_url} in {mode} mode"
            raise InvalidParametersError([Problem(path="key", message=message, hint=hint)])
        tool = next(tool for tool in self._tools if tool.name == call.tool)
        if is_reversal(call) and call.state in {State.NOT_SENT, State.REJECTED}:
            message = "is of a reversal of which nothing moved, and the entry may have been reversed meanwhile"
            hint = "reverse it again: that looks first"
            raise InvalidParametersError([Problem(path="key", message=message, hint=hint)])
        # It is on record, so it said what the policy demands.
        arguments = json.loads(call.arguments)
        intent = Intent(call=call, arguments=arguments, has_stated_effect=True, scope=(mode, *access.mark))
        return await self._once(tool, intent, access, has_own_key=True)

    async def reconcile(self, access: Access, mode: Mode, progress: Callable[[int, int], None]) -> list[Settlement]:
        """
        Settle every unknown or interrupted call of this base URL and mode by reading Stripe; moves no money.

        *progress* is told after each call how many of how many are done.

        Raises:
            NotSentError: there is no API key, or the journal cannot be used.
        """
        unsettled = await self._journal.select(states=(State.SENDING, State.UNKNOWN))
        calls = [
            call
            for call in unsettled
            if (call.base_url, call.mode) == (self._base_url, mode) and not self._journal.is_owned_by_the_living(call)
        ]
        findings = []
        for done, call in enumerate(calls, 1):
            known = {other.key for other in await self._journal.select(customer=call.customer)}
            if call.moves_money:
                finding = await look_for(call, partial(self._read, access), known)
            else:
                finding = open_still(call, "It moves no money. Resume it, or look at the entry that it updates.")
            if finding.transaction is not None:
                await self._journal.settle(
                    call,
                    State.SUCCEEDED,
                    is_final=True,
                    status=200,
                    answer=finding.transaction,
                    note="reconciled",
                    is_found_later=True,
                )
            elif finding.outcome == "not_sent":
                await self._journal.settle(call, State.NOT_SENT, note="reconciled: it was never applied")
            findings.append(finding)
            progress(done, len(calls))
        return findings

    async def aclose(self) -> None:
        """
        Close the HTTP client and the journal.
        """
        await self._guard.aclose()
        await self._executor.aclose()
        await self._journal.aclose()

    async def _once(self, tool: ToolSpec, intent: Intent, access: Access, *, has_own_key: bool) -> ToolResult:
        """
        Send the call, or answer with the one it repeats.
        """
        draft, timeout_s = intent.call, self._options.settings.timeout
        loop = asyncio.get_running_loop()
        deadline, poll_s = loop.time() + timeout_s, _POLL_S
        get = partial(self._read, access, draft.account)
        notes: list[str] = []
        intent = self._guard.with_known_customer(intent)
        admission = self._guard.admission(intent)
        while True:
            claim, cancelled = await self._claim(draft, admission, has_own_key=has_own_key)
            call = claim.call
            if cancelled is not None:
                raise cancelled if claim.verdict in _NOTHING_SENT else interrupted(call) from cancelled
            if claim.verdict in {Verdict.SEND, Verdict.RESUME}:
                notes += differing_words(call, draft)
                is_resumed, remaining_s = claim.verdict is Verdict.RESUME, max(deadline - loop.time(), 0.001)
                return await self._send(tool, call, access, notes, is_resumed=is_resumed, remaining_s=remaining_s)
            if claim.verdict is Verdict.UNREAD:
                intent, notes = await self._with_customer(intent, get)
                admission = self._guard.admission(intent)._replace(
                    answer=admission.answer, answer_until=admission.answer_until
                )
                continue
            if claim.verdict is Verdict.ASK:
                answer, until = await self._ask(claim, intent, get)
                deadline = loop.time() + timeout_s  # a person's time is not the call's
                intent = self._guard.with_known_customer(intent)  # it may have got a currency meanwhile
                admission = self._guard.admission(intent)._replace(answer=answer, answer_until=until)
                continue
            if claim.verdict is not Verdict.WAIT:
                return _conclude(claim, draft)
            poll_s = min(poll_s * 1.5, _MAX_POLL_S, max(deadline - loop.time(), 0.0))
            try:
                await asyncio.sleep(poll_s)
            except asyncio.CancelledError as error:
                raise interrupted(call) from error
            if loop.time() >= deadline:
                raise still_running(call)

    async def _ask(
        self, claim: Claim, intent: Intent, get: Callable[[str], Awaitable[Any]]
    ) -> tuple[Answer | None, float]:
        """
        As the guard asks; a no does not hold for a call that another caller has sent meanwhile.
        """
        try:
            return await self._guard.ask(claim, intent, get)
        except PolicyRefusedError:
            call = intent.call
            found = await self._journal.find(call.key, base_url=call.base_url, mode=call.mode, account=call.account)
            if found is None or found.state in {State.NOT_SENT, State.REJECTED}:
                raise
            return None, 0.0

    async def _pass_gate(self, intent: Intent, *, is_rehearsal: bool = False) -> None:
        gate = self._guard.gate(intent.call)
        if gate is not None:
            raise refusal(intent.call, gate) if is_rehearsal else await self._guard.refuse(intent.call, gate)

    async def _with_customer(
        self, intent: Intent, get: Callable[[str], Awaitable[Any]], *, is_rehearsal: bool = False
    ) -> tuple[Intent, list[str]]:
        """
        The intent with its customer, read unless another call did meanwhile; and warnings.
        """
        intent = self._guard.with_known_customer(intent)
        if intent.is_customer_known:
            return intent, []
        return await self._guard.read_customer(intent, get, is_rehearsal=is_rehearsal)

    async def _claim(
        self, draft: Call, admission: Admission, *, has_own_key: bool
    ) -> tuple[Claim, asyncio.CancelledError | None]:
        try:
            return await self._journal.claim(
                draft, has_own_key=has_own_key, lease_s=self._options.settings.timeout, admission=admission
            )
        except NotSentError as error:
            error.tool, error.idempotency_key = draft.tool, draft.key
            raise

    async def _rehearse(self, intent: Intent, *, has_own_key: bool, said: list[Finding] | None = None) -> Claim:
        """
        What a claim would find; *said* is filled with what every rule says.
        """
        draft, lease_s = intent.call, self._options.settings.timeout
        try:
            return await self._journal.rehearse(
                draft, has_own_key=has_own_key, lease_s=lease_s, admission=self._guard.admission(intent, said)
            )
        except NotSentError as error:
            error.tool, error.idempotency_key = draft.tool, draft.key
            raise

    def _request(self, tool: ToolSpec, call: Call, access: Access) -> WireRequest:
        """
        The recorded bytes as a request.
        """
        sent = stripe_headers(access, call.api_version, self._options)
        headers = {**sent, **encode_headers(tool, {_KEY_PARAMETER: call.key})}
        url = self._base_url + call.path
        return WireRequest(
            method=tool.method,
            url=url,
            body=call.body,
            headers=headers,
            template=tool.path,
            customer=call.customer,
            api_key=access.api_key,
        )

    async def _send(  # noqa: PLR0913  a call and how it is sent
        self, tool: ToolSpec, call: Call, access: Access, notes: list[str], *, is_resumed: bool, remaining_s: float
    ) -> ToolResult:
        """
        Send the recorded bytes, and record what became of them.
        """
        request = self._request(tool, call, access)
        try:
            reply = await self._executor.execute(
                request, tool=tool.name, idempotency_key=call.key, is_resumed=is_resumed, timeout_s=remaining_s
            )
        except ToolError as error:
            if (
                isinstance(error, RejectedError)
                and error.type == "idempotency_error"
                and call.key.startswith(("ref-", "rev-"))
            ):
                error = known_elsewhere(call)
            if not await self._record_failure(call, error):
                raise interrupted(call) from error
            raise error  # noqa: TRY201  not always the one that was caught
        except asyncio.CancelledError as error:
            if not await self._record(call, State.NOT_SENT, note="cancelled before it was sent"):
                raise interrupted(call) from error
            raise
        result = self._result(tool, call, reply, notes)
        try:
            await self._journal.settle(
                call,
                State.SUCCEEDED,
                is_final=True,
                attempts=result.attempts,
                status=result.status_code,
                request_id=result.request_id,
                answer=reply.text if result.data else "{}",
                note=json.dumps(result.warnings) if result.warnings else None,
            )
        except NotSentError as error:
            return replace(result, warnings=(*result.warnings, f"the outcome is not in the journal: {error.args[0]}"))
        except asyncio.CancelledError as error:
            message = "The call was cancelled after it had succeeded; the result is in the journal."
            raise OutcomeUnknownError(message, tool=tool.name, idempotency_key=call.key) from error
        return result

    async def _record_failure(self, call: Call, error: ToolError) -> bool:
        """
        Record how the call failed; False where another caller may have taken it over, and may have moved money.
        """
        return await self._record(
            call,
            State(error.outcome),
            is_final=isinstance(error, RejectedError) and error.is_verdict,
            attempts=error.attempts,
            status=getattr(error, "status", None),
            request_id=getattr(error, "request_id", None),
            answer=error.to_dict(),
        )

    async def _record(self, call: Call, state: State, **facts: Any) -> bool:
        """
        Record an outcome that is no success; False where it is no longer ours to record.

        A journal that fails leaves the row as it is: it may have been sent, and may be taken over after the lease.
        """
        try:
            return await self._journal.settle(call, state, **facts)
        except (NotSentError, asyncio.CancelledError):
            return self._journal.is_still_held(call)

    async def _read(self, access: Access, account: str, path: str) -> Any:
        """
        What Stripe answers to a GET, as JSON.
        """
        return await self._reads.get(path, replace(access, account=account or None))

    def _intent(self, tool: ToolSpec, order: Order, access: Access, mode: Mode) -> Intent:
        """
        The call as it would be recorded and sent.
        """
        arguments = order.arguments
        amount, currency = 0, ""
        normal = dict(arguments)
        if tool.moves_money:
            amount, currency = int(arguments["amount"]), arguments["currency"].lower()
            normal |= {"amount": amount, "currency": currency}
        intent = (access.account or "", mode, tool.name, arguments["customer"], currency, amount)
        reference = arguments.get("reference")
        key = order.key or (str(uuid.uuid4()) if reference is None else derived_key(*intent, reference))
        tagged = dict(arguments)
        if self._options.settings.tag_calls and tool.moves_money:
            tagged["metadata"] = {**(arguments.get("metadata") or {}), "ocp_call": key}
        request = build_request(tool, tagged, base_url="", headers={})
        context = self._options.context
        call = Call(
            base_url=self._base_url,
            mode=mode,
            account=access.account or "",
            key=key,
            tool=tool.name,
            customer=arguments["customer"],
            amount=amount,
            currency=currency,
            reference=reference,
            arguments=_to_sorted_json(normal),
            path=request.url,
            body=request.body,
            api_version=access.api_version,
            context_id=context.context_id,
            agent_type=context.agent_type,
            user=None if context.user is None else str(context.user),
        )
        return Intent(
            call=call,
            arguments=arguments,
            has_stated_effect=order.stated_effect is not None,
            scope=(mode, *access.mark),
        )

    def _result(self, tool: ToolSpec, call: Call, reply: Reply, notes: list[str]) -> ToolResult:
        warnings = [*notes, reply.lost_body] if reply.lost_body else [*notes]
        if isinstance(reply.data, dict):
            warnings += response_validator(tool).warnings(reply.data)
            warnings += _differences(tool, call, reply.data)
        else:
            warnings.append("the response body is not a JSON object")
        return ToolResult(
            tool=tool.name,
            moved=tool.moves_money,
            data=reply.data if isinstance(reply.data, dict) else {},
            status_code=reply.status,
            headers=reply.headers,
            idempotency_key=call.key,
            request_id=reply.request_id,
            attempts=reply.attempts,
            replayed=reply.is_replayed,
            warnings=tuple(warnings),
        )


def _conclude(claim: Claim, draft: Call) -> ToolResult:
    """
    The result on record, or the error that a claim which is not ours to send stands for.
    """
    call = claim.call
    match claim.verdict:
        case Verdict.FINISHED:
            return recall(call, differing_words(call, draft))
        case Verdict.REFUSED if claim.finding is not None:
            raise refusal(call, claim.finding)
        case Verdict.HELD if claim.finding is not None:
            raise held(call, claim.finding.message, claim.finding.hint)
        case Verdict.EXPIRED:
            raise too_old(call)
        case _:
            raise conflict(claim, draft)


def _differences(tool: ToolSpec, call: Call, data: Mapping[str, Any]) -> list[str]:
    """
    Where the entry Stripe made is not the one that was asked for.
    """
    if tool.moves_money and (data.get("customer"), data.get("amount"), data.get("currency")) == (
        call.customer,
        call.amount,
        call.currency,
    ):
        return []
    found, arguments = [], json.loads(call.arguments)
    for name, spec in tool.parameters.items():
        sent, got = arguments.get(name), data.get(name)
        if isinstance(got, dict):
            got = got.get("id")
        if spec["required"] and got is not None and str(got).lower() != str(sent).lower() and got != sent:
            found.append(f"{name} was sent as {sent!r} and is {got!r} in the response")
    return found
