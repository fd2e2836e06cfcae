"""
Two people, a largest amount for each, and never who asked: whatever the door, the order, and the policy meanwhile.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, admit, decisions, draft, ledger, order, proposals, run, settle, usual_journal
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from places import Places, opened, settings_on_server

from ocp_stripe_balance import ApprovalRequiredError, OCPAgent, Policy, PolicyRefusedError, Proposal, Settings
from ocp_stripe_balance._calls import voting
from ocp_stripe_balance._calls.call import Approval
from ocp_stripe_balance._calls.endings import Ready, Waiting
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance.backoffice import BackOffice, facts_of_proposal
from ocp_stripe_balance.models import shown_digest

if TYPE_CHECKING:
    from ocp_stripe_balance.models import Answer
    from ocp_stripe_balance.sandbox import Sandbox

_ANY = {"other": "999999.00"}
USUAL: dict[str, Any] = {"duplicate_window": "off", "limits": {"credit": _ANY, "debit": _ANY}}
ONE: dict[str, Any] = {"above": {"usd": "3.00"}, "queue": True}
TWO = {**ONE, "two_people_above": {"usd": "500.00"}}
STRICT = {**TWO, "not_by_requester": True, "largest": {"kim": {"usd": "200.00"}, "other": {"usd": "10000.00"}}}


def policy_of(approval: dict[str, Any]) -> Policy:
    return Policy(**USUAL, approval=approval)


# Never with fewer, by whoever, in whatever order

NOW = 1_000_000.0
POLICIES = {"one": policy_of(ONE), "two": policy_of(TWO), "strict": policy_of(STRICT)}
# A person has several names.
BEHIND = {"ana": "ana", "Ana@laptop": "ana", "bob": "bob", "kim": "kim", "OLA@host": "ola", "": ""}
PEOPLE = st.sampled_from(sorted(BEHIND))
CLAIMS = st.sampled_from(["", "ana", "zoe"])
IN_FORCE = st.sampled_from(["one", "two", "strict", "strict"])


def may_approve(who: str, amount: int, policy: str) -> bool:
    """
    The model: whether one person's yes counts; ola is who asked.
    """
    return policy != "strict" or (who not in {"", "ola"} and (who != "kim" or amount <= 200_00))


class Voting(RuleBasedStateMachine):
    """
    Answers by the queue and in hand, calls, failures and other policies in any order.
    """

    engine = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.places = Places(self.engine, Path(self.folder.name))
        place = None if self.engine == "memory" else self.places("journal")
        self.journal = Journal(place, clock=lambda: NOW, open_database=opened)
        self.cast: list[tuple[str, str]] = []
        """Every yes that was ever said, with the proposal that it was about."""
        self.said_no = False
        self.proposal: Proposal | None = None

    @initialize(amount=st.sampled_from([4_00, 250_00, 600_00, 600_00]))
    def begin(self, amount: int) -> None:
        self.amount = amount
        self.call = draft("k", amount, user="ola@host")

    def in_journal(self, work: Any) -> Any:
        return self.loop.run_until_complete(self.journal.run(work))

    @rule(policy=IN_FORCE)
    def make(self, policy: str) -> None:
        self.made(self.call, policy)

    @rule(name=PEOPLE, claim=CLAIMS, policy=IN_FORCE, is_yes=st.sampled_from([True] * 15 + [False]))
    def say(self, name: str, claim: str, policy: str, is_yes: bool) -> None:
        """By the queue: whoever decides may have another policy than the agent."""
        if self.proposal is not None:
            answer = self.answer(name, claim, is_yes=is_yes)
            found = self.in_journal(lambda book: voting.vote(book, POLICIES[policy], answer, NOW))
            self.said_no |= isinstance(found, Proposal) and found.state == "denied"

    @rule(name=PEOPLE, claim=CLAIMS, policy=IN_FORCE)
    def hand(self, name: str, claim: str, policy: str) -> None:
        """By an approver: the yes comes with the call."""
        if self.proposal is not None:
            approval = Approval(self.proposal, self.answer(name, claim, is_yes=True))
            self.made(self.call._replace(approval=approval), policy)

    @rule(state=st.sampled_from([State.NOT_SENT, State.NOT_SENT, State.SUCCEEDED]))
    def end(self, state: State) -> None:
        for record in self.in_journal(lambda book: book.calls_of("key", "k")):
            if record.state is State.SENDING:
                self.loop.run_until_complete(settle(self.journal, record, state))

    def answer(self, name: str, claim: str, *, is_yes: bool) -> Answer:
        assert self.proposal is not None
        if is_yes:
            self.cast.append((self.proposal.id, name))
        decide = self.proposal.approve if is_yes else self.proposal.deny
        is_claimed = bool(claim and name)
        return decide(by=claim if is_claimed else name, person=name if is_claimed else "", how="shell")

    def made(self, call: Any, policy: str) -> None:
        admitted = self.loop.run_until_complete(admit(self.journal, call, POLICIES[policy]))
        if isinstance(admitted, Waiting):
            self.proposal = admitted.proposal
        if isinstance(admitted, Ready):
            assert self.proposal is not None
            asked = self.in_journal(lambda book: book.voted(self.proposal))
            names = [vote.person or vote.by for vote in asked.approvals]
            assert {(asked.id, name) for name in names} <= set(self.cast)
            yes = {BEHIND[name] for name in names if may_approve(BEHIND[name], self.amount, policy)}
            assert len(yes) >= (2 if self.amount > 500_00 and policy != "one" else 1), (policy, names)
            assert not self.said_no

    @invariant()
    def a_no_stands(self) -> None:
        if self.said_no:
            assert not self.in_journal(lambda book: [each for each in book.calls() if each.state is State.SENDING])

    def teardown(self) -> None:
        self.loop.run_until_complete(self.journal.aclose())
        self.places.close()
        self.folder.cleanup()
        self.loop.close()


Voting.TestCase.settings = hypothesis_settings(max_examples=100, stateful_step_count=25, deadline=None)
TestVoting = Voting.TestCase


class VotingOnServer(Voting):
    """
    The same, with the votes on a server.
    """

    engine = "postgres"


VotingOnServer.TestCase.settings = settings_on_server(Voting, max_examples=8)
TestVotingOnServer = VotingOnServer.TestCase


# By each door


async def asking(stripe: Sandbox, approval: dict[str, Any], user: str | None = "ola", **more: Any) -> OCPAgent:
    agent = OCPAgent(user=user, settings=settings_of(stripe, approval), **more)
    await agent.register_api("stripe")
    return agent


def settings_of(stripe: Sandbox, approval: dict[str, Any]) -> Settings:
    policy = policy_of(approval)
    return Settings(api_key=stripe.api_key, api_base=stripe.url, policy=policy, customer_check="off", rate_limit="off")


async def made(stripe: Sandbox, approval: dict[str, Any], customer: str, amount: int = -600_00, **more: Any) -> Any:
    """
    The result of a call, or the error it ended with.
    """
    async with await asking(stripe, approval, **more) as agent:
        try:
            return await agent.call_tool(TOOL, order(customer, amount), idempotency_key="k")
        except PolicyRefusedError as error:
            return error


async def say(
    stripe: Sandbox, approval: dict[str, Any], person: str, proven: str = "", how: str = "password"
) -> Proposal:
    """
    The newest proposal as it stands after a person's yes.
    """
    async with BackOffice(settings_of(stripe, approval)) as office:
        found = (await office.proposals())[-1]
        shown = shown_digest(found)
        said = await office.decide(found.approve(by=person, how=how, shown=shown, person=proven))
        assert said is not None
        return said


@pytest.mark.promise("closed.people")
async def test_two_people_say_yes_and_the_agent_is_told_that_one_more_is_wanted(stripe: Sandbox, customer: str) -> None:
    """The record has who, how they signed in and what they were shown; a plain amount needs one."""
    told = await made(stripe, TWO, customer)
    assert "waits for the approval of 2 people" in str(told)
    first = await say(stripe, TWO, "ana")
    assert ("waiting", 2, ["ana"]) == (first.state, first.needed, [each.by for each in first.approvals])
    assert "1 more person (ana approved it)" in str(await made(stripe, TWO, customer))
    with pytest.raises(PolicyRefusedError, match="Ana@laptop has said yes to it already"):
        await say(stripe, TWO, "Ana@laptop")
    assert "approved" == (await say(stripe, TWO, "bob")).state
    assert "succeeded" == (await made(stripe, TWO, customer)).outcome
    async with usual_journal() as journal:
        (done,) = await proposals(journal)
        assert ("allowed", "ana and bob") in [(each.decision, each.who) for each in await decisions(journal)]
    votes = facts_of_proposal(done)["approvals"]
    assert [("ana", "password"), ("bob", "password")] == [(each["by"], each["how"]) for each in votes]
    assert {shown_digest(done)} == {each["shown"] for each in votes}
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.promise("closed.people")
async def test_yes_in_hand_of_an_approver_is_one_yes(stripe: Sandbox, customer: str) -> None:
    """Asked again it may bring another person; the same one twice sends nothing, with a queue or without."""
    people = ["ana"]

    async def approver(proposal: Proposal) -> Any:
        return proposal.approve(by=people[min(len(proposal.approvals), len(people) - 1)])

    alone = {**TWO, "queue": False}
    told = await made(stripe, alone, customer, approver=approver)
    assert ("approval.two_people_above", "policy_refused") == (told.rule, told.code_for_model)
    queued = await made(stripe, TWO, customer, approver=approver)
    assert isinstance(queued, ApprovalRequiredError)
    assert [] == await ledger(stripe, customer)
    people.append("bob")
    assert "succeeded" == (await made(stripe, alone, customer, approver=approver)).outcome
    async with usual_journal() as journal:
        assert ["program", "program"] == [each.how for each in (await proposals(journal))[-1].approvals]


@pytest.mark.promise("closed.people")
async def test_who_asked_and_who_may_not_approve_so_much_are_told_so(stripe: Sandbox, customer: str) -> None:
    """Their yes decides nothing; a no of theirs counts, and a call of nobody is not asked about at all."""
    told = await made(stripe, STRICT, customer, -250_00, user=None)
    assert ("approval.not_by_requester", "policy_refused") == (told.rule, told.code_for_model)
    await made(stripe, STRICT, customer, -250_00)
    for person, named in {"OLA@host": "approval.not_by_requester", "kim": "approval.largest.kim.usd"}.items():
        with pytest.raises(PolicyRefusedError, match="Nothing was decided") as caught:
            await say(stripe, STRICT, person)
        assert named == caught.value.rule
    with pytest.raises(PolicyRefusedError, match=r"more than the 200\.00 usd that kim@laptop may approve"):
        await say(stripe, STRICT, "zoe", proven="kim@laptop")
    async with BackOffice(settings_of(stripe, STRICT)) as office:
        (found,) = await office.proposals()
        assert (True, None) == (office.objection(found, "kim") is not None, office.objection(found, "ana"))
        with pytest.raises(PolicyRefusedError, match="what was shown is not what is asked"):
            await office.decide(found.approve(by="ana", shown="0" * 64))
        denied = await office.decide(found.deny(by="ola", reason="a slip"))
    assert denied is not None
    assert ("denied", "ola") == (denied.state, denied.denial and denied.denial.by)
    assert [] == await ledger(stripe, customer)


@pytest.mark.promise("closed.people")
async def test_where_the_policy_became_stricter_meanwhile_the_stricter_holds(stripe: Sandbox, customer: str) -> None:
    """A call that one person approved waits again; and one that two had to approve goes on needing two."""
    await made(stripe, ONE, customer)
    assert "approved" == (await say(stripe, ONE, "ana")).state
    assert "1 more person (ana approved it)" in str(await made(stripe, TWO, customer))
    assert "1 more person (ana approved it)" in str(await made(stripe, ONE, customer))
    async with usual_journal() as journal:
        assert ["asked", "approved", "asked"] == [each.decision for each in await decisions(journal)]
    assert [] == await ledger(stripe, customer)
    assert "approved" == (await say(stripe, ONE, "bob")).state
    assert "succeeded" == (await made(stripe, TWO, customer)).outcome


@pytest.mark.promise("closed.people")
@pytest.mark.parametrize("is_approved", [False, True])
async def test_where_nobody_needs_to_say_yes_any_more_nobody_can_stop_it(
    stripe: Sandbox, customer: str, *, is_approved: bool
) -> None:
    """A call that went because the policy became laxer, or another token's is, waits for nobody."""
    await made(stripe, ONE, customer)
    if is_approved:
        await say(stripe, ONE, "ana")
    assert "succeeded" == (await made(stripe, {"queue": True}, customer)).outcome
    async with BackOffice(settings_of(stripe, ONE)) as office:
        (found,) = await office.proposals()
        after = await office.decide(found.deny(by="bob"))
    assert ("used", "used") == (found.state, after and after.state)
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.promise("closed.people")
async def test_yes_of_a_client_counts_only_where_the_policy_of_the_call_lets_it(stripe: Sandbox, customer: str) -> None:
    """Another token may have a policy that does, or this one did yesterday; one that bars who asks never does."""
    in_session = {**TWO, "in_session": True}
    await made(stripe, TWO, customer)
    assert ["bot"] == [each.by for each in (await say(stripe, in_session, "bot", how="session")).approvals]
    assert "waiting" == (await say(stripe, TWO, "ana")).state
    assert "1 more person (ana approved it)" in str(await made(stripe, TWO, customer))
    with pytest.raises(PolicyRefusedError, match="does not let an MCP client say yes"):
        await say(stripe, {**in_session, "not_by_requester": True}, "bo", how="session")
    assert [] == await ledger(stripe, customer)


