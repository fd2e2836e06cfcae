"""
The console with something to see: the embedded Stripe, two people, and an agent that works through tickets.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance.agent import OCPAgent
from ocp_stripe_balance.errors import ApprovalRequiredError, OutcomeUnknownError, ToolError
from ocp_stripe_balance.sandbox import Sandbox
from ocp_stripe_balance.settings import Settings
from ocp_stripe_balance.web.access.accounts import Accounts
from ocp_stripe_balance.web.access.person import Role
from ocp_stripe_balance.web.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

POLICY: dict[str, Any] = {
    "currencies": ["usd", "eur"],
    "require": {"reference": True},
    "limits": {"credit": {"usd": "500.00", "eur": "500.00"}, "debit": {"usd": "200.00", "eur": "200.00"}},
    "budgets": [
        {"per": "all", "window": "24h", "credit": {"usd": "2500.00", "eur": "1500.00"}, "debit": {"usd": "600.00"}},
        {"per": "customer", "window": "7d", "credit": {"usd": "600.00"}},
    ],
    "approval": {
        "above": {"usd": "50.00", "eur": "50.00"},
        "two_people_above": {"usd": "250.00", "eur": "250.00"},
        "not_by_requester": True,
        "queue": True,
        "expires": "4h",
    },
}
PEOPLE = {"ada": tuple(Role), "grace": (Role.SEES, Role.DECIDES)}
_CUSTOMERS = (
    ("Ada Lovelace", "usd"), ("Alan Turing", "usd"), ("Katherine Johnson", "usd"), ("Emmy Noether", "eur"),
    ("Edsger Dijkstra", "eur"), ("Barbara Liskov", "usd"),
)  # fmt: skip
_REASONS = (
    "Sorry for the late delivery", "Double charge on the last invoice", "Outage on Tuesday",
    "Goodwill after a complaint", "Returned item, unopened", "Price match was promised in the chat",
)  # fmt: skip
_AMOUNTS = ("5.00", "12.50", "8.00", "75.00", "20.00", "120.00", "3.20", "320.00", "15.00", "60.00", "9.99", "750.00")
_EVERY_S, _MOST_WAITING = 2.5, 9
_LOST = 9  # the ticket whose answers are lost


class Ticket(NamedTuple):
    """
    What an agent was asked to do.
    """

    customer: str
    verb: str
    amount: str
    currency: str
    reference: str
    description: str


class Demo(NamedTuple):
    """
    A gateway with something to see.
    """

    gateway: Gateway
    stripe: Sandbox
    customers: list[tuple[str, str]]
    """Each with its currency."""
    passwords: dict[str, str]
    """By the names of the people."""


@contextlib.asynccontextmanager
async def demo(folder: Path) -> AsyncIterator[Demo]:
    """
    A gateway on the embedded Stripe, with customers and people, in a folder that nothing else uses.
    """
    async with Sandbox() as stripe:
        settings = Settings(
            api_key=stripe.api_key,
            api_base=stripe.url,
            account=None,
            journal=str(folder / "journal.sqlite3"),
            policy=POLICY,
            max_attempts=2,
        )
        customers = []
        for name, currency in _CUSTOMERS:
            email = f"{name.split()[0].lower()}@example.com"
            customers.append((stripe.create_customer(name=name, email=email), currency))
        passwords = {name: secrets.token_urlsafe(9) for name in PEOPLE}
        gateway = Gateway(settings)
        accounts = Accounts(gateway.journal, "the demo")
        for name, roles in PEOPLE.items():
            await accounts.add(name, roles, password=passwords[name])
        yield Demo(gateway, stripe, customers, passwords)


async def work(demo: Demo, *, every_s: float = _EVERY_S, number: int | None = None) -> None:
    """
    Let an agent work through tickets: some calls go through, some wait, some are refused, and one answer is lost.

    A call that waits is made again, as agents do, until a person has decided.
    """
    settings, journal = demo.gateway.settings, demo.gateway.journal
    drawn = random.Random(7)  # noqa: S311  tickets, not secrets
    waiting: list[Ticket] = []
    async with OCPAgent("support", "support-bot", settings=settings, journal=journal) as agent:
        await agent.register_api("stripe")
        done = 0
        while number is None or done < number:
            waiting = [each for each in waiting if await _is_waiting(agent, each)]
            if len(waiting) < _MOST_WAITING:
                done += 1
                ticket = _ticket(demo, done, drawn)
                if done == _LOST:
                    demo.stripe.faults.add("reset", times=2, executed=True, path=f"{ticket.customer}/balance_tr")
                if await _is_waiting(agent, ticket):
                    waiting.append(ticket)
            await asyncio.sleep(every_s)


def _ticket(demo: Demo, number: int, drawn: random.Random) -> Ticket:
    customer, currency = demo.customers[number % len(demo.customers)]
    amount = _AMOUNTS[(number - 1) % len(_AMOUNTS)]
    verb = "debit" if number % 7 == 0 else "credit"
    return Ticket(customer, verb, amount, currency, f"ticket-{1000 + number}", drawn.choice(_REASONS))


async def _is_waiting(agent: OCPAgent, ticket: Ticket) -> bool:
    """
    Whether a person has to decide yet, after the call of a ticket was made, or made again.
    """
    customer, verb, amount, currency, reference, description = ticket
    call = agent.debit if verb == "debit" else agent.credit
    try:
        await call(customer, amount, currency, reference=reference, description=description)
    except ApprovalRequiredError:
        return True
    except ToolError as error:  # which people see on the console
        task = asyncio.current_task()
        if isinstance(error, OutcomeUnknownError) and task is not None and task.cancelling():
            raise asyncio.CancelledError from error  # it may have been sent, and so was told in place of the end
    return False
