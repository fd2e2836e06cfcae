"""
Every rule of a policy, on both sides of its limit; and what a policy says of itself.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import (
    STRIPES,
    TEST_KEY,
    TOOL,
    answered,
    connect,
    decisions,
    order,
    records,
    run,
    scripted,
    transaction,
    usual_journal,
)
from places import age

from ocp_stripe_balance import (
    ConfigurationError,
    DryRun,
    OCPAgent,
    OutcomeUnknownError,
    Policy,
    PolicyRefusedError,
    Settings,
    ToolError,
)
from ocp_stripe_balance._policy import in_words, load_policy, remarks

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox

LIVE = "sk_live_planted0key"
NOW = 1_800_000_000.0


class Clocked:
    """
    An agent whose journal has a clock of its own, and the requests it sent.
    """

    def __init__(self) -> None:
        self.now = NOW
        self.sent: list[httpx.Request] = []
        self.agent: OCPAgent

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        return answered(request)


async def clocked(policy: dict[str, Any] | None = None, **settings: Any) -> Clocked:
    """
    With that policy, or the defaults.
    """
    made = Clocked()
    made.agent = await scripted(made.handle, policy=policy, seams={"clock": lambda: made.now}, **settings)
    return made


async def told(made: Clocked, parameters: dict[str, Any], **more: Any) -> PolicyRefusedError | None:
    """
    The refusal, or None where the call was sent.
    """
    before = len(made.sent)
    try:
        await made.agent.call_tool(TOOL, parameters, **more)
    except PolicyRefusedError as error:
        refused: PolicyRefusedError | None = error
    else:
        refused = None
    assert before + (refused is None) == len(made.sent)
    assert refused is None or refused.outcome == "not_sent"
    assert refused is None or refused.hint
    return refused


# rule -> policy, what is allowed just so, what is refused just so
BOTH_SIDES: dict[str, tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any]]] = {
    "default limit": (None, order(amount=-100000), order(amount=-100001)),
    "default limit#debit": (None, order(amount=100000), order(amount=100001)),
    "default limit#jpy": (None, order(amount=1000, currency="jpy"), order(amount=1001, currency="jpy")),
    "default limit#kwd": (None, order(amount=-1000000, currency="kwd"), order(amount=-1000001, currency="KWD")),
    "default limit#isk": (None, order(amount=100000, currency="isk"), order(amount=100001, currency="isk")),
    "directions": ({"directions": ["credit"]}, order(amount=-1), order(amount=1)),
    "directions#debit": ({"directions": ["debit"]}, order(amount=1), order(amount=-1)),
    "currencies": ({"currencies": ["USD", "eur"]}, order(currency="EUR"), order(currency="gbp")),
    "customers.allow": ({"customers": {"allow": ["cus_1", "cus_a*"]}}, order("cus_a9"), order("cus_12")),
    "customers.allow#case": ({"customers": {"allow": ["cus_a*"]}}, order("cus_a"), order("cus_A")),
    "customers.deny": ({"customers": {"allow": ["*"], "deny": ["cus_?"]}}, order("cus_12"), order("cus_1")),
    "expand": ({"expand": ["invoice"]}, order(expand=["invoice"]), order(expand=["invoice.customer"])),
    "expand#none": ({"expand": []}, order(), order(expand=["invoice"])),
    "require.stated_effect": (
        {"require": {"stated_effect": True}},
        order(stated_effect="credit 5.00 USD"),
        order(),
    ),
    "require.reference": ({"require": {"reference": True}}, order(reference="t"), order()),
    "require.description": ({"require": {"description": True}}, order(description="d"), order(description=" ")),
    "require.metadata.ticket": (
        {"require": {"metadata": ["ticket"]}},
        order(metadata={"ticket": "1"}),
        order(metadata={"ticket": "", "Ticket": "1"}),
    ),
    "limits.credit.usd": (
        {"limits": {"credit": {"usd": "20.00", "other": "1"}}},
        order(amount=-2000),
        order(amount=-2001),
    ),
    "limits.credit.other": (
        {"limits": {"credit": {"usd": "20.00", "other": "1"}}},
        order(amount=-1000, currency="kwd"),
        order(amount=-1001, currency="kwd"),
    ),
    "limits.debit.usd": (
        {"limits": {"debit": {"usd": "5000"}}},
        order(amount=500000),
        order(amount=500001),
    ),
    "limits.debit.usd#none": ({"limits": {"debit": {"usd": "0"}}}, order(amount=-1), order(amount=1)),
    "budgets[0].credit.usd": (
        {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "5.00"}}]},
        order(amount=-500),
        order(amount=-501),
    ),
    "approval.above.usd": (
        {"approval": {"above": {"usd": "5"}}},
        order(amount=-500),
        order(amount=-501),
    ),
    "approval.two_people_above.usd": (
        {"approval": {"two_people_above": {"usd": "5"}}},
        order(amount=-500),
        order(amount=-501),
    ),
    "approval.always": ({"approval": {"above": {"usd": "5"}}}, order(), order()),
}


@pytest.mark.parametrize("name", [name for name in BOTH_SIDES if name != "approval.always"])
async def test_each_rule_has_two_sides(name: str) -> None:
    """Just inside is sent; just outside is refused, and the refusal names the rule."""
    policy, inside, outside = BOTH_SIDES[name]
    made = await clocked(policy)
    async with made.agent:
        refused = await told(made, outside, idempotency_key="outside")
        assert refused is not None
        assert name.partition("#")[0] == refused.rule == refused.to_dict()["rule"]
        assert None is await told(made, inside, idempotency_key="inside")


async def test_live_keys_need_a_switch() -> None:
    """The setting or the policy switches live mode on; a policy that says no wins."""
    for policy, setting, is_sent in (
        (None, False, False),
        (None, True, True),
        ({"allow_live": True}, False, True),
        ({"allow_live": False}, True, False),
    ):
        made = await clocked(policy, api_key=LIVE, allow_live=setting, journal="off")
        async with made.agent:
            refused = await told(made, order())
            assert is_sent is (refused is None)
            assert refused is None or "allow_live" == refused.rule
    made = await clocked(None, journal="off")
    async with made.agent:
        assert await told(made, order()) is None


async def test_a_duplicate_is_suspected_for_ten_minutes() -> None:
    """The refusal names the first transaction and when the time is up; after that the call is sent."""
    made = await clocked()
    async with made.agent:
        first = await made.agent.call_tool(TOOL, order(), idempotency_key="first")
        made.now += 599.9
        refused = await told(made, order(), idempotency_key="second")
        assert refused is not None
        assert ("duplicate_window", "2027-01-15T08:10:00Z") == (refused.rule, refused.free_at)
        assert "mend_and_call_again" == refused.next, "a host that only waits would pay twice"
        assert first.data["id"] in str(refused)
        assert "'first'" in refused.hint
        for other in (order(amount=-501), order(amount=500), order("cus_2"), order(currency="eur")):
            assert None is await told(made, other)
        assert (await made.agent.call_tool(TOOL, order(), idempotency_key="first")).replayed
        made.now += 0.1
        assert None is await told(made, order(), idempotency_key="second")


async def test_references_tell_two_like_calls_apart() -> None:
    """Two different reasons are two calls; a reason against none, or none at all, is a suspected duplicate."""
    made = await clocked()
    async with made.agent:
        assert None is await told(made, order(reference="ticket-1"))
        assert None is await told(made, order(reference="ticket-2"))
        refused = await told(made, order())
        assert refused is not None
        assert "reference" in refused.hint
    made = await clocked(journal="off")
    async with made.agent:
        assert None is await told(made, order())
        refused = await told(made, order(reference="ticket-1"))
        assert refused is not None
        assert "carries no reference" in refused.hint


async def test_a_call_that_moved_nothing_is_no_duplicate() -> None:
    """Rejected and unsent calls do not count; one whose outcome is unknown does."""
    answers = [
        httpx.Response(400, json={"error": {"type": "invalid_request_error", "message": "no"}}, headers=STRIPES),
        httpx.Response(500),
    ]
    agent = await scripted(lambda _: answers.pop(0), policy=None, max_attempts=1)
    async with agent:
        outcomes: list[str] = []
        for key in "abc":
            try:
                await agent.call_tool(TOOL, order(), idempotency_key=key)
            except Exception as error:  # noqa: BLE001
                outcomes.append(str(getattr(error, "rule", getattr(error, "outcome", ""))))
    assert ["rejected", "unknown", "duplicate_window"] == outcomes


async def test_the_duplicate_window_can_be_set_and_switched_off() -> None:
    """Shorter, and not at all."""
    made = await clocked({"duplicate_window": "1m"})
    async with made.agent:
        assert None is await told(made, order())
        assert await told(made, order()) is not None
        made.now += 60
        assert None is await told(made, order())
    made = await clocked({"duplicate_window": "off"}, journal="off")
    async with made.agent:
        assert [None, None] == [await told(made, order()) for _ in range(2)]


async def test_calls_per_minute() -> None:
    """The third within a minute waits for the first to be a minute old; refusals do not count."""
    made = await clocked({"calls_per_minute": 2, "duplicate_window": "off"})
    async with made.agent:
        assert None is await told(made, order())
        made.now += 30
        assert None is await told(made, order())
        for _ in range(3):
            refused = await told(made, order())
            assert refused is not None
            assert "wait_until" == refused.next
            assert ("calls_per_minute", "2", "0", "2027-01-15T08:01:00Z") == (
                refused.rule,
                refused.limit,
                refused.left,
                refused.free_at,
            )
        made.now += 29.9
        assert await told(made, order()) is not None
        made.now += 0.1
        assert None is await told(made, order())
        assert await told(made, order()) is not None


async def test_a_key_sent_again_and_again_is_counted_each_time() -> None:
    """Where nothing moved under it, each time is another call for the limit of a minute."""
    sent: list[httpx.Request] = []

    def busy(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(
            429, json={"error": {"type": "invalid_request_error", "message": "slow down"}}, headers=STRIPES
        )

    async with await scripted(busy, policy={"calls_per_minute": 2}, max_attempts=1) as agent:
        outcomes = []
        for _ in range(4):
            with pytest.raises(ToolError) as caught:
                await agent.call_tool(TOOL, order(), idempotency_key="k")
            outcomes.append(getattr(caught.value, "rule", "429"))
    assert ["429", "429", "calls_per_minute", "calls_per_minute"] == outcomes
    assert 2 == len(sent)


async def test_a_dry_run_of_a_live_call_knows_the_gate() -> None:
    """And does not even read with a key that may not be used."""
    made = await clocked(None, api_key=LIVE, journal="off", customer_check="on")
    async with made.agent:
        assert ("refused", "allow_live") == ((dry := await foresee(made, order(), "k")).verdict, dry.rule)
    assert [] == made.sent


WHOSE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "customer": ({"customer": "cus_1"}, {"customer": "cus_2"}),
    "user": ({"user": "ann"}, {"user": "bob"}),
    "agent_type": ({"agent_type": "support"}, {"agent_type": "billing"}),
    "context": ({}, {}),
}


@pytest.mark.parametrize("per", [*WHOSE, "all"])
async def test_budgets_add_up_whose_calls_they_say(per: str, tmp_path: Path) -> None:
    """One customer's, user's, agent type's or context's calls do not use up another's budget; all do."""
    policy = {"budgets": [{"per": per, "window": "1h", "credit": {"usd": "10"}}], "duplicate_window": "off"}
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async def spend(who: dict[str, Any], amount: int) -> bool:
        values = {"api_key": "sk_test_1", "customer_check": "off", "policy": policy}
        settings = Settings(**values, journal=str(tmp_path / "journal"))
        host = {name: value for name, value in who.items() if name in {"user", "agent_type"}}
        async with OCPAgent(**host, settings=settings, transport=httpx.MockTransport(handler)) as agent:
            if per == "context":
                agent.context.context_id = who.get("context_id", "ocp-1")
            await agent.register_api("stripe")
            try:
                await agent.call_tool(TOOL, order(who.get("customer", "cus_1"), amount))
            except PolicyRefusedError as error:
                refused = error
            else:
                return True
        assert "budgets[0].credit.usd" == refused.rule
        return False

    one, other = WHOSE.get(per, ({"user": "ann"}, {"user": "bob", "customer": "cus_2", "agent_type": "x"}))
    other = {**other, **({"context_id": "ocp-2"} if per == "context" else {})}
    assert await spend(one, -600)
    assert not await spend(one, -401)
    assert await spend(one, -400)
    assert not await spend(one, -1)
    assert await spend(other, -1) is (per != "all")
    assert await spend(one, 99999), "debits are another budget"


