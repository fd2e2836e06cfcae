"""
The time of a journal on a server is the server's, also for a process whose own clock is wrong and that begins with it.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from helpers import TOOL, connect, order
from postgres import new_database

from ocp_stripe_balance import PolicyRefusedError, Settings
from ocp_stripe_balance._journal import Journal, postgres
from ocp_stripe_balance._journal.stores import server_of
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.bulk import Bulk, Common
from ocp_stripe_balance.errors import InvalidFileError

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

POLICY = {
    "duplicate_window": "off",
    "budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10.00"}}],
    "customers": {"deny": ["cus_denied"]},
}
HOURS_AHEAD = 3 * 3600


@pytest.fixture
async def begun(stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """
    A journal with a call of 8.00, as a process sees it that begins, and whose clock is hours ahead.
    """
    settings = Settings(api_key=stripe.api_key, api_base=stripe.url, journal=new_database(), policy=POLICY)
    async with await connect(stripe, journal=settings.journal, policy=POLICY) as agent:
        await agent.call_tool(TOOL, order(customer, -800))
    real, place = time.time, settings.journal_place
    monkeypatch.setattr(time, "time", lambda: real() + HOURS_AHEAD)
    monkeypatch.setattr(server_of(place), "_clock", None)  # type: ignore[arg-type]  # a server's
    return settings


async def test_a_preview_counts_by_the_servers_time(stripe: Sandbox, customer: str, begun: Settings) -> None:
    """By its own, the first call would be out of the window, and the budget whole."""
    async with await connect(stripe, journal=begun.journal, policy=POLICY) as agent:
        api: Any = await agent.register_api("stripe")
        findings, _ = await api.explain(agent.get_tool(TOOL), order(customer, -800))
    assert ["budgets[0].credit.usd"] == [each.rule for each in findings if each.verdict == "refused"]


async def test_a_plan_counts_by_the_servers_time(begun: Settings, customer: str, tmp_path: Path) -> None:
    """From its first rows on."""
    source = tmp_path / "in.csv"
    source.write_text(f"customer,amount,reference\n{customer},8.00,ticket-1\n")
    async with Bulk(begun) as bulk:
        with pytest.raises(InvalidFileError, match="line 2: would be refused"):
            await bulk.plan(source, tmp_path / "out.plan", common=Common(direction="credit", currency="usd"))


async def test_pruning_keeps_what_counts_by_the_servers_time(begun: Settings) -> None:
    """By its own, no rule would count the call any more, and the budget would be whole again."""
    async with BackOffice(begun) as office:
        assert 0 == await office.prune(time.time())
        assert 1 == len(await office.calls())


async def test_a_refusal_is_on_record_at_the_servers_time(stripe: Sandbox, begun: Settings) -> None:
    """Also one that no transaction of a call comes before."""
    async with await connect(stripe, journal=begun.journal, policy=POLICY) as agent:
        with pytest.raises(PolicyRefusedError):
            await agent.call_tool("getCustomersCustomerBalanceTransactions", {"customer": "cus_denied"})
    async with BackOffice(begun) as office:
        *_, before, refused = await office.decisions()
    assert "refused" == refused.decision
    assert before.at <= refused.at < before.at + HOURS_AHEAD / 2


async def test_the_servers_time_is_right_however_long_the_locks_and_the_answer_take(
    begun: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a process that is stopped meanwhile: 100 s pass for it between the question and the next look."""
    journal = Journal(begun.journal_place)
    real, ask = time.monotonic, psycopg.Connection.execute
    late_s = 0.0

    def stopped(self: psycopg.Connection[Any], *sql: Any) -> Any:
        nonlocal late_s
        answer = ask(self, *sql)
        late_s += 100.0 if "clock_timestamp" in str(sql) else 0.0
        return answer

    monkeypatch.setattr(postgres, "time", SimpleNamespace(monotonic=lambda: real() + late_s))
    monkeypatch.setattr(psycopg.Connection, "execute", stopped)
    before = time.time() - HOURS_AHEAD
    told = await journal.run(lambda _: journal.now())
    assert before + 100 <= told < before + 190
    await journal.aclose()
