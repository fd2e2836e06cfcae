"""
Finding what endpoints should be told, and telling them until it has arrived, for days.

Any number of servers, and `webhooks deliver`, share the work: the journal says what was told, and who is at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING

from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._journal.deliveries import AT_ONCE, COLLECTING, DELIVERIES, Deliveries
from ocp_stripe_balance._policy import to_minor
from ocp_stripe_balance._text.secrets import redact
from ocp_stripe_balance.errors import ConfigurationError, NotSentError
from ocp_stripe_balance.web.hooks import events, sending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ocp_stripe_balance._journal import Book, Journal
    from ocp_stripe_balance._journal.deliveries import Delivery
    from ocp_stripe_balance.settings import Settings
    from ocp_stripe_balance.web.hooks.endpoints import Endpoint, Endpoints
    from ocp_stripe_balance.web.hooks.events import Event

WAITS_S = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Before each further attempt: three days in all, as Standard Webhooks advises."""
_NEARLY = 0.8
_LOOK_S = 2.0
_LEASE_S = sending.TIMEOUT_S * 2
_KEPT_S = 14 * 86400.0  # or as long as the longest budget, of which each window is told once
_LATE_S = 600.0  # within which a decision is on record for others to see, whatever their clocks say
_SELDOM, _SELDOM_S = "", 30.0  # what is looked at seldom: budgets, and what may be forgotten
_log = logging.getLogger("ocp_stripe_balance")


