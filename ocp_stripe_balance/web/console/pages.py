"""
How the console's pages are made: templates that escape whatever they are given, and the words they share.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import escaped, moment
from ocp_stripe_balance.settings import mode_of
from ocp_stripe_balance.web.access.person import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from ocp_stripe_balance.models import Proposal
    from ocp_stripe_balance.web.gateway import Gateway

_LONGEST_KEY = 24
_MINUTE_S = 60
_FIELDS = {"decimal": "Decimal sign", "ignore": "Ignore columns"}  # those that are not called as the option is
_OF_CALLS = {"customers", "reconcile", "resume", "reverse"}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
NAVIGATION = (
    ("/console", "Inbox", Role.SEES),
    ("/console/calls", "Calls", Role.SEES),
    ("/console/bulk", "Bulk", Role.SEES),
    ("/console/overview", "Overview", Role.SEES),
    ("/console/policy", "Policy", Role.SEES),
    ("/console/tokens", "Tokens", Role.TOKENS),
)
"""What there is for whom."""


class Notice(NamedTuple):
    """
    What a page says first.
    """

    text: str
    kind: str = ""
    """``good``, ``bad``, ``warn``, or nothing of these."""
    link: str = ""
    link_text: str = ""


def render(request: Request, name: str, *, status: int = 200, **facts: Any) -> HTMLResponse:
    """
    The page that a template makes of the facts, for the person who asks.
    """
    person = getattr(request.state, "person", None)
    roles = person.roles if person else frozenset()
    shared = {
        "person": person,
        "csrf": getattr(request.state, "csrf", ""),
        "may_decide": Role.DECIDES in roles,
        "mode": _mode(request.app.state.gateway),
        "navigation": [(at, title) for at, title, role in NAVIGATION if role in roles],
        "place": _place(request.url.path),
        "notice": None,
    }
    return HTMLResponse(_templates().get_template(name).render({**shared, **facts}), status)


def problem(
    request: Request, title: str, text: str, *, hint: str = "", status: int = 400, **facts: Any
) -> HTMLResponse:
    """
    The page that says what is wrong, and what to do.
    """
    return render(
        request,
        "problem.html",
        status=status,
        **{"back": "", "back_text": "", **facts},
        title=title,
        text=text,
        hint=hint,
    )


def call_url(key: str) -> str:
    """
    The address of the page of a call.
    """
    return f"/console/calls/{quote(key, safe='')}"


def short(seconds: float) -> str:
    """
    A time, as ``29 Nov 16:12``, with the year where it is another one.
    """
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return moment(seconds)
    year = "" if at.year == datetime.now(UTC).year else f" {at.year}"
    return f"{at.day} {at:%b}{year} {at:%H:%M}"


def span(seconds: float) -> str:
    """
    A span of time in its two largest units, as ``3 h 12 min``.
    """
    number = next((each for each, (length, _) in enumerate(_UNITS) if seconds >= length), len(_UNITS) - 1)
    length, name = _UNITS[number]
    text = f"{int(seconds // length)} {name}"
    if name in {"d", "h"} and (rest := int(seconds % length // _UNITS[number + 1][0])):
        text += f" {rest} {_UNITS[number + 1][1]}"
    return text


def words(parameters: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """
    What the agent wrote itself: nobody has checked it.
    """
    for name in ("reference", "description"):
        if parameters.get(name):
            yield name, str(parameters[name])
    metadata = parameters.get("metadata")
    if isinstance(metadata, dict):
        yield from ((f"metadata {name}", str(text)) for name, text in metadata.items())
    if parameters.get("transaction"):
        yield "entry", str(parameters["transaction"])


def brief(key: str) -> str:
    """
    A key as it stands in a list: those that are derived are long.
    """
    return key if len(key) <= _LONGEST_KEY else f"{key[:12]}…{key[-4:]}"


def in_form(hint: str) -> str:
    """
    What to do about a list, for who sends it by the form: options of the command line are fields there.
    """
    with_value = r"pass --(\w+) (?!for )(\S+)"
    hint = re.sub(with_value, lambda found: f"set {_field(found[1])} to {found[2]} in the form", hint)
    return re.sub(r"--(\w+)", lambda found: _field(found[1]), hint)


def _field(option: str) -> str:
    return f"\u201c{_FIELDS.get(option, option.capitalize())}\u201d"


def _place(path: str) -> str:
    """
    Where in the navigation a page is.
    """
    if _OF_CALLS & set(path.split("/")[2:3]):
        return "/console/calls"
    return next((at for at, *_ in reversed(NAVIGATION) if path == at or path.startswith(f"{at}/")), "")


def _plan_lines(proposal: Proposal) -> list[tuple[str, Any]]:
    return list(proposal.parameters["shown"].items()) if proposal.is_plan else []


def _left(until: float) -> str:
    seconds = until - time.time()
    return f"{span(seconds)} left" if seconds > 0 else "expired"


def _took(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < _MINUTE_S else span(seconds)


def _said(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _fit(value: object) -> object:
    """
    What stands in a page in place of a value: nothing of what others wrote is obeyed, and all of it is seen.
    """
    if value is None:
        return ""
    return escaped(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def _mode(gateway: Gateway) -> str:
    key = gateway.settings.api_key
    return mode_of(key.get_secret_value()) if key else "test"


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("ocp_stripe_balance.web.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "ago": lambda at: f"{span(max(time.time() - at, 0))} ago",
        "balance": money.balance,
        "brief": brief,
        "call_url": call_url,
        "customer_url": lambda name: f"/console/customers/{quote(name, safe='')}",
        "in_form": in_form,
        "iso": moment,
        "left": _left,
        "places": money.exponent,
        "plan_lines": _plan_lines,
        "said": _said,
        "short": short,
        "took": _took,
        "words": lambda parameters: list(words(parameters)),
    }
    return made
