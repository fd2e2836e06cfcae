"""
Every way a call can fail, branched by what the caller may do next.

    ToolError                         .outcome .next .tool .idempotency_key .hint .to_dict()
    ├── NotSentError                  not_sent: nothing left this process
    │   ├── InvalidParametersError    also a ValueError; .problems: path, message and hint each
    │   │   └── InvalidFileError      a list of many entries has mistakes; .number of them
    │   ├── ConfigurationError        a setting, a key or a base URL is missing or impossible
    │   │   └── APINotFound           no installed package publishes that API
    │   ├── PolicyRefusedError        .rule names the guardrail
    │   │   └── ApprovalRequiredError a person decides; call again with the same key afterwards
    │   └── IdempotencyConflictError  the key already belongs to another call
    ├── RejectedError                 rejected: Stripe said no, nothing moved
    │   ├── AuthenticationError       401
    │   ├── PermissionDeniedError     403
    │   ├── ResourceMissingError      404, code resource_missing
    │   └── RateLimitError            429, wait and call again with the same key
    └── OutcomeUnknownError           unknown: it may have moved; find out with the same key

`next` says what to do, in one word of five:

    mend_and_call_again       mend what is named, or use what is named, and call again
    call_again                the same call, at once or after so many seconds (after_seconds)
    call_again_once_approved  the same call, once a person approved
    wait_until                the same call, at the time that is named (free_at)
    stop_and_tell             nothing more; tell whoever asked

Cancelling a call before anything was sent raises `asyncio.CancelledError` as usual; cancelling it
afterwards raises `OutcomeUnknownError`, because a caller that saw a bare timeout would pay again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from ocp_stripe_balance._text.plain import escaped
from ocp_stripe_balance._text.secrets import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_E = TypeVar("_E", bound="ToolError")
Outcome = Literal["succeeded", "rejected", "not_sent", "unknown"]
Next = Literal["mend_and_call_again", "call_again", "call_again_once_approved", "wait_until", "stop_and_tell"]
"""What the caller of a call that did not succeed does next."""
_SAME_CALL = {"call_again", "call_again_once_approved", "wait_until"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """
    One thing wrong with the parameters of a call.
    """

    path: str
    """Where: a parameter's name, or a path below it such as ``metadata.ticket`` or ``expand[0]``."""
    message: str
    """What was wrong with it."""
    hint: str = ""
    """What would be right."""

    def __str__(self) -> str:
        """
        One line: path, message and hint.
        """
        return f"{self.path}: {self.message}" + (f"; {self.hint}" if self.hint else "")


