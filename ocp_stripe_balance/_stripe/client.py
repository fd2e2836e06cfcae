"""
The async HTTP executor: one call is one request under one idempotency key, sent until it is settled.

What an attempt showed decides twice: whether to try again, and what the caller is told. The rules are
Stripe's (https://docs.stripe.com/error-low-level, https://docs.stripe.com/api/idempotent_requests).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import httpx
from pydantic_core import from_json

from ocp_stripe_balance._stripe.http1 import Http1Exchange
from ocp_stripe_balance._stripe.pace import NoTurnError
from ocp_stripe_balance._stripe.transport import HttpxExchange
from ocp_stripe_balance._stripe.wire import CUT_OFF, describe
from ocp_stripe_balance._telemetry import WatchedAttempt
from ocp_stripe_balance._text.secrets import redact, scrub
from ocp_stripe_balance.errors import (
    AuthenticationError,
    NotSentError,
    Outcome,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitError,
    RejectedError,
    ResourceMissingError,
    ToolError,
    rejection_class,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import SecretStr

    from ocp_stripe_balance._stripe.pace import Pace, Pacer
    from ocp_stripe_balance._stripe.request import WireRequest
    from ocp_stripe_balance._stripe.wire import Exchange, Headers

_BACKOFF_BASE_S = 0.5
_LEAST_SHARE, _LEAST_S = 0.1, 1.0
_BACKOFF_CAP_S = 8.0
# Only these prove that nothing was sent; any other failure may have come after the request arrived.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Seen(StrEnum):
    """
    What one attempt showed.
    """

    SUCCEEDED = "succeeded"
    """A 2xx: the money has moved."""
    REFUSED = "refused"
    """Stripe examined this very request and said no, which settles the call: a repeat is told the first result."""
    TURNED_AWAY = "turned away"
    """401, 403, 409, 429, or a 4xx that is not Stripe's: not executed, and silent about earlier attempts."""
    UNSURE = "unsure"
    """Lost reply, 5xx, or the key is in use: it may have been executed."""
    UNSENT = "unsent"
    """No connection was made, or none was tried because the request had no turn."""


# Statuses that say, whoever sends them, that the request was not passed on or not executed (RFC 9110, section 15.5).
_REFUSALS_OF_ANYONE = frozenset({400, 401, 403, 404, 405, 406, 407, 411, 413, 414, 415, 417, 421, 426, 429, 431, 451})

