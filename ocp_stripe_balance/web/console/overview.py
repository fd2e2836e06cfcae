"""
How things stand: what moved, what is left of the budgets, what was refused, and what nobody knows yet.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._text import money
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console import forms
from ocp_stripe_balance.web.console.pages import render
from ocp_stripe_balance.web.plot import Day, Plot, bar, by_day

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance._journal.pages import Moved
    from ocp_stripe_balance.backoffice import BackOffice

_SPANS = (7, 30, 90)
_DAY_S = 86400
_MOST_OPEN, _MOST_USERS = 50, 5
_ALMOST_USED = 90  # percent


@signed_in(Role.SEES)
async def overview(request: Request) -> Response:
    """
    How things stand.
    """
    office: BackOffice = request.app.state.gateway.office
    days = next((each for each in _SPANS if str(each) == forms.text(request.query_params, "days")), _SPANS[1])
    now = time.time()
    since = (now // _DAY_S - days + 1) * _DAY_S
    moved, is_all = await office.pages.moved(since)
    open_calls, looked = await office.pages.open_calls(_MOST_OPEN)
    _, waiting = await office.pages.waiting(1)
    done = [each for each in moved if each.state == "succeeded"]
    took = sorted(each.updated_at - each.created_at for each in done if each.note is None)
    figures = {
        "succeeded": f"{len(done):,}",
        "open": len(open_calls),
        "has_more_open": looked == _MOST_OPEN,
        "oldest_open": open_calls[0].created_at if open_calls else None,
        "waiting": waiting,
        "median": took[len(took) // 2] if took else None,
        "slow": took[len(took) * 95 // 100] if took else None,
    }
    return render(
        request,
        "overview.html",
        days=days,
        spans=_SPANS,
        figures=figures,
        plots=_plots(done, since, days),
        budgets=[_budget(each) for each in await office.budgets(_MOST_USERS)],
        refusals=await office.pages.refused(since),
        open_calls=open_calls,
        cut="" if is_all else f"{len(moved):,}",
        cut_at=moved[-1].at if moved else now,
    )


def _plots(done: Sequence[Moved], since: float, days: int) -> list[Plot]:
    """
    A plot for each currency, the one with most calls first.
    """
    sums: defaultdict[str, Counter[tuple[int, bool]]] = defaultdict(Counter)
    for each in done:
        sums[each.currency][int((each.at - since) // _DAY_S), each.amount > 0] += abs(each.amount)
    number = Counter(each.currency for each in done)
    return [
        by_day(
            currency.upper(),
            [Day(_name(since + _DAY_S * day), of[day, False], of[day, True]) for day in range(days)],
            partial(money.to_text, currency=currency),
        )
        for currency, of in sorted(sums.items(), key=lambda each: -number[each[0]])
    ]


def _name(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at.day} {at:%b}"


def _budget(used: Any) -> dict[str, Any]:
    drawn = bar(used.used, used.limit)
    return {
        "title": used.what,
        "left": money.to_text(max(used.limit - used.used, 0), used.currency),
        "limit": money.to_text(used.limit, used.currency),
        "kind": "full" if drawn["percent"] >= _ALMOST_USED else used.direction,
        **drawn,
    }
