"""
Claiming a call: recording its intent before anything is sent, or finding the call it repeats.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal._admission import admit, note
from ocp_stripe_balance._journal._history import JournalHistory
from ocp_stripe_balance._journal._rows import COLUMNS, Call, Claim, State, Verdict, call_of, decision_on

if TYPE_CHECKING:
    import sqlite3

    from ocp_stripe_balance._journal._admission import Admission

# Stripe may forget a key after 24 h; a resend then pays twice. https://docs.stripe.com/api/idempotent_requests
MAX_RESEND_AGE_S = 23 * 3600
_LEASE_MARGIN_S = 5.0
_MAX_SKEW_S = 60.0


def claim_call(  # noqa: PLR0913  who claims what, and when
    db: sqlite3.Connection,
    draft: Call,
    owner: str,
    now: float,
    *,
    has_own_key: bool,
    lease_s: float,
    admission: Admission | None = None,
) -> Claim:
    """
    What becomes of a draft: recorded and ours to send, or the reason why not. Without *admission*, nothing is asked.
    """
    call = by_key(db, draft.key, draft.base_url, draft.mode, draft.account)
    if call is not None and has_own_key and (call.tool, call.arguments) != (draft.tool, draft.arguments):
        return Claim(verdict=Verdict.KEY_TAKEN, call=call)
    if draft.reference is not None and (call is None or _verdict_on(call, now, lease_s) is Verdict.SEND):
        # Nothing moved under this key; another key may have served the same reason meanwhile.
        other = _by_reference(db, draft)
        if other is not None and (other.amount, other.currency) != (draft.amount, draft.currency):
            return Claim(verdict=Verdict.REFERENCE_TAKEN, call=other)
        call = other or call
    verdict = Verdict.SEND if call is None else _verdict_on(call, now, lease_s)
    if call is None or verdict is Verdict.SEND:
        stopped = admit(db, draft, call, now, admission) if admission is not None else None
        if stopped is not None:
            return stopped
        if call is not None:
            _delete(db, call)  # nothing was sent under this key, so these are the first bytes
        return Claim(verdict=verdict, call=_insert(db, draft, owner, now, lease_s))
    if verdict is Verdict.RESUME:
        finding = admission.resume_rule(JournalHistory(db, call, now)) if admission is not None else None
        if finding is not None:
            note(db, decision_on(call, "refused", now, rule=finding.rule, who="policy", reason=finding.message))
            return Claim(verdict=Verdict.HELD, call=call, finding=finding)
        lease_until = now + lease_s + _LEASE_MARGIN_S
        db.execute(
            "UPDATE calls SET state = 'sending', owner = ?, lease_until = ?, spent_at = ?, updated_at = ? "
            "WHERE key = ? AND base_url = ? AND mode = ? AND account = ?",
            (owner, lease_until, lease_until, now, call.key, call.base_url, call.mode, call.account),
        )
        call = replace(call, owner=owner, lease_until=lease_until)
        note(db, decision_on(call, "allowed", now, rule="resumed", who="policy", reason=""))
    return Claim(verdict=verdict, call=call)


def _verdict_on(call: Call, now: float, lease_s: float) -> Verdict:
    if call.is_final:
        return Verdict.FINISHED
    if call.state is State.SENDING and is_alive(call, now):
        return Verdict.WAIT
    if call.state in {State.NOT_SENT, State.REJECTED}:
        return Verdict.SEND
    # The last attempt of a resumed call must be over before Stripe may forget the key.
    age_s = now - call.created_at
    # A call from the future was made by a clock that was wrong, and may be of any age.
    is_young = age_s > -_MAX_SKEW_S and age_s + lease_s < MAX_RESEND_AGE_S
    return Verdict.RESUME if is_young else Verdict.EXPIRED


def is_alive(call: Call, now: float) -> bool:
    """
    Whether the owner of a call under way still runs, as far as can be told from here.

    A wrong yes ends with the lease. After a wrong no, both send the same key, which Stripe executes once, and only
    the one who took the claim last records an outcome that is not final.
    """
    host, pid, _ = (*call.owner.split(":"), "", "", "")[:3]
    if call.state is not State.SENDING or not call.owner or now >= call.lease_until:
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return True


def by_key(db: sqlite3.Connection, key: str, base_url: str, mode: str, account: str) -> Call | None:
    query = "SELECT * FROM calls WHERE key = ? AND base_url = ? AND mode = ? AND account = ?"
    row = db.execute(query, (key, base_url, mode, account)).fetchone()
    return None if row is None else call_of(row)


def _by_reference(db: sqlite3.Connection, draft: Call) -> Call | None:
    """
    The call of the same business reason that moved money or may have.
    """
    query = (
        "SELECT * FROM calls WHERE reference = ? AND customer = ? AND tool = ? AND base_url = ? AND mode = ? "
        "AND account = ? AND state IN ('sending', 'succeeded', 'unknown') ORDER BY created_at, id LIMIT 1"
    )
    values = (draft.reference, draft.customer, draft.tool, draft.base_url, draft.mode, draft.account)
    row = db.execute(query, values).fetchone()
    return None if row is None else call_of(row)


def _insert(db: sqlite3.Connection, draft: Call, owner: str, now: float, lease_s: float) -> Call:
    row = {name: getattr(draft, name) for name in COLUMNS}
    # The draft may be an old row that is sent anew: what became of it then is no part of what it is now.
    row |= {"state": State.SENDING, "is_final": False, "attempts": 0}
    row |= dict.fromkeys(("status", "request_id", "answer", "note"))
    lease_until = now + lease_s + _LEASE_MARGIN_S
    row |= {"owner": owner, "created_at": now, "updated_at": now, "lease_until": lease_until, "spent_at": lease_until}
    names, marks = ", ".join(COLUMNS), ", ".join(f":{name}" for name in COLUMNS)
    db.execute(f"INSERT INTO calls ({names}) VALUES ({marks})", row)  # noqa: S608  our own names
    return Call(**row)


def _delete(db: sqlite3.Connection, call: Call) -> None:
    query = "DELETE FROM calls WHERE key = ? AND base_url = ? AND mode = ? AND account = ?"
    db.execute(query, (call.key, call.base_url, call.mode, call.account))
