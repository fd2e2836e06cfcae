"""
Saying it twice: the effect in words against amount and currency.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from helpers import TOOL, answered, order, scripted
from hypothesis import given
from strategies import amounts, currencies

from ocp_stripe_balance import InvalidParametersError
from ocp_stripe_balance._calls.stated import stated_effect_problem
from ocp_stripe_balance._text import money


@given(amounts, currencies)
def test_the_true_effect_is_always_accepted(amount: int, currency: str) -> None:
    """Whatever the currency's decimals."""
    stated = money.effect(amount, currency).replace(",", "")
    assert stated_effect_problem("stated_effect", stated, amount, currency.upper()) is None


@given(amounts, amounts, currencies, currencies)
def test_any_other_effect_is_refused(amount: int, other: int, currency: str, another: str) -> None:
    """Another sign, size or currency; the factors of 10, 100 and 1000 among them."""
    for wrong, code in ((other, currency), (-amount, currency), (amount, another), (amount * 100, currency)):
        if (wrong, code.lower()) != (amount, currency.lower()) and abs(wrong) < 10**12:
            stated = money.effect(wrong, code).replace(",", "")
            assert stated_effect_problem("stated_effect", stated, amount, currency) is not None


# stated -> what is said of it, for amount -500 and usd
REFUSED = {
    "debit 5.00 USD": "do something else: the amount credits; find out",
    "credit 500.00 USD": "the amount is smaller (amounts in usd count hundredths)",
    "credit 0.05 USD": "the amount is larger (",
    "debit 0.05 USD": "the amount credits and the amount is larger (",
    "credit 5.00 EUR": "the currency is usd",
    "credit 500 JPY": "the currency is usd",
    "credit 5 USD": "does not have the 2 decimals of usd",
    "credit 5.0 USD": "does not have the 2 decimals of usd",
    "credit 5.000 USD": "does not have the 2 decimals of usd",
    "credit 5.00": "is not an effect",
    "credit -5.00 USD": "is not an effect",
    "credit 5,00 USD": "is not an effect",
    "credit $5.00": "is not an effect",
    "Credit 5.00 USD": "is not an effect",
    "credit  5.00 USD": "is not an effect",
    "refund 5.00 USD": "is not an effect",
    "credit 5.00 USD please": "is not an effect",
    "5.00 USD": "is not an effect",
    "-500": "is not an effect",
}


@pytest.mark.promise("told.no-answer-key")
@pytest.mark.parametrize("stated", REFUSED)
async def test_what_is_said_otherwise_is_refused_without_the_words_that_would_pass(stated: str) -> None:
    """The refusal says how the two differ; who is handed the text would copy it, and check nothing."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        with pytest.raises(InvalidParametersError) as caught:
            await agent.call_tool(TOOL, order(stated_effect=stated))
    (problem,) = caught.value.problems
    assert "stated_effect" == problem.path
    assert REFUSED[stated] in str(problem)
    told = json.dumps(caught.value.to_dict()).lower().replace(stated.lower(), "")
    assert "credit 5.00 usd" not in told
    assert "5.00 usd" not in told
    assert "-500" not in told


@pytest.mark.parametrize(("stated", "amount"), [("debit 500 ISK", 50000), ("credit 9000 HUF", -900000)])
async def test_whole_numbers_are_taken_where_people_write_no_decimals(stated: str, amount: int) -> None:
    """Stripe counts hundredths there, and an amount that does not is still refused."""
    currency = stated[-3:].lower()
    assert stated_effect_problem("stated_effect", stated, amount, currency) is None
    assert stated_effect_problem("stated_effect", stated, amount // 100, currency) is not None


@pytest.mark.parametrize("stated", ["crédit 5.00 USD", "credit \u0665.00 USD", "x" * 65, "credit 5.00 USD\n", 5, ["c"]])
async def test_what_is_no_text_of_that_kind_breaks_the_schema(stated: Any) -> None:
    """Before it is parsed."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        with pytest.raises(InvalidParametersError) as caught:
            await agent.call_tool(TOOL, order(stated_effect=stated))
    assert ["stated_effect"] == [problem.path for problem in caught.value.problems]


async def test_it_is_never_sent_and_no_part_of_the_decision() -> None:
    """The bytes are those of a call without it, and a repeat may leave it out."""
    sent: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return answered(request)

    async with await scripted(handler) as agent:
        await agent.call_tool(TOOL, order(stated_effect="credit 5.00 usd"), idempotency_key="k")
        assert (await agent.call_tool(TOOL, order(), idempotency_key="k")).replayed
        assert (await agent.call_tool(TOOL, order(stated_effect=None), idempotency_key="k")).replayed
    assert [b"amount=-500&currency=usd&metadata%5Bocp_call%5D=k"] == sent
