"""
The people's side, as routes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ocp_stripe_balance.web.access.guard import signed_in
from ocp_stripe_balance.web.console import acts, bulk, calls, customers, inbox, overview, policy, tokens
from ocp_stripe_balance.web.console.live import News, events
from ocp_stripe_balance.web.console.pages import NAVIGATION

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from ocp_stripe_balance.web.gateway import Gateway

_STATIC = Path(__file__).parent / "static"


def routes(gateway: Gateway) -> list[BaseRoute]:
    """
    The console.
    """
    news = News(gateway.office, gateway.closing)
    get, post = ["GET"], ["POST"]
    return [
        Route("/", _home, methods=get),
        Mount("/static", StaticFiles(directory=_STATIC)),
        Route("/console", inbox.inbox, methods=get),
        Route("/console/events", events(news), methods=get),
        Route("/console/proposals/{id}", inbox.proposal, methods=get),
        Route("/console/proposals/{id}", inbox.decide, methods=post),
        Route("/console/confirm", inbox.confirm, methods=get),
        Route("/console/decide", inbox.decide_several, methods=post),
        Route("/console/calls", calls.calls, methods=get),
        Route("/console/calls.csv", calls.export, methods=get),
        Route("/console/calls/{key:path}", calls.call, methods=get),
        Route("/console/customers/{id:path}", customers.customer, methods=get),
        Route("/console/reconcile", acts.reconcile, methods=get),
        Route("/console/reconcile", acts.reconcile_now, methods=post),
        Route("/console/resume", acts.resume, methods=get),
        Route("/console/resume", acts.resume_now, methods=post),
        Route("/console/reverse", acts.reverse, methods=get),
        Route("/console/reverse", acts.reverse_now, methods=post),
        *bulk.routes(),
        Route("/console/overview", overview.overview, methods=get),
        Route("/console/policy", policy.policy, methods=get),
        Route("/console/tokens", tokens.tokens, methods=get),
        Route("/console/tokens", tokens.create, methods=post),
        Route("/console/tokens/revoke", tokens.revoke, methods=get),
        Route("/console/tokens/revoke", tokens.revoke_now, methods=post),
    ]


@signed_in()
async def _home(request: Request) -> Response:
    """
    The first page that is for whoever comes.
    """
    roles = request.state.person.roles
    first = next((place for place, _, role in NAVIGATION if role in roles), "/console")
    return RedirectResponse(first, status_code=303)
