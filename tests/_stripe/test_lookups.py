"""
Names are looked up by the system, which may hang: the call's deadline holds, and nobody else waits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TEST_KEY, TOOL, UNGUARDED, order

from ocp_stripe_balance import NotSentError, OCPAgent, Settings
from ocp_stripe_balance._stripe.aiohttp_wire import AiohttpWire
from ocp_stripe_balance._stripe.network import Network
from ocp_stripe_balance._stripe.request import Request
from ocp_stripe_balance._stripe.wire import UnsentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "api.stripe.invalid"
REAL = socket.getaddrinfo


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """
    The threads in which lookups of one host hang, until the test is over.
    """
    over, threads = threading.Event(), []

    def getaddrinfo(host: Any, *given: Any, **named: Any) -> Any:
        if host != HOST:
            return REAL(host, *given, **named)
        threads.append(threading.current_thread().name)
        over.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield threads
    over.set()


async def test_a_lookup_that_hangs_keeps_nobody_else_waiting(hanging: list[str], tmp_path: Path) -> None:
    """More calls than an event loop has threads: each is told in time, closing is quick, and the threads are free."""
    settings = Settings(
        api_key=TEST_KEY, api_base=f"https://{HOST}", journal=str(tmp_path / "j"), timeout=1.0, **UNGUARDED
    )
    agent = OCPAgent(settings=settings)
    await agent.register_api("stripe")
    began = time.monotonic()
    calls = [agent.call_tool(TOOL, order(f"cus_{number}")) for number in range(min(32, (os.cpu_count() or 1) + 4) + 2)]
    told = await asyncio.gather(*calls, return_exceptions=True)
    assert {NotSentError} == {type(error) for error in told}
    await asyncio.wait_for(asyncio.to_thread(time.monotonic), 20)
    await asyncio.wait_for(agent.aclose(), 20)
    assert time.monotonic() - began < 25, "the lookup takes 30 s"
    assert ["ocp-stripe-balance-dns"] == hanging  # one lookup for all who wait for the same host


def test_a_program_ends_while_a_lookup_hangs() -> None:
    """Neither its event loop nor the interpreter waits for it."""
    program = f"""
import asyncio, socket, time
from ocp_stripe_balance import OCPAgent, Settings, ToolError
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
async def main():
    settings = Settings(api_key="sk_test_x", api_base="https://{HOST}", journal="off", timeout=0.5)
    async with OCPAgent(settings=settings) as agent:
        await agent.register_api("stripe")
        try:
            await agent.call_tool("getCustomersCustomer", {{"customer": "cus_1"}})
        except ToolError as error:
            print(error.outcome)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, timeout=50)  # noqa: S603
    assert ("not_sent", "") == (done.stdout.strip(), done.stderr)


async def test_a_lookup_that_was_given_up_leaves_nothing_behind(hanging: list[str]) -> None:
    """Its answer comes too late for a wire that is closed, and for a caller that was cancelled."""
    wire = AiohttpWire(Network())
    request = Request(method="POST", url=f"http://{HOST}/v1", body=b"", headers={}, api_key=None)
    with pytest.raises(UnsentError, match="ConnectTimeout"):
        await wire.exchange(request, 0.2)
    calling = asyncio.create_task(wire.exchange(request, 30))
    while len(hanging) < 1:
        await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await wire.aclose()


@pytest.mark.parametrize("host", ["api.stripe.invalid", "a" * 64 + ".test"])
async def test_a_name_that_is_none_is_unsent(host: str) -> None:
    """Whatever the system says of it."""
    wire = AiohttpWire(Network())
    with pytest.raises(UnsentError):
        await wire.exchange(Request(method="GET", url=f"https://{host}/", body=b"", headers={}, api_key=None), 10)
    await wire.aclose()
