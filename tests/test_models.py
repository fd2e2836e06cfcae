"""
Results: typed, picklable, and tolerant of what Stripe adds.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from helpers import TOOL, answered, order, scripted

from ocp_stripe_balance import CustomerBalanceTransaction, ToolResult


async def result(**fields: Any) -> ToolResult:
    async with await scripted(lambda request: answered(request, **fields)) as agent:
        return await agent.call_tool(TOOL, order(), idempotency_key="k")


async def test_result_survives_pickle_and_json() -> None:
    """A result can be stored and sent on."""
    first = await result()
    copy = pickle.loads(pickle.dumps(first))  # noqa: S301  our own bytes
    assert first == copy
    told = json.loads(json.dumps(first.to_dict()))
    assert "cus_1 was credited 5.00 usd, and now is in credit 5.00 usd" == told["summary"]
    assert {"outcome": "succeeded", "idempotency_key": "k", "replayed": False, "attempts": 1}.items() <= told.items()


async def test_transaction_is_typed_and_keeps_new_fields() -> None:
    """A field or a type that Stripe adds tomorrow is no reason to lose the transaction."""
    entry = (await result(type="brand_new", new_field=[1], metadata=None)).transaction
    assert isinstance(entry, CustomerBalanceTransaction)
    assert "brand_new" == entry.type
    assert [1] == (entry.model_extra or {})["new_field"]
    assert entry.metadata is None


async def test_expanded_customer_still_has_its_id() -> None:
    """An expanded customer is an object; the ID is one attribute away."""
    entry = (await result(customer={"id": "cus_1", "object": "customer"})).transaction
    assert entry is not None
    assert "cus_1" == entry.customer_id


async def test_a_transaction_that_is_none_is_none() -> None:
    """A body of another shape has data and warnings, but no typed transaction."""
    found = await result(ending_balance="many")
    assert found.transaction is None
    assert "many" == found.data["ending_balance"]
    assert found.warnings


async def test_results_do_not_change() -> None:
    """A result is a value."""
    found = await result()
    with pytest.raises(AttributeError):
        setattr(found, "replayed", True)  # noqa: B010  a type checker would refuse the plain form
