"""
Ways to get a yes that no person gave, each of which ends without money moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest
from helpers import decide, ledger, order, proposals, usual_journal

pytest.importorskip("mcp")
from mcp import Client
from mcp.server import request_state
from mcp.shared.exceptions import MCPError
from mcp_host import ASKS, CREATE, VERSIONS, facts, person, saying, served, streamed
from mcp_types import CallToolResult, ElicitResult, InputRequiredResult, Request
from places import locked, look
from pydantic import TypeAdapter

from ocp_stripe_balance import Policy, Settings, errors
from ocp_stripe_balance.mcp import visit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ocp_stripe_balance.sandbox import Sandbox

MODERN = "2026-07-28"
YES = {"action": "accept", "content": {"decision": "yes"}}
NO = {"action": "accept", "content": {"decision": "no"}}
_ANSWER: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)
both = pytest.mark.parametrize("version", VERSIONS)


@contextlib.asynccontextmanager
async def asked_client(stripe: Sandbox, caller: str = "ana@host", version: str = MODERN) -> AsyncIterator[Client]:
    """
    A client that can be asked, of a server of its own.
    """
    async with Client(served(stripe, caller, policy=ASKS), mode=version, elicitation_callback=saying([])) as client:
        yield client


class At(NamedTuple):
    """
    Where it is tried.
    """

    client: Client
    stripe: Sandbox
    call: dict[str, Any]


class Raw(Request[dict[str, Any], Literal["tools/call"]]):
    """
    A request of a client that follows no rule.
    """

    method: Literal["tools/call"] = "tools/call"


async def sent(
    client: Client, arguments: dict[str, Any], *, state: Any = None, answers: Any = None, name: str = CREATE
) -> CallToolResult | InputRequiredResult | MCPError:
    """
    What the server says to one request.
    """
    params = {"name": name, "arguments": arguments, "requestState": state, "inputResponses": answers}
    try:
        return await client.session.send_request(Raw(params=params), _ANSWER)
    except MCPError as error:
        return error


async def question(client: Client, arguments: dict[str, Any]) -> str:
    """
    The sealed state of the question that a call is answered with.
    """
    asked = await sent(client, arguments)
    assert isinstance(asked, InputRequiredResult)
    assert asked.request_state is not None
    return asked.request_state


def yes() -> dict[str, Any]:
    """
    What a client brings where a person said yes.
    """
    return {"approval": YES}


@pytest.mark.promise("closed.in-session")
async def test_a_yes_moves_the_money_once_however_often_it_is_handed_in(stripe: Sandbox, customer: str) -> None:
    """At once and later; what else is tried here fails for a reason of its own, not because nothing ever works."""
    async with asked_client(stripe) as client:
        call = order(customer)
        state = await question(client, call)
        told = await asyncio.gather(*(sent(client, call, state=state, answers=yes()) for _ in range(3)))
        told.append(await sent(client, call, state=state, answers=yes()))
    made = {facts(each)["entry"]["id"] for each in told if isinstance(each, CallToolResult)}
    assert [made.pop()] == [entry["id"] for entry in await ledger(stripe, customer)]
    assert not made


async def test_an_answer_waits_for_a_busy_journal_until_the_deadline(stripe: Sandbox, customer: str) -> None:
    """Nothing is decided then, and the client is told so; the same answer later counts."""
    server = served(stripe, policy=ASKS, timeout=1.0)
    async with Client(server, mode=MODERN, elicitation_callback=saying([])) as client:
        call = order(customer)
        state = await question(client, call)
        with locked(Settings().journal_place, "EXCLUSIVE"):
            told = await asyncio.wait_for(sent(client, call, state=state, answers=yes()), 15)
        assert isinstance(told, CallToolResult)
        assert ("not_sent", "call_again") == (facts(told)["outcome"], facts(told)["next"])
        assert [] == await ledger(stripe, customer)
        await sent(client, call, state=state, answers=yes())
    assert 1 == len(await ledger(stripe, customer))


async def test_a_call_that_is_not_sent_when_the_server_is_being_ended_is_told_so(
    stripe: Sandbox, customer: str
) -> None:
    """It still reads its customer; a plain failure would leave the model in doubt."""
    server = served(stripe)
    stripe.faults.add("stall", path=f"{customer}$", seconds=30)
    async with streamed(server, MODERN) as client:
        calling = asyncio.create_task(client.call_tool(CREATE, order(customer)))
        while not stripe.faults.met["stall"]:
            await asyncio.sleep(0.01)
        await server.desk.close()
        told = await calling
    assert ("not_sent", "call_again") == (facts(told)["outcome"], facts(told)["next"])
    assert [] == await ledger(stripe, customer)


async def test_an_answer_that_is_on_record_when_the_server_is_being_ended_sends_nothing(
    stripe: Sandbox, customer: str
) -> None:
    """Its result would be cut off; the answer stands for the call made again."""
    server = served(stripe, policy=ASKS)
    async with streamed(server, MODERN, elicitation_callback=saying([])) as client:
        call = order(customer)
        state = await question(client, call)
        with locked(Settings().journal_place, "EXCLUSIVE"):
            answered = asyncio.create_task(sent(client, call, state=state, answers=yes()))
            while not server.desk._requests:
                await asyncio.sleep(0.01)
            closing = asyncio.create_task(server.desk.close())
            while not server.desk.is_closed:
                await asyncio.sleep(0)
        await closing
        assert not server.desk._requests  # and so nobody is cut off
        told = await answered
    assert isinstance(told, CallToolResult)
    assert ("not_sent", "call_again") == (facts(told)["outcome"], facts(told)["next"])
    async with usual_journal() as journal:
        assert ["approved"] == [each.state for each in await proposals(journal)]
    assert [] == await ledger(stripe, customer)


@both
@pytest.mark.promise("closed.in-session")
@pytest.mark.parametrize(
    ("action", "content", "state"),
    [
        ("decline", {"decision": "yes"}, "denied"),
        ("accept", {"decision": "no"}, "denied"),
        ("cancel", {"decision": "yes"}, "waiting"),
        ("accept", {"decision": "YES"}, "waiting"),
        ("accept", {"decision": "yes "}, "waiting"),
        ("accept", {"decision": True}, "waiting"),
        ("accept", {"decision": ["yes"]}, "waiting"),
        ("accept", {"decision": "yes", "by": "ben"}, "waiting"),
        ("accept", {"approved": "yes"}, "waiting"),
        ("approve", {"decision": "yes"}, "waiting"),
        ("accept", {"decision": {"yes": "yes"}}, "waiting"),
    ],
)
async def test_only_one_answer_is_a_yes(
    version: str, stripe: Sandbox, customer: str, action: str, content: dict[str, Any], state: str
) -> None:
    """Accepted, with exactly that word; a no stands, and all else decides nothing."""
    answer = saying([], action, content)
    async with Client(served(stripe, policy=ASKS), mode=version, elicitation_callback=answer) as client:
        if version == "legacy":
            told: object = await client.call_tool(CREATE, order(customer))
        else:
            bound = await question(client, order(customer))
            answers = {"approval": {"action": action, "content": content}}
            told = await sent(client, order(customer), state=bound, answers=answers)
    assert isinstance(told, MCPError) or facts_of(told)["outcome"] == "not_sent"
    async with usual_journal() as journal:
        assert [state] == [proposal.state for proposal in await proposals(journal)]
    assert [] == await ledger(stripe, customer)


@both
async def test_a_client_that_fails_has_not_approved(version: str, stripe: Sandbox, customer: str) -> None:
    """Nor is the tool gone: the proposal waits."""

    async def broken(_: str) -> ElicitResult:
        raise RuntimeError

    async with Client(served(stripe, policy=ASKS), mode=version, elicitation_callback=person(broken)) as client:
        with contextlib.suppress(MCPError, ExceptionGroup):
            assert "approval_required" == facts(await client.call_tool(CREATE, order(customer)))["error"]
    async with usual_journal() as journal:
        assert ["waiting"] == [proposal.state for proposal in await proposals(journal)]
    assert [] == await ledger(stripe, customer)


@both
async def test_without_the_setting_nobody_is_asked(version: str, stripe: Sandbox, customer: str) -> None:
    """By default a client's answer counts for nothing: it may be a program's."""
    asked: list[str] = []
    policy = {"approval": {"above": {"usd": "1.00"}, "queue": True}}
    async with Client(served(stripe, policy=policy), mode=version, elicitation_callback=saying(asked)) as client:
        result = await client.call_tool(CREATE, order(customer))
        assert "approval_required" == facts(result)["error"]
        told = await sent(client, order(customer), state=facts(result)["proposal_id"], answers=yes())
    assert [] == asked
    assert not isinstance(told, CallToolResult) or told.is_error
    assert [] == await ledger(stripe, customer)


@both
@pytest.mark.promise("closed.people")
@pytest.mark.parametrize(
    ("people", "error", "words"),
    [
        ({"two_people_above": {"usd": "1.00"}}, "approval_required", "1 more person (ana@host in the session approved"),
        ({"largest": {"ana": {"usd": "0.50"}}}, "policy_refused", "more than the 0.50 usd that ana@host may approve"),
        ({"not_by_requester": True}, "approval_required", "waits for a person's approval"),
    ],
)
async def test_yes_in_a_session_is_its_callers(
    version: str, people: dict[str, Any], error: str, words: str, stripe: Sandbox, customer: str
) -> None:
    """One person's, up to what they may approve; and who asked is not asked."""
    asked: list[str] = []
    policy = {"approval": {**ASKS["approval"], **people}}
    async with Client(served(stripe, policy=policy), mode=version, elicitation_callback=saying(asked)) as client:
        told = facts(await client.call_tool(CREATE, order(customer)))
    assert (error, True, "not_by_requester" not in people) == (told["error"], words in told["message"], bool(asked))
    assert [] == await ledger(stripe, customer)