async def test_a_budget_says_what_is_left_and_when_it_frees() -> None:
    """The numbers of a refusal are the ones that count: waiting until then, and not a moment less, helps."""
    budget = {"per": "customer", "window": "1h", "credit": {"usd": "10.00"}}
    made = await clocked({"budgets": [budget], "duplicate_window": "off"})
    async with made.agent:
        for amount in (-300, -400):
            assert None is await told(made, order(amount=amount))
            made.now += 600
        refused = await told(made, order(amount=-700))
        assert refused is not None
        assert ("10.00 usd", "3.00 usd", "2027-01-15T09:10:00Z") == (refused.limit, refused.left, refused.free_at)
        assert {
            "limit": "10.00 usd",
            "left": "3.00 usd",
            "free_at": refused.free_at,
        }.items() <= refused.to_dict().items()
        made.now = NOW + 4199.9
        assert await told(made, order(amount=-700)) is not None
        made.now = NOW + 4200
        assert None is await told(made, order(amount=-700))
        never = await told(made, order(amount=-1001))
        assert never is not None
        assert (None, "stop_and_tell") == (never.free_at, never.next)
        assert "more than the whole budget" in never.hint


async def test_what_moved_nothing_leaves_the_budget_alone() -> None:
    """Only what moved, or may have, is counted."""
    bad = httpx.Response(400, json={"error": {"type": "invalid_request_error", "message": "no"}}, headers=STRIPES)
    answers = [bad, httpx.Response(500), httpx.Response(200, json=transaction(amount=-400))]
    policy = {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10"}}], "duplicate_window": "off"}
    agent = await scripted(lambda _: answers.pop(0), policy=policy, max_attempts=1)
    async with agent:
        outcomes: list[str] = []
        for amount in (-1000, -600, -500, -400):
            try:
                outcomes.append((await agent.call_tool(TOOL, order(amount=amount))).outcome)
            except Exception as error:  # noqa: BLE001
                outcomes.append(str(getattr(error, "rule", getattr(error, "outcome", ""))))
    assert ["rejected", "unknown", "budgets[0].credit.usd", "succeeded"] == outcomes


async def test_a_resend_needs_room_once_its_place_is_given_away() -> None:
    """A call that may have moved money hours ago is not sent into a budget that is used up by now."""
    entries = [httpx.Response(200, json=transaction(amount=amount)) for amount in (-700, -600)]
    answers = [httpx.Response(500), *entries]
    policy = {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10"}}], "duplicate_window": "off"}
    made = Clocked()
    seams = {"clock": lambda: made.now}
    made.agent = await scripted(lambda _: answers.pop(0), policy=policy, max_attempts=1, seams=seams)
    async with made.agent:
        with pytest.raises(Exception, match="unknown"):
            await made.agent.call_tool(TOOL, order(amount=-600), idempotency_key="old")
        made.now += 3601
        await made.agent.call_tool(TOOL, order(amount=-700), idempotency_key="new")
        with pytest.raises(Exception, match="against the policy") as caught:
            await made.agent.call_tool(TOOL, order(amount=-600), idempotency_key="old")
        assert "unknown" == getattr(caught.value, "outcome", None)
        assert 1 == len(answers)
        made.now += 3600
        assert (await made.agent.call_tool(TOOL, order(amount=-600), idempotency_key="old")).ok


NARROWER: dict[str, dict[str, Any]] = {
    "directions": {"directions": ["debit"]},
    "currencies": {"currencies": ["eur"]},
    "customers.deny": {"customers": {"deny": ["cus_*"]}},
    "limits.credit.usd": {"limits": {"credit": {"usd": "1.00"}}},
    "allow_live": {"allow_live": False},
}


@pytest.mark.parametrize("rule", NARROWER)
async def test_a_resend_is_held_to_todays_policy(rule: str, tmp_path: Path) -> None:
    """It could move money for the first time; the outcome stays unknown, for it may have moved before."""
    path, key = str(tmp_path / "journal"), LIVE if rule == "allow_live" else TEST_KEY
    agent = await scripted(
        lambda _: httpx.Response(500), policy={"allow_live": True}, max_attempts=1, journal=path, api_key=key
    )
    async with agent:
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order(), idempotency_key="k")
    made = Clocked()
    made.agent = await scripted(made.handle, policy=NARROWER[rule], journal=path, api_key=key)
    async with made.agent:
        with pytest.raises(OutcomeUnknownError, match="against the policy") as caught:
            await made.agent.call_tool(TOOL, order(), idempotency_key="k")
    told = caught.value.to_dict()
    assert ([], "stop_and_tell", False) == (made.sent, told["next"], "ocp-stripe-balance" in told["hint"])
    assert "calls reconcile" in str(caught.value), "people are told the command"


async def test_resends_count_as_calls_of_the_minute() -> None:
    """A model that repeats an unknown call in a loop is slowed down like any other."""
    sent: list[httpx.Request] = []

    def broken(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(500)

    async with await scripted(broken, policy={"calls_per_minute": 3}, max_attempts=1) as agent:
        for _ in range(10):
            with pytest.raises(OutcomeUnknownError) as caught:
                await agent.call_tool(TOOL, order(), idempotency_key="k")
    assert (3, "wait_until", 20) == (len(sent), caught.value.next, len(caught.value.to_dict()["free_at"]))


async def test_what_was_paid_is_told_also_where_live_mode_is_switched_off(tmp_path: Path) -> None:
    """Nothing is sent for a replay, so nothing forbids it."""
    path = str(tmp_path / "journal")
    made = await clocked({"allow_live": True}, api_key=LIVE, journal=path)
    async with made.agent:
        await made.agent.call_tool(TOOL, order(), idempotency_key="k")
    made = await clocked(None, api_key=LIVE, journal=path)
    async with made.agent:
        assert (await made.agent.call_tool(TOOL, order(), idempotency_key="k")).replayed
        assert "replay" == (await foresee(made, order(), "k")).verdict
    assert [] == made.sent


async def test_room_is_there_when_it_is_said_to_be() -> None:
    """A machine that comes back at free_at, to the second, is let through."""
    budget = {"per": "all", "window": "3s", "credit": {"usd": "5"}}
    made = await clocked({"budgets": [budget], "duplicate_window": "off"})
    made.now = math.floor(made.now) + 0.7
    async with made.agent:
        assert await told(made, order()) is None
        refused = await told(made, order())
        assert refused is not None
        assert refused.free_at is not None
        made.now = datetime.fromisoformat(refused.free_at).timestamp()
        assert await told(made, order()) is None


async def test_pruning_keeps_what_the_policy_in_force_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where no call was made under it yet."""
    path, policy = tmp_path / "journal", tmp_path / "policy.toml"
    made = await clocked({"duplicate_window": "off"}, journal=str(path))
    made.now = time.time()
    async with made.agent:
        await made.agent.call_tool(TOOL, order())
    age(path, 7200)
    policy.write_text('[[budgets]]\nper = "all"\nwindow = "24h"\ncredit = { usd = "5.00" }\n')
    monkeypatch.setenv("OCP_STRIPE_JOURNAL", str(path))
    monkeypatch.setenv("OCP_STRIPE_POLICY", str(policy))
    assert "Deleted 0 settled calls" in (await asyncio.to_thread(run, "journal", "prune", "--before", "1h")).stderr
    monkeypatch.delenv("OCP_STRIPE_POLICY")
    assert "Deleted 1 settled calls" in (await asyncio.to_thread(run, "journal", "prune", "--before", "1h")).stderr


async def test_a_replay_asks_no_rule(tmp_path: Path) -> None:
    """What is on record is told again whatever the policy says today: it moves nothing."""
    journal = str(tmp_path / "journal")
    made = await clocked(journal=journal)
    async with made.agent:
        await made.agent.call_tool(TOOL, order(), idempotency_key="k")
    stricter = await clocked({"directions": []}, journal=journal)
    async with stricter.agent:
        assert (await stricter.agent.call_tool(TOOL, order(), idempotency_key="k")).replayed
        assert await told(stricter, order(), idempotency_key="k2") is not None


async def test_every_decision_is_on_record() -> None:
    """Allowed and refused, with the rule, who decided, and whose call it was."""
    made = await clocked({"directions": ["credit"]})
    made.agent.context.user = "ann"
    async with made.agent:
        await told(made, order(), idempotency_key="yes")
        await told(made, order(amount=1), idempotency_key="no")
    async with usual_journal() as journal:
        found = await decisions(journal)
    assert [("yes", "allowed", "every rule"), ("no", "refused", "directions")] == [
        (each.key, each.decision, each.rule) for each in found
    ]
    assert {("policy", "ann", "ai_agent", NOW)} == {(d.who, d.caller.user, d.caller.agent_type, d.at) for d in found}
    assert "positive" in found[1].reason or "debit" in found[1].reason


async def test_budgets_and_queues_need_a_journal() -> None:
    """What must outlive the process is not kept in memory without a word."""
    for policy in (
        {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "1"}}]},
        {"approval": {"queue": True}},
        {"calls_per_minute": 1},
    ):
        with pytest.raises(ConfigurationError, match="the journal that keeps them is off"):
            await clocked(policy, journal="off")


async def test_a_dry_run_goes_the_whole_way_and_sends_nothing() -> None:
    """The request as it would be sent, and the verdict with its rule; nothing is recorded."""
    made = await clocked({"approval": {"above": {"usd": "6"}}})
    async with made.agent:
        dry = await made.agent.call_tool(TOOL, order(description="d"), idempotency_key="k", dry_run=True)
        assert ("send", None, "POST", "k") == (dry.verdict, dry.rule, dry.method, dry.idempotency_key)
        assert "https://api.stripe.com/v1/customers/cus_1/balance_transactions" == dry.url
        assert "amount=-500&currency=usd&description=d&metadata%5Bocp_call%5D=k" == dry.body
        assert ("k", "Bearer [api key]") == (dry.headers["Idempotency-Key"], dry.headers["Authorization"])
        assert dry.to_dict()["dry_run"] is True
        cases: list[tuple[dict[str, Any], str, str | None]] = [
            (order(amount=-601), "refused", "approval.above.usd"),  # for nobody can be asked
            (order(amount=-100001), "refused", "default limit"),
            (order(reference="r"), "send", None),
        ]
        for parameters, verdict, rule in cases:
            dry = await made.agent.call_tool(TOOL, parameters, dry_run=True)
            assert (verdict, rule) == (dry.verdict, dry.rule), dry.message
        assert [] == made.sent
        async with usual_journal() as journal:
            assert ([], []) == (await records(journal), await decisions(journal))
        sent = await made.agent.call_tool(TOOL, order(description="d"), idempotency_key="k")
        assert sent.idempotency_key == made.sent[0].headers["Idempotency-Key"]
        assert "replay" == (await foresee(made, order(description="d"), "k")).verdict
        assert "conflict" == (await foresee(made, order(amount=-1), "k")).verdict
        assert "duplicate_window" == (await foresee(made, order(), "k2")).rule


async def foresee(made: Clocked, parameters: dict[str, Any], key: str) -> DryRun:
    return await made.agent.call_tool(TOOL, parameters, idempotency_key=key, dry_run=True)


# TOML -> what is said of it
WRONG = {
    "direction = ['credit']": "direction: unknown key; did you mean directions?",
    "directions = ['up']": "directions[0]: 'up' is none of 'credit', 'debit'",
    "currencies = ['dollar']": "currencies[0]: 'dollar' is not a currency",
    "calls_per_minute = 0": "calls_per_minute: should be greater than or equal to 1",
    "calls_per_minute = true": "calls_per_minute: write a whole number, without quotes",
    "allow_live = 'yes'": "allow_live: write true or false, without quotes",
    "duplicate_window = '10'": "duplicate_window: '10' is not a span of time",
    "duplicate_window = '400d'": "duplicate_window: '400d' is too long; the longest is 366d",
    "duplicate_window = 600": "duplicate_window: 600 is not a span of time",
    "duplicate_window = false": 'duplicate_window: write "off" to switch it off',
    "directions = ['credits']": "'credits' is none of 'credit', 'debit'; did you mean credit?",
    "[[budgets]]\nper = 'costumer'\nwindow = '1h'\ncredit = {usd = '1'}": "did you mean customer?",
    "[approval]\ncustomers = {}": "approval.customers: unknown key; customers stands above the first [section]",
    "[limits]\ncredit = '50.00'": "limits.credit: write a table, such as",
    "require = ['reference']": "require: write a section of its own",
    "[limits.credit]\nusd = '1,000.00'": "without sign, currency or thousands separator",
    "queue = True": "true and false without quotes in lower case",
    "duplicate_window = nan": "duplicate_window: nan is not a span of time",
    "duplicate_window = -1.0": "duplicate_window: -1.0 is not a span of time",
    "duplicate_window = ['10m']": "duplicate_window: a list of 1 is not a span of time",
    "[[budgets]]\nper = 'all'\nwindow = 0.0\ncredit = {usd = '1'}": "budgets[0].window: 0.0 is not a span of time",
    "[approval]\nexpires = inf": "approval.expires: inf is not a span of time",
    "[limits.credit]\nusd = '50.00'\nUSD = '5000.00'": "limits.credit: usd stands there twice",
    "[require]\nmetadata = ['a[b]']": "require.metadata[0]",
    "[customers]\ndeny = ['cus_[1]']": "customers.deny[0]: 'cus_[1]' is not a customer",
    "self = 1": "self: unknown key",
    "a = " + "[" * 3000: "is not TOML",
    "a = " + "9" * 5000: "is not TOML",
    "unreadable_customers = 'ignore'": "unreadable_customers: 'ignore' is none of 'warn', 'refuse'",
    "[limits.credit]\nusd = 20": "limits.credit.usd: 20 could be read as cents",
    "[limits.credit]\nusd = 20.0": "limits.credit.usd: 20.0 could be read as cents",
    "[limits.credit]\nusd = '20,00'": "limits.credit.usd: '20,00' is not an amount",
    "[limits.credit]\nusd = '-20'": "limits.credit.usd: '-20' is not an amount",
    "[limits.credit]\nusd = '20.005'": "limits.credit.usd: 20.005 has more decimals than usd, which has 2",
    "[limits.debit]\njpy = '20.5'": "limits.debit.jpy: 20.5 has more decimals than jpy, which has 0",
    "[limits.credit]\nothers = '20'": "limits.credit.others: 'others' is not a currency",
    "[limits.usd]\ncredit = '1'": "limits.usd: unknown key; the keys are credit, debit",
    "[customers]\nallow = 'cus_1'": "customers.allow: write a list, such as",
    "[customers]\ndeny = ['']": "customers.deny[0]: '' is not a customer",
    "expand = ['data[customer]']": "expand[0]: String",
    "expand = 'invoice'": "expand: write a list",
    "calls_per_minute = 1000001": "calls_per_minute: should be less than or equal to 1000000",
    "calls_per_minute = 0xffffffffffffffffffffff": "calls_per_minute:",
    "directions = ['credit']\ndirections = ['debit']": "is not TOML",
    '"a\\nsucceeded: b" = 1': r"a\nsucceeded: b: unknown key",
    "[require]\nrefrence = true": "require.refrence: unknown key; did you mean reference?",
    "[require]\nreference = 1": "require.reference: write true or false, without quotes",
    "[require]\nmetadata = [1]": "require.metadata[0]: write text in quotes",
    "[[budgets]]\nwindow = '1h'\ncredit = {usd = '1'}": "budgets[0].per: is missing",
    "[[budgets]]\nper = 'all'\ncredit = {usd = '1'}": "budgets[0].window: is missing",
    "[[budgets]]\nper = 'all'\nwindow = '1h'": "budgets[0]: has neither credit nor debit",
    "[[budgets]]\nper = 'all'\nwindow = '1h'\ncredit = {other = '1'}": "budgets[0].credit.other: other is for limits",
    "[[budgets]]\nper = 'all'\nwindow = '1h'\ncredit = {usd = '1.001'}": "budgets[0].credit.usd: 1.001 has more",
    "[[budgets]]\nper = 'one'\nwindow = '1h'\ncredit = {usd = '1'}": "budgets[0].per: 'one' is none of 'customer'",
    "[approval]\nabove = {usd = 10}": "approval.above.usd: 10 could be read as cents",
    "[approval]\ntwo_people_above = {usd = '1.001'}": "approval.two_people_above.usd: 1.001 has more decimals than usd",
    "[approval.largest.kim]\nusd = '0.001'": "approval.largest.kim.usd: 0.001 has more decimals than usd",
    "[approval.largest]\nkim = '5'": "approval.largest.kim: write a table, such as",
    "[approval.largest.kim]\n[approval.largest.'Kim@host']": "approval.largest: kim stands there twice",
    "[approval.largest.'']": "approval.largest.: '' is not a name",
    "[approval]\nqueue = 'yes'": "approval.queue: write true or false, without quotes",
    "[approval]\nexpires = '0h'": "approval.expires: '0h' is not a span of time",
    "directions = [": "policy.toml is not TOML",
    "a = 1\na = 2": "policy.toml is not TOML",
}


@pytest.mark.parametrize("text", ["1e99", "1E+1000000", "NaN", "sNaN", "Infinity", "-0.01", "1e-4", "9999999999"])
def test_an_absurd_amount_is_refused(text: str) -> None:
    """A Decimal that no currency has is named, as a text would be."""
    for values in ({"limits": {"credit": {"usd": Decimal(text)}}}, {"approval": {"above": {"usd": Decimal(text)}}}):
        with pytest.raises(ConfigurationError, match="is not an amount"):
            Policy(**values)


@pytest.mark.parametrize("text", WRONG, ids=lambda text: str(text)[:60])
def test_a_wrong_policy_names_the_key(text: str, tmp_path: Path) -> None:
    """Misspelt keys, impossible values, numbers that could be cents, and files that are no TOML."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Settings(policy=str(path))
    assert WRONG[text] in str(caught.value)


@pytest.mark.parametrize("source", ["~nosuchuser/p.toml", "a\0b", "/", {1: 2}, {"limits": {1: 2}}, 7.5, ["a"]])
def test_what_is_no_policy_is_a_configuration_error(source: Any) -> None:
    """Never anything else."""
    with pytest.raises(ConfigurationError):
        Settings(policy=source)


def test_a_policy_in_code_is_held_to_the_same_rules() -> None:
    """Numbers are no amounts there either, but decimals are."""
    assert Decimal("5.5") == Policy(limits={"credit": {"usd": Decimal("5.5")}}).limits.credit["usd"]
    for wrong in (Decimal(-5), Decimal("nan"), Decimal("inf"), 5, 5.0):
        with pytest.raises(ConfigurationError):
            Policy(limits={"credit": {"usd": wrong}})


def test_all_problems_are_told_at_once() -> None:
    """One line each."""
    with pytest.raises(ConfigurationError) as caught:
        Policy(direction=1, calls_per_minute=0, limits={"credit": {"usd": 1}})
    assert 3 == str(caught.value).count("\n- ")


def test_a_policy_comes_from_a_file_a_dict_or_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same rules each time; an argument wins over the environment, and what is no policy is said."""
    path = tmp_path / "p.toml"
    path.write_text('currencies = ["usd"]')
    monkeypatch.setenv("OCP_STRIPE_POLICY", str(path))
    assert ("usd",) == Settings().policy_in_force.currencies
    assert ("eur",) == Settings(policy={"currencies": ["eur"]}).policy_in_force.currencies
    assert ("gbp",) == Settings(policy=Policy(currencies=["gbp"])).policy_in_force.currencies
    assert load_policy(path) == Settings(policy=path).policy
    monkeypatch.setenv("OCP_STRIPE_POLICY", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read"):
        Settings()
    with pytest.raises(ConfigurationError, match="OCP_STRIPE_POLICY: it is the path of a TOML file"):
        Settings(policy=7)


def test_limits_fall_back_to_other_and_to_the_default() -> None:
    """The currency's own line, then other, then 1,000.00."""
    policy = Policy(limits={"credit": {"usd": "5", "other": "7"}})
    assert ("limits.credit.usd", Decimal(5)) == policy.limit("credit", "usd")
    assert ("limits.credit.other", Decimal(7)) == policy.limit("credit", "eur")
    assert ("default limit", Decimal(1000)) == policy.limit("debit", "usd")


REMARKS: dict[str, dict[str, Any]] = {
    "Any currency may be used": {},
    "There is no budget": {"currencies": ["usd"]},
    "No budget covers credits in eur.": {
        "currencies": ["usd", "eur"],
        "budgets": [{"per": "all", "window": "1d", "credit": {"usd": "1"}}],
    },
    "No budget covers debits.": {"budgets": [{"per": "all", "window": "1d", "credit": {"usd": "1"}}]},
    "No budget covers all calls together": {"budgets": [{"per": "user", "window": "1d", "credit": {"usd": "1"}}]},
    "Nobody is asked about calls in eur.": {"currencies": ["usd", "eur"], "approval": {"above": {"usd": "1"}}},
    "Nobody is asked about calls in other currencies.": {"approval": {"above": {"usd": "1"}}},
    "A yes in an MCP client counts": {"approval": {"always": True, "queue": True, "in_session": True}},
    "What the policy says of eur has no effect": {"currencies": ["usd"], "limits": {"credit": {"eur": "1"}}},
    "What the policy says of debits has no effect": {"directions": ["credit"], "limits": {"debit": {"usd": "1"}}},
    "approval.above.usd has no effect: limits and budgets allow no call of more than 1,000.00": {
        "approval": {"above": {"usd": "1000"}}
    },
    "approval.above.eur has no effect: limits and budgets allow no call of more than 20.00": {
        "directions": ["credit"],
        "budgets": [{"per": "user", "window": "1d", "credit": {"eur": "20"}}],
        "approval": {"above": {"eur": "20"}},
    },
    "approval.queue has no effect": {"approval": {"queue": True}},
    "approval.largest has no effect": {"approval": {"largest": {"kim": {"usd": "1"}}}},
    "approval.not_by_requester has no effect": {"approval": {"not_by_requester": True}},
    "approval.in_session has no effect": {
        "approval": {"always": True, "queue": True, "in_session": True, "not_by_requester": True}
    },
    "approval.above has no effect": {"approval": {"always": True, "above": {"usd": "1"}}},
    "cus_1 is both allowed and denied": {"customers": {"allow": ["cus_1"], "deny": ["cus_1"]}},
    "gpb is no currency Stripe lists; did you mean ": {"limits": {"credit": {"gpb": "1"}}},
}


@pytest.mark.parametrize("remark", REMARKS)
def test_what_a_policy_leaves_open_is_said(remark: str) -> None:
    """Gaps and rules in vain are remarked on."""
    assert any(sentence.startswith(remark) for sentence in remarks(Policy(**REMARKS[remark])))


def test_a_closed_policy_needs_no_remark() -> None:
    """Nothing is said where nothing is open."""
    closed = Policy(
        directions=["credit"],
        currencies=["usd"],
        budgets=[{"per": "all", "window": "1d", "credit": {"usd": "2"}}],
        approval={"above": {"usd": "1"}},
    )
    assert [] == remarks(closed)


def test_the_words_name_every_number() -> None:
    """What is set is found in the sentences."""
    policy = Policy(
        allow_live=True,
        directions=["debit"],
        currencies=["usd", "jpy"],
        calls_per_minute=17,
        duplicate_window="off",
        unreadable_customers="refuse",
        customers={"allow": ["cus_a*"], "deny": ["cus_ab"]},
        require={"stated_effect": True, "reference": True, "description": True, "metadata": ["ticket"]},
        limits={"debit": {"usd": "12.34", "other": "5"}},
        budgets=[{"per": "user", "window": "90m", "debit": {"jpy": "777"}}],
        approval={
            "above": {"usd": "3.21"},
            "two_people_above": {"jpy": "888"},
            "largest": {"Kim": {"usd": "9.87", "other": "6"}, "zoe": {}},
            "not_by_requester": True,
            "expires": "2d",
        },
    )
    text = " ".join(sentence for _, sentence in in_words(policy, allow_live=False))
    for words in (
        *("Live-mode keys may be used", "Only debits", "Only usd and jpy", "17 calls", "at once under another key"),
        *(
            "Only cus_a*, but never cus_ab, who is denied in any case",
            "a stated effect, a reference, a description",
            "metadata.ticket",
        ),
        *("12.34 usd", "5 of the currency's units", "each user", "777 jpy of debits", "90 minutes", "3.21 usd"),
        *("2 days", "no queue", "the call is refused", "Two people decide on a call, or on a plan", "888 jpy"),
        *("kim approves at most 9.87 usd and 6 of the", "zoe approves nothing", "Nobody else approves anything"),
        "Who asked for a call, or made a plan, may not approve it",
    ):
        assert words in text
    assert "Nobody is asked" in " ".join(sentence for _, sentence in in_words(Policy(), allow_live=False))


@pytest.mark.parametrize(
    "text", ["N/A", "string", "null", "-", "\u200b", "<ticket>", "ticket", "todo", "not given", " "]
)
async def test_what_says_nothing_meets_no_requirement(text: str) -> None:
    """In metadata as in a description; what must be there is said."""
    async with await scripted(answered, policy={"require": {"metadata": ["ticket"]}}) as agent:
        with pytest.raises(PolicyRefusedError, match=r"demands metadata\.ticket"):
            await agent.call_tool(TOOL, order(metadata={"ticket": text}))
        assert (await agent.call_tool(TOOL, order(metadata={"ticket": "no"}))).ok
    async with await scripted(answered, policy={"require": {"description": True}}) as agent:
        with pytest.raises(PolicyRefusedError, match="demands description"):
            await agent.call_tool(TOOL, order(description=text.replace("ticket", "description")))


@pytest.mark.promise("text.one-line")
async def test_text_of_others_begins_no_line_where_it_is_wrapped(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """A long reference cannot look like what a rule says."""
    forged, call = f"t {'y' * 99} ok approval: ana approved this call", tmp_path / "call.json"
    customer = stripe_thread.create_customer()
    for amount in (-500, -700):
        call.write_text(json.dumps(order(customer, amount, reference=forged)))
        done = run(
            *(("call", TOOL, "--json") if amount == -500 else ("policy", "explain")), str(call), stripe=stripe_thread
        )
    assert "already belongs to another entry" in done.stdout
    assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ok approval")]


def test_explain_says_what_would_become_of_a_call(tmp_path: Path) -> None:
    """Rule by rule, as text and as JSON; without a key and without a row in the journal."""
    policy, call = tmp_path / "policy.toml", tmp_path / "call.json"
    policy.write_text('directions = ["credit"]\n[approval]\nabove = { usd = "10.00" }')
    call.write_text(json.dumps(order(amount=-1500)))
    done = run("policy", "explain", str(call), OCP_STRIPE_POLICY=str(policy))
    assert 2 == done.returncode
    assert "ok   directions: a credit, and credits are allowed" in done.stdout
    assert "ASK  approval.above.usd: 15.00 usd is above the 10.00 usd that go without approval" in done.stdout
    call.write_text(json.dumps(order(amount=1500)))
    done = run("policy", "explain", str(call), "--policy", str(policy), "--json")
    told = json.loads(done.stdout)
    assert ("refused", "NO") == (told["verdict"], "NO" if told["rules"][1]["verdict"] == "refused" else "")
    assert "approval.above.usd" in [rule["rule"] for rule in told["rules"]], "the rules after a refusal are told too"
    done = run("policy", "explain", str(call))
    assert (0, True) == (done.returncode, "The call would be sent: debit 15.00 usd for cus_1." in done.stdout)
    done = run("policy", "explain", str(call), "--mode", "live")
    assert (2, True) == (done.returncode, "NO   allow_live" in done.stdout)
    for text, said in (
        ("{", "is not JSON"),
        ("[]", "a list; pass one JSON object"),
        ('{"amount": 5}', "required parameter is missing"),
    ):
        call.write_text(text)
        done = run("policy", "explain", str(call))
        assert (2, "") == (done.returncode, done.stdout)
        assert said in done.stderr
    assert "cannot be read" in run("policy", "explain", str(tmp_path / "none")).stderr
    assert "did you mean" in run("policy", "explain", str(call), "--tool", "postCustomer").stderr
    assert "" == run("journal", "export").stdout


def test_check_explains_or_refuses_a_file(tmp_path: Path) -> None:
    """The file given, the one in force, or the defaults."""
    policy = tmp_path / "policy.toml"
    policy.write_text('currencies = ["usd"]')
    assert "Only usd." in run("policy", "check", str(policy)).stdout
    assert "The policy in force is valid" in run("policy", "check", OCP_STRIPE_POLICY=str(policy)).stdout
    assert "No policy is set" in run("policy", "check").stdout
    policy.write_text("currency = 1")
    done = run("policy", "check", str(policy))
    assert (2, "") == (done.returncode, done.stdout)
    assert "currency: unknown key; did you mean currencies?" in done.stderr


def test_call_has_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request and the verdict on stdout; the exit code says whether it would be sent."""
    arguments = ("call", TOOL, "customer=cus_1", "currency=usd", "--dry-run")
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_planted0key")
    monkeypatch.setenv("OCP_STRIPE_CUSTOMER_CHECK", "off")
    done = run(*arguments, "amount=-500")
    assert 0 == done.returncode
    assert "send: The call would be sent: credit 5.00 usd for cus_1." in done.stdout
    assert "POST https://api.stripe.com/v1/customers/cus_1/balance_transactions" in done.stdout
    assert "Authorization: Bearer [api key]" in done.stdout
    done = run(*arguments, "amount=-500000", "--json")
    told = json.loads(done.stdout)
    assert (2, "refused", "default limit") == (done.returncode, told["verdict"], told["rule"])
    assert "" == run("journal", "export").stdout


@pytest.mark.parametrize(("first", "second"), [("ticket-1", None), (None, "ticket-2"), (None, None)])
async def test_who_repeats_a_decision_as_the_refusal_says_has_its_result(
    stripe: Any, customer: str, first: str | None, second: str | None
) -> None:
    """Whichever of the two calls has a reference."""

    def named(reference: str | None) -> dict[str, Any]:
        return order(customer, **({} if reference is None else {"reference": reference}))

    async with await connect(stripe, policy={}) as agent:
        made = await agent.call_tool(TOOL, named(first), idempotency_key="k1")
        with pytest.raises(PolicyRefusedError) as refused:
            await agent.call_tool(TOOL, named(second), idempotency_key="k2")
        if first is None:
            assert "idempotency_key 'k1' and the same parameters, without a reference," in refused.value.hint
            again = await agent.call_tool(TOOL, named(None), idempotency_key="k1")
        else:
            assert "reference 'ticket-1' and the same parameters" in refused.value.hint
            again = await agent.call_tool(TOOL, named(first))
    assert (True, made.data["id"]) == (again.replayed, again.data["id"])
