"""
What waits for a person: read beside what is alike, and decided, one or several at once.

A form carries the digest of what its reader was shown: where the proposal is another one by then, nothing is decided.
"""

from __future__ import annotations

import hmac
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import quote

from starlette.responses import RedirectResponse

from ocp_stripe_balance._text import money
from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.models import shown_digest
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console import forms
from ocp_stripe_balance.web.console.pages import Notice, problem, render, short

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance._journal import Record
    from ocp_stripe_balance.backoffice import BackOffice
    from ocp_stripe_balance.models import Proposal
    from ocp_stripe_balance.web.access.person import Person

_MOST = 50  # on one page, and decided on at once
_ALIKE_S, _MOST_ALIKE = 90 * 86400.0, 6
_LONGEST_REASON = 500
_THEN_CALL, _THEN_PLAN = " It is sent when the agent asks again.", " It is sent when somebody runs the plan."
_VERBS = {"approve": "Approve", "deny": "Deny"}


class Item(NamedTuple):
    """
    A proposal as a person is shown it.
    """

    proposal: Proposal
    shown: str
    """The digest of that."""
    alike: list[Record]
    objection: str | None = None
    """Why the person's yes would not count."""


class Became(NamedTuple):
    """
    What became of a proposal with a person's answer.
    """

    text: str
    status: int = 409
    kind: Literal["good", "bad"] = "bad"
    proposal: Proposal | None = None


@signed_in(Role.SEES)
async def inbox(request: Request) -> Response:
    """
    All that waits.
    """
    return await _inbox(request, await _of_done(request))


async def _inbox(request: Request, notice: Notice | None = None, status: int = 200) -> Response:
    office: BackOffice = request.app.state.gateway.office
    newest = await office.pages.newest()
    found, total = await office.pages.waiting(_MOST)
    items = [await _item(request, each) for each in found]
    return render(request, "inbox.html", items=items, total=total, newest=newest, notice=notice, status=status)


@signed_in(Role.SEES)
async def proposal(request: Request) -> Response:
    """
    One proposal, whatever became of it.
    """
    return await _page(request, request.path_params["id"], await _of_done(request))


async def _page(request: Request, proposal_id: str, notice: Notice | None = None, status: int = 200) -> Response:
    office: BackOffice = request.app.state.gateway.office
    found = await office.pages.proposal(proposal_id)
    if found is None:
        return problem(request, "No such proposal", "The journal has no proposal of that ID.", status=404)
    item = await _item(request, found)
    return render(request, "proposal.html", status=status, notice=notice, each=item)


@signed_in(Role.DECIDES)
async def decide(request: Request) -> Response:
    """
    A person's answer to one proposal.
    """
    form = await request.form()
    proposal_id, decision = request.path_params["id"], forms.text(form, "decision")
    reason = forms.text(form, "reason", _LONGEST_REASON)
    shown = forms.text(form, "shown")
    became = await _decide(request, proposal_id, decision, shown, reason)
    if became.kind == "good":
        return RedirectResponse(f"/console?done={quote(proposal_id, safe='')}", status_code=303)
    return await _page(request, proposal_id, Notice(became.text, "bad"), became.status)


@signed_in(Role.DECIDES)
async def confirm(request: Request) -> Response:
    """
    Several proposals with their sum, before they are decided.
    """
    office: BackOffice = request.app.state.gateway.office
    asked = request.query_params
    decision, ids = forms.text(asked, "decision"), dict.fromkeys(forms.texts(asked, "id"))
    if decision not in _VERBS or not 0 < len(ids) <= _MOST:
        text = f"Select from 1 to {_MOST} calls, then Approve or Deny." if decision in _VERBS else "Approve or deny?"
        return await _inbox(request, Notice(text, "bad"), 400)
    found = [await office.pages.proposal(each) for each in ids]
    items = [Item(each, shown_digest(each), []) for each in found if each is not None and each.state == "waiting"]
    gone = len(ids) - len(items)
    notice = Notice(f"{gone} of {len(ids)} wait no longer, and are left out.", "warn") if gone else None
    return render(
        request,
        "confirm.html",
        items=items,
        sums=_sums(each.proposal for each in items),
        decision=decision,
        verb=_VERBS[decision],
        notice=notice,
    )