# (may an earlier attempt have been executed?, what this one showed) -> what the call has come to
OUTCOMES: dict[tuple[bool, Seen], Outcome] = {
    (False, Seen.SUCCEEDED): "succeeded",
    (False, Seen.REFUSED): "rejected",
    (False, Seen.TURNED_AWAY): "rejected",
    (False, Seen.UNSURE): "unknown",
    (False, Seen.UNSENT): "not_sent",
    (True, Seen.SUCCEEDED): "succeeded",
    (True, Seen.REFUSED): "rejected",
    (True, Seen.TURNED_AWAY): "unknown",
    (True, Seen.UNSURE): "unknown",
    (True, Seen.UNSENT): "unknown",
}


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

    @staticmethod
    def monotonic() -> float:
        """
        Seconds that only grow, also while the machine sleeps, where the system can tell.
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Reply(NamedTuple):
    """
    One HTTP response, read.
    """

    status: int
    headers: Headers
    body: bytes
    data: Any
    """The JSON value of the body, or None where it is not JSON."""
    lost_body: str | None
    """Why the body is not whole, or None where it is."""
    attempts: int

    @property
    def text(self) -> str:
        """
        The JSON of `data`: as it came, where that is UTF-8 and begins like an object, else written anew.
        """
        if self.body[:1] == b"{" and self.body[1:2] != b"\0":  # UTF-16 has zeros there
            with contextlib.suppress(UnicodeDecodeError):
                return self.body.decode()
        return json.dumps(self.data)

    @property
    def error(self) -> dict[str, Any] | None:
        """
        Stripe's error object, or None where the answer has none.
        """
        error = self.data.get("error") if isinstance(self.data, dict) else None
        # Gateways send errors too; Stripe's have a type, such as invalid_request_error.
        is_stripes = isinstance(error, dict) and str(error.get("type")).endswith("_error")
        return error if is_stripes else None

    @property
    def request_id(self) -> str | None:
        """
        Stripe's ``req_…``, to be named to Stripe's support.
        """
        request_id: str | None = self.headers.get("request-id")
        return request_id

    @property
    def is_replayed(self) -> bool:
        """
        Whether Stripe answered from the first request under this key instead of executing again.
        """
        return bool(self.headers.get("idempotent-replayed") == "true")


class _Attempt(NamedTuple):
    seen: Seen
    reply: Reply | None = None
    failure: BaseException | None = None


class Executor:
    """
    Sends requests; safe for many calls at once in one event loop.
    """

    def __init__(  # noqa: PLR0913  what a client is made with, and what tests swap
        self,
        *,
        timeout_s: float,
        max_attempts: int,
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
            transport: instead of our own connections.
            has_details: whether spans may tell IDs.
            pace: gives requests their turns; without it, all go at once.
            clock: the time, for tests.
            jitter: a number from 0 to 1, for tests.
        """
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._transport = transport
        self._has_details = has_details
        self._pace = pace
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._exchange: Exchange | None = None

    async def execute(
        self,
        request: WireRequest,
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
        call = _Call(self, request, tool, idempotency_key, is_tainted=is_resumed)
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
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.aclose()

    async def send(self, request: WireRequest, remaining_s: float, attempt: int) -> Reply:
        """
        One exchange, with the body read up to 1 MB. A redirect is returned, never followed.

        Raises:
            httpx.TransportError: no response.
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
        body, headers = _without_key(received.body, received.headers, _bare(request.api_key))
        lost = received.lost_body
        lost = None if lost is None else redact(lost, _bare(request.api_key))
        return Reply(
            status=received.status,
            headers=headers,
            body=body,
            data=_json(body),
            lost_body=lost,
            attempts=attempt,
        )

    def _open(self) -> Exchange:
        if self._exchange is None:
            self._exchange = HttpxExchange(self._transport) if self._transport else Http1Exchange()
        return self._exchange


class _Call:
    """
    The attempts of one call, and what they add up to.
    """

    def __init__(
        self, executor: Executor, request: WireRequest, tool: str, key: str | None, *, is_tainted: bool
    ) -> None:
        self._executor = executor
        self._request = request
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
        executor = self._executor
        clock = executor._clock  # noqa: SLF001  one subject, two classes
        deadline = clock.monotonic() + timeout_s
        while True:
            if executor._pace is None:  # noqa: SLF001  see above
                attempt = await self._attempt(deadline - clock.monotonic())
            else:
                attempt = await self._paced_attempt(executor._pace.pacer_of(self._request), deadline)  # noqa: SLF001
            delay_s = self._delay(attempt, deadline - clock.monotonic())
            if delay_s is None:
                return self._conclude(attempt)
            self._taint(attempt)
            await clock.sleep(delay_s)
            if clock.monotonic() >= deadline:  # the process was stopped: others may have the call by now
                return self._conclude(attempt)

    async def _paced_attempt(self, pacer: Pacer, deadline: float) -> _Attempt:
        """
        One attempt, when it is this request's turn.
        """
        clock, request = self._executor._clock, self._request  # noqa: SLF001  see above
        patience_s = deadline - clock.monotonic()
        try:
            # Sent at the last moment, it would hardly be answered in time, and be unknown instead of not sent.
            async with pacer.turn(request, patience_s - min(patience_s * _LEAST_SHARE, _LEAST_S)):
                remaining_s = deadline - clock.monotonic()
                if remaining_s <= 0:  # the process was stopped: others may have the call by now
                    raise NoTurnError("the call's deadline had passed when its turn came")  # noqa: TRY301  as without a turn
                attempt = await self._attempt(remaining_s)
        except NoTurnError as error:
            return _Attempt(Seen.UNSENT, failure=error)
        reply = attempt.reply
        if reply is not None and reply.status == 429 and (reply.error or {}).get("code") == "rate_limit":  # noqa: PLR2004
            pacer.slow_down(request, reply.headers.get("stripe-rate-limited-reason"))
        return attempt

    async def _attempt(self, remaining_s: float) -> _Attempt:
        self._attempts += 1
        self._in_flight = True
        try:
            reply = await self._executor.send(self._request, remaining_s, self._attempts)
        except _UNSENT as error:
            attempt = _Attempt(Seen.UNSENT, failure=error)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  whatever a transport raises, the request may have left
            attempt = _Attempt(Seen.UNSURE, failure=error)
        else:
            attempt = _Attempt(classify(reply.status, reply.error), reply)
        if attempt.seen is Seen.SUCCEEDED and attempt.reply is not None:
            self._accepted = attempt.reply
        # A cancellation leaves _in_flight set: the request may have left.
        self._in_flight = False
        return attempt

    def _taint(self, attempt: _Attempt) -> None:
        if attempt.seen in {Seen.UNSURE, Seen.SUCCEEDED} and not self._is_read:
            self._tainted = True

    def _delay(self, attempt: _Attempt, remaining_s: float) -> float | None:
        """
        Seconds to wait before the next attempt, or None where there shall be none.
        """
        executor = self._executor
        if self._attempts >= executor._max_attempts or not _is_worth_repeating(attempt):  # noqa: SLF001
            return None
        ceiling = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2 ** (self._attempts - 1))
        wait_s = max(ceiling * executor._jitter(), _retry_after(attempt.reply) or 0.0)  # noqa: SLF001
        return wait_s if wait_s < remaining_s else None

    def _conclude(self, last: _Attempt) -> Reply:
        if self._accepted is not None:
            return self._accepted
        outcome = OUTCOMES[self._tainted, last.seen]
        if outcome == "not_sent":
            raise self._not_sent(last) from last.failure
        if outcome == "rejected" and last.reply is not None:
            raise self._rejected(last.reply) from None
        if self._is_read:
            raise (self._rejected(last.reply) if last.reply else self._not_sent(last)) from last.failure
        raise self._unknown_after(last) from last.failure

    def _not_sent(self, last: _Attempt) -> NotSentError:
        if isinstance(last.failure, NoTurnError):
            return self._had_no_turn(last.failure)
        host = httpx.URL(self._request.url).netloc.decode("ascii")
        what = f"no answer from {host}" if last.seen is Seen.UNSURE else f"{host} cannot be reached"
        return NotSentError(
            f"Nothing moved: {what} ({self._failure(last)}), after {self._times()}.",
            hint="Check the network and the base URL, then call again with the same parameters and idempotency key.",
            retryable=True,
            attempts=self._attempts,
            **self._facts,
        )

    def _had_no_turn(self, why: NoTurnError) -> NotSentError:
        before = f" after {self._times()} that Stripe turned away or that did not reach it" if self._attempts else ""
        return NotSentError(
            f"Nothing moved: the request was not sent{before}, because {why}.",
            hint="Call again later, with the same parameters and idempotency key.",
            retryable=True,
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
            retry_after_s=_retry_after(reply),
            is_verdict=classify(reply.status, reply.error) is Seen.REFUSED,
            retryable=cls is RateLimitError,
            hint=_HINTS.get(
                text("type") or "", _HINTS.get(cls, _HINT_OF_READS if self._is_read else _HINTS[RejectedError])
            ),
            attempts=self._attempts,
            **self._facts,
        )

    def _unknown_after(self, last: _Attempt) -> OutcomeUnknownError:
        reply = last.reply
        if isinstance(last.failure, NoTurnError):
            return self.unknown(f"It was not sent again after {self._times()}, because {last.failure}.")
        if reply is None:
            return self.unknown(f"The last of {self._times()} ended with {self._failure(last)}.")
        said = redact(_text((reply.error or {}).get("message")) or "", _bare(self._api_key))
        message = f"The last of {self._times()} was answered with HTTP {reply.status}. {said}".strip()
        return self.unknown(message, reply)

    def unknown(self, message: str, reply: Reply | None = None) -> OutcomeUnknownError:
        facts: dict[str, Any] = {**self._facts, "attempts": self._attempts}
        if reply is not None and reply.is_replayed:
            # https://docs.stripe.com/error-low-level#server-errors: a stored 500 is repeated for 24 hours.
            facts["retryable"] = False
            facts["hint"] = (
                "Stripe stored this answer under the key and will repeat it for 24 hours. Do not use a new key: "
                "'ocp-stripe-balance journal reconcile' looks for the entry among the customer's balance transactions, "
                "and says when it is sure that there is none."
            )
        return OutcomeUnknownError(
            message,
            status=reply.status if reply else None,
            request_id=reply.request_id if reply else None,
            **facts,
        )

    def _failure(self, last: _Attempt) -> str:
        return redact(describe(last.failure), _bare(self._api_key))

    def _times(self) -> str:
        return "1 attempt" if self._attempts == 1 else f"{self._attempts} attempts"


def classify(status: int, error: dict[str, Any] | None) -> Seen:
    """
    What an HTTP answer shows about the attempt it answers; *error* is Stripe's error object, if it sent one.
    """
    if 200 <= status < 300:  # noqa: PLR2004
        return Seen.SUCCEEDED
    if status in {408, 424} or not 400 <= status < 500:  # noqa: PLR2004
        return Seen.UNSURE
    if error is None:  # not Stripe's answer, or one that cannot be read
        return Seen.TURNED_AWAY if status in _REFUSALS_OF_ANYONE else Seen.UNSURE
    if status == 409 and error.get("code") == "idempotency_key_in_use":  # noqa: PLR2004
        return Seen.UNSURE  # a request with our key is running, and may be ours
    if status in {401, 403, 409, 429}:
        return Seen.TURNED_AWAY
    return Seen.REFUSED


def _is_worth_repeating(attempt: _Attempt) -> bool:
    reply = attempt.reply
    if isinstance(attempt.failure, NoTurnError):
        return False
    if reply is None:
        return attempt.seen is Seen.UNSENT or isinstance(attempt.failure, httpx.TransportError | TimeoutError)
    if attempt.seen is Seen.SUCCEEDED:
        return reply.lost_body not in {None, CUT_OFF}
    advice = reply.headers.get("stripe-should-retry")
    if advice in {"true", "false"}:
        return bool(advice == "true")
    if reply.is_replayed:
        return False  # stored, so it will be the same again
    return reply.status in {408, 409, 429} or reply.status >= 500  # noqa: PLR2004


_HINT_OF_READS = "Mend what Stripe names and call again."
_HINTS: dict[type[ToolError] | str, str] = {
    AuthenticationError: "A person must give this tool a valid API key; calling again will not help.",
    PermissionDeniedError: "A person must allow the API key to write customers; calling again will not help.",
    ResourceMissingError: "Check the ID that is named, and that it is of this account and mode; do not guess another.",
    RateLimitError: "Wait, then call again with the same parameters and idempotency key.",
    RejectedError: "Mend what Stripe names and call again, with a new idempotency key if the parameters change.",
    "idempotency_error": (
        "This idempotency key was used for another request in the last 24 hours. If this is another decision, use "
        "another key; if it is the same decision, the first request stands: do not repeat it."
    ),
}


def _bare(api_key: SecretStr | None) -> str:
    return "" if api_key is None else api_key.get_secret_value()


def _without_key(body: bytes, headers: Headers, secret: str) -> tuple[bytes, Headers]:
    """
    The response without the API key, should a proxy or a server echo it.
    """
    if not secret:
        return body, headers
    if secret.encode() in body:
        body = body.replace(secret.encode(), b"[api key]")
    return body, headers.without(secret)


def _json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:  # what the standard library takes all the same: a lone surrogate, UTF-16
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(body)
    return None


def _text(value: object) -> str | None:
    return value[:2000] if isinstance(value, str) else None


def _retry_after(reply: Reply | None) -> float | None:
    """
    Seconds Stripe asks to wait: Retry-After as seconds or as a date (RFC 9110, section 10.2.3).
    """
    value = reply.headers.get("retry-after") if reply else None
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max((when - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, OverflowError, TypeError, IndexError):  # nonsense, which has many forms
        return None
