"""
The pages of those who are not in: signing in, and being refused.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from starlette.responses import HTMLResponse

from ocp_stripe_balance._text.secrets import redact

if TYPE_CHECKING:
    from starlette.requests import Request

_log = logging.getLogger("ocp_stripe_balance")


def message(request: Request, text: str, status_code: int) -> HTMLResponse:
    """
    A page that says one thing.
    """
    return _page("refused.html", status_code, text=text, csrf=getattr(request.state, "csrf", None))


async def unavailable(request: Request, error: Exception) -> HTMLResponse:
    """
    The page where the journal cannot be used; why is for whoever runs the server.
    """
    _log.error("a page could not be shown: %s", redact(str(error)))
    return message(request, "Nothing was done: the journal cannot be used just now. Try again later.", 503)


def sign_in_page(
    *, next_path: str, name: str = "", why: str = "", has_provider: bool, status_code: int = 200
) -> HTMLResponse:
    """
    The form, and why the last attempt was refused.
    """
    facts = {"next": next_path, "name": name, "why": why, "has_provider": has_provider}
    return _page("sign_in.html", status_code, **facts)


def _page(template: str, status_code: int, **facts: Any) -> HTMLResponse:
    return HTMLResponse(_templates().get_template(template).render(facts), status_code=status_code)


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("ocp_stripe_balance.web.access"), autoescape=True, trim_blocks=True)