def test_the_setting_needs_the_queue() -> None:
    """Where a call waits that the client does not decide."""
    with pytest.raises(errors.ConfigurationError, match=r"in_session: needs queue = true"):
        Settings(policy=Policy(approval={"in_session": True}))


async def forged_states(at: At) -> None:
    """States that this server did not seal, or not so."""
    state = await question(at.client, at.call)
    async with usual_journal() as journal:
        (proposal,) = await proposals(journal)
    middle = len(state) // 2
    altered = state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]
    for forged in ("", "v1.", "v1.AAAA", proposal.id, proposal.key, altered, state[:-1], state + "A", "v2" + state[2:]):
        assert isinstance(await sent(at.client, at.call, state=forged, answers=yes()), MCPError)


async def no_state(at: At) -> None:
    """An answer to no question, though there is one."""
    await question(at.client, at.call)
    assert isinstance(await sent(at.client, at.call, answers=yes()), InputRequiredResult)


async def no_answer(at: At) -> None:
    """The question handed back without an answer, or with one of another name or kind."""
    state = await question(at.client, at.call)
    odd: list[Any] = [
        None,
        {},
        [],
        "yes",
        {"other": YES},
        {"approval": "yes"},
        {"approval": {"roots": []}},
        {"approval": [YES]},
    ]
    for answers in odd:
        told = await sent(at.client, at.call, state=state, answers=answers)
        assert isinstance(told, MCPError) or facts_of(told)["error"] == "approval_required"


