"""
Seeing it work: one log line per call, and where OpenTelemetry's API is installed, spans and metrics.

A call is a tool execution of the GenAI conventions (https://opentelemetry.io/docs/specs/semconv/gen-ai/), an attempt an
HTTP client request (https://opentelemetry.io/docs/specs/semconv/http/). Neither has the API key, nor, unless switched
on, amounts, customers or words. Nothing is sent to Stripe for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._text.plain import escaped
from ocp_stripe_balance._text.secrets import redact
from ocp_stripe_balance.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from ocp_stripe_balance._stripe.request import Request
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.models import ToolResult

logger = logging.getLogger("ocp_stripe_balance")
logger.addHandler(logging.NullHandler())

_NAME = "ocp_stripe_balance"
# The buckets that both conventions recommend, in seconds.
_TOOL_BUCKETS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_HTTP_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
_FIRST_ERROR = 400
_NOTHING = contextlib.nullcontext()
# How a call without result or error of its own ended; none of these is an error.
_OUTCOMES: dict[type[BaseException] | None, str] = {
    None: "succeeded",
    GeneratorExit: "succeeded",
    asyncio.CancelledError: "cancelled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruments:
    """
    What spans and metrics are made with.
    """

    tracer: Any
    tool_duration: Any
    http_duration: Any
    trace: Any
    """OpenTelemetry's module of that name, which is imported only where it is used."""
    context: Any
    """The same."""

    @classmethod
    def of(cls, tracer_provider: Any = None, meter_provider: Any = None) -> Instruments:
        """
        Those of the given providers, else of the process's.
        """
        with no_fork:
            from opentelemetry import context, metrics, trace  # optional, and 15 ms

            meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
            return cls(
                tracer=trace.get_tracer(_NAME, tracer_provider=tracer_provider),
                tool_duration=meter.create_histogram(
                    "gen_ai.execute_tool.duration",
                    unit="s",
                    description="Duration of tool executions.",
                    explicit_bucket_boundaries_advisory=_TOOL_BUCKETS,
                ),
                http_duration=meter.create_histogram(
                    "http.client.request.duration",
                    unit="s",
                    description="Duration of HTTP client requests.",
                    explicit_bucket_boundaries_advisory=_HTTP_BUCKETS,
                ),
                trace=trace,
                context=context,
            )


@cache
def instruments() -> Instruments | None:
    """
    Those of the process, or None where OpenTelemetry's API is not installed, or is older than we know it.
    """
    if find_spec("opentelemetry") is None:
        return None
    try:
        return Instruments.of()
    except Exception:  # noqa: BLE001  whoever watches cannot stop a call
        return None


