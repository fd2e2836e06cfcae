"""
The calls on record: found, read one by one as what happened, and exported.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from starlette.responses import StreamingResponse

from ocp_stripe_balance._calls.admission import MAX_RESEND_AGE_S
from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal import is_alive
from ocp_stripe_balance._journal.pages import Wanted
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.cells import as_cell
from ocp_stripe_balance._text.plain import moment
from ocp_stripe_balance.errors import ToolError
from ocp_stripe_balance.verbs import FIND
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console import forms
from ocp_stripe_balance.web.console.acts import agent_of
from ocp_stripe_balance.web.console.pages import Notice, call_url, problem, render, words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.datastructures import QueryParams
    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance._journal import Decision, Record
    from ocp_stripe_balance._journal.pages import Place, Told
    from ocp_stripe_balance.backoffice import BackOffice
    from ocp_stripe_balance.models import Customer

_PAGE, _EXPORT_PAGE, _MOST_EXPORTED = 50, 500, 50_000
_MOST_OPEN = 100
_COLUMNS = (
    "time", "state", "customer", "direction", "amount", "currency", "reference", "entry", "asked_by", "agent_type",
    "attempts", "note", "mode", "account", "key",
)  # fmt: skip


class Asked(NamedTuple):
    """
    What the form of the search says.
    """

    q: str
    state: str
    amount: str
    currency: str
    since: str
    until: str

    @property
    def is_narrow(self) -> bool:
        """
        Whether not all calls are wanted.
        """
        return any(self)

    def address(self, path: str = "/console/calls", **more: str) -> str:
        """
        Where the same is found, or more of it.
        """
        given = {name: value for name, value in {**self._asdict(), **more}.items() if value}
        return f"{path}?{urlencode(given)}" if given else path


class Step(NamedTuple):
    """
    One thing that happened.
    """

    at: float
    what: str
    text: str = ""
    kind: str = ""
    link: str = ""
    link_text: str = ""


@signed_in(Role.SEES)
async def calls(request: Request) -> Response:
    """
    The calls that are wanted, newest first, a page at a time.
    """
    office: BackOffice = request.app.state.gateway.office
    asked = _asked(request.query_params)
    people: list[Customer] = []
    notice = found = None
    try:
        wanted, people = await _with_people(request, _wanted(asked, request.query_params))
    except ValueError as error:
        notice = Notice(str(error), "bad")
    except ToolError as error:
        notice = Notice(f"The e-mail could not be looked up at Stripe: {error.args[0]}", "bad")
    else:
        found = await office.pages.search(wanted)
    open_calls, _ = await office.pages.open_calls(_MOST_OPEN)
    return render(
        request,
        "calls.html",
        wanted=asked,
        states=[state.value for state in State],
        people=people,
        records=found.records if found else [],
        older=asked.address(before=_text_of(found.next)) if found and found.next else "",
        newest=asked.address(),
        is_later="before" in request.query_params,
        looked=f"{found.looked:,} calls were looked at; Older looks further." if found and found.looked else "",
        export=asked.address("/console/calls.csv"),
        open_calls=len(open_calls),
        notice=notice,
        status=400 if notice else 200,
    )


@signed_in(Role.SEES)
async def call(request: Request) -> Response:
    """
    All there is on the calls of one key.
    """
    office: BackOffice = request.app.state.gateway.office
    key = request.path_params["key"]
    told = await office.pages.told(key)
    if not any(told):
        hint = "The agent's call may have been stopped before anything was put on record."
        return problem(request, "No such call", "The journal has no call of that key.", hint=hint, status=404)
    shown, steps = [], [*_decided(told), *_asked_for(told)]
    for record in told.records:
        reversal = await office.reversal_of(record)
        steps += _became(record)
        if reversal is not None:
            what = "Taken back" if reversal.state is State.SUCCEEDED else "Taken back? The outcome is open"
            steps.append(Step(reversal.created_at, what, "by", "warn", call_url(reversal.key), reversal.key))
        shown.append(_shown(record, reversal))
    steps.sort(key=lambda step: step.at)
    return render(request, "call.html", key=key, calls=shown, timeline=steps)


@signed_in(Role.SEES)
async def export(request: Request) -> Response:
    """
    The calls that are wanted as CSV, which no spreadsheet takes for formulas.
    """
    asked = _asked(request.query_params)
    try:
        wanted = _wanted(asked, request.query_params)._replace(number=_EXPORT_PAGE)
    except ValueError as error:
        return problem(request, "Nothing to download", str(error))
    name = f"calls-{datetime.now(UTC):%Y-%m-%d}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    office: BackOffice = request.app.state.gateway.office
    return StreamingResponse(_lines(office, wanted), media_type="text/csv", headers=headers)


async def _lines(office: BackOffice, wanted: Wanted) -> AsyncIterator[str]:
    yield "\ufeff" + _line(_COLUMNS)
    written = 0
    while written < _MOST_EXPORTED:
        found = await office.pages.search(wanted)
        yield "".join(_line(_cells(record)) for record in found.records)
        written += len(found.records)
        if found.next is None:
            return
        wanted = wanted._replace(until=found.next)
    yield _line([f"Only the newest {written:,} are here: download a shorter time for the others."])


def _line(cells: Any) -> str:
    written = io.StringIO()
    csv.writer(written).writerow([as_cell(each) for each in cells])
    return written.getvalue()


def _cells(record: Record) -> list[str]:
    intent, outcome = record.intent, record.outcome
    moved = money.stated_effect(*intent.money).split() if intent.money else ["", "", ""]
    return [
        moment(record.created_at), record.state.value, intent.customer or "", *moved, intent.reference or "",
        record.transaction_id or "", intent.caller.user or "", intent.caller.agent_type, str(outcome.attempts),
        outcome.note or "", intent.scope.mode, intent.scope.account, record.key,
    ]  # fmt: skip


def _asked(given: QueryParams) -> Asked:
    return Asked(**{name: forms.text(given, name) for name in Asked._fields})


def _wanted(asked: Asked, given: QueryParams) -> Wanted:
    """
    What the journal is asked.

    Raises:
        ValueError: a field makes no sense; it says which.
    """
    currency = asked.currency.lower()
    minor = 0
    if asked.amount:
        if not currency:
            raise ValueError("An amount needs its currency too: 5.00 and usd.")
        found = money.to_minor(asked.amount.lstrip("+-").replace(",", ""), currency)
        if not found:
            raise ValueError(f"{asked.amount} is no amount in {currency}. Write it as 5.00, without a sign.")
        minor = found
    if asked.state and asked.state not in set(State):
        raise ValueError(f"{asked.state} is no state of a call.")
    since = _day(asked.since, "From").timestamp() if asked.since else 0.0
    wanted = Wanted(text=asked.q, state=asked.state, amount=minor, currency=currency, since=since, number=_PAGE)
    if asked.until:
        wanted = wanted._replace(until=((_day(asked.until, "To") + timedelta(days=1)).timestamp(), 0))
    before = re.fullmatch(r"(\d{1,12}\.\d{1,9})-(\d{1,18})", forms.text(given, "before"), re.ASCII)
    return wanted._replace(until=(float(before[1]), int(before[2]))) if before else wanted


def _day(text: str, name: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{name}: {text} is no day. Write it as 2026-11-29.") from None


def _text_of(place: Place) -> str:
    return f"{place[0]!r}-{place[1]}"


async def _with_people(request: Request, wanted: Wanted) -> tuple[Wanted, list[Customer]]:
    """
    What is wanted, and the customers of an e-mail, whose calls are wanted where there is one.

    Raises:
        ToolError: Stripe could not be asked.
    """
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", wanted.text):
        return wanted, []
    async with agent_of(request) as agent:
        found = (await agent.call_tool(FIND, {"email": wanted.text, "limit": 20})).customers or []
    return (wanted._replace(text=found[0].id), found) if len(found) == 1 else (wanted, found)


def _shown(record: Record, reversal: Record | None) -> dict[str, Any]:
    answer = json.loads(record.outcome.answer or "{}")
    stands = answer.get("ending_balance") if record.state is State.SUCCEEDED else None
    return {
        "record": record,
        "balance": money.balance(stands, answer["currency"]) if isinstance(stands, int) else "",
        "said": list(words(json.loads(record.intent.arguments))),
        "advice": _advice(record, answer),
        "acts": list(_acts(record, reversal)),
    }


def _advice(record: Record, answer: dict[str, Any]) -> str:
    said = str(answer.get("message") or record.outcome.note or "")
    if is_alive(record, time.time()):
        return "It is under way: somebody is sending it now."
    if record.state.is_open:
        return (
            "Money may have moved. First find out: that reads the customer's ledger at Stripe and moves nothing. "
            "If it is open still, sending it again is safe for 23 hours: the same bytes under the same key."
        )
    if record.state is State.REJECTED:
        return f"Stripe said no, and nothing moved. {said}".strip()
    if record.state is State.NOT_SENT:
        return f"Nothing moved. {said}".strip()
    return ""


def _acts(record: Record, reversal: Record | None) -> Iterator[tuple[str, str]]:
    """
    What a person can do about a call.
    """
    if record.state.is_open and not is_alive(record, time.time()):
        yield "/console/reconcile", "Find out at Stripe…"
        if time.time() - record.created_at < MAX_RESEND_AGE_S:
            yield f"/console/resume?{urlencode({'key': record.key})}", "Send it again…"
    is_reversible = record.transaction_id and record.intent.money and record.intent.key.origin != "reversal"
    if record.state is State.SUCCEEDED and is_reversible and reversal is None:
        asked = {"entry": record.transaction_id, "customer": record.intent.customer or ""}
        yield f"/console/reverse?{urlencode(asked)}", "Reverse…"


_RULINGS = {
    "allowed": ("Let through", ""),
    "refused": ("Refused", "bad"),
    "asked": ("Put to a person", "warn"),
    "approved": ("Approved", "good"),
    "denied": ("Denied", "bad"),
    "expired": ("Expired", ""),
}


def _decided(told: Told) -> Iterator[Step]:
    for each in told.decisions:
        what, kind = _RULINGS.get(each.decision, (each.decision, ""))
        yield Step(each.at, what, _why(each), kind)


def _why(decision: Decision) -> str:
    by = "" if decision.who == "policy" else f"by {decision.who}"
    rule = "" if decision.rule == "every rule" else f"({decision.rule})"
    return " ".join(filter(None, (by, decision.reason, rule)))


def _asked_for(told: Told) -> Iterator[Step]:
    for each in told.proposals:
        link = f"/console/proposals/{each.id}"
        yield Step(each.asked_at + 1e-6, "Proposal", "", "", link, each.id)


def _became(record: Record) -> Iterator[Step]:
    outcome = record.outcome
    who = record.intent.caller.user or record.intent.caller.agent_type
    yield Step(record.created_at + 1e-6, "Recorded, and then sent", f"{record.intent.effect} for {who}")
    if record.state is State.SENDING:
        return
    times = f"{outcome.attempts} attempt{'s' * (outcome.attempts != 1)}" if outcome.attempts else ""
    status = f"HTTP {outcome.status}" if outcome.status else ""
    facts = ", ".join(filter(None, (times, status, outcome.request_id or "", outcome.note or "")))
    what, kind = {
        State.SUCCEEDED: (
            f"Succeeded: entry {record.transaction_id}" if record.transaction_id else "Succeeded",
            "good",
        ),
        State.REJECTED: ("Rejected by Stripe", "bad"),
        State.NOT_SENT: ("Not sent: nothing moved", ""),
        State.UNKNOWN: ("Outcome unknown: money may have moved", "warn"),
    }[record.state]
    yield Step(record.updated_at + 2e-6, what, f"({facts})" if facts else "", kind)
