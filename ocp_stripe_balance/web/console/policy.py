"""
The policy in sentences, and what would happen to a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._policy import in_words, remarks
from ocp_stripe_balance.agent import OCPAgent
from ocp_stripe_balance.errors import InvalidParametersError, ToolError
from ocp_stripe_balance.verbs import CREATE, amount_parameters
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console import forms
from ocp_stripe_balance.web.console.pages import render

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance.web.gateway import Gateway

_TITLES = {
    "send": ("It would be sent.", "good"),
    "ask": ("It would wait for a person.", "warn"),
    "refused": ("It would be refused.", "bad"),
    "conflict": ("It would be refused.", "bad"),
    "too_old": ("It would be refused.", "bad"),
    "replay": ("It was made already.", ""),
}


class Asked(NamedTuple):
    """
    What the form says.
    """

    customer: str
    verb: str
    amount: str
    currency: str
    reference: str
    user: str


@signed_in(Role.SEES)
async def policy(request: Request) -> Response:
    """
    What the policy says, and what it would say to a call.
    """
    gateway: Gateway = request.app.state.gateway
    in_force, settings = gateway.settings.policy_in_force, gateway.settings
    asked = Asked(**{name: forms.text(request.query_params, name) for name in Asked._fields})
    return render(
        request,
        "policy.html",
        source=settings.policy_source(),
        rules=in_words(in_force, allow_live=settings.allow_live),
        remarks=remarks(in_force),
        asked=asked,
        said=await _said(gateway, asked) if asked.customer or asked.amount else None,
    )


async def _said(gateway: Gateway, asked: Asked) -> dict[str, Any]:
    """
    What every rule says of a call, and what would become of it.
    """
    try:
        async with OCPAgent("console", asked.user or None, settings=gateway.settings, journal=gateway.journal) as agent:
            api: Any = await agent.register_api("stripe")
            tool = next(tool for tool in agent.list_tools() if tool.name == CREATE)
            moved = amount_parameters("debit" if asked.verb == "debit" else "credit", asked.amount, asked.currency)
            given = {"customer": asked.customer, **moved}
            findings, foreseen = await api.explain(tool, {**given, "reference": asked.reference or None})
    except InvalidParametersError as error:
        text = "; ".join(map(str, error.problems))
        return {"kind": "bad", "title": "It would be refused.", "text": text, "findings": []}
    except ToolError as error:
        return {"kind": "bad", "title": "It cannot be said.", "text": str(error.args[0]), "findings": []}
    title, kind = _TITLES.get(foreseen.verdict, ("It is under way.", ""))
    said = [{"verdict": each.verdict, "rule": each.rule, "message": each.words().message} for each in findings]
    return {"kind": kind, "title": title, "text": foreseen.message, "findings": said}
