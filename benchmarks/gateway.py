"""
The gateway in a process of its own, with a token for each of 256 agents; set up as the README sets the package up.

The first line out is JSON: its address, its process, and the tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from clients import AGENTS, README_POLICY, agent_settings

from ocp_stripe_balance.serving.http import listening, serve
from ocp_stripe_balance.serving.tokens import Tokens
from ocp_stripe_balance.web.gateway import Gateway
from ocp_stripe_balance.web.server import application


async def main(url: str, folder: Path) -> None:
    """
    Serve until the process is ended.
    """
    journal = str(folder / "gateway.sqlite3")
    settings = agent_settings(url, journal=journal, policy=README_POLICY, customer_check="on")
    tokens = [Tokens(settings).create(f"agent-{number}") for number in range(AGENTS)]
    listener, address = listening("127.0.0.1", 0)
    print(json.dumps({"url": address, "pid": os.getpid(), "tokens": tokens}), flush=True)
    await serve(application(Gateway(settings)), listener)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
