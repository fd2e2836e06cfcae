"""
The customer as Stripe has it, read before the first call for it: is it there, and in which currency is it billed?
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

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

    from ocp_stripe_balance._calls.call import Call
    from ocp_stripe_balance._stripe.access import Access

_MAX_KNOWN = 10_000
_UNREADABLE_FOR_S = 600.0
_MAX_BALANCE = 2**62
_FINAL = (ResourceMissingError, AuthenticationError, PermissionDeniedError)
_AGAIN = "Call again with the same parameters and idempotency key."
_UNREADABLE = "The customer's currency could not be checked: the API key may not read customers."
_Name = tuple[str, ...]
"""Mode, account, a mark of the API key (another key may see less), and the customer's ID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCustomer:
    """
    What the checks read of a customer: https://docs.stripe.com/api/customers/object
    """

    name: str | None
    currency: str | None
    """None until the first entry or invoice fixes it for good."""
    balance: int | None
    """In that currency; negative is a credit. None where it is not known."""
    is_deleted: bool


class SeenCustomer(NamedTuple):
    """
    What is known of the customer of one call.
    """

    customer: KnownCustomer | None = None
    is_unreadable: bool = False
    """Whether the API key may not read it."""
    is_of_now: bool = False
    """Whether it was read for this very call, so that its balance is of now."""
    warnings: tuple[str, ...] = ()
    is_enough: bool = False
    """Whether no more is to be read, whatever it is: a dry run that asks nobody."""


class CustomerDirectory:
    """
    Customers read once per process, and once for all calls that ask at the same moment.
    """

    def __init__(self, read: Callable[[Call], Awaitable[Any]], *, is_on: bool) -> None:
        """
        Know nobody yet.

        Args:
            read: reads the customer of a call, and returns Stripe's JSON.
            is_on: whether customers are checked at all.
        """
        self._read_from_stripe = read
        self._is_on = is_on
        self._known: dict[_Name, KnownCustomer] = {}
        self._readings: dict[_Name, asyncio.Task[KnownCustomer]] = {}
        self._unreadable: dict[_Name, float] = {}
        self._warned: set[_Name] = set()

    def seen(self, call: Call) -> SeenCustomer:
        """
        What was read before.
        """
        if not self._is_on:
            return _NOBODY
        name = _name_of(call)
        customer = self._known.get(name)
        is_unreadable = customer is None and time.monotonic() < self._unreadable.get(name, 0.0)
        return SeenCustomer(customer, is_unreadable)

    def know(self, access: Access, customer: str, currency: str) -> None:
        """
        Take a customer as read who is billed in a currency, which nothing changes.
        """
        name = (access.mode, *access.mark, customer)
        if name not in self._known:
            known = KnownCustomer(name=None, currency=currency, balance=None, is_deleted=False)
            _put(self._known, name, known)

    async def read(self, call: Call, deadline: float, *, is_preview: bool = False) -> SeenCustomer:
        """
        The customer as Stripe has it now. Where the API key may not read it, that is told once, as a warning.

        Args:
            call: whose customer is read.
            deadline: until when this call waits for it, in the loop's time.
            is_preview: whether the call itself is still to come, which then reads and warns.

        Raises:
            ResourceMissingError: there is no such customer.
            AuthenticationError: Stripe does not know the API key.
            NotSentError: the customer could not be read.
        """
        name = _name_of(call)
        reading = self._readings.get(name)
        if reading is None or reading.get_loop() is not asyncio.get_running_loop():
            reading = self._readings[name] = asyncio.ensure_future(self._read(name, call))
            reading.add_done_callback(partial(self._forget, name))
        try:
            async with asyncio.timeout_at(deadline):
                return SeenCustomer(await asyncio.shield(reading), is_of_now=True)
        except TimeoutError:
            raise _unread(call, "the call's deadline").told_of(call.intent.tool, call.intent.key.text) from None
        except PermissionDeniedError:
            scope = name[:-1]
            warnings = () if scope in self._warned else (_UNREADABLE,)
            if not is_preview:
                _put(self._unreadable, name, time.monotonic() + _UNREADABLE_FOR_S)
                self._warned.add(scope)
            return SeenCustomer(is_unreadable=True, is_of_now=True, warnings=warnings)
        except ToolError as error:
            raise error.told_of(call.intent.tool, call.intent.key.text) from None

    async def aclose(self) -> None:
        """
        Give up the reads that nobody waits for any more.
        """
        loop = asyncio.get_running_loop()
        readings = [reading for reading in self._readings.values() if reading.get_loop() is loop]
        for reading in readings:
            reading.cancel()
        await asyncio.gather(*readings, return_exceptions=True)

    def _forget(self, name: _Name, reading: asyncio.Task[KnownCustomer]) -> None:
        if self._readings.get(name) is reading:
            del self._readings[name]
        if not reading.cancelled():
            reading.exception()  # whoever asked may have been cancelled, and nobody else is to be told

    async def _read(self, name: _Name, call: Call) -> KnownCustomer:
        self._known.pop(name, None)  # what is asked again may have changed
        try:
            data = await self._read_from_stripe(call)
        except ToolError as error:
            # Only what is Stripe's own no: a proxy refuses too.
            if isinstance(error, RejectedError) and error.type and isinstance(error, _FINAL):
                raise
            raise _unread(call, error.why.rstrip("."), error.attempts) from None
        if "currency" not in data and data.get("deleted") is not True:
            raise _unread(call, "it does not say its currency")  # which is not the same as having none yet
        customer = _customer(data)
        if customer.currency is not None and not re.fullmatch("[a-z]{3}", customer.currency, re.ASCII):
            raise _unread(call, "its currency is none")  # which is not the same as having none yet
        # A customer without a currency gets one with its first entry, so that is asked again.
        if customer.currency is not None and not customer.is_deleted:
            _put(self._known, name, customer)
        return customer


_NOBODY = SeenCustomer()


def _unread(call: Call, why: object, attempts: int = 0) -> NotSentError:
    message = f"Nothing was sent: customer {call.intent.customer} could not be read ({why})"
    return NotSentError(message, hint=_AGAIN, next="call_again", attempts=attempts)


def _name_of(call: Call) -> _Name:
    return (call.intent.scope.mode, *call.access.mark, call.intent.customer or "")


def _put(known: dict[_Name, Any], name: _Name, value: Any) -> None:
    while len(known) >= _MAX_KNOWN:
        del known[next(iter(known))]
    known[name] = value


def _customer(fields: dict[str, Any]) -> KnownCustomer:
    """
    What we read of Stripe's object; whatever is not as documented counts as not known.
    """
    name, currency, balance = fields.get("name"), fields.get("currency"), fields.get("balance")
    return KnownCustomer(
        name=name[:200] if isinstance(name, str) else None,
        currency=None if currency is None else str(currency).lower(),
        balance=balance if isinstance(balance, int) and abs(balance) < _MAX_BALANCE else None,
        is_deleted=fields.get("deleted") is True,
    )