class ToolError(Exception):
    """
    The root: catches every error a call can end with.
    """

    outcome: Outcome
    """What became of the money: nothing moved for ``not_sent`` and ``rejected``."""
    code_for_model: ClassVar[str] = "tool_error"
    next: Next = "stop_and_tell"
    """What to do next, in one word of the five above."""
    after_seconds: float | None = None
    """How long to wait before the same call is made again, where that is known."""
    warnings: tuple[str, ...] = ()
    """What else the caller should know, such as a parameter that was left out."""

    def __init__(  # noqa: D107, PLR0913  fields are documented on the class; each is a fact of the failure
        self,
        message: str,
        *,
        lines: Iterable[object] = (),
        tool: str | None = None,
        idempotency_key: str | None = None,
        next: Next | None = None,  # noqa: A002  the word of the answer
        hint: str = "",
        for_people: str = "",
        after_seconds: float | None = None,
        attempts: int = 0,
    ) -> None:
        # What others wrote stands in messages, and must not look like a line of ours.
        listed = "".join(f"- {_line(each)}\n" for each in lines)
        super().__init__(_line(message) + ("\n" + listed if listed else ""))
        self.tool = tool
        self.idempotency_key = idempotency_key
        if next is not None:
            self.next = next
        if after_seconds is not None:
            self.after_seconds = after_seconds
        self.hint = _line(hint)
        """What to do next, in a sentence for a model or a person."""
        self.for_people = _line(for_people)
        """What a person can do, such as a command, which no model is told."""
        self.attempts = attempts
        """How many times a connection to Stripe was tried."""

    @property
    def retryable(self) -> bool:
        """
        Whether the same call may end otherwise; `next` says more, and the next version has it alone.
        """
        return self.next in _SAME_CALL

    @property
    def why(self) -> str:
        """
        What went wrong, without what it says of the money: for a message about another call, whose may have moved.
        """
        return str(self.args[0]).removeprefix("Nothing moved: ").removeprefix("Nothing was sent: ")

    @property
    def reason(self) -> str:
        """
        The error in one word, as ``policy_refused``: what stands beside a status in an agent's history.
        """
        return self.code_for_model

    def __str__(self) -> str:
        """
        What happened, what did not, and what to do next.
        """
        message, named = str(self.args[0]), f"{self.args[0]} {self.hint}"
        is_named = not self.idempotency_key or repr(self.idempotency_key) in named
        key = "" if is_named else f"(idempotency key {self.idempotency_key})"
        rest = " ".join(part for part in (self.hint, self.for_people, key) if part)
        return message + ("" if message.endswith("\n") else " ") * bool(rest) + rest

    def told_of(
        self, tool: str | None, idempotency_key: str | None, hint: str | None = None, *, stops: bool = False
    ) -> Self:
        """
        The same failure as that of another call; with *hint* in place of its own advice, and an end where it *stops*.
        """
        other = _restore(type(self), self.args, dict(self.__dict__))
        other.tool, other.idempotency_key = tool, idempotency_key
        other.hint = self.hint if hint is None else hint
        other.next = "stop_and_tell" if stops else self.next
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """
        Pickle by fields, so that a worker process can hand an error to its parent.
        """
        return _restore, (type(self), self.args, self.__dict__)

    def to_dict(self) -> dict[str, Any]:
        """
        The error as JSON for the model: ``error``, ``outcome``, ``message``, ``next``, ``hint`` and more.
        """
        facts: dict[str, Any] = {
            "error": self.code_for_model,
            "outcome": self.outcome,
            "message": str(self.args[0]),
            "next": self.next,
            "after_seconds": self.after_seconds,
            "hint": self.hint,
            "tool": self.tool,
            "idempotency_key": self.idempotency_key,
            "warnings": list(self.warnings) or None,
        }
        return {name: value for name, value in facts.items() if value not in (None, "")}


def _line(text: object) -> str:
    return escaped(redact(str(text)))


def _restore(cls: type[_E], args: tuple[Any, ...], fields: dict[str, Any]) -> _E:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class NotSentError(ToolError):
    """
    Nothing left this process, so nothing moved; call again with the same key.

    Stripe could not be reached, too many requests wait for their turn, or the customer could not be read.
    """

    outcome = "not_sent"
    code_for_model = "not_sent"


class InvalidParametersError(NotSentError, ValueError):
    """
    The parameters break the tool's schema; `problems` lists all that is wrong at once.
    """

    code_for_model = "invalid_parameters"
    next: Next = "mend_and_call_again"
    _said = "Nothing was sent: the call is not valid."

    def __init__(self, problems: Sequence[Problem], **facts: Any) -> None:
        """
        Describe *problems*, of which there is at least one.
        """
        self.problems = tuple(
            Problem(path=_line(p.path), message=_line(p.message), hint=_line(p.hint)) for p in problems
        )
        facts.setdefault("hint", "Mend the parameters and call again.")
        super().__init__(self._said, lines=self.problems, **facts)

    def to_dict(self) -> dict[str, Any]:
        """
        As for every error, with ``problems``: a list of path, message and hint.
        """
        message = f"{self._said} " + " | ".join(map(str, self.problems))
        return {**super().to_dict(), "message": message, "problems": [asdict(problem) for problem in self.problems]}


class InvalidFileError(InvalidParametersError):
    """
    A list of many entries has mistakes, or is no list; `problems` names them by line and column.
    """

    code_for_model = "invalid_file"

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        number: int | None = None,
        why: str = "the list has mistakes",
        **facts: Any,
    ) -> None:
        """
        Describe *problems*, the first of *number*.
        """
        self._said = f"Nothing was planned, and nothing was sent: {why}."
        facts.setdefault("hint", "Mend the list and plan it again.")
        super().__init__(problems, **facts)
        self.number = len(self.problems) if number is None else number
        """How many mistakes there are; of hundreds, the first are in `problems`."""

    def to_dict(self) -> dict[str, Any]:
        """
        As for invalid parameters, with the ``number`` of mistakes.
        """
        return {**super().to_dict(), "number": self.number}


