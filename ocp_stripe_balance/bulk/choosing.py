"""
A list without a list: the customers for whom something holds, written as one that can be looked at, and then planned.
"""

from __future__ import annotations

import csv
import math
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._text import money
from ocp_stripe_balance._tools.manifest import tool_at
from ocp_stripe_balance.errors import NotSentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
    from pathlib import Path

    from ocp_stripe_balance._domain import Money
    from ocp_stripe_balance.plugin import StripeAPI


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """
    Which customers are meant: those for whom all of it holds.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the customer's metadata says, each word for word."""
    since: float = 0.0
    """When the customer was made at Stripe, at the earliest, in seconds since the Unix epoch."""
    before: float = math.inf
    """When the customer was made before."""


class Chosen(NamedTuple):
    """
    How many customers are on a list that was written, and why others are not.
    """

    number: int
    without_currency: int
    """Of these, those whom their first entry gives a currency for good."""
    left_out: int
    """Customers who are meant, and who are billed in another currency."""


async def choose(api: StripeAPI, target: Path, amount: Money, where: Where, progress: Callable[[int], None]) -> Chosen:
    """
    Write a list of the customers who are meant, each with the same amount. Sends nothing: all customers are read.

    Raises:
        NotSentError: the list is there, or cannot be written.
        ToolError: Stripe cannot be read, or the API key or the policy does not let the customers be listed.
    """
    number = without = left_out = 0
    text = money.stated_effect(*amount).split()[1]
    with _new(target) as writer:
        writer.writerow(("customer", "amount", "currency"))
        async with aclosing(_meant(api, where)) as found:
            async for customer in found:
                billed = customer.get("currency")
                if billed is not None and billed.lower() != amount.currency:
                    left_out += 1
                    continue
                number += 1
                without += billed is None
                writer.writerow((customer["id"], text, amount.currency))
                progress(number)
        if not number:
            raise NotSentError("No list was made: no such customer has that currency, or none.", hint="Ask for others.")
    return Chosen(number, without, left_out)


@contextmanager
def _new(target: Path) -> Iterator[Any]:
    """
    What writes the lines of a file that is private, and whole or not there; one that is there is never written over.

    Raises:
        NotSentError: it is there, or cannot be written.
    """
    try:
        target.touch(mode=0o600, exist_ok=False)
        try:
            with target.open("w", encoding="utf-8", newline="") as file:
                yield csv.writer(file, lineterminator="\n")
        except BaseException:
            target.unlink()
            raise
    except OSError as error:
        hint = "Name a file that is not there yet, in a folder that is."
        raise NotSentError(f"No list was made at {target}: {error.strerror or error}.", hint=hint) from None


async def _meant(api: StripeAPI, where: Where) -> AsyncGenerator[dict[str, Any], None]:
    """
    The customers who are meant, the newest first, as Stripe lists them.
    """
    async for customer in api.iterate(tool_at(api.tools, "GET", "/v1/customers"), {}, headers=None):
        if customer["created"] < where.since:
            return
        said = customer.get("metadata") or {}
        if customer["created"] < where.before and where.metadata.items() <= said.items():
            yield customer