class WatchedCall:
    """
    One call of a tool, watched from its beginning to its outcome.
    """

    def __init__(self, tool: ToolSpec, parameters: object, call_id: str | None, *, has_details: bool) -> None:
        """
        Prepare.

        Args:
            tool: that is called.
            parameters: told only where *has_details*.
            call_id: the one the host gave the call.
            has_details: whether amounts, customers and words may be told.
        """
        self._tool = tool
        self._parameters = parameters
        self._call_id = call_id
        self._has_details = has_details
        self._result: ToolResult | None = None
        self._instruments = instruments()
        self._span: Any = None

    def __enter__(self) -> Self:
        """
        Begin.
        """
        self._began = time.perf_counter()
        try:
            self._begin()
        except Exception:  # noqa: BLE001  whoever watches cannot stop a call
            self._instruments = None
        return self

    def _begin(self) -> None:
        if self._instruments is not None:
            attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": self._tool.name}
            attributes["gen_ai.tool.type"] = "extension"
            if self._call_id is not None:
                attributes["gen_ai.tool.call.id"] = redact(str(self._call_id))
            if self._has_details:
                attributes["gen_ai.tool.call.arguments"] = redact(json.dumps(self._parameters, default=repr))
            self._span = self._instruments.tracer.start_span(f"execute_tool {self._tool.name}", attributes=attributes)

    def current(self) -> contextlib.AbstractContextManager[None]:
        """
        While this lasts, what happens belongs to the call's span.
        """
        return _NOTHING if self._instruments is None else self._attached(self._instruments)

    @contextlib.contextmanager
    def _attached(self, instruments: Instruments) -> Iterator[None]:
        token = None
        with contextlib.suppress(Exception):
            token = instruments.context.attach(instruments.trace.set_span_in_context(self._span))
        try:
            yield
        finally:
            with contextlib.suppress(Exception):
                if token is not None:
                    instruments.context.detach(token)

    def succeeded(self, result: ToolResult) -> ToolResult:
        """
        Note the result.
        """
        self._result = result
        return result

    def __exit__(self, cls: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """
        Tell the outcome.
        """
        try:  # noqa: SIM105  which would take longer than all else here
            self._end(cls, error)
        except Exception:  # noqa: BLE001, S110  it is told to the caller, whoever watches
            pass

    def _end(self, cls: type[BaseException] | None, error: BaseException | None) -> None:
        seconds = time.perf_counter() - self._began
        known = self._result if self._result is not None else error
        outcome = getattr(known, "outcome", _OUTCOMES.get(cls, "failed"))
        kind = error.code_for_model if isinstance(error, ToolError) else cls.__name__ if cls else None
        try:  # noqa: SIM105  see above
            self._log(outcome, kind, known, seconds)
        except Exception:  # noqa: BLE001, S110  a handler of the application's
            pass
        if self._instruments is None:
            return
        metric = {"gen_ai.tool.name": self._tool.name, "gen_ai.tool.type": "extension"}
        self._span.set_attribute("ocp_stripe_balance.outcome", outcome)
        if self._result is not None:
            self._span.set_attribute("ocp_stripe_balance.replayed", self._result.replayed)
        if outcome not in _OUTCOMES.values():
            metric["error.type"] = kind or outcome
            self._span.set_attribute("error.type", metric["error.type"])
            self._span.set_status(self._instruments.trace.StatusCode.ERROR)
        self._instruments.tool_duration.record(seconds, metric)
        self._span.end()

    def _log(self, outcome: str, kind: str | None, known: object, seconds: float) -> None:
        """
        One line: what became of which call, and by which names it is found again.
        """
        level = logging.WARNING if outcome in {"unknown", "failed"} else logging.INFO
        if not logger.isEnabledFor(level):
            return
        facts = {
            "error": kind,
            "key": getattr(known, "idempotency_key", None),
            "request": getattr(known, "request_id", None),
            "attempts": getattr(known, "attempts", None),
            "replayed": getattr(known, "replayed", None) or None,
        }
        told = " ".join(f"{name}={escaped(redact(str(value)))}" for name, value in facts.items() if value is not None)
        logger.log(level, "%s", f"{self._tool.name} {outcome} in {seconds:.3f} s {told}".rstrip())


class WatchedAttempt:
    """
    One HTTP request, watched until its response is read.
    """

    def __init__(self, request: Request, attempt: int, *, has_details: bool) -> None:
        """
        Begin; *attempt* counts from 1, and IDs in the path are told only where *has_details*.
        """
        self._began = time.perf_counter()
        self._instruments = instruments()
        self.status: int | None = None
        """Of the response, once there is one."""
        if self._instruments is None:
            return
        try:
            self._begin(self._instruments, request, attempt, has_details=has_details)
        except Exception:  # noqa: BLE001  whoever watches cannot stop a call
            self._instruments = None

    def _begin(self, instruments: Instruments, request: Request, attempt: int, *, has_details: bool) -> None:
        self._facts = _facts_of(request.method, request.origin)
        attributes = {**self._facts, "url.full": request.url if has_details else _without_ids(request)}
        if request.template:
            attributes["url.template"] = request.template
        if attempt > 1:
            attributes["http.request.resend_count"] = attempt - 1
        name = f"{request.method} {request.template}" if request.template else request.method
        kind = instruments.trace.SpanKind.CLIENT
        self._span = instruments.tracer.start_span(name, kind=kind, attributes=attributes)

    def end(self, error: BaseException | None) -> None:
        """
        Tell how it ended; a cancellation is no error.
        """
        if self._instruments is not None:
            with contextlib.suppress(Exception):  # the response is read, whoever watches
                self._end(error, self._instruments)

    def _end(self, error: BaseException | None, instruments: Instruments) -> None:
        facts: dict[str, Any] = {}
        if self.status is not None:
            facts["http.response.status_code"] = self.status
        if error is not None and not isinstance(error, asyncio.CancelledError):
            facts["error.type"] = type(error).__qualname__
        elif self.status is not None and self.status >= _FIRST_ERROR:
            facts["error.type"] = str(self.status)
        self._span.set_attributes(facts)
        if "error.type" in facts:
            self._span.set_status(instruments.trace.StatusCode.ERROR)
        instruments.http_duration.record(time.perf_counter() - self._began, {**self._facts, **facts})
        self._span.end()


@lru_cache(maxsize=64)  # hardly ever more than two
def _facts_of(method: str, origin: str) -> Mapping[str, Any]:
    parts = urlsplit(origin)
    port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    return {"http.request.method": method, "server.address": parts.hostname or "", "server.port": port}


def _without_ids(request: Request) -> str:
    """
    The URL with the names of its IDs in their place, and without its query.
    """
    return request.origin + request.template.replace("{", "").replace("}", "")
