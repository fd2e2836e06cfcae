"""
Many entries from one list, for people with a browser: send it, look at its plan, run that, watch it, get the report.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Literal, cast

from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, RedirectResponse
from starlette.routing import Route

from ocp_stripe_balance._text import money
from ocp_stripe_balance.bulk import Common, Expected, Form
from ocp_stripe_balance.bulk.plan import question_of
from ocp_stripe_balance.bulk.planning import total_of
from ocp_stripe_balance.errors import ApprovalRequiredError, InvalidParametersError, NotSentError, Problem
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console import forms
from ocp_stripe_balance.web.console.pages import problem, render
from ocp_stripe_balance.web.console.plans import Asked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.datastructures import FormData
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from ocp_stripe_balance.bulk import Plan, Status
    from ocp_stripe_balance.models import Proposal
    from ocp_stripe_balance.web.console.plans import Kept, Plans, Work

_PATH = "/console/bulk"
_BACK = {"back": _PATH, "back_text": "Back to the plans"}
_LONGEST_FIELD = 30_000  # metadata has 50 keys at most
_AGAIN_S = 2  # before a page asks how far the work is
_SEPARATORS = {"": None, "comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}


def routes() -> list[BaseRoute]:
    """
    The pages of plans.
    """
    one = f"{_PATH}/{{id}}"
    return [
        Route(_PATH, _every),
        Route(_PATH, _send, methods=["POST"]),
        Route(f"{_PATH}/of/{{key}}", _of_key),
        Route(one, _one),
        Route(f"{one}/run", _before_run),
        Route(f"{one}/run", _run, methods=["POST"]),
        Route(f"{one}/stop", _stop, methods=["POST"]),
        Route(f"{one}/count", _count, methods=["POST"]),
        Route(f"{one}/reverse", _reverse, methods=["POST"]),
        Route(f"{one}/report.csv", _report),
    ]


def _plans(request: Request) -> Plans:
    return cast("Plans", request.app.state.gateway.plans)


def _of_plan(page: Callable[[Request, Kept], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """
    A page about the plan whose ID is in the path.
    """

    @wraps(page)
    async def found(request: Request) -> Response:
        kept = _plans(request).get(request.path_params["id"])
        if kept is None:
            return problem(request, "No such plan", "There is no such plan.", status=404, **_BACK)
        try:
            return await page(request, kept)
        except NotSentError as error:
            back = {"back": f"{_PATH}/{kept.id}", "back_text": "Back to the plan"}
            return problem(request, "Not done", str(error.args[0]), hint=error.hint, status=409, **back)

    return found


@signed_in(Role.SEES)
async def _every(request: Request) -> Response:
    """
    All plans, and the form for a list.
    """
    return _form_page(request)


def _form_page(request: Request, problems: Sequence[Problem] = ()) -> Response:
    plans = _plans(request)
    rows = [{"id": kept.id, "title": _title(kept), **kept.facts, "state": _state(plans, kept)} for kept in plans.all()]
    return render(request, "bulk/every.html", status=400 if problems else 200, rows=rows, problems=problems)


@signed_in(Role.DECIDES)
async def _send(request: Request) -> Response:
    """
    Keep a list, and begin to plan it.
    """
    form, person, plans = await request.form(), request.state.person, _plans(request)
    upload = form.get("list")
    try:
        if not isinstance(upload, UploadFile) or not upload.filename:
            raise _wrong("list", "is missing", "choose a .csv, .tsv, .jsonl or .xlsx file")
        asked = _asked(form)
    except InvalidParametersError as error:
        return _form_page(request, error.problems)
    kept = await asyncio.to_thread(plans.keep, upload.filename, upload.file, asked, person.name)
    if kept.plan is None:
        plans.begin(kept, "planning", person, plans.make_plan)
    return _to(kept)


@signed_in(Role.SEES)
@_of_plan
async def _one(request: Request, kept: Kept) -> Response:
    """
    One plan: what it does, what a person said, how far it is.
    """
    plans, plan = _plans(request), kept.plan
    work = plans.works.get(kept.id)
    if plan is not None and kept.id not in plans.counted and not (work and (work.is_under_way or work.trouble)):
        work = plans.begin(kept, "counting", request.state.person, plans.count)
    counted = plans.counted.get(kept.id)
    facts: dict[str, Any] = {
        "id": kept.id,
        "title": _title(kept),
        "kept": kept.facts,
        "plan": _told(plan) if plan else None,
        "proposal": await _proposal(request, plan) if plan else None,
        "trouble": {"hint": "", "problems": [], **kept.trouble} if plan is None and kept.trouble else None,
        "work": _work(work, plan) if work else None,
        "counts": _counts(counted[0]) if counted else None,
        "counted_at": counted[1] if counted else None,
        "may_reverse": counted is not None and "asked" in kept.facts and counted[0].rows["succeeded"] > 0,
        "is_done": counted is not None and plan is not None and not counted[0].left,
    }
    page = render(request, "bulk/one.html", **facts)
    if work is not None and work.is_under_way:
        page.headers["Refresh"] = str(_AGAIN_S)
    return page


@signed_in(Role.SEES)
async def _of_key(request: Request) -> Response:
    """
    The plan that a question in the inbox is about.
    """
    kept = await asyncio.to_thread(_plans(request).of, request.path_params["key"])
    if kept is None:
        hint = "What it moves is in the question; its rows are in the file that was planned."
        return problem(
            request, "No such plan", "The plan was not made in this console.", hint=hint, status=404, **_BACK
        )
    return _to(kept)


@signed_in(Role.DECIDES)
@_of_plan
async def _before_run(request: Request, kept: Kept) -> Response:
    """
    What a run will do, before it is asked for.
    """
    plan = _planned(kept)
    question = json.loads(question_of(plan).arguments)
    has_inbox = request.app.state.gateway.settings.policy_in_force.approval.queue
    steps = [
        "Ask for a person's yes in the inbox, unless there is one."
        if has_inbox
        else "Take this as your yes to the plan.",
        "Find out what became of rows that are open.",
        f"Send what is not paid yet of {question['effect']}.",
    ]
    shown = question["shown"]
    notes = [f"{name}: {shown[name]}" for name in ("customers", "currency", "unusual") if name in shown]
    if plan.has_another_list():
        notes.append("The list was changed since. What is sent is what the plan says.")
    address = f"{_PATH}/{kept.id}"
    facts: dict[str, Any] = {
        "title": f"Run {_title(kept)}?",
        "steps": steps,
        "notes": notes,
        "action": f"{address}/run",
    }
    # Whoever says yes says it to what they were shown, and to no plan that came in its place.
    fields = [("digest", plan.digest)]
    return render(request, "act.html", **facts, fields=fields, stops=[], records=[], button="Run it", back=address)


@signed_in(Role.DECIDES)
@_of_plan
async def _run(request: Request, kept: Kept) -> Response:
    """
    Begin a run.
    """
    if (await request.form()).get("digest") != _planned(kept).digest:
        raise NotSentError("Nothing was sent: the plan is not the one that you were shown.", hint="Look at it anew.")
    plans = _plans(request)
    plans.begin(kept, "running", request.state.person, plans.run)
    return _to(kept)


@signed_in(Role.DECIDES)
@_of_plan
async def _stop(request: Request, kept: Kept) -> Response:
    """
    Stop what is done with a plan.
    """
    await _plans(request).close(kept.id)
    return _to(kept)


@signed_in(Role.SEES)
@_of_plan
async def _count(request: Request, kept: Kept) -> Response:
    """
    Look anew how far a plan is: other servers and the command line may run it too.
    """
    plans = _plans(request)
    plans.begin(kept, "counting", request.state.person, plans.count)
    return _to(kept)


@signed_in(Role.DECIDES)
@_of_plan
async def _reverse(request: Request, kept: Kept) -> Response:
    """
    Begin to plan the opposites of what a plan paid; nothing is sent.
    """
    plans, person = _plans(request), request.state.person
    _planned(kept)
    opposite = plans.keep_reversal(kept, person.name)
    plans.begin(opposite, "planning", person, plans.make_plan)
    return _to(opposite)


@signed_in(Role.SEES)
@_of_plan
async def _report(request: Request, kept: Kept) -> Response:
    """
    What became of each row, as CSV.
    """
    path = await _plans(request).report(kept, _planned(kept), request.state.person.name)
    ended = BackgroundTask(path.unlink, missing_ok=True)
    return FileResponse(path, media_type="text/csv", filename=f"{kept.facts['name']}.report.csv", background=ended)


def _planned(kept: Kept) -> Plan:
    plan = kept.plan
    if plan is None:
        raise NotSentError("There is no plan yet.", hint="Wait until the list is planned, or mend it.")
    return plan


def _to(kept: Kept) -> Response:
    return RedirectResponse(f"{_PATH}/{kept.id}", status_code=303)


def _title(kept: Kept) -> str:
    name = kept.facts["name"]
    return f"what takes back {name}" if "reverses" in kept.facts else str(name)


def _asked(form: FormData) -> Asked:
    """
    How a list is to be read, as the form says it.

    Raises:
        InvalidParametersError: it says something that cannot be.
    """
    said = partial(forms.text, form, most=_LONGEST_FIELD)
    number = said("expect_count")
    if number and not number.isdecimal():
        raise _wrong("how many rows", f"{number!r} is no number", "write such as 3000")
    try:
        totals = tuple(total_of(each) for each in said("expect_total").split(",") if each.strip())
    except ValueError as error:
        raise _wrong("how much", f"{error.args[0]!r} is no sum", "write such as 15000.00 usd") from None
    decimal: Literal["point", "comma"] = "comma" if said("decimal") == "comma" else "point"
    direction = said("direction")
    return Asked(
        Form(
            separator=_SEPARATORS.get(said("separator")),
            encoding="windows-1252" if said("encoding") == "windows-1252" else "utf-8",
            decimal=decimal,
            sheet=said("sheet") or None,
            ignored=frozenset(filter(None, map(str.strip, said("ignore").split(",")))),
        ),
        Common(
            reference=said("reference") or None,
            currency=said("currency") or None,
            direction="credit" if direction == "credit" else "debit" if direction == "debit" else None,
            description=said("description") or None,
            metadata=_pairs(said("metadata")),
            decimal=decimal,
        ),
        Expected(int(number) if number else None, totals),
    )


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or name in pairs:
            raise _wrong("metadata", f"{line!r} is not a new KEY=VALUE", "write each key once, a line each: order=1")
        pairs[name] = value
    return pairs


def _wrong(where: str, message: str, hint: str) -> InvalidParametersError:
    return InvalidParametersError([Problem(path=where, message=message, hint=hint)])


def _told(plan: Plan) -> dict[str, Any]:
    """
    What a plan does, in words.
    """
    question = json.loads(question_of(plan).arguments)
    sums = [
        {
            "effect": money.effect(each["amount"], each["currency"]),
            "entries": f"{each['number']:,}",
            **{name: money.to_text(each[name], each["currency"]) for name in ("smallest", "median", "largest")},
            "bars": [
                {
                    "range": " to ".join(money.to_text(end, each["currency"]) for end in ends),
                    "number": f"{number:,}",
                    "width": max(round(200 * number / max(count for _, _, count in each["bars"])), 1),
                }
                for *ends, number in each["bars"]
            ],
        }
        for each in plan.facts["sums"]
    ]
    lines = {name: text for name, text in question["shown"].items() if name != "largest"}
    lines |= {"reference": question["reference"] or "", "made at": plan.facts["made_at"]}
    if plan.facts["paid_already"]:
        lines["paid already"] = f"{plan.facts['paid_already']:,}, which are not paid again"
    if not plan.facts["customers_read"]:
        lines["not read"] = "the API key may not read all customers, so their currency could not be checked"
    return {"effect": question["effect"], "sums": sums, "lines": lines, "is_changed": plan.has_another_list()}


async def _proposal(request: Request, plan: Plan) -> Proposal | None:
    """
    What was asked of people about a plan last.
    """
    told = await request.app.state.gateway.office.pages.told(plan.key)
    return next((each for each in reversed(told.proposals) if each.is_plan), None)


def _work(work: Work, plan: Plan | None) -> dict[str, Any]:
    """
    What is done with a plan, in words.
    """
    error, run = work.trouble, work.run
    is_waiting = isinstance(error, ApprovalRequiredError)
    return {
        "doing": work.doing,
        "by": work.person.name,
        "begun_at": work.begun_at,
        "is_under_way": work.is_under_way,
        "number": f"{work.number:,}",
        "of": f"{plan.number:,}" if plan else "",
        "moved": [money.effect(amount, currency) for currency, amount in work.moved.items() if amount],
        "ended": [f"{number:,} {outcome.replace('_', ' ')}" for outcome, number in run.done.items()] if run else [],
        "stopped": run.stopped if run else None,
        "trouble": None if error is None or is_waiting or work.doing == "planning" else error.why,
        "hint": error.hint if error is not None and not is_waiting else "",
    }


def _counts(status: Status) -> list[dict[str, str]]:
    return [
        {"became": became, "number": f"{number:,}", "sums": status.sums(became)}
        for became, number in sorted(status.rows.items())
    ]


def _state(plans: Plans, kept: Kept) -> str:
    """
    How far a plan is, in a word or two, without looking into it.
    """
    work, counted = plans.works.get(kept.id), plans.counted.get(kept.id)
    if work is not None and work.is_under_way:
        return work.doing
    if not (kept.folder / "plan").exists():
        return "has mistakes" if kept.trouble else "not planned"
    if counted is None:
        return "planned"
    return "done" if not counted[0].left else f"{counted[0].rows['succeeded']:,} of {counted[0].rows.total():,} paid"
