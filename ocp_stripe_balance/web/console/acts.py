"""
What people do about calls on record: find out, send again, take back. Each says first what it will do.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ocp_stripe_balance._text import money
from ocp_stripe_balance.agent import OCPAgent
from ocp_stripe_balance.errors import ApprovalRequiredError, OutcomeUnknownError, ToolError
from ocp_stripe_balance.verbs import REVERSE
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console import forms
from ocp_stripe_balance.web.console.pages import call_url, problem, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance.backoffice import BackOffice

_MOST = 100


@contextlib.asynccontextmanager
async def agent_of(request: Request) -> AsyncIterator[OCPAgent]:
    """
    The tools in the name of the person who asks.
    """
    gateway, person = request.app.state.gateway, request.state.person
    async with OCPAgent("console", person.name, settings=gateway.settings, journal=gateway.journal) as agent:
        await agent.register_api("stripe")
        yield agent


@signed_in(Role.DECIDES)
async def reconcile(request: Request) -> Response:
    """
    What finding out will read.
    """
    office: BackOffice = request.app.state.gateway.office
    found, _ = await office.pages.open_calls(_MOST)
    elsewhere = await office.open_elsewhere()
    return render(
        request,
        "act.html",
        title="Find out what became of open calls",
        steps=[
            f"Read at Stripe the ledger of each customer of the open calls at {office.settings.api_base}.",
            "Put on record what is found: that the entry is there, or that it never was applied.",
            "Move no money.",
        ],
        notes=[
            f"{number} of the open calls belong to {server}, and stay open." for server, number in elsewhere.items()
        ],
        stops=[] if found else ["No call is open."],
        records=found,
        action="/console/reconcile",
        fields=[],
        button="Find out",
        back="/console/calls",
    )


@signed_in(Role.DECIDES)
async def reconcile_now(request: Request) -> Response:
    """
    What was found out.
    """
    office: BackOffice = request.app.state.gateway.office
    try:
        findings = await office.reconcile()
    except ToolError as error:
        return _failed(request, error, "/console/calls", "Back to the calls")
    told = {"succeeded": "it succeeded", "not_sent": "it was never applied, and nothing moved", "unknown": "still open"}
    kinds = {"succeeded": "good", "unknown": "bad"}
    rows = [
        {"key": each.key, "kind": kinds.get(each.outcome, ""), "text": f"{told[each.outcome]}. {each.advice}".strip()}
        for each in findings
    ]
    is_open = any(each.outcome == "unknown" for each in findings)
    return render(
        request,
        "done.html",
        title="Found out",
        text=f"{len(findings):,} open {'call was' if len(findings) == 1 else 'calls were'} looked for.",
        hint="",
        kind="warn" if is_open else "good",
        rows=rows,
        back="/console/calls",
        back_text="Back to the calls",
    )


@signed_in(Role.DECIDES)
async def resume(request: Request) -> Response:
    """
    What sending again will do.
    """
    office: BackOffice = request.app.state.gateway.office
    key = forms.text(request.query_params, "key")
    told = await office.pages.told(key)
    if not told.records:
        return problem(request, "No such call", "The journal has no call of that key.", status=404)
    record = told.records[-1]
    return render(
        request,
        "act.html",
        title="Send a call again",
        steps=[
            f"Send the very same bytes again under the same key: {record.intent.effect} for {record.intent.customer}.",
            "Where the first request had arrived, Stripe answers from it: nothing moves twice.",
            "Put the outcome on record.",
        ],
        notes=[],
        stops=[] if record.state.is_open else [f"The outcome is known: {record.state.value}. Nothing is left to do."],
        records=[record],
        action="/console/resume",
        fields=[("key", key)],
        button="Send it again",
        back=call_url(key),
    )


@signed_in(Role.DECIDES)
async def resume_now(request: Request) -> Response:
    """
    What became of it.
    """
    office: BackOffice = request.app.state.gateway.office
    key = forms.text(await request.form(), "key")
    try:
        result = await office.resume(key)
    except ToolError as error:
        return _failed(request, error, call_url(key), "Back to the call")
    return _done(request, "Sent again", f"{result.describe()}.", back=(call_url(key), "Back to the call"))


@signed_in(Role.DECIDES)
async def reverse(request: Request) -> Response:
    """
    What taking back will do, as far as it can be said before.
    """
    entry, customer = (forms.text(request.query_params, name) for name in ("entry", "customer"))
    office: BackOffice = request.app.state.gateway.office
    found = await office.pages.search_one(entry)
    notes, stops = [], []
    try:
        async with agent_of(request) as agent:
            foreseen = await agent.call_tool(REVERSE, _reversal(entry, customer), dry_run=True)
    except ToolError as error:
        stops.append(str(error.args[0]))
    else:
        if foreseen.verdict == "ask":
            notes.append(f"{foreseen.message} It then is in the inbox, and is made when it is asked for again.")
        elif foreseen.verdict not in {"send", "resume"}:
            stops.append(foreseen.message)
    moved = found.intent.money if found else None
    what = f": {money.effect(-moved.amount, moved.currency)} for {customer}" if moved else f" for {customer}"
    return render(
        request,
        "act.html",
        title=f"Reverse {entry}",
        steps=[
            f"Read {entry} at Stripe, and stop if it was reversed already.",
            f"Make the opposite entry{what}, under a key of its own, so that it is made once.",
            "Mark the first entry as reversed. Neither is deleted: Stripe keeps both.",
        ],
        notes=notes,
        stops=stops,
        records=[found] if found else [],
        action="/console/reverse",
        fields=[("entry", entry), ("customer", customer)],
        button="Reverse it",
        back=call_url(found.key) if found else "/console/calls",
    )


@signed_in(Role.DECIDES)
async def reverse_now(request: Request) -> Response:
    """
    What became of it.
    """
    form = await request.form()
    entry, customer = (forms.text(form, name) for name in ("entry", "customer"))
    try:
        async with agent_of(request) as agent:
            result = await agent.call_tool(REVERSE, _reversal(entry, customer))
    except ToolError as error:
        return _failed(request, error, "/console/calls", "Back to the calls")
    key = result.idempotency_key or ""
    return _done(request, "Reversed", f"{result.describe()}.", back=(call_url(key), "See the call that did it"))


def _reversal(entry: str, customer: str) -> dict[str, str | None]:
    return {"transaction": entry, "customer": customer or None}


def _done(request: Request, title: str, text: str, back: tuple[str, str], kind: str = "good") -> Response:
    return render(
        request, "done.html", title=title, text=text, kind=kind, hint="", rows=[], back=back[0], back_text=back[1]
    )


def _failed(request: Request, error: ToolError, back: str, back_text: str) -> Response:
    """
    The page of a call that did not succeed, with what to do next.
    """
    if isinstance(error, ApprovalRequiredError):
        return _done(
            request, "It waits for a person", str(error.args[0]), kind="warn", back=("/console", "To the inbox")
        )
    title = "The outcome is unknown" if isinstance(error, OutcomeUnknownError) else "It was not done"
    hint = error.for_people or error.hint
    return problem(request, title, str(error.args[0]), hint=hint, status=409, back=back, back_text=back_text)
