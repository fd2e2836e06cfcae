"""
The embedded Stripe, run until Ctrl-C.
"""

import json
from typing import Annotated

import typer

from ocp_stripe_balance.cli.output import say, tell
from ocp_stripe_balance.cli.running import command
from ocp_stripe_balance.errors import ConfigurationError

Faults = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND[:OPTION=VALUE,…]",
        help="let something go wrong, such as reset:executed=true,times=2 (docs/sandbox.md has the list)",
    ),
]
Rate = Annotated[
    float | None, typer.Option(metavar="N", help="requests per second of an API key, in all and per endpoint")
]
EndpointRate = Annotated[float | None, typer.Option(metavar="N", help="per endpoint, where it is another")]


async def sandbox(
    *,
    port: Annotated[int, typer.Option(metavar="N", help="port to listen on; 0 is any free one")] = 0,
    file: Annotated[str | None, typer.Option(metavar="PATH", help="keep the state in this file, over restarts")] = None,
    fault: Faults = None,
    rate_limit: Rate = None,
    endpoint_rate_limit: EndpointRate = None,
    lock: Annotated[float, typer.Option(metavar="SECONDS", help="how long a write holds its customer")] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="of the faults that happen by chance")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="url, api_key and customer as one JSON line")] = False,
) -> int:
    """
    Run an embedded Stripe until Ctrl-C.
    """
    import asyncio  # that --help does not need

    from ocp_stripe_balance.sandbox import Sandbox  # a server that few commands need

    try:
        async with Sandbox(
            port=port,
            seed=seed,
            path=file,
            rate_limit=rate_limit,
            endpoint_rate_limit=endpoint_rate_limit,
            lock_s=lock,
        ) as stripe:
            for each in fault or ():
                stripe.faults.add_text(each)
            customer = stripe.create_customer(name="Ada Lovelace")
            if as_json:
                print(
                    json.dumps({"format": 1, "url": stripe.url, "api_key": stripe.api_key, "customer": customer}),
                    flush=True,
                )
            else:
                where = f"with its state in {file}" if file else "in memory"
                say(f"An embedded Stripe listens at {stripe.url}, {where}, until Ctrl-C.")
                say("In another terminal:")
                print(f"export STRIPE_API_BASE={stripe.url}\nexport STRIPE_SECRET_KEY={stripe.api_key}")
                print(f"export CUSTOMER={customer}", flush=True)
                tell(f"{command('credit')} $CUSTOMER 2.50 usd --reference first-try")
            await asyncio.Event().wait()
    except (OSError, OverflowError) as error:
        message = f"The sandbox cannot listen on port {port}, or use its file: {error}."
        raise ConfigurationError(message, hint="Choose another --port or --file.") from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"The sandbox cannot start: {error}."
        raise ConfigurationError(message, hint="Mend --fault, --file, --rate-limit or --lock.") from error
    return 0
