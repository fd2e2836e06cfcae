"""
The look into the journal, as models have it: what was asked, what became of it, what waits, and what is left.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import STRIPES, TEST_KEY, TOOL, answered, connect, decide, ledger, order, proposals, scripted
from places import Place, age

from ocp_stripe_balance import InvalidParametersError, OutcomeUnknownError, PolicyRefusedError, ToolError
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance.exports import Format, run_tool_call

if TYPE_CHECKING:
    from ocp_stripe_balance import OCPAgent
    from ocp_stripe_balance.sandbox import Sandbox

LOOK = "getBalanceCalls"
POLICY: dict[str, Any] = {
    "limits": {"credit": {"usd": "50.00"}},
    "budgets": [{"per": "customer", "window": "30d", "credit": {"usd": "100.00"}}],
    "approval": {"above": {"usd": "20.00"}, "queue": True},
    "calls_per_minute": 20,
}


async def look(agent: OCPAgent, **asked: Any) -> dict[str, Any]:
    """
    What a model is told.
    """
    message = await run_tool_call("mcp", agent, {"name": "list_balance_calls", "arguments": asked})
    return dict(message["structuredContent"])


async def lost(agent: OCPAgent, stripe: Sandbox, customer: str, *, executed: bool, key: str = "k") -> None:
    """
    A call whose reply does not come.
    """
    stripe.faults.add("reset", executed=executed, times=99, path="balance_transactions")
    with pytest.raises(OutcomeUnknownError):
        await agent.call_tool(TOOL, order(customer, reference="Ticket 7"), idempotency_key=key)
    stripe.faults.clear()


async def test_a_session_that_takes_over_sees_what_was_asked(stripe: Sandbox, place: Place, customer: str) -> None:
    """Sent, answered, reversed, refused and waiting, by customer or by reference; another agent looks."""
    settings: dict[str, Any] = {"journal": str(place), "policy": POLICY}
    async with await connect(stripe, **settings) as agent:
        first = await agent.call_tool(TOOL, order(customer, reference="Ticket 1", description="late"))
        back = await agent.call_tool("reverseCustomerBalanceTransaction", {"transaction": first.data["id"]})
        for amount, reference in ((-2500, "ticket 2"), (-9500, "ticket 3")):
            with pytest.raises(PolicyRefusedError):
                await agent.call_tool(TOOL, order(customer, amount, reference=reference))
    async with await connect(stripe, **settings) as other:
        told = await look(other, customer=customer)
        reversal, call = told["calls"]
        assert ("credit 5.00 usd", "succeeded", "Ticket 1", "late", first.data["id"], back.data["id"]) == tuple(
            call[name] for name in ("effect", "outcome", "reference", "description", "entry", "reversed_by")
        )
        assert ("in credit 5.00 usd", "0.00 usd") == (call["balance"], reversal["balance"])
        (asked,), (refused,) = told["proposals"], told["refusals"]
        assert ("waiting", "ticket 2", "call_again_once_approved") == tuple(
            asked[name] for name in ("state", "reference", "next")
        )
        assert ("limits.credit.usd", "ticket 3", "credit 95.00 usd") == tuple(
            refused[name] for name in ("rule", "reference", "effect")
        )
        assert "on record: 2 calls, 1 proposal, 1 refusal" == told["summary"]
        by_reference = await look(other, reference=" TICKET 1")
        assert [call["key"]] == [each["key"] for each in by_reference["calls"]]
        assert {"proposals", "refusals"}.isdisjoint(by_reference)
        assert [call["key"]] == [each["key"] for each in (await look(other, key=call["key"]))["calls"]]
        assert "calls" not in await look(other, key=call["key"], customer="cus_other")


async def test_a_dry_run_of_the_look_shows_no_request(stripe: Sandbox, customer: str) -> None:
    """The journal answers it, and there is no such address at Stripe."""
    async with await connect(stripe) as agent:
        dry = await agent.call_tool(LOOK, {"customer": customer}, dry_run=True)
        assert ("send", "", "", {}, "") == (dry.verdict, dry.method, dry.url, dry.headers, dry.body)
        assert {"method", "url", "body"}.isdisjoint(dry.to_dict())


async def test_what_the_policy_leaves_is_said(stripe: Sandbox, customer: str) -> None:
    """The limit of a call, what a person is asked about, and what is left of budgets, for this caller."""
    async with await connect(stripe, policy=POLICY) as agent:
        await agent.call_tool(TOOL, order(customer))
        rules = (await look(agent, customer=customer))["policy"]["rules"]
    assert [
        "One credit is at most 50.00 usd.",
        f"Of credits for customer {customer} within 30 days: 95.00 usd of 100.00 usd is left.",
        "One debit is at most 1,000.00 usd.",
        "More than 20.00 usd at once waits for a person.",
        "1 of 20 calls within the last minute.",
    ] == rules


async def test_a_decision_is_told_with_what_to_do(stripe: Sandbox, place: Place, customer: str) -> None:
    """Who decided, why, and whether to call again."""
    settings: dict[str, Any] = {"journal": str(place), "policy": POLICY}
    async with await connect(stripe, **settings) as agent:
        for amount in (-2500, -2600):
            with pytest.raises(PolicyRefusedError):
                await agent.call_tool(TOOL, order(customer, amount, reference=f"t{amount}"))
        journal = Journal(place)
        first, second = await proposals(journal)
        await decide(journal, first.approve(by="Ana"))
        await decide(journal, second.deny(by="Bo", reason="too much"))
        await journal.aclose()
        denied, approved = (await look(agent, customer=customer))["proposals"]
    assert ("approved", "Ana", "call_again") == tuple(approved[name] for name in ("state", "decided_by", "next"))
    assert ("denied", "Bo", "too much", "stop_and_tell") == tuple(
        denied[name] for name in ("state", "decided_by", "reason", "next")
    )


@pytest.mark.parametrize("name", [{"reference": "ticket 7"}, {"key": "k"}])
async def test_an_open_call_that_is_named_is_found_in_the_ledger(
    stripe: Sandbox, customer: str, name: dict[str, str]
) -> None:
    """Reading Stripe only: the entry is there, and no second one is made."""
    async with await connect(stripe, max_attempts=1) as agent:
        await lost(agent, stripe, customer, executed=True)
        seen = len(stripe.requests)
        (unnamed,) = (await look(agent, customer=customer))["calls"]
        assert ("unknown", "call_again", seen) == (unnamed["outcome"], unnamed["next"], len(stripe.requests))
        (call,) = (await look(agent, **name))["calls"]
        (entry,) = await ledger(stripe, customer)
        assert ("succeeded", entry["id"]) == (call["outcome"], call["entry"])
        assert {"GET"} == {request.method for request in list(stripe.requests)[seen:]}


async def test_an_empty_ledger_proves_nothing_before_a_day_is_over(
    stripe: Sandbox, place: Place, customer: str
) -> None:
    """Before, a request may still be running; afterwards, nothing moved."""
    async with await connect(stripe, max_attempts=1, journal=str(place)) as agent:
        await lost(agent, stripe, customer, executed=False)
        (call,) = (await look(agent, key="k"))["calls"]
        assert ("unknown", "call_again") == (call["outcome"], call["next"])
        assert call["said"].startswith("No entry so far, which proves nothing yet")
        age(place, 25 * 3600)
        (call,) = (await look(agent, key="k"))["calls"]
        assert ("not_sent", True) == (call["outcome"], call["said"].startswith("Nothing moved: 24 hours after"))
    assert [] == await ledger(stripe, customer)


@pytest.mark.parametrize(("form", "name"), [("mcp", "list_balance_calls"), ("json-schema", LOOK)])
async def test_a_call_that_is_too_old_is_told_where_to_look(
    stripe: Sandbox, place: Place, customer: str, form: Format, name: str
) -> None:
    """Not to be sent again, and not with a new key: by the tool that the model has, under the name it has there."""
    async with await connect(stripe, max_attempts=1, journal=str(place)) as agent:
        await lost(agent, stripe, customer, executed=True)
        age(place, 25 * 3600)
        arguments = order(customer, reference="Ticket 7", idempotency_key="k")
        message = await run_tool_call(form, agent, {"id": "c", "name": TOOL, "arguments": arguments})
        told = message["structuredContent"] if form == "mcp" else message["result"]
    assert ("unknown", "stop_and_tell") == (told["outcome"], told["next"])
    assert told["hint"].startswith(f"{name} with this key looks for it in the ledger")
    assert "ocp-stripe-balance" not in json.dumps(told)


@pytest.mark.promise("told.own-scope")
async def test_it_tells_nothing_of_other_accounts_and_modes(place: Place) -> None:
    """Keys, references and customers may be the same there."""
    settings: dict[str, Any] = {"journal": str(place), "allow_live": True}
    other: list[dict[str, Any]] = [
        {"account": "acct_other"},
        {"api_key": "sk_live_planted0key"},
        {"api_base": "https://other.test"},
    ]
    for more in other:
        async with await scripted(answered, **settings, **more) as agent:
            await agent.call_tool(TOOL, order(reference="r", description="hidden"), idempotency_key="k")
    async with await scripted(answered, **settings) as agent:
        for asked in ({"reference": "r"}, {"customer": "cus_1"}, {"key": "k"}):
            told = await look(agent, **asked)
            assert "calls" not in told, asked
            assert "hidden" not in json.dumps(told)
            assert "nothing is on record" in told["summary"]


async def test_it_asks_the_policy_and_needs_a_name() -> None:
    """Of customers that the policy keeps from the agent, nothing is told; of all at once, neither."""
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(500, headers=STRIPES)

    async with await scripted(handler, policy={"customers": {"deny": ["cus_2"]}}) as agent:
        for asked in ({"customer": "cus_2"}, {"reference": "r"}):
            with pytest.raises(PolicyRefusedError):
                await agent.call_tool(LOOK, asked)
    async with await scripted(handler) as agent:
        for nobody in ({}, {"limit": 5}):
            with pytest.raises(InvalidParametersError, match="at least one of the three"):
                await agent.call_tool(LOOK, nobody)
    assert [] == sent


async def test_it_tells_no_secret() -> None:
    """Stripe's own no may have the key in it, and is kept."""

    def handler(_: httpx.Request) -> httpx.Response:
        error = {"type": "invalid_request_error", "message": f"No to {TEST_KEY}."}
        return httpx.Response(400, json={"error": error}, headers=STRIPES)

    async with await scripted(handler) as agent:
        with pytest.raises(ToolError):
            await agent.call_tool(TOOL, order(), idempotency_key="k")
        told = await look(agent, key="k")
    (call,) = told["calls"]
    assert ("rejected", "mend_and_call_again") == (call["outcome"], call["next"])
    assert "planted0key" not in json.dumps(told)