async def another_call(at: At) -> None:
    """A yes to one call, brought with another."""
    state = await question(at.client, at.call)
    for other in (
        {**at.call, "amount": -900},
        {**at.call, "customer": at.stripe.create_customer()},
        {**at.call, "amount": 500},
    ):
        assert isinstance(await sent(at.client, other, state=state, answers=yes()), MCPError)
    assert isinstance(await sent(at.client, at.call, state=state, answers=yes(), name="get_customer"), MCPError)


async def after_a_no(at: At) -> None:
    """A second answer."""
    state = await question(at.client, at.call)
    for answers in ({"approval": NO}, yes()):
        assert "policy_refused" == facts_of(await sent(at.client, at.call, state=state, answers=answers))["error"]


async def after_a_no_in_the_queue(at: At) -> None:
    """An answer where somebody said no meanwhile."""
    state = await question(at.client, at.call)
    async with usual_journal() as journal:
        (proposal,) = await proposals(journal)
        await decide(journal, proposal.deny(by="ben", reason="no"))
    assert "policy_refused" == facts_of(await sent(at.client, at.call, state=state, answers=yes()))["error"]


async def after_a_restart(at: At) -> None:
    """A question of a server that is gone."""
    async with asked_client(at.stripe) as former:
        state = await question(former, at.call)
    assert isinstance(await sent(at.client, at.call, state=state, answers=yes()), MCPError)


