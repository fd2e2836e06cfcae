"""
What would become of a call: the same steps, with everything undone that they record, and nothing sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._calls.endings import Busy, Conflict, CustomerWanted, Refused, Repeated, Sentence, TooOld
from ocp_stripe_balance._domain import Outcome, State
from ocp_stripe_balance._journal import Lease, Record
from ocp_stripe_balance._policy import budgeted, decide
from ocp_stripe_balance.errors import NotSentError, PolicyRefusedError
from ocp_stripe_balance.models import DryRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocp_stripe_balance._calls.admission import Admission, Admitted
    from ocp_stripe_balance._calls.call import Call
    from ocp_stripe_balance._calls.customers import CustomerDirectory, SeenCustomer
    from ocp_stripe_balance._calls.delivery import Delivery
    from ocp_stripe_balance._calls.reads import Reader
    from ocp_stripe_balance._domain import Intent
    from ocp_stripe_balance._journal import Book, Journal
    from ocp_stripe_balance._policy import Finding
    from ocp_stripe_balance._stripe.request import Request


class Foreseen(NamedTuple):
    """
    What would become of one of several calls.
    """

    key: str
    """Under which it would be made."""
    is_paid: bool = False
    """Whether the journal has its entry already."""
    why: str = ""
    """Why it would not be sent."""
    hint: str = ""
    rule: str = ""
    """Of the policy, where that refuses it; the hint is then for a model."""


class Previews:
    """
    Dry runs of the calls of one registered API.
    """

    def __init__(
        self,
        journal: Journal,
        admission: Admission,
        customers: CustomerDirectory,
        delivery: Delivery,
        reader: Reader,
    ) -> None:
        """
        Prepare.
        """
        self._journal = journal
        self._admission = admission
        self._customers = customers
        self._delivery = delivery
        self._reader = reader

    async def preview(self, call: Call, deadline: float) -> DryRun:
        """
        What a call would send, and whether it would. Moves nothing and records nothing, though the customer is read.

        That may take until *deadline*, in the loop's time.

        Raises:
            ToolError: the customer or the journal cannot be read.
        """
        if call.tool.reads:
            return self._preview_read(call, self._admission.gate_findings(call.intent))
        seen = self._customers.seen(call)
        admitted = await self._rehearse(call, seen)
        if isinstance(admitted, CustomerWanted):
            seen = await self._customers.read(call, deadline, is_preview=True)
            admitted = await self._rehearse(call, seen)
        return self._dry_run(call, admitted, seen.warnings)

    async def explain(self, call: Call) -> tuple[list[Finding], DryRun]:
        """
        What every rule says of a call, and what would become of it; the customer is not read.

        Raises:
            NotSentError: the journal cannot be read.
        """
        if call.tool.reads:
            said = self._admission.gate_findings(call.intent)
            return said, self._preview_read(call, said)
        seen = self._customers.seen(call)._replace(is_enough=True)
        now, reach = self._journal.now, self._journal.reach(call.intent)
        said = await self._journal.preview(lambda book: self._admission.explain(book, call, seen, now()), reach)
        return said, self._dry_run(call, await self._rehearse(call, seen))

    async def foresee(self, calls: Sequence[tuple[Call, SeenCustomer]]) -> list[Foreseen]:
        """
        What would become of each of several calls, were it the only one.

        Raises:
            NotSentError: the journal cannot be read.
        """
        now = self._journal.now
        found = await self._journal.run(lambda book: [self._admission.foresee(book, *each, now()) for each in calls])
        return [_foreseen(call.intent.key.text, ending) for (call, _), ending in zip(calls, found, strict=True)]

    async def over_budget(self, sums: Sequence[Intent], *, per_customer: bool) -> list[Finding]:
        """
        What the budgets refuse of sums of several calls: those for each customer, or the others.

        Raises:
            NotSentError: the journal cannot be read.
        """
        policy = self._admission.policy

        def refused(book: Book, intent: Intent) -> list[Finding]:
            said = budgeted(policy, intent, book.past(intent, self._journal.now()), per_customer=per_customer)
            return [each for each in said if each.verdict == "refused"]

        found = await self._journal.preview(lambda book: [refused(book, each) for each in sums])
        return [finding for each in found for finding in each]

    async def _rehearse(self, call: Call, seen: SeenCustomer) -> Admitted:
        now, reach = self._journal.now, self._journal.reach(call.intent)
        try:
            return await self._journal.preview(
                lambda book: self._admission.admit(book, call, seen, Lease(""), now()), reach
            )
        except NotSentError as error:
            raise error.told_of(call.intent.tool, call.intent.key.text) from error.__cause__

    def _preview_read(self, call: Call, said: list[Finding]) -> DryRun:
        stop = decide(said)
        is_of_journal = call.tool.effect.source == "journal"
        where = "answered from the journal" if is_of_journal else "sent"
        sends = Sentence("send", f"The call would be {where}; it only reads.")
        request = None if is_of_journal else self._reader.request(call.tool, call.arguments, call.access)
        return _told(sends if stop is None else Refused(call.intent, stop).sentence(), request, None)

    def _dry_run(self, call: Call, admitted: Admitted, warnings: tuple[str, ...] = ()) -> DryRun:
        first = admitted.first if isinstance(admitted, Conflict) else getattr(admitted, "record", None)
        record = first if isinstance(first, Record) else _draft(call)
        request = self._delivery.request(call, record)
        return _told(admitted.sentence(), request, record.key, warnings)


def _foreseen(key: str, ending: Repeated | Conflict | Refused | Busy | TooOld | None) -> Foreseen:
    error = None if isinstance(ending, Busy | TooOld | None) else ending.error  # of those, whoever makes it finds out
    if error is None:
        return Foreseen(key, is_paid=isinstance(ending, Repeated))
    rule = error.rule if isinstance(error, PolicyRefusedError) else ""
    return Foreseen(key, why=error.why, hint=error.hint, rule=rule)


def _draft(call: Call) -> Record:
    """
    A call as it would be recorded.
    """
    return Record(call.intent, call.payload, Outcome(State.SENDING), Lease(""), 0.0, 0.0, 0.0)


def _told(
    sentence: Sentence, request: Request | None, idempotency_key: str | None, warnings: tuple[str, ...] = ()
) -> DryRun:
    return DryRun(
        verdict=sentence.verdict,
        message=sentence.message,
        rule=sentence.rule,
        method=request.method if request else "",
        url=request.url if request else "",
        headers={**request.headers, "Authorization": "Bearer [api key]"} if request else {},
        body=request.body.decode("ascii") if request else "",
        idempotency_key=idempotency_key,
        warnings=warnings,
    )