async def test_it_says_where_there_is_more(stripe: Sandbox, customer: str) -> None:
    """A decision that is not among the newest was made all the same."""
    async with await connect(stripe, policy={"approval": {"above": {"usd": "20.00"}, "queue": True}}) as agent:
        for number in range(3):
            await agent.call_tool(TOOL, order(customer, -100 - number, reference=f"t{number}"))
        said = "on record: 2 calls; there are more, and these are the newest"
        cut, whole = await look(agent, customer=customer, limit=2), await look(agent, customer=customer, limit=3)
        assert (said, True) == (cut["summary"], cut["has_more"])
        assert ["t2", "t1"] == [call["reference"] for call in cut["calls"]]
        assert ("on record: 3 calls", False) == (whole["summary"], whole.get("has_more", False))
        for amount in (-2500, -2600):
            with pytest.raises(PolicyRefusedError):
                await agent.call_tool(TOOL, order(customer, amount))
        data = (await agent.call_tool(LOOK, {"customer": customer, "limit": 1})).data
        assert (1, 1, True) == (len(data["calls"]), len(data["proposals"]), data["has_more"])


async def test_a_key_that_joined_another_call_finds_it(stripe: Sandbox, customer: str) -> None:
    """The same reason under another key is one call or one proposal, and has two names."""
    async with await connect(stripe, policy={"approval": {"above": {"usd": "20.00"}, "queue": True}}) as agent:
        for key in ("k1", "k2"):
            await agent.call_tool(TOOL, order(customer, reference="r"), idempotency_key=key)
            with pytest.raises(PolicyRefusedError):
                await agent.call_tool(TOOL, order(customer, -2500, reference="p"), idempotency_key=f"p-{key}")
        first, second = await look(agent, key="k1"), await look(agent, key="k2")
        assert ("k1", first["calls"]) == (second["calls"][0]["key"], second["calls"])
        assert ["p-k1"] == [each["key"] for each in (await look(agent, key="p-k2"))["proposals"]]
