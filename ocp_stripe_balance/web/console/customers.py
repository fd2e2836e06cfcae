"""
One customer as Stripe has it: the balance, and the newest entries, whoever made them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ocp_stripe_balance._text import money
from ocp_stripe_balance.errors import ToolError
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console.acts import agent_of
from ocp_stripe_balance.web.console.pages import problem, render

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance.models import CustomerBalanceTransaction

_MOST = 50


@signed_in(Role.SEES)
async def customer(request: Request) -> Response:
    """
    The customer of an ID.
    """
    name = request.path_params["id"]
    calls = f"/console/calls?{urlencode({'q': name})}"
    try:
        async with agent_of(request) as agent:
            found = (await agent.balance(name)).customer
            entries = await agent.history(name, limit=_MOST) if found and not found.deleted else []
    except ToolError as error:
        hint = error.for_people or error.hint
        back = {"back": calls, "back_text": "Calls on record"}
        return problem(request, "The customer could not be read", str(error.args[0]), hint=hint, status=409, **back)
    shown = [_shown(name, entry) for entry in entries]
    facts: dict[str, Any] = {"balance": found.describe() if found else "", "calls": calls, "most": _MOST}
    return render(request, "customer.html", id=name, customer=found, entries=shown, **facts)


def _shown(name: str, entry: CustomerBalanceTransaction) -> dict[str, Any]:
    marks = entry.metadata or {}
    reversed_by, reverses = marks.get("ocp_reversed_by", ""), marks.get("ocp_reverses", "")
    is_reversible = entry.type == "adjustment" and entry.amount and not reversed_by and not reverses
    asked = urlencode({"entry": entry.id, "customer": name})
    return {
        "entry": entry,
        "after": money.balance(entry.ending_balance, entry.currency),
        "note": f"reversed by {reversed_by}" if reversed_by else f"reverses {reverses}" if reverses else "",
        "call": f"/console/calls?{urlencode({'q': entry.id})}",
        "reverse": f"/console/reverse?{asked}" if is_reversible else "",
    }