@signed_in(Role.DECIDES)
async def decide_several(request: Request) -> Response:
    """
    A person's answer to several proposals, each by itself: what became of each is told.
    """
    form = await request.form()
    ids, digests = forms.texts(form, "id"), forms.texts(form, "shown")
    if len(ids) != len(digests) or not 0 < len(ids) <= _MOST:
        return problem(request, "Nothing was decided", "The form is not whole. Select the calls again.")
    decision, reason = forms.text(form, "decision"), forms.text(form, "reason", _LONGEST_REASON)
    became = [await _decide(request, *each, reason) for each in zip(ids, [decision] * len(ids), digests, strict=True)]
    return render(request, "decided.html", results=became)


async def _decide(request: Request, proposal_id: str, decision: str, shown: str, reason: str) -> Became:
    """
    What becomes of a proposal with the answer of the person who asks.
    """
    office: BackOffice = request.app.state.gateway.office
    person: Person = request.state.person
    found = await office.pages.proposal(proposal_id)
    why = _why_not(found, decision, shown, reason)
    if found is None or why is not None:
        return Became(*(why or ("", 404)), proposal=found)
    answers = {"approve": found.approve, "deny": found.deny}
    answer = answers[decision](by=person.name, how=person.how, shown=shown, reason=reason)
    try:
        done = await office.decide(answer) or found
    except NotSentError as error:
        return Became(str(error.args[0]), 403, proposal=found)
    said = [*done.approvals, *filter(None, [done.denial])]
    is_mine = any((each.by, each.shown) == (person.name, shown) for each in said)
    wanted = {"approve": ("approved", "waiting"), "deny": ("denied",)}[decision]
    if done.state not in wanted or not is_mine:
        return Became(f"Nothing was changed: it is {standing(done)}.", proposal=done)
    return Became(f"{standing(done)}.", 200, "good", done)


def _why_not(found: Proposal | None, decision: str, shown: str, reason: str) -> tuple[str, int] | None:
    """
    Why an answer decides nothing, whoever gives it; None where it may.
    """
    if found is None:
        return "Nothing was decided: the journal has no such proposal.", 404
    if not hmac.compare_digest(shown_digest(found).encode(), shown.encode()):
        return "Nothing was decided: it is not what you were shown. Read it again.", 409
    if found.state != "waiting":
        return f"Nothing was changed: it is {standing(found)}.", 409
    if decision not in _VERBS:
        return "Nothing was decided: approve or deny?", 400
    if decision == "deny" and not reason:
        return "Nothing was decided: a no needs a reason, which the agent is told.", 400
    return None


def standing(proposal: Proposal) -> str:
    """
    What has become of a proposal, in words.
    """
    if proposal.state == "waiting":
        more = proposal.needed - len(proposal.approvals)
        said = " and ".join(each.by for each in proposal.approvals)
        return f"approved by {said}; {more} more must approve it" if said else "waiting"
    if proposal.state == "denied":
        by, at = proposal.decided_by, proposal.decided_at or 0.0
        return f"denied by {by}, {short(at)}"
    said = " and ".join(each.by for each in proposal.approvals)
    by = f"approved by {said or proposal.decided_by}" if said or proposal.decided_by else ""
    also = {"used": "used: its call was made", "expired": "expired: its time is over"}.get(proposal.state, "")
    return ", and ".join(filter(None, (by, also))) or proposal.state


async def _item(request: Request, found: Proposal) -> Item:
    office: BackOffice = request.app.state.gateway.office
    person, since = request.state.person, time.time() - _ALIKE_S
    may_decide = found.state == "waiting" and Role.DECIDES in person.roles
    objection = office.objection(found, person.name) if may_decide else None
    alike = await office.pages.alike(found, since, _MOST_ALIKE) if found.customer else []
    return Item(found, shown_digest(found), alike, objection)


async def _of_done(request: Request) -> Notice | None:
    """
    What the page says first, after a decision: it is told from the journal, whatever the address says.
    """
    done = forms.text(request.query_params, "done")
    found = await request.app.state.gateway.office.pages.proposal(done) if done else None
    if found is None:
        return None
    whose = f" for {found.customer_name or found.customer}" if found.customer else ""
    then = (_THEN_PLAN if found.is_plan else _THEN_CALL) if found.state == "approved" else ""
    link = f"/console/proposals/{quote(found.id, safe='')}"
    return Notice(f"{found.effect}{whose}: {standing(found)}.{then}", "good", link, "See it")


def _sums(proposals: Iterable[Proposal]) -> list[str]:
    """
    What they would move together, in each currency and direction.
    """
    sums: Counter[tuple[bool, str]] = Counter()
    for each in proposals:
        for amount, currency in each.moved:
            sums[amount > 0, currency] += amount
    return [money.effect(amount, currency) for (_, currency), amount in sorted(sums.items())]