class ConfigurationError(NotSentError):
    """
    A person must mend the set-up: a setting, a key or a base URL is missing or impossible.
    """

    code_for_model = "configuration"


class APINotFound(ConfigurationError):  # noqa: N818  the name on the SDK's surface
    """
    No installed package publishes an API of that name.
    """

    code_for_model = "api_not_found"

    def __init__(self, api_name: str, suggestions: Sequence[str], **facts: Any) -> None:
        """
        Name the API that was asked for and the nearest ones there are.
        """
        self.api_name = api_name
        self.suggestions = list(suggestions)
        near = f"Did you mean {' or '.join(suggestions)}? " if suggestions else ""
        facts.setdefault(
            "hint",
            f"{near}This host publishes the APIs of installed packages; "
            "to discover an API from an OpenAPI document, use the OCP SDK.",
        )
        super().__init__(f"API {api_name!r} is not installed.", **facts)


class PolicyRefusedError(NotSentError):
    """
    A guardrail stopped the call before anything was sent; `next` says whether to wait, mend it or ask a person.
    """

    code_for_model = "policy_refused"

    def __init__(
        self,
        message: str,
        *,
        rule: str,
        limit: str | None = None,
        left: str | None = None,
        free_at: str | None = None,
        **facts: Any,
    ) -> None:
        """
        Say what was refused; *rule* names the guardrail.
        """
        super().__init__(message, **facts)
        self.rule = rule
        """The guardrail, as ``limits.credit.usd``."""
        self.limit = limit
        """How much the rule allows, as ``20.00 usd``, where it is about amounts or numbers."""
        self.left = left
        """How much of that is left."""
        self.free_at = free_at
        """When the rule would let the same call through (ISO 8601, UTC)."""

    def to_dict(self) -> dict[str, Any]:
        """
        As for every error, with ``rule``, and ``limit``, ``left`` and ``free_at`` where the rule has them.
        """
        facts = {name: getattr(self, name) for name in ("rule", "limit", "left", "free_at")}
        return {**super().to_dict(), **{name: value for name, value in facts.items() if value is not None}}


class ApprovalRequiredError(PolicyRefusedError):
    """
    The call waits for a person; once it is approved, the same call with this `idempotency_key` runs.
    """

    code_for_model = "approval_required"
    next: Next = "call_again_once_approved"

    def __init__(self, message: str, *, proposal_id: str, expires_at: str, **facts: Any) -> None:
        """
        Say what waits, and until when (ISO 8601, UTC).
        """
        super().__init__(message, **facts)
        self.proposal_id = proposal_id
        self.expires_at = expires_at

    def to_dict(self) -> dict[str, Any]:
        """
        As for a refusal, with ``proposal_id`` and ``expires_at``.
        """
        return {**super().to_dict(), "proposal_id": self.proposal_id, "expires_at": self.expires_at}


class IdempotencyConflictError(NotSentError):
    """
    The key or the reference belongs to another call: repeat its parameters, or use another key or reference.
    """

    code_for_model = "idempotency_conflict"
    next: Next = "mend_and_call_again"


