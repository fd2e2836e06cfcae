"""
Spans, metrics and log lines: what happened, never the API key, and nothing of the customer unless switched on.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, connect, order
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ocp_stripe_balance import (
    ConfigurationError,
    InvalidParametersError,
    OutcomeUnknownError,
    PolicyRefusedError,
    _telemetry,
)
from ocp_stripe_balance._telemetry import Instruments
from ocp_stripe_balance.errors import ResourceMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocp_stripe_balance.sandbox import Sandbox

LIST = "getCustomersCustomerBalanceTransactions"
TEMPLATE = "/v1/customers/{customer}/balance_transactions"


class Seen:
    """
    What a process's exporters would get.
    """

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self._tracers, self._meters = TracerProvider(), MeterProvider(metric_readers=[self._reader])
        self._tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.instruments = Instruments.of(self._tracers, self._meters)
        self.tracer = self._tracers.get_tracer("caller")

    def spans(self) -> list[Any]:
        found = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        self._exporter.clear()
        return found

    def metrics(self) -> dict[str, list[Any]]:
        data: Any = self._reader.get_metrics_data()
        scopes = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: list(metric.data.data_points) for metric in scopes}

    def close(self) -> None:
        self._tracers.shutdown()
        self._meters.shutdown()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found = Seen()
    monkeypatch.setattr(_telemetry, "instruments", lambda: found.instruments)
    yield found
    found.close()


async def test_a_call_is_a_span_and_each_attempt_another(stripe: Sandbox, customer: str, seen: Seen) -> None:
    """As the conventions name them, the attempts below the call, and the call below whoever makes it."""
    stripe.faults.add("bad_gateway")
    async with await connect(stripe) as agent:
        with seen.tracer.start_as_current_span("agent"):
            await agent.call_tool(TOOL, order(customer), idempotency_key="call_1")
    caller, call, first, second = seen.spans()
    assert (f"execute_tool {TOOL}", "INTERNAL", "UNSET") == (call.name, call.kind.name, call.status.status_code.name)
    assert {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": TOOL,
        "gen_ai.tool.type": "extension",
        "gen_ai.tool.call.id": "call_1",
        "ocp_stripe_balance.outcome": "succeeded",
        "ocp_stripe_balance.replayed": False,
    } == dict(call.attributes)
    assert caller.context.span_id == call.parent.span_id
    port = int(stripe.url.rpartition(":")[2])
    common = {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{stripe.url}/v1/customers/customer/balance_transactions",
        "url.template": TEMPLATE,
    }
    assert {**common, "http.response.status_code": 502, "error.type": "502"} == dict(first.attributes)
    assert {**common, "http.response.status_code": 200, "http.request.resend_count": 1} == dict(second.attributes)
    for attempt, status in ((first, "ERROR"), (second, "UNSET")):
        assert (f"POST {TEMPLATE}", "CLIENT") == (attempt.name, attempt.kind.name)
        assert call.context.span_id == attempt.parent.span_id
        assert (status, None) == (attempt.status.status_code.name, attempt.status.description)
    (tool,) = seen.metrics()["gen_ai.execute_tool.duration"]
    assert ({"gen_ai.tool.name": TOOL, "gen_ai.tool.type": "extension"}, 1) == (dict(tool.attributes), tool.count)
    statuses = [
        point.attributes["http.response.status_code"] for point in seen.metrics()["http.client.request.duration"]
    ]
    assert [200, 502] == sorted(statuses)


async def test_failures_are_marked_by_their_kind(stripe: Sandbox, customer: str, seen: Seen) -> None:
    """With the error's name and outcome, and no words of it."""
    async with await connect(stripe, max_attempts=1, policy={"directions": ["credit"]}) as agent:
        with pytest.raises(InvalidParametersError):
            await agent.call_tool(TOOL, order(customer, "5"))
        with pytest.raises(PolicyRefusedError):
            await agent.call_tool(TOOL, order(customer, 5))
        stripe.faults.add("reset", executed=True, path="balance_transactions$")
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order(customer))
        with pytest.raises(ResourceMissingError):
            await agent.call_tool(LIST, {"customer": "cus_none"})
    spans = seen.spans()
    calls = [span for span in spans if span.name.startswith("execute_tool")]
    assert [
        ("not_sent", "invalid_parameters"),
        ("not_sent", "policy_refused"),
        ("unknown", "outcome_unknown"),
        ("rejected", "resource_missing"),
    ] == [(span.attributes["ocp_stripe_balance.outcome"], span.attributes["error.type"]) for span in calls]
    for span in spans:
        assert () == span.events
        assert span.status.description is None


