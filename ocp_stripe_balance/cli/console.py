"""
The console on the embedded Stripe, to try it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ocp_stripe_balance.cli.output import say
from ocp_stripe_balance.errors import ConfigurationError


async def console(
    *,
    port: Annotated[int, typer.Option(metavar="N", help="port to listen on; 0 is any free one")] = 0,
) -> int:
    """
    Try the console: an agent at work on a sandbox.
    """
    import tempfile  # what --help does not need
    from pathlib import Path

    try:
        from ocp_stripe_balance.serving.http import listening, serve  # of an extra
        from ocp_stripe_balance.web.demo import demo, work
        from ocp_stripe_balance.web.server import application
    except ImportError as error:
        hint = "Install the extra: pip install '.[web]' in a copy of the repository."
        raise ConfigurationError(f"The packages of the server are not there: {error}.", hint=hint) from error
    with tempfile.TemporaryDirectory() as folder:
        async with demo(Path(folder)) as shown:
            listener, url = listening("127.0.0.1", port)
            say("The console, with an agent that works through tickets on the embedded Stripe, until Ctrl-C:")
            print(url, flush=True)
            for name, password in shown.passwords.items():
                say(f"Sign in as {name} with the password {password}")
            say("The inbox fills within a minute. Above 250.00 usd, ada and grace both have to say yes.")
            working = asyncio.create_task(work(shown))
            try:
                await serve(application(shown.gateway), listener)
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
    return 0