@pytest.mark.promise("closed.people")
async def test_two_processes_decide_at_once_and_one_of_them_is_refused(
    stripe_thread: Sandbox, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A yes and a no in the same moment; and at a shell, a name that is only claimed makes no second person."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[approval]\nabove = { usd = "3.00" }\ntwo_people_above = { usd = "500.00" }\nqueue = true\n')
    monkeypatch.setenv("OCP_STRIPE_POLICY", str(policy))

    def terminal(*words: str) -> tuple[int, str]:
        done = run("approvals", *words, "--yes")
        return done.returncode, done.stdout + done.stderr

    customers = [stripe_thread.create_customer() for _ in range(2)]
    await made(stripe_thread, TWO, customers[0], -5_00)
    async with usual_journal() as journal:
        (one,) = await proposals(journal)
    yes, no = ("approve", one.id), ("deny", one.id, "--reason", "never")
    ended = await asyncio.gather(*(asyncio.to_thread(terminal, *words) for words in (yes, no)))
    assert [0, 2] == sorted(code for code, _ in ended)
    assert 1 == sum("Nothing was changed" in said for _, said in ended)
    async with await asking(stripe_thread, TWO) as agent:
        with pytest.raises(ApprovalRequiredError) as caught:
            await agent.call_tool(TOOL, order(customers[1], -600_00))
    code, said = terminal("approve", caught.value.proposal_id, "--by", "ana")
    assert (0, True) == (code, "Somebody else has to say yes too" in said)
    code, said = terminal("approve", caught.value.proposal_id, "--by", "ben")
    assert (2, True) == (code, "has said yes to it already" in said)
    shown = run("approvals", "show", caught.value.proposal_id).stdout
    assert "ana (shell, " in shown