async def test_a_cancelled_call_is_no_error(stripe: Sandbox, customer: str, seen: Seen) -> None:
    """Where nothing was sent."""
    async with await connect(stripe) as agent:
        stripe.faults.add("stall", path="balance_transactions")
        task = asyncio.create_task(agent.call_tool(LIST, {"customer": customer}))
        while not stripe.faults.met["stall"]:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    call, attempt = seen.spans()
    assert ("cancelled", "UNSET") == (call.attributes["ocp_stripe_balance.outcome"], call.status.status_code.name)
    assert "UNSET" == attempt.status.status_code.name


async def test_an_iterator_is_one_call(stripe: Sandbox, customer: str, seen: Seen) -> None:
    """Also one that its reader leaves, and it does not become the reader's own context."""
    async with await connect(stripe) as agent:
        await agent.call_tool(TOOL, order(customer))
        seen.spans()
        items = agent.iterate_tool(LIST, {"customer": customer})
        async for _ in items:
            with seen.tracer.start_as_current_span("mine"):
                pass
            break
        await items.aclose()  # type: ignore[attr-defined]
    spans = {span.name: span for span in seen.spans()}
    assert spans["mine"].parent is None
    assert spans[f"execute_tool {LIST}"].context.span_id == spans[f"GET {TEMPLATE}"].parent.span_id
    assert "succeeded" == spans[f"execute_tool {LIST}"].attributes["ocp_stripe_balance.outcome"]


