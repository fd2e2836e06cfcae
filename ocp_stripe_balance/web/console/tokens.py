"""
The tokens of agents: made, shown once, and revoked.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.responses import RedirectResponse

from ocp_stripe_balance.errors import ToolError
from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.console import forms
from ocp_stripe_balance.web.console.pages import Notice, problem, render

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from ocp_stripe_balance.serving.tokens import Tokens

_LONGEST_RATE = 10
_PLACES = (
    {"name": "tools", "label": "Only these tools", "placeholder": "all; separate with spaces"},
    {"name": "rate", "label": "Calls a minute", "placeholder": "any number"},
)


@signed_in(Role.TOKENS)
async def tokens(request: Request) -> Response:
    """
    Those that are good.
    """
    return await _page(request)


@signed_in(Role.TOKENS)
async def create(request: Request) -> Response:
    """
    A new one, shown this once.
    """
    form = await request.form()
    name, tools, rate = (forms.text(form, each) for each in ("name", "tools", "rate"))
    if rate and not (rate.isascii() and rate.isdigit() and len(rate) < _LONGEST_RATE):
        return await _page(request, Notice(f"{rate} is no number of calls.", "bad"), status=400)
    chosen, most = tools.replace(",", " ").split() or None, int(rate) if rate else None
    try:
        made = await asyncio.to_thread(partial(_tokens(request).create, name, tools=chosen, rate=most))
    except ToolError as error:
        return await _page(request, Notice(f"{error.args[0]} {error.hint}".strip(), "bad"), status=400)
    return await _page(request, made={"name": name, "token": made})


@signed_in(Role.TOKENS)
async def revoke(request: Request) -> Response:
    """
    What revoking will do.
    """
    name = forms.text(request.query_params, "name")
    return render(
        request,
        "act.html",
        title=f"Revoke the token of {name}",
        steps=["Let the token be good for nothing, at once.", "Finish calls of it that are under way."],
        notes=["What this agent did stays on record. It can be given a new token under the same name."],
        stops=[],
        records=[],
        action="/console/tokens/revoke",
        fields=[("name", name)],
        button="Revoke it",
        back="/console/tokens",
    )


@signed_in(Role.TOKENS)
async def revoke_now(request: Request) -> Response:
    """
    The others, without it.
    """
    name = forms.text(await request.form(), "name")
    try:
        await asyncio.to_thread(_tokens(request).revoke, name)
    except ToolError as error:
        hint = error.hint
        return problem(
            request, "Nothing was revoked", str(error.args[0]), hint=hint, back="/console/tokens", back_text="Back"
        )
    return RedirectResponse("/console/tokens", status_code=303)


async def _page(
    request: Request, notice: Notice | None = None, *, made: dict[str, Any] | None = None, status: int = 200
) -> Response:
    found = await asyncio.to_thread(_tokens(request).all)
    shown = [
        {
            "name": each.name,
            "created_at": each.created_at,
            "more": [
                ", ".join(each.tools or ()) or "all",
                str(each.rate or "any number"),
                each.policy or "the server's",
            ],
        }
        for each in found
    ]
    columns = ["Tools", "Calls a minute", "Policy"]
    is_open = not request.app.state.gateway.gate.is_closed
    facts = {"tokens": shown, "columns": columns, "more": _PLACES, "made": made, "is_open": is_open}
    return render(request, "tokens.html", notice=notice, status=status, **facts)


def _tokens(request: Request) -> Tokens:
    found: Tokens = request.app.state.gateway.tokens
    return found
