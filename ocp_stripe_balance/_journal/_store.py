"""
The journal's door: every method is one piece of work for the thread that writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ocp_stripe_balance._journal._admission import answer_proposal, ask, note, proposals
from ocp_stripe_balance._journal._claim import by_key, claim_call, is_alive
from ocp_stripe_balance._journal._rows import (
    DECISION_COLUMNS,
    Call,
    Claim,
    Decision,
    State,
    Verdict,
    call_of,
    decision_on,
)
from ocp_stripe_balance._journal._writer import Writer
from ocp_stripe_balance.errors import NotSentError, ToolError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ocp_stripe_balance._journal._admission import Admission
    from ocp_stripe_balance._journal._rows import Ruling
    from ocp_stripe_balance.models import Answer, Proposal

_T = TypeVar("_T")


class Journal:
    """
    One file, shared by any number of processes; safe for many calls at once in one event loop.

    All work runs in one thread, which commits what has gathered in one transaction: concurrent
    calls share one fsync.
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
        # Names this claim among those of all processes and hosts that share the file.
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"

        def work(db: sqlite3.Connection) -> Claim:
            now = self._now()
            return claim_call(db, draft, owner, now, has_own_key=has_own_key, lease_s=lease_s, admission=admission)

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

        def work(db: sqlite3.Connection) -> Claim:
            db.execute("SAVEPOINT rehearsal")
            try:
                now = self._now()
                return claim_call(db, draft, "", now, has_own_key=has_own_key, lease_s=lease_s, admission=admission)
            finally:
                db.execute("ROLLBACK TO rehearsal")
                db.execute("RELEASE rehearsal")

        return await self._ask(work)

    async def note(self, subject: Call | Proposal, decision: Ruling, *, rule: str, who: str, reason: str) -> None:
        """
        Add a decision about a call to the audit.
        """
        await self._ask(
            lambda db: note(db, decision_on(subject, decision, self._now(), rule=rule, who=who, reason=reason))
        )

    async def ask(self, proposal: Proposal) -> Proposal:
        """
        Put a proposal in the queue, or find the one of its key that is there.
        """
        return await self._ask(lambda db: ask(db, proposal, self._now()))

    async def answer(self, proposal: Proposal, answer: Answer) -> Proposal:
        """
        Record a person's decision on a proposal that waits; the proposal as it then stands.
        """
        return await self._ask(lambda db: answer_proposal(db, proposal, answer, self._now()))

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
        return await self._ask(lambda db: proposals(db, self._now()))

    async def decisions(self, *, key: str | None = None) -> list[Decision]:
        """
        The audit, oldest first: all of it, or of one key.
        """
        names, where = ", ".join(DECISION_COLUMNS), "" if key is None else "WHERE key = ? "
        query = f"SELECT {names} FROM decisions {where}ORDER BY number"  # noqa: S608  our own names
        values = () if key is None else (key,)
        return await self._ask(lambda db: [Decision(**dict(row)) for row in db.execute(query, values)])

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
        text = None if answer is None else json.dumps(answer)
        now = self._now()
        values = (state, is_final, attempts, status, request_id, text, note, now, is_found_later, now)

        def work(db: sqlite3.Connection) -> bool:
            done = db.execute(
                "UPDATE calls SET state = ?, is_final = ?, attempts = attempts + ?, status = ?, request_id = ?, "
                "answer = ?, note = ?, updated_at = ?, spent_at = CASE WHEN ? THEN spent_at ELSE ? END, "
                "owner = '', lease_until = 0 "
                "WHERE key = ? AND base_url = ? AND mode = ? AND account = ? AND NOT is_final "
                "AND (? OR owner = ?)",
                (*values, call.key, call.base_url, call.mode, call.account, is_final, call.owner),
            )
            return done.rowcount == 1

        is_recorded, cancelled = await self._finish(work)
        if cancelled is not None:
            raise cancelled
        return is_recorded

    async def find(self, key: str, *, base_url: str, mode: str, account: str) -> Call | None:
        """
        The call of that key in that namespace, or None.
        """
        return await self._ask(lambda db: by_key(db, key, base_url, mode, account))

    async def customer_of(self, transaction: str, *, base_url: str, mode: str, account: str) -> str | None:
        """
        The customer of the recorded call that made an entry, or None.
        """
        query = (
            "SELECT customer FROM calls WHERE base_url = ? AND mode = ? AND account = ? AND state = 'succeeded' "
            "AND amount != 0 AND json_extract(answer, '$.id') = ? LIMIT 1"
        )

        def work(db: sqlite3.Connection) -> str | None:
            row = db.execute(query, (base_url, mode, account, transaction)).fetchone()
            return None if row is None else str(row[0])

        return await self._ask(work)

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
        where, values = ["created_at >= ?"], [since, *states]
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
        if customer is not None:
            where.append("customer = ?")
            values.append(customer)
        if key is not None:
            where.append("key = ?")
            values.append(key)
        query = f"SELECT * FROM calls WHERE {' AND '.join(where)} ORDER BY created_at, id LIMIT ?"  # noqa: S608  fixed words
        return await self._ask(lambda db: [call_of(row) for row in db.execute(query, (*values, limit))])

    async def prune(self, before: float, *, with_references: bool = False, keep_s: float = 0.0) -> int:
        """
        Delete settled calls last touched before a time; how many.

        Calls with a reference stay unless *with_references*, or the same reason could be paid again. What the rules
        of any policy used so far count stays in any case, and so do the last *keep_s* seconds.
        """
        query = (
            "DELETE FROM calls WHERE updated_at < ? AND spent_at < ? AND state NOT IN ('sending', 'unknown') "
            "AND (? OR reference IS NULL OR state != 'succeeded')"
        )

        def work(db: sqlite3.Connection) -> int:
            (longest_s,) = db.execute("SELECT COALESCE(MAX(longest_s), 0) FROM windows").fetchone()
            cutoff = min(before, self._now() - max(longest_s, keep_s))
            return db.execute(query, (cutoff, cutoff, with_references)).rowcount

        return await self._ask(work)

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
        Write what is left and close the file.
        """
        if self.path is None:
            return  # it would be forgotten
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.close)

    async def _ask(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """
        The result of *work*; a cancelled caller is told so once it is done.
        """
        result, cancelled = await self._finish(work)
        if cancelled is not None:
            raise cancelled
        return result

    async def _finish(self, work: Callable[[sqlite3.Connection], _T]) -> tuple[_T, asyncio.CancelledError | None]:
        """
        The result of *work*, and the cancellation that came meanwhile: a write that began is waited for.
        """
        try:
            if self._writer is None or self._writer.pid != os.getpid():  # threads do not survive a fork
                self._writer = Writer(self.path)
            waiter = asyncio.wrap_future(self._writer.submit(work))
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
        Let the thread of a record in memory end with it.
        """
        if self._writer is not None:
            self._writer.stop()
