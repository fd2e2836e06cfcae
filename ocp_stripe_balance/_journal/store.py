"""
The journal's door: every method is one unit of work on the book it is kept in.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ocp_stripe_balance._journal.book import Settled
from ocp_stripe_balance._journal.claim import claim_call, host, is_alive
from ocp_stripe_balance._journal.memory import MemoryBook
from ocp_stripe_balance._journal.rows import Call, Claim, Decision, State, Verdict
from ocp_stripe_balance._journal.writer import Writer
from ocp_stripe_balance.errors import NotSentError, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ocp_stripe_balance._journal.admission import Admission
    from ocp_stripe_balance._journal.book import Book
    from ocp_stripe_balance._journal.rows import Ruling
    from ocp_stripe_balance.models import Answer, Proposal

_T = TypeVar("_T")


class Journal:
    """
    One file, shared by any number of processes, or a record in memory; safe for many calls at once.

    All work on the file runs in one thread, which commits what has gathered in one transaction: concurrent
    calls share one fsync. Work in memory is done at once.
    """

    def __init__(self, path: Path | None, *, now: Callable[[], float] = time.time) -> None:
        """
        Prepare; nothing is opened before the first use.

        Args:
            path: the file, made with its folder where it is missing; None for a record in memory.
            now: the time in seconds since the Unix epoch.
        """
        self.path = path
        self._now = now
        self._writer: Writer | None = None
        self._memory = MemoryBook()
        self._lock = threading.Lock()  # an agent may be used from several event loops
        # Names each claim among those of all processes and hosts that share the file.
        self._name = secrets.token_hex(8)
        self._claims = itertools.count()

    async def claim(
        self,
        draft: Call,
        *,
        has_own_key: bool,
        lease_s: float,
        admission: Admission | None = None,
    ) -> tuple[Claim, asyncio.CancelledError | None]:
        """
        Record the intent before anything is sent, or find the call it repeats. Durable when it returns.

        The second value is the cancellation that came meanwhile; the row then says that the call is not being sent.

        Args:
            draft: the call as it would be sent.
            has_own_key: whether the caller chose the key, so that every parameter must match.
            lease_s: how long the call may take; an owner that dies loses it by then at the latest.
            admission: what is asked before a call is recorded that would be sent; without it, nothing.

        Raises:
            NotSentError: the journal cannot be written.
        """
        owner = f"{host()}:{os.getpid()}:{self._name}-{next(self._claims)}"
        now = self._now

        def work(book: Book) -> Claim:
            return claim_call(book, draft, owner, now(), has_own_key=has_own_key, lease_s=lease_s, admission=admission)

        claim, cancelled = await self._finish(work)
        if cancelled is not None:
            state = {Verdict.SEND: State.NOT_SENT, Verdict.RESUME: State.UNKNOWN}.get(claim.verdict)
            if state is not None:
                with contextlib.suppress(NotSentError, asyncio.CancelledError):
                    if not await self.settle(claim.call, state, note="cancelled before it was sent"):
                        claim = replace(claim, verdict=Verdict.WAIT)  # its lease was over: another has it
        return claim, cancelled

    async def rehearse(self, draft: Call, *, has_own_key: bool, lease_s: float, admission: Admission) -> Claim:
        """
        What `claim` would find. Nothing is recorded.

        Raises:
            NotSentError: the journal cannot be read.
        """

        def work(book: Book) -> Claim:
            now = self._now()
            return claim_call(book, draft, "", now, has_own_key=has_own_key, lease_s=lease_s, admission=admission)

        claim: Claim = await self._ask(lambda book: book.attempt(work))
        return claim

    async def note(self, subject: Call | Proposal, decision: Ruling, *, rule: str, who: str, reason: str) -> None:
        """
        Add a decision about a call to the audit.
        """
        await self._ask(lambda book: book.note(subject, decision, self._now(), rule=rule, who=who, reason=reason))

    async def ask(self, proposal: Proposal) -> Proposal:
        """
        Put a proposal in the queue, or find the one of its key that is there.
        """
        return await self._ask(lambda book: book.ask(proposal, self._now()))

    async def answer(self, proposal: Proposal, answer: Answer) -> Proposal:
        """
        Record a person's decision on a proposal that waits; the proposal as it then stands.
        """
        return await self._ask(lambda book: book.answer(proposal, answer, self._now()))

    async def standing(self, key: str, *, base_url: str, mode: str, account: str) -> Proposal | None:
        """
        The proposal of that key that waits or is approved, or None.
        """
        found = [
            each
            for each in await self.proposals()
            if (each.key, each.base_url, each.mode, each.account) == (key, base_url, mode, account)
        ]
        return found[-1] if found and found[-1].state in {"waiting", "approved"} else None

    async def proposals(self) -> list[Proposal]:
        """
        All proposals, oldest first.
        """
        return await self._ask(lambda book: book.proposals(self._now()))

    async def decisions(self, *, key: str | None = None) -> list[Decision]:
        """
        The audit, oldest first: all of it, or of one key.
        """
        return await self._ask(lambda book: book.decisions(key))

    async def settle(  # noqa: PLR0913  the columns of an outcome
        self,
        call: Call,
        state: State,
        *,
        is_final: bool = False,
        attempts: int = 0,
        status: int | None = None,
        request_id: str | None = None,
        answer: Any = None,
        note: str | None = None,
        is_found_later: bool = False,
    ) -> bool:
        """
        Record the outcome, and whether that was possible. A cancelled caller waits for the write.

        A final outcome on record is never overwritten, and one that is not final is recorded only by who holds
        the claim: whoever took the call over meanwhile knows better. For budgets the money moved now, unless
        *is_found_later*: then at the latest moment known so far.

        Raises:
            NotSentError: the journal cannot be written.
        """
        text = answer if answer is None or isinstance(answer, str) else json.dumps(answer)
        outcome = Settled(state, is_final, attempts, status, request_id, text, note, is_found_later)
        is_recorded, cancelled = await self._finish(lambda book: book.settle(call, outcome, self._now()))
        if cancelled is not None:
            raise cancelled
        return is_recorded

    async def find(self, key: str, *, base_url: str, mode: str, account: str) -> Call | None:
        """
        The call of that key in that namespace, or None.
        """
        return await self._ask(lambda book: book.by_key(key, base_url, mode, account))

    async def customer_of(self, transaction: str, *, base_url: str, mode: str, account: str) -> str | None:
        """
        The customer of the recorded call that made an entry, or None.
        """
        return await self._ask(lambda book: book.customer_of(transaction, base_url, mode, account))

    async def select(
        self,
        *,
        key: str | None = None,
        states: Sequence[State] = (),
        since: float = 0.0,
        customer: str | None = None,
        limit: int = -1,
    ) -> list[Call]:
        """
        Calls, oldest first: of one key, in some states, made since a time, for one customer.
        """
        return await self._ask(
            lambda book: book.select(key=key, states=states, since=since, customer=customer, limit=limit)
        )

    async def prune(self, before: float, *, with_references: bool = False, keep_s: float = 0.0) -> int:
        """
        Delete settled calls last touched before a time; how many.

        Calls with a reference stay unless *with_references*, or the same reason could be paid again. What the rules
        of any policy used so far count stays in any case, and so do the last *keep_s* seconds.
        """
        return await self._ask(
            lambda book: book.prune(before, self._now(), with_references=with_references, keep_s=keep_s)
        )

    def is_still_held(self, call: Call) -> bool:
        """
        Whether nobody can have taken the call over since it was claimed.
        """
        return self._now() < call.lease_until

    def is_owned_by_the_living(self, call: Call) -> bool:
        """
        Whether whoever sends the call may still be at it.
        """
        return is_alive(call, self._now())

    async def aclose(self) -> None:
        """
        Write what is left and close the file; what is in memory stays.
        """
        with self._lock:  # nothing is submitted behind the end
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.stop()
        if writer is not None:
            await asyncio.to_thread(writer.join)

    async def _ask(self, work: Callable[[Book], _T]) -> _T:
        """
        The result of *work*; a cancelled caller is told so once it is done.
        """
        result, cancelled = await self._finish(work)
        if cancelled is not None:
            raise cancelled
        return result

    async def _finish(self, work: Callable[[Book], _T]) -> tuple[_T, asyncio.CancelledError | None]:
        """
        The result of *work*, and the cancellation that came meanwhile: a write that began is waited for.
        """
        if self.path is None:
            with self._lock:
                return work(self._memory), None
        try:
            with self._lock:
                if self._writer is None or self._writer.pid != os.getpid():  # threads do not survive a fork
                    self._writer = Writer(self.path)
                waiter = self._writer.submit(work)
        except RuntimeError as error:  # no thread can be started
            raise self._unusable(error) from error
        cancelled = None
        while not waiter.done():
            try:
                await asyncio.shield(waiter)
            except asyncio.CancelledError as error:
                cancelled = error
            except Exception:  # noqa: BLE001, S110  raised below
                pass
        try:
            return waiter.result(), cancelled
        except ToolError:
            raise
        except Exception as error:
            if cancelled is not None:
                raise cancelled from error
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> NotSentError:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        return NotSentError(
            f"The journal at {self.path} cannot be used ({name}: {error}), so this attempt sent nothing.",
            hint=(
                "A person must make room, or mend the file that OCP_STRIPE_JOURNAL names. Then call again with the "
                "same key: what became of earlier attempts is in the journal."
            ),
            retryable=True,
        )

    def __del__(self) -> None:
        """
        Let the thread end with a journal that nobody closed.
        """
        if self._writer is not None:
            self._writer.stop()