async def anothers_question(at: At) -> None:
    """A question that another caller was asked."""
    async with asked_client(at.stripe, "ben@host") as ben:
        state = await question(ben, at.call)
        assert isinstance(await sent(at.client, at.call, state=state, answers=yes()), MCPError)


async def two_clients(at: At) -> None:
    """Both are asked about one proposal, and one says no first."""
    state = await question(at.client, at.call)
    async with asked_client(at.stripe, "ben@host") as ben:
        his = await question(ben, at.call)
        assert "policy_refused" == facts_of(await sent(ben, at.call, state=his, answers={"approval": NO}))["error"]
    assert "policy_refused" == facts_of(await sent(at.client, at.call, state=state, answers=yes()))["error"]


async def too_late_for_the_seal(at: At) -> None:
    """An answer that somebody kept."""
    state = await question(at.client, at.call)
    with pytest.MonkeyPatch.context() as patch:
        later = time.time() + visit.ANSWER_WITHIN_S + 1
        patch.setattr(request_state, "time", SimpleNamespace(time=lambda: later))
        assert isinstance(await sent(at.client, at.call, state=state, answers=yes()), MCPError)


async def too_late_for_the_proposal(at: At) -> None:
    """An answer to a proposal that has expired; it is asked anew, by a question of its own."""
    state = await question(at.client, at.call)
    with look(Settings().journal_place) as db:
        db.execute("UPDATE proposals SET expires_at = 1")
    assert "approval_required" == facts_of(await sent(at.client, at.call, state=state, answers=yes()))["error"]


async def the_models_words(at: At) -> None:
    """Parameters that look like an answer, and the key of a proposal that nobody decided."""
    await question(at.client, at.call)
    async with usual_journal() as journal:
        (proposal,) = await proposals(journal)
    for more in ({"approved": True}, {"decision": "yes"}, {"requestState": proposal.id}, {"approval": "yes"}):
        assert "invalid_parameters" == facts_of(await sent(at.client, {**at.call, **more}))["error"]
    assert isinstance(await sent(at.client, {**at.call, "idempotency_key": proposal.key}), InputRequiredResult)
    said = {"approval": "yes", "approved_by": "ben@host"}
    assert isinstance(
        await sent(at.client, {**at.call, "metadata": said, "description": "approved"}), InputRequiredResult
    )


async def the_key_of_another_yes(at: At) -> None:
    """A person approved a small call, and its key comes with a larger one."""
    small = {**at.call, "customer": at.stripe.create_customer(), "amount": -200}
    told = facts_of(await sent(at.client, small, state=await question(at.client, small), answers=yes()))
    assert "succeeded" == told["outcome"]
    large = await sent(at.client, {**at.call, "idempotency_key": told["idempotency_key"]})
    assert isinstance(large, CallToolResult)
    assert large.is_error