class RejectedError(ToolError):
    """
    Stripe answered and said no; nothing moved. Mend what it names.

    The fields are those of Stripe's error object: https://docs.stripe.com/api/errors
    """

    outcome = "rejected"
    code_for_model = "rejected"
    next: Next = "mend_and_call_again"

    def __init__(  # noqa: PLR0913  the fields of Stripe's error object
        self,
        message: str,
        *,
        status: int,
        type: str | None = None,  # noqa: A002  Stripe's name
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        doc_url: str | None = None,
        retry_after_s: float | None = None,
        is_verdict: bool = False,
        **facts: Any,
    ) -> None:
        """
        Carry what Stripe said; *message* is Stripe's own sentence.
        """
        self.is_verdict = is_verdict
        """Whether Stripe examined the request itself, so that the same call would be told the same."""
        self.message = redact(message)
        stop = "" if self.message.endswith((".", "!", "?")) else "."
        # Another request stands under the key of an idempotency_error, so only this one moved nothing.
        said = "This request moved nothing" if type == "idempotency_error" else "Nothing moved"
        super().__init__(
            f"{said}: Stripe rejected the call ({status}): {self.message}{stop}", after_seconds=retry_after_s, **facts
        )
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.request_id = request_id
        self.doc_url = doc_url
        self.retry_after_s = retry_after_s

    def to_dict(self) -> dict[str, Any]:
        """
        As for every error, with Stripe's ``status``, ``type``, ``code``, ``param``, ``request_id`` and ``doc_url``.
        """
        names = ("status", "type", "code", "param", "request_id", "doc_url")
        stripe = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**super().to_dict(), "stripe_message": self.message, **stripe}


class AuthenticationError(RejectedError):
    """
    Stripe does not know the API key, or it has expired (401); a person mends it.
    """

    code_for_model = "authentication"
    next: Next = "stop_and_tell"


class PermissionDeniedError(RejectedError):
    """
    The API key may not do this (403); a person mends it.
    """

    code_for_model = "permission_denied"
    next: Next = "stop_and_tell"


class ResourceMissingError(RejectedError):
    """
    There is no such customer or entry in this account and mode (404); check the ID.
    """

    code_for_model = "resource_missing"
    next: Next = "stop_and_tell"


class RateLimitError(RejectedError):
    """
    Too many requests, or another one holds the customer's lock (429); wait and call again with the same key.
    """

    code_for_model = "rate_limit"
    next: Next = "call_again"
    after_seconds = 2.0


def rejection_class(status: int, code: str | None) -> type[RejectedError]:
    """
    The class for an answer of Stripe's that is a no.
    """
    if status == HTTPStatus.NOT_FOUND and code != "resource_missing":  # an unknown URL
        return RejectedError
    classes: dict[int, type[RejectedError]] = {
        401: AuthenticationError,
        403: PermissionDeniedError,
        404: ResourceMissingError,
        429: RateLimitError,
    }
    return classes.get(status, RejectedError)


def rejection(told: dict[str, Any], **facts: Any) -> RejectedError:
    """
    The error whose `RejectedError.to_dict` was kept as *told*.
    """
    names = ("status", "type", "code", "param", "request_id", "doc_url", "next", "hint")
    said = {name: told[name] for name in names if name in told}
    cls = rejection_class(told["status"], told.get("code"))
    return cls(told["stripe_message"], is_verdict=True, **said, **facts)


class OutcomeUnknownError(ToolError):
    """
    The money may have moved: call again with the same parameters and this idempotency key, never with a new one.

    The reply was lost or proves nothing, Stripe answered 5xx, or the call was cancelled under way.
    """

    outcome = "unknown"
    code_for_model = "outcome_unknown"
    next: Next = "call_again"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        free_at: str | None = None,
        is_under_way: bool = False,
        **facts: Any,
    ) -> None:
        """
        Say what was seen; *status* and *request_id* are those of the last answer, where there was one.
        """
        key = facts.get("idempotency_key")
        facts.setdefault(
            "hint",
            f"Call again with the same parameters and idempotency_key {key!r} to find out: Stripe then answers with "
            "the first result instead of moving money again. Never use a new key.",
        )
        super().__init__(f"The outcome is unknown: the call may have taken effect. {message}", **facts)
        self.status = status
        self.request_id = request_id
        self.free_at = free_at
        """Where a rule stands in the way of finding out: when it would not any more (ISO 8601, UTC)."""
        self.is_under_way = is_under_way
        """Whether another caller is sending this very call, and will know its outcome."""

    def to_dict(self) -> dict[str, Any]:
        """
        As for every error, with ``status`` and ``request_id`` where Stripe answered, and ``free_at``.
        """
        seen = {"status": self.status, "request_id": self.request_id, "free_at": self.free_at}
        return {**super().to_dict(), **{name: value for name, value in seen.items() if value is not None}}
