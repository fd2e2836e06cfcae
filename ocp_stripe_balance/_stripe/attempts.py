"""
What one attempt showed, and what a call has come to by it.

The rules are Stripe's: https://docs.stripe.com/error-low-level, https://docs.stripe.com/api/idempotent_requests
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._stripe.pace import NoTurnError
from ocp_stripe_balance._stripe.wire import CUT_OFF, UnusableError, WireError

if TYPE_CHECKING:
    from ocp_stripe_balance._stripe.body import Body
    from ocp_stripe_balance._stripe.wire import Headers
    from ocp_stripe_balance.errors import Outcome


class Seen(StrEnum):
    """
    What one attempt showed.
    """

    SUCCEEDED = "succeeded"
    """A 2xx that proves it: the money has moved."""
    REFUSED = "refused"
    """Stripe examined this very request and said no, which settles the call: a repeat is told the first result."""
    TURNED_AWAY = "turned away"
    """401, 403, 409, 429, or a 4xx that is not evidently Stripe's: not executed, and silent about earlier attempts."""
    UNSURE = "unsure"
    """Lost reply, 5xx, an answer that contradicts itself, or the key is in use: it may have been executed."""
    UNSENT = "unsent"
    """No connection was made, or none was tried because the request had no turn."""


_is_request_id = re.compile(r"req_\w{1,250}", re.ASCII).fullmatch
_SUCCESSES, _CLIENT_ERRORS = range(200, 300), range(400, 500)
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


class Reply(NamedTuple):
    """
    One HTTP response, read.
    """

    status: int
    headers: Headers
    body: Body
    lost_body: str | None
    """Why the body is not whole, or None where it is."""
    attempts: int

    @property
    def data(self) -> Any:
        """
        The JSON value of the body, or None where that is not JSON, or not whole.
        """
        return self.body.data

    @property
    def told(self) -> dict[str, Any]:
        """
        The JSON object of the body, as far as it arrived.
        """
        return self.data if isinstance(self.data, dict) else self.body.begun or {}

    @property
    def error(self) -> dict[str, Any] | None:
        """
        Stripe's error object, or None where the answer has none that is evidently Stripe's.
        """
        error = self.data.get("error") if isinstance(self.data, dict) else None
        kind = error.get("type") if isinstance(error, dict) else None
        if not isinstance(kind, str) or not kind.isidentifier():
            return None
        # Gateways send errors too, of such types too. Only some of Stripe's 401 come without its Request-Id.
        is_of_key = self.status == HTTPStatus.UNAUTHORIZED and kind == "invalid_request_error"
        return error if self.request_id is not None or is_of_key else None

    @property
    def request_id(self) -> str | None:
        """
        Stripe's ``req_…``, to be named to Stripe's support; what somebody else sends under that name is none.
        """
        request_id = self.headers.get("request-id") or ""
        return request_id if _is_request_id(request_id) else None

    @property
    def is_replayed(self) -> bool:
        """
        Whether Stripe answered from the first request under this key instead of executing again.
        """
        return bool(self.headers.get("idempotent-replayed") == "true")


class Attempt(NamedTuple):
    """
    What one attempt showed.
    """

    seen: Seen
    reply: Reply | None = None
    failure: BaseException | None = None
    doubt: str | None = None
    """Why its answer is not believed."""


def classify(reply: Reply) -> Seen:
    """
    What an HTTP answer shows about the attempt it answers, by its status and Stripe's error object.
    """
    status, error = reply.status, reply.error
    if status in _SUCCESSES:
        return Seen.SUCCEEDED
    if status in {408, 424} or status not in _CLIENT_ERRORS:
        return Seen.UNSURE
    if error is None:  # not Stripe's answer, or one that cannot be read
        # Under Stripe's Request-Id the request has been there: somebody put this in the place of the answer.
        is_refusal = status in _REFUSALS_OF_ANYONE and reply.request_id is None
        return Seen.TURNED_AWAY if is_refusal else Seen.UNSURE
    if status == HTTPStatus.CONFLICT and error.get("code") == "idempotency_key_in_use":
        return Seen.UNSURE  # a request with our key is running, and may be ours
    if status in {401, 403, 409, 429}:
        return Seen.TURNED_AWAY
    return Seen.REFUSED


def is_worth_repeating(attempt: Attempt) -> bool:
    """
    Whether another attempt may end otherwise: Stripe's own advice first, where it gave one.
    """
    reply = attempt.reply
    if isinstance(attempt.failure, NoTurnError | UnusableError):
        return False
    if reply is None:
        return attempt.seen is Seen.UNSENT or isinstance(attempt.failure, WireError | TimeoutError)
    if attempt.seen is Seen.SUCCEEDED or (reply.lost_body is not None and attempt.doubt is None):
        return reply.lost_body not in {None, CUT_OFF}
    advice = reply.headers.get("stripe-should-retry")
    if advice in {"true", "false"}:
        return bool(advice == "true")
    if reply.is_replayed:
        return False  # stored, so it will be the same again
    # Where a gateway answered in its place, Stripe's own answer may come through next time.
    is_passing = reply.status in {408, 409, 429} or attempt.doubt is not None
    return is_passing or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def retry_after(reply: Reply | None) -> float | None:
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
