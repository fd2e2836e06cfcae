"""
The customer as Stripe has it, read before the first call for it: is it there, and in which currency is it billed?
"""

from __future__ import annotations

import asyncio
import copy
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ocp_stripe_balance.errors import (
    AuthenticationError,
    NotSentError,
    PermissionDeniedError,
    RejectedError,
    ResourceMissingError,
    ToolError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_MAX_KNOWN = 10_000
_UNREADABLE_FOR_S = 600.0
_MAX_BALANCE = 2**62
_FINAL = (ResourceMissingError, AuthenticationError, PermissionDeniedError)
_AGAIN = "Call again with the same parameters and idempotency key."
_UNREADABLE = "The customer's currency could not be checked: the API key may not read customers."


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """
    What the checks read of a customer: https://docs.stripe.com/api/customers/object
    """

    name: str | None
    currency: str | None
    """None until the first entry or invoice fixes it for good."""
    balance: int | None
    """In that currency; negative is a credit. None where it is not known."""
    is_deleted: bool


class Customers:
    """
    Customers read once per process, and once for all calls that ask at the same moment.
    """

    def __init__(self) -> None:
        """
        Know nobody yet.
        """
        self._known: dict[tuple[str, ...], Customer] = {}
        self._readings: dict[tuple[str, ...], asyncio.Task[Customer]] = {}
        self._unreadable: dict[tuple[str, ...], float] = {}
        self._warned: set[tuple[str, ...]] = set()

    def known(self, scope: tuple[str, ...], customer: str) -> Customer | None:
        """
        The customer as read before in that *scope* (mode, account and API key).
        """
        return self._known.get((*scope, customer))

    def is_unreadable(self, scope: tuple[str, ...], customer: str) -> bool:
        """
        Whether the API key of that scope was seen lately not to be allowed to read the customer.
        """
        return time.monotonic() < self._unreadable.get((*scope, customer), 0.0)

    async def read(
        self,
        scope: tuple[str, ...],
        customer: str,
        get: Callable[[str], Awaitable[Any]],
        *,
        is_rehearsal: bool = False,
    ) -> tuple[Customer | None, list[str]]:
        """
        The customer, or None where the API key may not read it; with that, once, a warning.

        Args:
            scope: mode, account and API key.
            customer: its ID.
            get: GETs a path and returns the JSON.
            is_rehearsal: whether the call itself is still to come, which then reads and warns.

        Raises:
            ResourceMissingError: there is no such customer.
            AuthenticationError: Stripe does not know the API key.
            NotSentError: the customer could not be read.
        """
        key = (*scope, customer)
        reading = self._readings.get(key)
        if reading is None or reading.get_loop() is not asyncio.get_running_loop():
            reading = self._readings[key] = asyncio.ensure_future(self._read(key, get))
            reading.add_done_callback(partial(self._forget, key))
        try:
            return await asyncio.shield(reading), []
        except PermissionDeniedError:
            warnings = [] if scope in self._warned else [_UNREADABLE]
            if not is_rehearsal:
                while len(self._unreadable) >= _MAX_KNOWN:
                    del self._unreadable[next(iter(self._unreadable))]
                self._unreadable[key] = time.monotonic() + _UNREADABLE_FOR_S
                self._warned.add(scope)
            return None, warnings
        except ToolError as error:
            raise copy.copy(error) from None  # each caller's own: it will carry that caller's key

    async def aclose(self) -> None:
        """
        Give up the reads that nobody waits for any more.
        """
        loop = asyncio.get_running_loop()
        readings = [reading for reading in self._readings.values() if reading.get_loop() is loop]
        for reading in readings:
            reading.cancel()
        await asyncio.gather(*readings, return_exceptions=True)

    def _forget(self, key: tuple[str, ...], reading: asyncio.Task[Customer]) -> None:
        if self._readings.get(key) is reading:
            del self._readings[key]
        if not reading.cancelled():
            reading.exception()  # whoever asked may have been cancelled, and nobody else is to be told

    async def _read(self, key: tuple[str, ...], get: Callable[[str], Awaitable[Any]]) -> Customer:
        path = f"/v1/customers/{quote(key[-1], safe='')}"
        self._known.pop(key, None)  # what is asked again may have changed
        try:
            data = await get(path)
        except ToolError as error:
            # Only what is Stripe's own no: a proxy refuses too.
            if isinstance(error, RejectedError) and error.type and isinstance(error, _FINAL):
                raise
            message = f"Nothing was sent: customer {key[-1]} could not be read ({error.args[0]})"
            raise NotSentError(message, hint=_AGAIN, retryable=True, attempts=error.attempts) from None
        if not isinstance(data, dict) or data.get("object") != "customer":
            message = f"Nothing was sent: customer {key[-1]} could not be read (the answer is not a customer)."
            raise NotSentError(message, hint=_AGAIN, retryable=True)
        customer = _customer(data)
        # A customer without a currency gets one with its first entry, so that is asked again.
        if customer.currency is not None and not customer.is_deleted:
            while len(self._known) >= _MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = customer
        return customer


def _customer(fields: dict[str, Any]) -> Customer:
    """
    What we read of Stripe's object; whatever is not as documented counts as not known.
    """
    name, currency, balance = fields.get("name"), fields.get("currency"), fields.get("balance")
    return Customer(
        name=name[:200] if isinstance(name, str) else None,
        currency=currency.lower() if isinstance(currency, str) else None,
        balance=balance if isinstance(balance, int) and abs(balance) < _MAX_BALANCE else None,
        is_deleted=fields.get("deleted") is True,
    )
