"""
What was moved, added up by reason, person and period.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from helpers import connect
from places import look

from ocp_stripe_balance import Settings, backoffice
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._journal.statements import statements
from ocp_stripe_balance._text.plain import local
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.errors import InvalidParametersError, RejectedError

if TYPE_CHECKING:
    from pathlib import Path

    from places import Place

    from ocp_stripe_balance.sandbox import Sandbox


async def test_entries_are_added_up_by_what_they_share(
    stripe: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mode, currency and direction for itself, a page at a time; what moved nothing does not count."""
    monkeypatch.setattr(backoffice, "_PAGE", 2)
    journal, customer = str(place), stripe.create_customer()
    for user, verb, amount, reason in (
        ("ann", "credit", "5.00", {"reason": "outage"}),
        ("bob", "credit", "2.00", {"reason": "outage"}),
        ("ann", "credit", "1.00", {"reason": "goodwill"}),
        ("ann", "debit", "4.00", {}),
    ):
        async with await connect(stripe, journal=journal, seams={"user": user}) as agent:
            await getattr(agent, verb)(customer, amount, "usd", reference=amount, metadata=reason)
    async with await connect(stripe, journal=journal) as agent:
        with pytest.raises(RejectedError):
            await agent.credit("cus_none", "9.00", "usd", reference="x")
    async with BackOffice(Settings(journal=journal)) as office:

        async def found(*by: str, **within: Any) -> list[Any]:
            return [(*each.group, each.moved.amount, each.number) for each in await office.sums(by, **within)]

        assert [(-800, 3), (400, 1)] == await found()
        by_reason = [("", 400, 1), ("goodwill", -100, 1), ("outage", -700, 2)]
        assert by_reason == await found("metadata.reason")
        assert ("bob", "outage", -200, 1) in await found("user", "metadata.reason")
        (call, *_) = await office.calls()
        month = local(call.spent_at)[:7]
        assert [(month, -800, 3), (month, 400, 1)] == await found("month")
        assert [(-300, 2), (400, 1)] == await found(since=call.spent_at + 1e-6)
        assert [] == await found(before=call.spent_at)
        with look(Settings(journal=journal).journal_place) as db:
            db.execute("UPDATE calls SET spent_at = 1")
        assert [(-800, 3), (400, 1)] == await found(since=1.0, before=2.0)
        with pytest.raises(InvalidParametersError, match="did you mean user"):
            await office.sums(["usr"])


@pytest.mark.file_only("plans in SQLite's words")
def test_a_page_of_what_was_moved_is_found_by_its_time(tmp_path: Path) -> None:
    """The sums of today read what was moved today, however many calls there are from before."""
    with contextlib.closing(open_database(tmp_path / "journal")) as db:
        values = dict.fromkeys(("since", "row", "before", "number"), 1)
        ((*_, plan),) = db.execute(f"EXPLAIN QUERY PLAN {statements()['moved']}", values)
    assert "calls_moved (spent_at>? AND spent_at<?)" in plan
