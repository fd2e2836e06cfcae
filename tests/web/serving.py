"""
The server in the test's own loop, on a real socket. Needs the extra ``web``.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("uvicorn")

from ocp_stripe_balance import Settings
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.serving.http import LOOPBACK, listening, serve
from ocp_stripe_balance.web.gateway import Gateway
from ocp_stripe_balance.web.server import application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette

    from ocp_stripe_balance.models import Proposal
    from ocp_stripe_balance.sandbox import Sandbox

USER = "ana@desk"
ASKS: dict[str, Any] = {"approval": {"above": {"usd": "20.00"}, "queue": True}}


def settings_for(stripe: Sandbox, **more: Any) -> Settings:
    return Settings(**{"api_key": stripe.api_key, "api_base": stripe.url, "rate_limit": "off", **more})


@contextlib.asynccontextmanager
async def serving(app: Starlette, **how: Any) -> AsyncIterator[str]:
    """
    The address of a server that serves until the block ends.
    """
    listener, url = listening("127.0.0.1", 0)
    task = asyncio.create_task(serve(app, listener, **how))
    try:
        yield url
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()  # where it did not come to serving


@contextlib.asynccontextmanager
async def served(settings: Settings, *names: str, **how: Any) -> AsyncIterator[str]:
    """
    The address of a gateway of those settings, under some more names.
    """
    async with serving(application(Gateway(settings, USER), [*LOOPBACK, *names]), **how) as url:
        yield url


@contextlib.asynccontextmanager
async def client(settings: Settings, token: str | None = None, **how: Any) -> AsyncIterator[httpx.AsyncClient]:
    """
    A plain HTTP client of such a server.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        served(settings, **how) as url,
        httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as http,
    ):
        yield http


async def approved() -> list[Proposal]:
    """
    What waited first, with a person's yes.
    """
    waiting: list[Proposal] = []
    while not waiting:
        await asyncio.sleep(0.01)
        async with BackOffice(Settings()) as office:
            waiting = await office.proposals()
            for each in waiting:
                await office.decide(each.approve(by="bo"))
    return waiting


def as_caller(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
