"""
The Stripe client: one call is one request under one idempotency key, sent until it is settled.

What an attempt showed (`attempts.py`) decides twice: whether to try again, and what the caller is told.
"""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from ocp_stripe_balance._domain import sent
from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._stripe.attempts import (
    OUTCOMES,
    Attempt,
    Reply,
    Seen,
    classify,
    is_worth_repeating,
    retry_after,
)
from ocp_stripe_balance._stripe.body import read
from ocp_stripe_balance._stripe.network import Network, advice
from ocp_stripe_balance._stripe.pace import NoTurnError
from ocp_stripe_balance._stripe.wire import UnsentError, UnusableError, describe
from ocp_stripe_balance._telemetry import WatchedAttempt
from ocp_stripe_balance._text.plain import escaped
from ocp_stripe_balance._text.secrets import redact, scrub
from ocp_stripe_balance.errors import (
    AuthenticationError,
    ConfigurationError,
    NotSentError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitError,
    RejectedError,
    ResourceMissingError,
    ToolError,
    rejection_class,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx
    from pydantic import SecretStr

    from ocp_stripe_balance._stripe.pace import Pace
    from ocp_stripe_balance._stripe.request import Request
    from ocp_stripe_balance._stripe.wire import Wire
    from ocp_stripe_balance.errors import Next

_BACKOFF_BASE_S = 0.5
_LEAST_SHARE, _LEAST_S = 0.1, 1.0
_BACKOFF_CAP_S = 8.0
_LATER_S = 5.0


_TOO_LATE = Attempt(Seen.UNSENT, failure=NoTurnError("the call's deadline had passed when its turn came"))


class Clock(Protocol):
    """
    Time, swapped in tests.
    """

    def monotonic(self) -> float:
        """
        Seconds that only grow.
        """

    async def sleep(self, seconds: float) -> None:
        """
        Wait.
        """


class SystemClock:
    """
    The real time.
    """

    sleep = staticmethod(asyncio.sleep)
    # Seconds that only grow, also while the machine sleeps, where the system can tell.
    monotonic = staticmethod(
        partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
    )


class StripeClient:
    """
    Sends requests; safe for many calls at once in one event loop.
    """

    def __init__(  # noqa: PLR0913  what a client is made with, and what tests swap
        self,
        *,
        timeout_s: float,
        max_attempts: int,
        network: Network | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        has_details: bool = False,
        pace: Pace | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """
        Prepare; nothing is opened before the first call.

        Args:
            timeout_s: the deadline of one call in seconds, waiting and retries included.
            max_attempts: how often one call may be sent.
            network: the proxy and the certificates.
            transport: one of httpx, instead of connections of our own.
            has_details: whether spans may tell IDs.
            pace: gives requests their turns; without it, all go at once.
            clock: the time, for tests.
            jitter: a number from 0 to 1, for tests.
        """
        self._timeout_s = timeout_s
        self._network = network or Network()
        self._transport = transport
        self._has_details = has_details
        self._wire: Wire | None = None
        self._terms = _Terms(self._send, max_attempts, pace, clock or SystemClock(), jitter, self._network)

    async def execute(
        self,
        request: Request,
        *,
        tool: str,
        idempotency_key: str | None,
        is_resumed: bool = False,
        timeout_s: float | None = None,
    ) -> Reply:
        """
        Stripe's 2xx reply to *request*; *is_resumed* says that it may have been executed before.

        It may take *timeout_s* seconds, or as long as every call.

        Raises:
            NotSentError: no attempt reached Stripe.
            RejectedError: Stripe said no.
            OutcomeUnknownError: it may have been executed, the call's own cancellation included.
            asyncio.CancelledError: cancelled before anything was sent.
        """
        call = _Call(self._terms, request, tool, idempotency_key, is_tainted=is_resumed)
        try:
            return await call.run(self._timeout_s if timeout_s is None else timeout_s)
        except asyncio.CancelledError as error:
            if not call.may_have_moved:
                raise
            # Swallowing the cancellation is the lesser evil: a caller that saw a bare timeout would pay again.
            raise call.unknown("The call was cancelled after the request may have been sent.") from error

    async def aclose(self) -> None:
        """
        Close all connections.
        """
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.aclose()

    async def _send(self, request: Request, remaining_s: float, attempt: int) -> Reply:
        """
        One exchange, with the body read up to 1 MB. A redirect is returned, never followed.

        Raises:
            WireError: no response.
            TimeoutError: *remaining_s* seconds went by.
        """
        watched = WatchedAttempt(request, attempt, has_details=self._has_details)
        try:
            received = await self._open().exchange(request, remaining_s)
        except BaseException as error:
            scrub(error, _bare(request.api_key))
            watched.end(error)
            raise
        watched.status = received.status
        watched.end(None)
        secret, lost = _bare(request.api_key), received.lost_body
        return Reply(
            status=received.status,
            headers=received.headers.without(secret) if secret else received.headers,
            body=read(received.body, secret),
            lost_body=None if lost is None else redact(lost, secret),
            attempts=attempt,
        )

    def _open(self) -> Wire:
        if self._wire is None:
            if self._transport is not None:
                with no_fork:
                    from ocp_stripe_balance._stripe.httpx_wire import HttpxWire  # where one is handed in

                self._wire = HttpxWire(self._transport)
            else:
                with no_fork:
                    from ocp_stripe_balance._stripe.aiohttp_wire import AiohttpWire  # for the first call

                self._wire = AiohttpWire(self._network)
        return self._wire


class _Terms(NamedTuple):
    """
    On what terms the attempts of a call are made.
    """

    send: Callable[[Request, float, int], Awaitable[Reply]]
    """Makes one attempt, of so many seconds, with its number."""
    max_attempts: int
    pace: Pace | None
    clock: Clock
    jitter: Callable[[], float]
    network: Network


class _Call:
    """
    The attempts of one call, and what they add up to.
    """

    def __init__(self, terms: _Terms, request: Request, tool: str, key: str | None, *, is_tainted: bool) -> None:
        self._terms = terms
        self._request = request
        self._expected = request.expected and request.expected.for_key(_bare(request.api_key))
        self._facts: dict[str, Any] = {"tool": tool, "idempotency_key": key}
        self._is_read = request.method == "GET"  # reading moves nothing, so nothing about it can be unknown
        self._api_key = request.api_key
        self._attempts = 0
        self._tainted = is_tainted
        self._in_flight = False
        self._accepted: Reply | None = None

    @property
    def may_have_moved(self) -> bool:
        return self._tainted or (self._in_flight and not self._is_read)

    async def run(self, timeout_s: float) -> Reply:
        clock, pace = self._terms.clock, self._terms.pace
        deadline = clock.monotonic() + timeout_s
        while True:
            if pace is None:
                attempt = await self._attempt(deadline - clock.monotonic())
            else:
                attempt = await self._paced_attempt(pace, deadline)
            delay_s = self._delay(attempt, deadline - clock.monotonic())
            if delay_s is None:
                return self._conclude(attempt)
            self._taint(attempt)
            await clock.sleep(delay_s)
            if clock.monotonic() >= deadline:  # the process was stopped: others may have the call by now
                return self._conclude(attempt)

    async def _paced_attempt(self, pace: Pace, deadline: float) -> Attempt:
        """
        One attempt, when it is this request's turn.
        """
        clock, request = self._terms.clock, self._request
        pacer, patience_s = pace.pacer_of(request), deadline - clock.monotonic()
        try:
            # Sent at the last moment, it would hardly be answered in time, and be unknown instead of not sent.
            patience_s -= min(patience_s * _LEAST_SHARE, _LEAST_S)
            async with pacer.turn(request, patience_s, gives_way=pace.gives_way):
                remaining_s = deadline - clock.monotonic()
                # Where the process was stopped, others may have the call by now.
                attempt = await self._attempt(remaining_s) if remaining_s > 0 else _TOO_LATE
        except NoTurnError as error:
            return Attempt(Seen.UNSENT, failure=error)
        reply = attempt.reply
        if (
            reply is not None
            and reply.status == HTTPStatus.TOO_MANY_REQUESTS
            and (reply.error or {}).get("code") == "rate_limit"
        ):
            pacer.slow_down(request, reply.headers.get("stripe-rate-limited-reason"))
        return attempt

    async def _attempt(self, remaining_s: float) -> Attempt:
        self._attempts += 1
        self._in_flight = True
        told = None if self._is_read else sent.get()
        if told is not None:
            told.set()
        try:
            reply = await self._terms.send(self._request, remaining_s, self._attempts)
        except UnsentError as error:
            attempt = Attempt(Seen.UNSENT, failure=error)
            if told is not None and not self._tainted:
                told.clear()
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  whatever a transport raises, the request may have left
            attempt = Attempt(Seen.UNSURE, failure=error)
        else:
            attempt = self._weighed(reply)
        if attempt.seen is Seen.SUCCEEDED and attempt.reply is not None:
            self._accepted = attempt.reply
        # A cancellation leaves _in_flight set: the request may have left.
        self._in_flight = False
        return attempt

    def _weighed(self, reply: Reply) -> Attempt:
        """
        What an answer shows: a 2xx only what it proves, and any other only where it does not contradict itself.
        """
        seen, expected = classify(reply), self._expected
        if expected is None:
            return Attempt(seen, reply)
        doubt = expected.doubt(reply) if seen is Seen.SUCCEEDED else expected.doubt_of_no(reply)
        return Attempt(seen if doubt is None else Seen.UNSURE, reply, doubt=doubt)

    def _taint(self, attempt: Attempt) -> None:
        if attempt.seen in {Seen.UNSURE, Seen.SUCCEEDED} and not self._is_read:
            self._tainted = True

    def _delay(self, attempt: Attempt, remaining_s: float) -> float | None:
        """
        Seconds to wait before the next attempt, or None where there shall be none.
        """
        if self._attempts >= self._terms.max_attempts or not is_worth_repeating(attempt):
            return None
        ceiling = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2 ** (self._attempts - 1))
        wait_s = max(ceiling * self._terms.jitter(), retry_after(attempt.reply) or 0.0)
        return wait_s if wait_s < remaining_s else None

    def _conclude(self, last: Attempt) -> Reply:
        if self._accepted is not None:
            return self._accepted
        outcome = OUTCOMES[self._tainted, last.seen]
        if outcome == "not_sent":
            raise self._not_sent(last) from last.failure
        if outcome == "rejected" and last.reply is not None:
            raise self._rejected(last.reply) from None
        if self._is_read:
            if last.reply is not None and last.doubt is None:
                raise self._rejected(last.reply)
            raise self._not_sent(last) from last.failure
        raise self._unknown_after(last) from last.failure

    def _not_sent(self, last: Attempt) -> NotSentError:
        if isinstance(last.failure, NoTurnError):
            return self._had_no_turn(last.failure)
        if isinstance(last.failure, UnusableError):
            hint = f"{_HINT_OF_SETUP} {advice(self._terms.network.ignored())}".strip()
            message = f"Nothing was sent: {self._failure(last)}."
            return ConfigurationError(message, hint=hint, attempts=self._attempts, **self._facts)
        host = urlsplit(self._request.url).netloc
        if last.doubt is not None and last.reply is not None:
            what = f"{host} answered with HTTP {last.reply.status}, but not what was asked for: {last.doubt}"
            return NotSentError(
                f"Nothing moved: {what}.",
                hint=_HINT_OF_DOUBT,
                next="call_again",
                attempts=self._attempts,
                **self._facts,
            )
        what = f"no answer from {host}" if last.seen is Seen.UNSURE else f"{host} cannot be reached"
        ignored = self._terms.network.ignored() if last.seen is Seen.UNSENT else []
        hint = "Check the network and the base URL, then call again with the same parameters and idempotency key."
        return NotSentError(
            f"Nothing moved: {what} ({self._failure(last)}), after {self._times()}.",
            hint=f"{hint} {advice(ignored)}".strip(),
            next="call_again",
            attempts=self._attempts,
            **self._facts,
        )

    def _had_no_turn(self, why: NoTurnError) -> NotSentError:
        before = f" after {self._times()} that Stripe turned away or that did not reach it" if self._attempts else ""
        return NotSentError(
            f"Nothing moved: the request was not sent{before}, because {why}.",
            hint="Call again later, with the same parameters and idempotency key.",
            next="call_again",
            after_seconds=_LATER_S,
            attempts=self._attempts,
            **self._facts,
        )

    def _rejected(self, reply: Reply) -> RejectedError:
        def text(name: str) -> str | None:
            value = _text((reply.error or {}).get(name))
            return None if value is None else redact(value, _bare(self._api_key))

        code = text("code")
        cls = rejection_class(reply.status, code)
        return cls(
            text("message") or f"an answer without Stripe's error object, HTTP {reply.status}.",
            status=reply.status,
            type=text("type"),
            code=code,
            param=text("param"),
            request_id=reply.request_id,
            doc_url=text("doc_url"),
            retry_after_s=retry_after(reply),
            is_verdict=classify(reply) is Seen.REFUSED,
            next=_next_after(reply, text("type")),
            hint=self._hint_after(reply, text("type") or "", cls),
            attempts=self._attempts,
            **self._facts,
        )

    def _hint_after(self, reply: Reply, kind: str, cls: type[RejectedError]) -> str:
        usual = _HINT_OF_READS if self._is_read else _HINT_OF_REJECTION
        return _HINTS.get(kind) or _HINTS.get(cls) or (_HINT_OF_ANYONE if reply.error is None else usual)

    def _unknown_after(self, last: Attempt) -> OutcomeUnknownError:
        reply = last.reply
        if isinstance(last.failure, NoTurnError):
            return self.unknown(f"It was not sent again after {self._times()}, because {last.failure}.")
        if reply is None:
            return self.unknown(f"The last of {self._times()} ended with {self._failure(last)}.")
        said = redact(_text((reply.error or {}).get("message")) or "", _bare(self._api_key))
        said = said if last.doubt is None else f"It does not prove that the entry was made: {last.doubt}."
        message = f"The last of {self._times()} was answered with HTTP {reply.status}. {said}".strip()
        return self.unknown(message, reply)

    def unknown(self, message: str, reply: Reply | None = None) -> OutcomeUnknownError:
        facts: dict[str, Any] = {**self._facts, "attempts": self._attempts}
        if reply is not None and reply.is_replayed:
            # https://docs.stripe.com/error-low-level#server-errors: a stored 500 is repeated for 24 hours.
            facts["next"] = "stop_and_tell"
            facts["hint"] = (
                "Stripe stored this answer under the key and will repeat it for 24 hours. Do not use a new key: "
                "getBalanceCalls with this key looks for the entry among the customer's balance "
                "transactions, and says when it is sure that there is none."
            )
            facts["for_people"] = "'ocp-stripe-balance calls reconcile' does the same for every open call."
        return OutcomeUnknownError(
            message,
            status=reply.status if reply else None,
            request_id=reply.request_id if reply else None,
            **facts,
        )

    def _failure(self, last: Attempt) -> str:
        return redact(describe(last.failure), _bare(self._api_key))

    def _times(self) -> str:
        return "1 attempt" if self._attempts == 1 else f"{self._attempts} attempts"


_HINT_OF_DOUBT = "Call again with the same parameters. Where it stays so, a person must look at what is before Stripe."
_HINT_OF_SETUP = "A person must mend what is named; calling again will not help."
_HINT_OF_READS = "Mend what Stripe names and call again."
_HINT_OF_REJECTION = "Mend what Stripe names and call again, with a new idempotency key if the parameters change."
_HINT_OF_ANYONE = "Something before Stripe turned the request away, and a person must look at it and at the base URL."
_HINTS: dict[type[ToolError] | str, str] = {
    AuthenticationError: "A person must give this tool a valid API key; calling again will not help.",
    PermissionDeniedError: "A person must allow the API key to write customers; calling again will not help.",
    ResourceMissingError: "Check the ID that is named, and that it is of this account and mode; do not guess another.",
    RateLimitError: "Wait, then call again with the same parameters and idempotency key.",
    "idempotency_error": (
        "This idempotency key was used for another request in the last 24 hours. If this is another decision, use "
        "another key; if it is the same decision, the first request stands: do not repeat it."
    ),
}


def _next_after(reply: Reply, kind: str | None) -> Next | None:
    """
    What to do after a no, where it is not what its class says.
    """
    if kind == "idempotency_error":
        return "stop_and_tell"
    passing = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
    if reply.status in passing or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "call_again"
    return "stop_and_tell" if reply.error is None else None


def _bare(api_key: SecretStr | None) -> str:
    return "" if api_key is None else api_key.get_secret_value()


def _text(value: object) -> str | None:
    return escaped(value[:2000]) if isinstance(value, str) else None