@pytest.mark.parametrize("details", [False, True])
async def test_details_are_told_only_where_switched_on(
    stripe: Sandbox, customer: str, seen: Seen, details: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither amount nor customer nor words, in no span, metric or log line; the API key never."""
    caplog.set_level(logging.DEBUG)
    async with await connect(stripe, trace_details=details, customer_check="on") as agent:
        await agent.call_tool(TOOL, order(customer, -98765432, description="for Ada"), idempotency_key="k")
        await agent.call_tool(LIST, {"customer": customer})
    told = [str(dict(span.attributes)) + span.name for span in seen.spans()]
    logged = [record.getMessage() for record in caplog.records if record.name == "ocp_stripe_balance"]
    for word in (customer, "98765432", "for Ada"):
        assert details is any(word in text for text in told)
        assert not any(word in text for text in [*logged, str(seen.metrics())])
    assert not any(stripe.api_key in text for text in [*told, *logged, str(seen.metrics())])


async def test_each_call_is_one_log_line(stripe: Sandbox, customer: str, caplog: pytest.LogCaptureFixture) -> None:
    """With the names by which it is found again; an open outcome is a warning."""
    caplog.set_level(logging.INFO, logger="ocp_stripe_balance")
    async with await connect(stripe, max_attempts=1) as agent:
        done = await agent.call_tool(TOOL, order(customer), idempotency_key="call_1")
        await agent.call_tool(TOOL, order(customer), idempotency_key="call_1")
        with pytest.raises(InvalidParametersError):
            await agent.call_tool(TOOL, {})
        stripe.faults.add("reset", executed=True, path="balance_transactions$")
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order(customer), idempotency_key="call_2")
    lines = [record for record in caplog.records if record.name == "ocp_stripe_balance"]
    assert ["INFO", "INFO", "INFO", "WARNING"] == [line.levelname for line in lines]
    first, again, invalid, unknown = (line.getMessage() for line in lines)
    assert f"{TOOL} succeeded in " in first
    assert first.endswith(f"key=call_1 request={done.request_id} attempts=1")
    assert again.endswith("attempts=0 replayed=True")
    assert f"{TOOL} not_sent in " in invalid
    assert "error=invalid_parameters" in invalid
    assert "error=outcome_unknown key=call_2" in unknown


class Hostile(SpanProcessor):
    """
    Raises wherever it can.
    """

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise OSError(span, parent_context)

    def on_end(self, span: Any) -> None:
        raise OSError(span)


class HostileAtTheEnd(Hostile):
    def on_start(self, span: Any, parent_context: Any = None) -> None: ...


async def test_a_call_without_a_place_for_its_record_is_a_log_line_too(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends before there is anything that could make it."""
    caplog.set_level(logging.INFO, logger="ocp_stripe_balance")
    monkeypatch.delenv("OCP_STRIPE_JOURNAL", raising=False)
    monkeypatch.setattr("platformdirs.user_state_path", lambda *_, **__: Path("~"))
    async with await connect(stripe) as agent:
        with pytest.raises(ConfigurationError, match="no home"):
            await agent.call_tool(TOOL, order(customer))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ocp_stripe_balance"]
    assert line.startswith(f"{TOOL} not_sent")


@pytest.mark.parametrize("processor", [Hostile, HostileAtTheEnd])
async def test_whoever_watches_cannot_lose_an_outcome(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch, processor: type[Hostile]
) -> None:
    """A span processor and a log handler that raise, and parameters that cannot be told."""
    tracers, meters = TracerProvider(), MeterProvider()
    tracers.add_span_processor(processor())
    instruments = Instruments.of(tracers, meters)
    monkeypatch.setattr(_telemetry, "instruments", lambda: instruments)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(record)

    handler = Handler()
    _telemetry.logger.addHandler(handler)
    _telemetry.logger.setLevel(logging.INFO)
    try:
        async with await connect(stripe, trace_details=True) as agent:
            assert (await agent.call_tool(TOOL, order(customer))).attempts == 1
            circular: dict[str, Any] = order(customer)
            circular["metadata"] = {"a": circular, ("b",): 1}
            with pytest.raises(InvalidParametersError):
                await agent.call_tool(TOOL, circular)
            assert 1 == len([item async for item in agent.iterate_tool(LIST, {"customer": customer})])
    finally:
        _telemetry.logger.removeHandler(handler)
        _telemetry.logger.setLevel(logging.NOTSET)
        tracers.shutdown()
        meters.shutdown()


async def test_an_older_opentelemetry_is_as_good_as_none(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an application has installed for itself does not stop our calls."""

    def old(*_: Any) -> Instruments:
        raise TypeError("create_histogram() got an unexpected keyword argument")

    monkeypatch.setattr(Instruments, "of", old)
    _telemetry.instruments.cache_clear()
    try:
        async with await connect(stripe) as agent:
            assert (await agent.call_tool(TOOL, order(customer))).ok
    finally:
        _telemetry.instruments.cache_clear()


def test_nothing_is_imported_where_it_is_not_installed() -> None:
    """And a call works as ever."""
    program = (
        "import sys, asyncio, importlib.util\n"
        "sys.modules['opentelemetry'] = None\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'opentelemetry' else find(name, *a)\n"
        "from ocp_stripe_balance import OCPAgent, Settings\n"
        "from ocp_stripe_balance.sandbox import Sandbox\n"
        "async def main():\n"
        "    async with Sandbox() as stripe:\n"
        "        settings = Settings(api_key=stripe.api_key, api_base=stripe.url, journal='off')\n"
        "        async with OCPAgent(settings=settings) as agent:\n"
        "            await agent.register_api('stripe')\n"
        f"            done = await agent.call_tool('{TOOL}', "
        "{'customer': stripe.create_customer(), 'amount': -5, 'currency': 'usd'})\n"
        "            print(done.outcome)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603  our own
    assert ("succeeded\n", "") == (done.stdout, done.stderr)
