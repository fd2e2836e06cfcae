"""
The rate limit, divided among the processes of one journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from postgres import new_database

from ocp_stripe_balance._journal import Journal, shares
from ocp_stripe_balance._journal.shares import Shares
from ocp_stripe_balance._text.database_url import DatabaseURL

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_processes_divide_the_limit_among_the_living(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among those that call at that pace; one that leaves no word for three seconds is not counted any more."""
    journal = Journal(tmp_path / "journal" if engine == "sqlite" else DatabaseURL(new_database()))
    here = [100.0]

    async def renewed(name: str, mine: Shares, now: float, *paces: str) -> list[float]:
        monkeypatch.setattr(shares, "process_name", lambda: name)
        for pace in paces:
            mine.part_of(pace)
        here[0] += 1.5  # it is due again
        await journal.run(lambda book: mine.renew(book, now))
        return [mine.part_of(pace) for pace in paces]

    ours, theirs, others = (Shares(lambda: here[0]) for _ in range(3))
    assert [1.0] == await renewed("a", ours, 1000.0, "live")
    assert [0.5] == await renewed("b", theirs, 1001.0, "live")
    assert [0.5, 1.0] == await renewed("a", ours, 1001.5, "live", "test")
    assert [1 / 3] == await renewed("c", others, 1001.6, "live")
    assert [1 / 3] == await renewed("a", ours, 1003.9, "live")
    assert [0.5] == await renewed("a", ours, 1004.1, "live"), "b was killed"
    assert [1.0] == await renewed("a", ours, 1005.0, "live"), "and c"
    await journal.aclose()


async def test_who_calls_nothing_takes_no_part(tmp_path: Path) -> None:
    """Two seconds after its last request a process leaves no word any more."""
    here, journal = [100.0], Journal(tmp_path / "journal")
    mine = Shares(lambda: here[0])
    mine.part_of("live")
    here[0] += 2.5
    await journal.run(lambda book: mine.renew(book, 1000.0))
    assert 1 == await journal.run(lambda book: book.share("live", "another", 1000.0, 1003.0))
    await journal.aclose()
