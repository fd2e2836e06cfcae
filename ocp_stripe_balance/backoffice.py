"""
The people's side of the journal: what was called, decided and proposed, and what people do about it.

The command line works through this, and so can any other tool for people. Amounts are in the smallest currency unit,
times in seconds since the Unix epoch; the ``facts_of_…`` functions give both as JSON, times in ISO 8601.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ocp_stripe_balance._calls import voting
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._host.contract import AgentContext, APIOptions, SharedJournal
from ocp_stripe_balance._journal import (
    READING,
    DatabaseError,
    Decision,
    Journal,
    Pages,
    Record,
    WrongTotal,
    back_up,
    call_of_total,
    has_journal,
    most_used,
)
from ocp_stripe_balance._journal.sums import Sum, Sums
from ocp_stripe_balance._policy import Finding, budgets_used
from ocp_stripe_balance._text.database_url import DatabaseURL, check_database_url, is_database_url
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance._tools.trimming import trimmed
from ocp_stripe_balance.errors import ConfigurationError, InvalidParametersError, NotSentError, Problem
from ocp_stripe_balance.plugin import StripeAPI
from ocp_stripe_balance.settings import Settings, mode_of
from ocp_stripe_balance.verbs import CREATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from ocp_stripe_balance._domain import Intent, Money
    from ocp_stripe_balance._journal import Book
    from ocp_stripe_balance._journal.copying import Proof
    from ocp_stripe_balance._journal.inspection import Server
    from ocp_stripe_balance._policy import BudgetUsed
    from ocp_stripe_balance._policy.file import Budget
    from ocp_stripe_balance.models import Answer, Proposal, ReconcileResult, ToolResult

__all__ = [
    "BackOffice",
    "Decision",
    "Record",
    "State",
    "Sum",
    "copy_journal",
    "facts_of_call",
    "facts_of_decision",
    "facts_of_finding",
    "facts_of_proof",
    "facts_of_proposal",
]


_PAGE = 1000  # calls read at once, so that other work is not kept waiting


class BackOffice:
    """
    The journal of the settings, opened by ``async with``.
    """

    def __init__(self, settings: Settings | None = None, journal: Journal | None = None) -> None:
        """
        Read the settings; nothing is opened before it is needed. Whoever gives a *journal* closes it.

        Raises:
            ConfigurationError: a setting is impossible, or the journal is switched off.
        """
        self.settings = settings or Settings()
        place = self.settings.journal_place
        if place is None:
            message = "The journal is switched off (OCP_STRIPE_JOURNAL=off)."
            raise ConfigurationError(message, hint="Set OCP_STRIPE_JOURNAL to a path, or unset it.")
        # Reading makes no journal: where there is none, nothing is on record.
        self._journal = journal or Journal(place if has_journal(place) else None)
        self.pages = Pages(self._journal)
        """What is on record, a page at a time."""
        self._is_given = journal is not None
        self._stripe: StripeAPI | None = None

    async def __aenter__(self) -> Self:
        """
        The office itself.
        """
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Close the journal, and the connections where there are any.
        """
        if self._stripe is not None:
            await self._stripe.aclose()
        elif not self._is_given:
            await self._journal.aclose()

    async def calls(
        self, *, states: Sequence[State] = (), since: float = 0.0, customer: str | None = None
    ) -> list[Record]:
        """
        Calls in some states since a time, oldest first; without *states*, in any.
        """
        return await self._journal.run(
            lambda book: book.calls(states=states, since=since, customer=customer), reach=READING
        )

    async def sums(self, by: Sequence[str] = (), *, since: float = 0.0, before: float = math.inf) -> list[Sum]:
        """
        What was credited and debited within a time, by mode and currency, and by what the entries of a sum share.

        Args:
            by: any of user, agent_type, reference, customer, account, day, month, and metadata.NAME, such as a reason.
            since: when it was moved, at the earliest.
            before: when it was moved before.

        Raises:
            InvalidParametersError: nothing can be added up by that.
        """

        async def page(since: float, after: int) -> list[tuple[int, Record]]:
            return await self._journal.run(lambda book: book.moved(since, after, before, _PAGE), reach=READING)

        sums, found = Sums(by), await page(since, 0)
        while found:
            for _, record in found:
                sums.add(record)
            number, last = found[-1]
            found = await page(last.spent_at, number)
        return sums.found()

    async def call(self, key: str) -> tuple[list[Record], list[Decision]]:
        """
        All there is on the calls of one key: in one account and mode there is one.

        Raises:
            NotSentError: there is nothing.
        """
        found = await self._journal.run(lambda book: (book.calls_of("key", key), book.decisions(key)), reach=READING)
        if found == ([], []):
            hint = "ocp-stripe-balance calls list shows the calls there are, calls decisions those that were refused."
            raise NotSentError("The journal has no call of that key.", hint=hint)
        return found

    async def decisions(self, *, since: float = 0.0, customer: str | None = None) -> list[Decision]:
        """
        What the policy and people decided, oldest first.
        """
        decisions = await self._journal.run(lambda book: book.decisions(), reach=READING)
        return [each for each in decisions if each.at >= since and customer in {None, each.customer}]

    async def proposals(self) -> list[Proposal]:
        """
        All proposals, oldest first.
        """
        return await self._journal.run(lambda book: book.proposals(self._journal.now()), reach=READING)

    async def proposal(self, name: str) -> Proposal:
        """
        The proposal of that ID, else the only one there is of that idempotency key.

        Raises:
            NotSentError: there is none, or several that ask for different things.
        """
        of_id = await self.pages.proposal(name)
        found = (await self.pages.told(name)).proposals if of_id is None else [of_id]
        if not found:
            hint = "'ocp-stripe-balance approvals list --all' shows the proposals there are."
            raise NotSentError(f"The journal has no proposal {name}.", hint=hint)
        # The model chooses keys, so a key alone does not say which of several proposals a person has read.
        if len({(each.base_url, each.mode, each.account, each.tool, each.arguments) for each in found}) > 1:
            ids = ", ".join(f"{each.id} ({each.effect}, {each.mode} mode, {each.state})" for each in found)
            raise NotSentError(f"There are several proposals of key {name}: {ids}.", hint="Name one by its ID.")
        return found[-1]

    async def related(self, proposal: Proposal) -> list[Record]:
        """
        What else was paid for this customer since the proposal, and before it for the same reason.
        """
        records = await self._journal.run(lambda book: book.calls_of("customer", proposal.customer), reach=READING)

        def is_related(record: Record) -> bool:
            is_same_reason = proposal.reference is not None and record.intent.reference == proposal.reference
            is_itself = record.key == proposal.key and record.state.nothing_moved
            return not is_itself and (record.created_at >= proposal.asked_at or is_same_reason)

        return [record for record in records if is_related(record)]

    async def decide(self, answer: Answer) -> Proposal | None:
        """
        The proposal as it stands after a person's decision: another one may have been faster. None if there is none.

        Raises:
            PolicyRefusedError: this person's yes does not count; `rule` says why not, and nothing was decided.
        """
        policy, now = self.settings.policy_in_force, self._journal.now
        found = await self._journal.run(lambda book: voting.vote(book, policy, answer, now()))
        if isinstance(found, Finding):
            raise voting.refusal(found, answer.proposal_id)
        return found

    def objection(self, proposal: Proposal, person: str) -> str | None:
        """
        Why that person's yes to a proposal would not count, in a sentence without its full stop; None where it would.
        """
        policy = self.settings.policy_in_force
        asked = voting.counted(policy, proposal, proposal.rule)
        stop = voting.objection(policy, asked, proposal.approve(by=person), proposal.rule)
        return None if stop is None else stop.words().message

    async def prune(self, before: float, *, with_references: bool = False) -> int:
        """
        Delete settled calls last touched before a time, but for what the rules still count; how many.

        Calls with a reference stay unless *with_references*, or the same reason could be paid again.
        """
        keep_s, now = self.settings.policy_in_force.longest_window_s, self._journal.now
        return await self._journal.run(
            lambda book: book.prune(before, now(), with_references=with_references, keep_s=keep_s)
        )

    async def backup(self, target: Path) -> Path:
        """
        The path of a whole copy of the journal, private and on the disk; calls may go on meanwhile.

        Raises:
            NotSentError: the journal cannot be read, or the copy not be made: there may be a file of that name.
        """
        await self.check()
        return await asyncio.to_thread(back_up, self._journal.place, target)

    async def check(self) -> None:
        """
        Read something.

        Raises:
            NotSentError: the journal cannot be used.
        """
        journal = Journal(self.settings.journal_place)
        try:
            await journal.run(lambda book: book.check(), reach=READING)
        finally:
            await journal.aclose()

    async def server(self) -> Server | None:
        """
        What is to be known of the journal's server; None where it is in a file, or the server cannot be asked.
        """
        place = self.settings.journal_place
        if not isinstance(place, DatabaseURL):
            return None
        try:
            from ocp_stripe_balance._journal.inspection import look_at  # of an extra

            return await asyncio.to_thread(look_at, place)
        except (ImportError, DatabaseError):  # which `check` says
            return None

    async def check_totals(self) -> list[WrongTotal]:
        """
        Totals of budgets and rates that were not what the rows add up to; those are made anew from the rows.

        Raises:
            NotSentError: there is no journal, or it cannot be used.
        """
        place = self.settings.journal_place
        if place is None or not has_journal(place):
            message = f"There is no journal at {place}, so there is nothing to check."
            raise NotSentError(message, hint="OCP_STRIPE_JOURNAL names the one to check; a copy of one too.")
        return await self._journal.run(lambda book: book.wrong_totals())

    async def resume(self, key: str) -> ToolResult:
        """
        The result of the recorded call of that key, sent again under the same key where its outcome is open.

        Raises:
            ToolError: as for every call.
        """
        return await self._api().resume(key)

    async def reconcile(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> list[ReconcileResult]:
        """
        Settle every open call of the settings' base URL and mode by reading Stripe; moves no money.

        Raises:
            NotSentError: there is no API key, or the journal cannot be used.
        """
        return await self._api().reconcile(progress)

    async def open_elsewhere(self) -> Counter[str]:
        """
        How many open calls `reconcile` does not settle: those of other servers, and of the other mode.
        """
        key, open_calls = self.settings.api_key, await self.calls(states=(State.UNKNOWN, State.SENDING))
        here = (self.settings.api_base, key and mode_of(key.get_secret_value()))
        scopes = [call.intent.scope for call in open_calls]
        return Counter(f"{each.base_url} ({each.mode} mode)" for each in scopes if (each.base_url, each.mode) != here)

    async def reversal_of(self, record: Record) -> Record | None:
        """
        The call that took back the entry of another one, or is about to.
        """
        from ocp_stripe_balance._calls.call import reversal_key, reverses  # which takes long, and few ask

        scope, entry = record.intent.scope, record.transaction_id
        found = await self.pages.call_at(reversal_key(scope, entry), scope) if entry else None
        return found if found is not None and reverses(found.intent, record.intent.customer) else None

    async def budgets(self, number: int) -> list[BudgetUsed]:
        """
        How much of each budget is used: by all, or by the *number* of those who used most of it.
        """
        policy, scope = self.settings.policy_in_force, self._api().scope

        def whose(book: Book, budget: Budget, moved: Money) -> Iterator[Intent]:
            is_all = budget.per == "all"
            found = [""] if is_all else most_used(book, scope, (budget.per, budget.window), moved, number)
            return (call_of_total(budget.per, each, scope, moved) for each in found)

        def work(book: Book) -> list[BudgetUsed]:
            now = self._journal.now()
            return list(budgets_used(policy, partial(whose, book), lambda intent: book.past(intent, now)))

        return await self._journal.run(work)

    def _api(self) -> StripeAPI:
        if self._stripe is None:
            self._stripe = StripeAPI(
                APIOptions(
                    context=AgentContext(),
                    settings=self.settings,
                    base_url=None,
                    headers={},
                    transport=None,
                    journal=SharedJournal(self.settings, self._journal),
                )
            )
        return self._stripe


async def copy_journal(
    source: str, target: str, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Proof:
    """
    What was counted on both sides when one journal, a path or the URL of a server, was copied into another.

    Nobody can make calls with either of them meanwhile. Where it is interrupted, it goes on when it is run again.

    Raises:
        NotSentError: one of them cannot be used, or *target* has other calls.
    """
    from ocp_stripe_balance._journal.copying import Copying  # that no call needs

    copying = Copying(_place(source, "the journal to copy"), _place(target, "the copy"))
    with contextlib.closing(copying.steps()) as steps:
        for done, total in steps:
            progress(done, total)
            await asyncio.sleep(0)  # where it can be interrupted
    return copying.proof


def _place(text: str, name: str) -> Path | DatabaseURL:
    """
    A journal's file or server.

    Raises:
        InvalidParametersError: it can be neither.
    """
    if not is_database_url(text):
        return Path(text).absolute()
    try:
        return DatabaseURL(check_database_url(text))
    except ValueError as error:
        problem = Problem(path=name, message="the URL cannot be read", hint=str(error))
        raise InvalidParametersError([problem]) from None


def facts_of_proof(proof: Proof) -> dict[str, Any]:
    """
    What was counted of a copy, as JSON.
    """
    names = ("what", "mode", "currency", "outcome")
    counts = [
        {
            **dict(zip(names, kind, strict=True)),
            "number": ours,
            "amount": amount,
            "copied": theirs,
            "copied_amount": there,
        }
        for kind, ((ours, amount), (theirs, there)) in proof.sums.items()
    ]
    return {"is_whole": proof.is_whole, "records": proof.records, "wrong_totals": proof.wrong_totals, "counts": counts}


def facts_of_call(record: Record) -> dict[str, Any]:
    """
    A call as JSON.
    """
    intent, payload, outcome = record.intent, record.payload, record.outcome
    amount, currency = intent.money or (0, "")
    is_under_way = record.state is State.SENDING  # or was interrupted: how often it was sent is not known
    return {
        **intent.scope._asdict(),
        "key": record.key,
        "tool": intent.tool,
        "customer": intent.customer or "",
        "amount": amount,
        "currency": currency,
        "reference": intent.reference,
        "arguments": json.loads(intent.arguments),
        "path": payload.path,
        "body": payload.body.decode("ascii", "replace"),
        "api_version": payload.api_version,
        **intent.caller._asdict(),
        "attempts": None if is_under_way else outcome.attempts,
        "status": outcome.status,
        "request_id": outcome.request_id,
        "answer": _answer_of(record),
        "note": json.dumps(outcome.warnings) if outcome.warnings else outcome.note,
        "created_at": moment(record.created_at),
        "updated_at": moment(record.updated_at),
        "outcome": str(record.state),
        "effect": intent.effect,
    }


def _answer_of(record: Record) -> dict[str, Any] | None:
    """
    What a call was told, of an object of Stripe's what its schema knows.
    """
    answer = json.loads(record.outcome.answer or "null")
    return trimmed(record.intent.tool, answer) if answer and record.state is State.SUCCEEDED else answer


def facts_of_finding(finding: ReconcileResult) -> dict[str, Any]:
    """
    What the ledger says of one call, as JSON; of the entry, what its schema knows.
    """
    entry = finding.transaction
    return {**asdict(finding), "transaction": None if entry is None else trimmed(CREATE, entry)}


def facts_of_decision(decision: Decision) -> dict[str, Any]:
    """
    A decision as JSON.
    """
    amount, currency = decision.money or (0, "")
    return {
        "at": moment(decision.at),
        "decision": decision.decision,
        "rule": decision.rule,
        "who": decision.who,
        "reason": decision.reason,
        **decision.scope._asdict(),
        "key": decision.key,
        "tool": decision.tool,
        "customer": decision.customer,
        "amount": amount,
        "currency": currency,
        "reference": decision.reference,
        **decision.caller._asdict(),
        "effect": decision.effect,
    }


def facts_of_proposal(proposal: Proposal) -> dict[str, Any]:
    """
    A proposal as JSON.
    """
    facts = {**asdict(proposal), "effect": proposal.effect, "balance_after": proposal.balance_after}
    del facts["key_origin"], facts["moves_money"]
    facts["arguments"] = proposal.parameters
    for name in ("asked_at", "expires_at", "decided_at"):
        facts[name] = moment(facts[name]) if facts[name] else None
    for vote in filter(None, (*facts["approvals"], facts["denial"])):
        vote["at"] = moment(vote["at"])
    return facts
