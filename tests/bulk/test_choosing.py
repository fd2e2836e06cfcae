"""
Lists of the customers for whom something holds.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any

import pytest
from helpers import UNGUARDED, client, connect

from ocp_stripe_balance import Settings
from ocp_stripe_balance._domain import Money
from ocp_stripe_balance.bulk import Bulk, Chosen, Common, Where
from ocp_stripe_balance.errors import NotSentError

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

FIVE = Money(500, "usd")


def bulk_of(stripe: Sandbox, **more: Any) -> Bulk:
    return Bulk(Settings(api_key=stripe.api_key, api_base=stripe.url, rate_limit="off", **UNGUARDED), **more)


async def made(stripe: Sandbox, **metadata: str) -> str:
    async with client(stripe) as http:
        data = {f"metadata[{name}]": value for name, value in metadata.items()}
        return str((await http.post("/v1/customers", data=data)).json()["id"])


async def test_list_has_the_customers_whose_metadata_says_so_and_can_be_planned(
    stripe: Sandbox, tmp_path: Path
) -> None:
    """Billed in that currency or in none yet; all of what is asked for holds, word for word."""
    pro, new, other = [await made(stripe, plan="pro", region="eu") for _ in range(3)]
    for metadata in ({"plan": "pro"}, {"plan": "PRO", "region": "eu"}, {}):
        await made(stripe, **metadata)
    async with await connect(stripe) as agent:
        await agent.credit(pro, "1.00", "usd", reference="a")
        await agent.credit(other, "1.00", "eur", reference="a")
    target = tmp_path / "chosen.csv"
    async with bulk_of(stripe) as bulk:
        chosen = await bulk.choose(target, FIVE, Where(metadata={"plan": "pro", "region": "eu"}))
        assert Chosen(number=2, without_currency=1, left_out=1) == chosen
        assert f"customer,amount,currency\n{new},5.00,usd\n{pro},5.00,usd\n" == target.read_text()
        assert 0o600 == target.stat().st_mode & 0o777
        plan = await bulk.plan(target, tmp_path / "plan", common=Common(reference="b", direction="credit"))
        assert 2 == plan.number


async def test_customers_are_chosen_by_when_they_were_made(stripe: Sandbox, tmp_path: Path) -> None:
    """And a list is whole or not there, and never written over."""
    stripe.create_customer()
    now, target = time.time(), tmp_path / "chosen.csv"
    async with bulk_of(stripe) as bulk:
        for where in (Where(before=now - 60), Where(since=now + 60)):
            with pytest.raises(NotSentError, match="No list was made: no such customer"):
                await bulk.choose(target, FIVE, where)
            assert not target.exists()
        assert 1 == (await bulk.choose(target, FIVE, Where(since=now - 60, before=now + 60))).number
        with pytest.raises(NotSentError, match="File exists"):
            await bulk.choose(target, FIVE)


async def test_list_that_cannot_be_written_to_its_end_is_not_there(stripe: Sandbox, tmp_path: Path) -> None:
    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stripe.create_customer()
    async with bulk_of(stripe, progress=full) as bulk:
        with pytest.raises(NotSentError, match=r"No list was made at .*: No space left on device"):
            await bulk.choose(tmp_path / "chosen.csv", FIVE)
    assert [] == list(tmp_path.glob("chosen*"))
