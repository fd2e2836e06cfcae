"""
Arguments and options that several commands have.
"""

from typing import Annotated

import typer

SUM_HELP = "what the entries of a sum share: user, agent_type, reference, customer, account, day, month, metadata.NAME"
TIME_HELP = "a date (2026-11-01), a time (2026-11-01T12:00Z) or a span back from now (90m, 24h, 7d)"

Customer = Annotated[str, typer.Argument(metavar="CUSTOMER", help="ID (cus_…), or the e-mail address of one customer")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask before sending, unless the policy wants it")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show the request and the policy's verdict; send nothing")]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="for the ledger")]
Key = Annotated[str | None, typer.Option("--idempotency-key", metavar="KEY", help="the name of this one decision")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help=f"not before {TIME_HELP}")]
OfCustomer = Annotated[str | None, typer.Option("--customer", metavar="ID", help="only this customer")]
