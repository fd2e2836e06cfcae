"""
The benchmarks run, and say something about every client and every target. How fast is not tested.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import bulk
import compare
import pacing
import pytest
import run
import server
from measure import Slice, Spread, Target
from postgres import server_url

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OURS = {"ours", "ours_journal", "ours_readme", "ours_policy", "ours_postgres"}
CLIENTS = {"aiohttp", "httpx", "stripe_httpx", "stripe_aiohttp", "gateway", *OURS}
POST = b"POST /v1/customers/cus_1/balance_transactions HTTP/1.1\r\nCONTENT-length: 24\r\nIdempotency-Key: K-1\r\n\r\n"
BODY = b"amount=-500&currency=usd"
GET = b"GET /v1/customers/cus_1 HTTP/1.1\r\n\r\n"


def measured(client: str, number: int, calls_per_s: float, cpu_s: float = 1.0) -> Slice:
    latencies = {"p50_s": 1 / calls_per_s, "p99_s": 2 / calls_per_s}
    return Slice(
        round=number,
        in_flight=64,
        client=client,
        calls=100,
        wall_s=100 / calls_per_s,
        cpu_s=cpu_s,
        peak_bytes=1,
        **latencies,
    )


@pytest.mark.usefixtures("at_once")
def test_a_tiny_run_has_finite_figures_for_every_client_and_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real server, the real workers, every client."""
    size = "--rounds 1 --levels 1 64 256 --calls 5 --starts 1 --warm-up 1 --growth 1001"
    monkeypatch.setenv("TEST_POSTGRES_URL", server_url())
    monkeypatch.setenv("MPLCONFIGDIR", str(BENCHMARKS.parent / "build"))  # where the list of fonts is kept
    monkeypatch.setattr(sys, "argv", ["run.py", *size.split(), "--out", str(tmp_path)])
    run.main()
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert {(client, level) for client in CLIENTS for level in (1, 64, 256)} == {
        (each["client"], each["in_flight"]) for each in results["slices"]
    }
    assert 18 == len(results["targets"])
    assert not [
        plan
        for plan in results["inside"]["journal"]["plans"].values()
        if re.search("SCAN (?!windows|totalled|CONSTANT ROW)", plan)
    ]
    for target in results["targets"]:
        assert target["name"] in printed
        assert all(math.isfinite(figure) for figure in target["figure"].values())
    assert all(0 < each["wall_s"] < math.inf and 0 < each["p50_s"] <= each["p99_s"] for each in results["slices"])
    assert str(BENCHMARKS.parent) not in json.dumps(results)


def test_a_ratio_is_taken_within_each_round() -> None:
    """The machine slows down by half between the rounds; the ratio stays."""
    slices = [
        measured(f"ours, {compare.NEW}", 0, 3000, cpu_s=0.5),
        measured(f"ours, {compare.OLD}", 0, 2000),
        measured(f"ours, {compare.NEW}", 1, 1500, cpu_s=0.25),
        measured(f"ours, {compare.OLD}", 1, 1000),
    ]
    found = compare.ratios(slices)
    assert Spread(median=1.5, low=1.5, high=1.5) == found[64, "ours", "calls_per_s"]
    assert Spread(median=0.375, low=0.25, high=0.5) == found[64, "ours", "cpu_per_call_s"]
    assert pytest.approx(2 / 3) == found[64, "ours", "p50_s"].median


def test_a_target_is_judged_by_its_median() -> None:
    """Whichever way it points, and met at the bound itself."""
    figure = Spread(median=2.0, low=1.0, high=3.0)
    for comparison, bound, is_met in (("at least", 2, True), ("at least", 2.1, False), ("at most", 1.9, False)):
        target = Target(name="t", figure=figure, unit="x", comparison=comparison, bound=bound)  # type: ignore[arg-type] # a loop forgets that they are literals
        assert is_met is target.is_met


@pytest.mark.parametrize("cut", range(1, len(POST + BODY)))
def test_a_request_is_split_off_once_all_of_it_is_there(cut: int) -> None:
    """However it was cut into segments."""
    received = POST + BODY
    assert (None, received[:cut]) == server.split(received[:cut])
    request = server.Request(b"POST", "/v1/customers/cus_1/balance_transactions", b"K-1", BODY)
    assert (request, b"") == server.split(received)


def test_what_follows_a_request_is_kept_for_the_next() -> None:
    """Pipelined requests come in one segment."""
    first, rest = server.split(POST + BODY + GET + GET[:5])
    second, rest = server.split(rest)
    assert (BODY, server.Request(b"GET", "/v1/customers/cus_1", b"", b"")) == (first.body if first else None, second)
    assert GET[:5] == rest


def test_a_chunked_request_is_refused() -> None:
    """It would be read as two requests."""
    with pytest.raises(ValueError, match="chunked"):
        server.split(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_the_server_answers_like_stripe() -> None:
    """The entry that was asked for, and the key it came with."""
    ledger = server.Ledger()
    request, _ = server.split(POST + BODY)
    assert request is not None
    head, _, body = ledger.answer(request).partition(b"\r\n\r\n")
    entry = json.loads(body)
    assert ("cus_1", -500, "usd", -500) == tuple(
        entry[name] for name in ("customer", "amount", "currency", "ending_balance")
    )
    schema = BENCHMARKS.parent / "schemas" / "postCustomersCustomerBalanceTransactions.response.json"
    assert set(json.loads(schema.read_text("utf-8"))["properties"]) == set(entry)
    assert b"\r\nIdempotency-Key: K-1\r\n" in head
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head


@pytest.mark.usefixtures("at_once")
def test_the_pace_is_measured_against_the_sandbox(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With turns and without, each a line of figures."""
    monkeypatch.setattr(pacing, "_WINDOW_S", 0.1)  # what is still counted of before changes the figures, not the lines
    monkeypatch.setattr(sys, "argv", ["pacing.py", "--seconds", "0.5", "--limits", "100", "--hosts"])
    pacing.main()
    assert ["yes", "no"] == [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]


@pytest.mark.usefixtures("at_once")
def test_a_list_is_planned_and_run_by_processes_that_are_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bulk.py", "--rows", "60", "--kills", "1"])
    assert 0 == bulk.main()
    planned, killed, run, wrong = capsys.readouterr().out.splitlines()
    assert ["planned 60", "kill 1", "run in", "not credited exactly once: 0"] == [
        planned[:10], killed[:6], run[:6], wrong,
    ]  # fmt: skip
