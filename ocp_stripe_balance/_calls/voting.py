"""
What people's answers to a proposal come to: here the policy in force and the votes on record meet, whatever the door.

A yes counts where the policy lets that person say it, and once for each person. Nothing is sent before as many count as
the policy wants, or wanted when somebody was asked: the stricter holds. One no ends it, whoever says it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal import intent_of
from ocp_stripe_balance._policy import Asked, Finding, Words, barred, people_needed, without_requester
from ocp_stripe_balance.errors import PolicyRefusedError
from ocp_stripe_balance.models import shown_digest

if TYPE_CHECKING:
    from ocp_stripe_balance._domain import Intent
    from ocp_stripe_balance._journal import Book
    from ocp_stripe_balance._policy import Policy
    from ocp_stripe_balance.models import Answer, Proposal, Vote

_OTHER_WORDS = "what was shown is not what is asked"
_OF_CLIENT = "the policy does not let an MCP client say yes"


def nobody_may(policy: Policy, intent: Intent, rule: str) -> Finding | None:
    """
    Why nobody could decide on a call that *rule* wants somebody asked about.
    """
    return without_requester(policy, Asked(intent.caller.user, ())) if _is_of_policy(rule) else None


def needed(policy: Policy, proposal: Proposal, rule: str) -> int:
    """
    How many people have to say yes to a proposal because of *rule*, and had to when it was made.
    """
    return max(proposal.needed, people_needed(policy, _asked(proposal)) if _is_of_policy(rule) else 1)


def counted(policy: Policy, proposal: Proposal, rule: str) -> Proposal:
    """
    A proposal with those approvals only that count now, and as many needed as are now.
    """
    votes: list[Vote] = []
    for vote in proposal.approvals:
        if _barred(policy, proposal, vote, votes, rule) is None:
            votes.append(vote)
    return replace(proposal, approvals=tuple(votes), needed=needed(policy, proposal, rule))


def standing(book: Book, policy: Policy, proposal: Proposal, finding: Finding, now: float) -> Proposal:
    """
    A proposal that waits or was approved, as it is `counted`; it waits again where fewer say yes now than are needed.
    """
    asked, is_approved = counted(policy, proposal, finding.rule), proposal.state != "waiting"
    if is_approved and not is_enough(asked):
        book.reopen(asked)
        book.note(intent_of(asked), "asked", now, rule=finding.rule, reason=finding.words().message)
        return replace(asked, state="waiting", decided_at=None, decided_by=None, reason=None)
    if not is_approved and asked.needed != proposal.needed:
        book.reopen(asked)
    return asked


def is_enough(proposal: Proposal, more: int = 0) -> bool:
    """
    Whether enough people have said yes, or have with some *more*; of a proposal as it is `counted`.
    """
    return len(proposal.approvals) + more >= proposal.needed


def objection(policy: Policy, proposal: Proposal, answer: Answer, rule: str) -> Finding | None:
    """
    Why an answer does not count; of a proposal as it is `counted`. A no always counts.
    """
    if answer.is_approved is not True:
        return None
    if answer.shown and answer.shown != shown_digest(proposal):
        return Finding("refused", "approval", lambda: Words(_OTHER_WORDS, "Read it once more, then decide."))
    return _barred(policy, proposal, answer, proposal.approvals, rule)


def vote(book: Book, policy: Policy, answer: Answer, now: float) -> Proposal | Finding | None:
    """
    The proposal as it stands after an answer, which counts where it waits; or why it does not count.

    None if there is no such proposal.
    """
    found = book.proposal(answer.proposal_id, now)
    if found is None or found.state != "waiting":
        return found
    proposal = counted(policy, found, found.rule)
    stop = objection(policy, proposal, answer, found.rule)
    if stop is not None:
        return stop
    if answer.is_approved is not True or is_enough(proposal, more=1):
        book.decide(proposal, answer, now)
    else:
        book.vote(proposal, answer, now)
        book.reopen(proposal)
    return book.proposal(answer.proposal_id, now)


def refusal(stop: Finding, proposal_id: str) -> PolicyRefusedError:
    """
    The error of an answer that does not count.
    """
    message, hint, limit, _ = stop.words()
    return PolicyRefusedError(
        f"Nothing was decided on {proposal_id}: {message}.", rule=stop.rule, hint=hint, limit=limit
    )


def names(proposal: Proposal) -> str:
    """
    Who said yes to a proposal.
    """
    return " and ".join(vote.by for vote in proposal.approvals) or str(proposal.decided_by)


def _asked(proposal: Proposal) -> Asked:
    return Asked(proposal.user, proposal.moved)


def _barred(
    policy: Policy, proposal: Proposal, said: Answer | Vote, others: tuple[Vote, ...] | list[Vote], rule: str
) -> Finding | None:
    if said.how == "session" and not policy.approval.hears_clients:  # another token's policy, or yesterday's, did
        return Finding("refused", "approval.in_session", lambda: Words(_OF_CLIENT, "A person has to decide."))
    if not _is_of_policy(rule):
        return None
    return barred(policy, _asked(proposal), _person(said), [_person(vote) for vote in others])


def _person(said: Answer | Vote) -> str:
    return said.person or said.by


def _is_of_policy(rule: str) -> bool:
    """
    Whether the policy wants somebody asked, and not only who gave the command.
    """
    return rule != "ask_always"
