"""
Claiming a call: recording its intent before anything is sent, or finding the call it repeats.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal.admission import admit
from ocp_stripe_balance._journal.rows import Call, Claim, State, Verdict

if TYPE_CHECKING:
    from ocp_stripe_balance._journal.admission import Admission
    from ocp_stripe_balance._journal.book import Book

# Stripe may forget a key after 24 h; a resend then pays twice. https://docs.stripe.com/api/idempotent_requests
MAX_RESEND_AGE_S = 23 * 3600
_LEASE_MARGIN_S = 5.0
_MAX_SKEW_S = 60.0


def claim_call(  # noqa: PLR0913  who claims what, and when
    book: Book,
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
    call = book.by_key(draft.key, draft.base_url, draft.mode, draft.account)
    if call is not None and has_own_key and (call.tool, call.arguments) != (draft.tool, draft.arguments):
        return Claim(verdict=Verdict.KEY_TAKEN, call=call)
    if draft.reference is not None and (call is None or _verdict_on(call, now, lease_s) is Verdict.SEND):
        # Nothing moved under this key; another key may have served the same reason meanwhile.
        other = book.by_reference(draft)
        if other is not None and (other.amount, other.currency) != (draft.amount, draft.currency):
            return Claim(verdict=Verdict.REFERENCE_TAKEN, call=other)
        call = other or call
    verdict = Verdict.SEND if call is None else _verdict_on(call, now, lease_s)
    lease_until = now + lease_s + _LEASE_MARGIN_S
    if call is None or verdict is Verdict.SEND:
        stopped = admit(book, draft, call, now, admission) if admission is not None else None
        if stopped is not None:
            return stopped
        if call is not None:
            book.delete(call)  # nothing was sent under this key, so these are the first bytes
        return Claim(verdict=verdict, call=book.insert(draft, owner, now, lease_until))
    if verdict is Verdict.RESUME:
        finding = admission.resume_rule(book.surroundings(call, now)) if admission is not None else None
        if finding is not None:
            book.note(call, "refused", now, rule=finding.rule, who="policy", reason=finding.message)
            return Claim(verdict=Verdict.HELD, call=call, finding=finding)
        call = book.take_over(call, owner, now, lease_until)
        book.note(call, "allowed", now, rule="resumed", who="policy", reason="")
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


@cache
def host() -> str:
    """
    The name of this machine, as owners of calls bear it.
    """
    return socket.gethostname()


def is_alive(call: Call, now: float) -> bool:
    """
    Whether the owner of a call under way still runs, as far as can be told from here.

    A wrong yes ends with the lease. After a wrong no, both send the same key, which Stripe executes once, and only
    the one who took the claim last records an outcome that is not final.
    """
    where, pid, _ = (*call.owner.split(":"), "", "", "")[:3]
    if call.state is not State.SENDING or not call.owner or now >= call.lease_until:
        return False
    if where != host():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return True