class Courier:
    """
    What tells the endpoints of one journal.
    """

    def __init__(
        self, settings: Settings, journal: Journal, endpoints: Endpoints, *, timeout_s: float = sending.TIMEOUT_S
    ) -> None:
        """
        Open nothing yet.
        """
        self._policy, self._journal, self._endpoints = settings.policy_in_force, journal, endpoints
        self._sender = sending.Sender(settings, timeout_s)
        self._looked: dict[str, float] = {}
        """When all that was decided was found for an endpoint: older decisions are not looked through again."""

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """
        Tell what there is to tell, meanwhile.
        """
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def deliver(self) -> tuple[int, int]:
        """
        Tell once what is due; how many messages arrived, and how many did not.

        Raises:
            ConfigurationError: the endpoints cannot be read.
            NotSentError: the journal cannot be used.
        """
        endpoints = await self._collected()
        results = await asyncio.gather(*map(self._deliver_to, endpoints))
        return sum(arrived for arrived, _ in results), sum(failed for _, failed in results)

    async def _run(self) -> None:
        under_way: dict[str, asyncio.Task[tuple[int, int]]] = {}  # one that hangs keeps no other waiting
        try:
            while True:
                with _told_in_the_log():
                    for endpoint in await self._collected():
                        if endpoint.name not in under_way or under_way[endpoint.name].done():
                            under_way[endpoint.name] = asyncio.create_task(self._deliver_to(endpoint))
                await asyncio.sleep(_LOOK_S)
        finally:
            for task in under_way.values():
                task.cancel()  # what was under way is sent again by the next server, and says so
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    async def _collected(self) -> list[Endpoint]:
        """
        The endpoints there are, once all that they are to be told is on record.
        """
        endpoints = self._endpoints.all()
        if endpoints:
            is_time = self._journal.now() - self._looked.get(_SELDOM, 0.0) > _SELDOM_S
            reach = COLLECTING if is_time and self._policy.budgets else DELIVERIES
            self._looked = await self._journal.run(partial(self._collect, endpoints, is_time=is_time), reach=reach)
        return endpoints

    async def _deliver_to(self, endpoint: Endpoint) -> tuple[int, int]:
        """
        How many messages to one endpoint arrived, in their order, and how many did not: after one, it is left alone.
        """
        arrived = 0
        with _told_in_the_log():
            while (taken := await self._journal.run(partial(self._take, endpoint), reach=DELIVERIES)) is not None:
                if not await self._tell(endpoint, taken):
                    return arrived, 1
                arrived += 1
        return arrived, 0

    def _collect(self, endpoints: list[Endpoint], book: Book, *, is_time: bool) -> dict[str, float]:
        """
        Put on record what each endpoint is to be told that it was not told yet; when each was looked at last for all.
        """
        now, looked = self._journal.now(), dict(self._looked)
        found = Deliveries(book, now)
        found.expire()
        if is_time:
            looked[_SELDOM] = now
            found.forget(now - max(_KEPT_S, self._policy.longest_window_s))
        spent = list(self._spent(found, now)) if is_time else []
        for endpoint in endpoints:
            oldest = max(endpoint.created_at, now - _KEPT_S)
            decided = found.news_of_decisions(endpoint.name, max(oldest, looked.get(endpoint.name, 0.0) - _LATE_S))
            if len(decided) < AT_ONCE:
                looked[endpoint.name] = now
            news = [(name, events.of_decision(decision, proposal)) for name, decision, proposal in decided]
            news += [(name, events.of_unknown(record)) for name, record in found.news_of_calls(endpoint.name, oldest)]
            for name, event in (*news, *spent):
                is_wanted = event is not None and endpoint.wants(event.kind)
                told = sending.payload(endpoint, event) if event is not None and is_wanted else None
                found.tell(name, endpoint.name, f"msg_{secrets.token_hex(12)}", told)
        return looked

    def _spent(self, found: Deliveries, now: float) -> Iterator[tuple[str, Event]]:
        """
        Which budgets are nearly spent, each named once in each of its windows.
        """
        for number, budget in enumerate(self._policy.budgets):
            limits = [
                Money(sign * to_minor(amount, currency), currency)
                for sign, amounts in ((-1, budget.credit), (1, budget.debit))
                for currency, amount in amounts.items()
            ]
            for limit in filter(lambda each: each.amount, limits):
                least = Money(round(limit.amount * _NEARLY), limit.currency)
                for spent in found.nearly_spent(budget.per, budget.window, least):
                    event = events.of_budget(budget, number, limit, spent, now)
                    window = int(now // budget.window)
                    yield f"budget {event.data['rule']} {spent.whose} {' '.join(spent.scope)} {window}", event

    def _take(self, endpoint: Endpoint, book: Book) -> Delivery | None:
        now = self._journal.now()
        return Deliveries(book, now).take(endpoint.name, now + _LEASE_S)

    async def _tell(self, endpoint: Endpoint, delivery: Delivery) -> bool:
        """
        Whether a message arrived; where it did not, it is sent again later.
        """
        message, attempt, now = delivery.message, delivery.attempts, self._journal.now()
        sent = await self._sender.send(endpoint, message, delivery.payload, attempt=attempt, now=now)
        now, wait_s = self._journal.now(), WAITS_S[attempt - 1] if attempt <= len(WAITS_S) else None
        is_over = sent.is_gone or wait_s is None
        state = "delivered" if not sent.note else "given_up" if is_over else "waiting"

        def settle(book: Book) -> None:
            found = Deliveries(book, now)
            found.settle(delivery, state, until=now + (wait_s or 0), status=sent.status, note=sent.note)

        await self._journal.run(settle, reach=DELIVERIES)
        return not sent.note


@contextlib.contextmanager
def _told_in_the_log() -> Iterator[None]:
    """
    Let what keeps messages waiting be said in the log; they are tried again.
    """
    try:
        yield
    except (ConfigurationError, NotSentError) as error:
        _log.warning("webhooks wait: %s", error.args[0])
    except Exception:  # noqa: BLE001  one fault must not end all telling; its text may have anything in it
        _log.error("webhooks wait: %s", redact(traceback.format_exc()))


async def ping(settings: Settings, endpoint: Endpoint) -> sending.Sent:
    """
    What became of one message that somebody tries an endpoint with; nothing of it is on record.
    """
    now = time.time()
    body, message = sending.payload(endpoint, events.of_ping(now)), f"msg_{secrets.token_hex(12)}"
    return await sending.Sender(settings).send(endpoint, message, body, attempt=1, now=now)