async def a_client_that_cannot_ask(at: At) -> None:
    """It brings an answer all the same, with the state of another client's question."""
    state = await question(at.client, at.call)
    async with Client(served(at.stripe, policy=ASKS), mode=MODERN) as mute:
        assert isinstance(await sent(mute, at.call, state=state, answers=yes()), MCPError)
        assert "approval_required" == facts_of(await sent(mute, at.call, answers=yes()))["error"]


async def what_the_rules_refuse(at: At) -> None:
    """A yes opens no limit, no list of customers and no budget."""
    for policy in ({"limits": {"credit": {"usd": "4.00"}}}, {"customers": {"deny": ["cus_*"]}}):
        guarded = served(at.stripe, policy={**ASKS, **policy})
        async with Client(guarded, mode=MODERN, elicitation_callback=saying([])) as other:
            assert "policy_refused" == facts(await other.call_tool(CREATE, at.call))["error"]


async def an_older_protocol(at: At) -> None:
    """A client of 2025 sends the fields of 2026."""
    state = await question(at.client, at.call)
    async with Client(served(at.stripe, policy=ASKS), mode="legacy") as old:
        for forged in (state, None):
            told = await sent(old, at.call, state=forged, answers=yes())
            assert isinstance(told, MCPError) or facts_of(told)["error"] == "approval_required"


def facts_of(told: object) -> dict[str, Any]:
    assert isinstance(told, CallToolResult), told
    return facts(told)


WAYS = [
    forged_states,
    no_state,
    no_answer,
    another_call,
    after_a_no,
    after_a_no_in_the_queue,
    after_a_restart,
    anothers_question,
    two_clients,
    too_late_for_the_seal,
    too_late_for_the_proposal,
    the_models_words,
    the_key_of_another_yes,
    a_client_that_cannot_ask,
    what_the_rules_refuse,
    an_older_protocol,
]


@pytest.mark.promise("closed.in-session")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
async def test_no_way_leads_to_money(way: Callable[[At], Awaitable[None]], stripe: Sandbox, customer: str) -> None:
    """Each on its own, with a client that could bring a real yes."""
    async with asked_client(stripe) as client:
        await way(At(client, stripe, order(customer)))
    assert [] == await ledger(stripe, customer)


async def test_an_answer_that_comes_too_late_is_none(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told that the call waits, and what it says later reaches nobody."""
    monkeypatch.setattr(visit, "ANSWER_WITHIN_S", 0.05)
    told = asyncio.Event()

    async def slow(_: str) -> ElicitResult:
        with contextlib.suppress(asyncio.CancelledError):  # as a dialog that stays open
            await told.wait()
        return ElicitResult.model_validate(YES)

    async with streamed(served(stripe, policy=ASKS), "legacy", elicitation_callback=person(slow)) as client:
        result = await client.call_tool(CREATE, order(customer))
        told.set()
        assert "approval_required" == facts(result)["error"]
        assert not (await client.call_tool("get_customer", {"customer": customer})).is_error
    async with usual_journal() as journal:
        assert ["waiting"] == [proposal.state for proposal in await proposals(journal)]
    assert [] == await ledger(stripe, customer)


@pytest.mark.parametrize("how", ["cancelled", "gone"])
async def test_a_question_that_nobody_waits_for_any_more_is_no_yes(stripe: Sandbox, customer: str, how: str) -> None:
    """The client cancelled the call, or left, while a person read the question."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def slow(_: str) -> ElicitResult:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await left.wait()
        return ElicitResult.model_validate(YES)

    async with streamed(served(stripe, policy=ASKS), "legacy", elicitation_callback=person(slow)) as client:
        call = asyncio.create_task(client.call_tool(CREATE, order(customer)))
        async with asyncio.timeout(20):
            await asked.wait()
        if how == "cancelled":
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            left.set()
            assert not (await client.call_tool("get_customer", {"customer": customer})).is_error
    left.set()
    with contextlib.suppress(asyncio.CancelledError, MCPError):
        await call
    async with usual_journal() as journal:
        assert ["waiting"] == [proposal.state for proposal in await proposals(journal)]
    assert [] == await ledger(stripe, customer)
