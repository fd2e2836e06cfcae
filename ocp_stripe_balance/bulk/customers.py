"""
The customers whom a file names, as Stripe has them: by their addresses, by pages of the list, or one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from ocp_stripe_balance._tools.manifest import tool_at
from ocp_stripe_balance.bulk.draft import Named
from ocp_stripe_balance.errors import (
    InvalidParametersError,
    PermissionDeniedError,
    PolicyRefusedError,
    ResourceMissingError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ocp_stripe_balance.bulk.draft import Draft
    from ocp_stripe_balance.bulk.mistakes import Mistakes
    from ocp_stripe_balance.models import Customer
    from ocp_stripe_balance.plugin import StripeAPI

_T = TypeVar("_T")
_IN_FLIGHT = 32
_PAGE = 100
_ENOUGH = 100  # fewer are read sooner one by one


async def read_customers(api: StripeAPI, draft: Draft, mistakes: Mistakes) -> bool:
    """
    Read every customer of the draft; whether all could be read.

    Raises:
        ToolError: Stripe cannot be reached, or does not know the API key.
    """
    await _each(draft.addresses(), lambda found: _look_up(api, draft, mistakes, *found))
    with contextlib.suppress(PermissionDeniedError, PolicyRefusedError):  # one by one, each is told apart
        await _read_pages(api, draft)
    unreadable = await _each(draft.unread(), lambda customer: _read(api, draft, customer))
    for line, customer, is_deleted in draft.strangers():
        if is_deleted:
            message, hint = f"{customer} was deleted", "take the line out; do not use another customer in its place"
        else:
            mode = "test mode" if api.scope.mode == "test" else "live mode"
            message, hint = f"{customer} is no customer of this account in {mode}", "look the ID up, and the API key"
        mistakes.note(line, "customer", message, hint)
    return not any(unreadable)


async def _look_up(api: StripeAPI, draft: Draft, mistakes: Mistakes, address: str, line: int) -> None:
    """
    Name the customer of an address by the ID; of several, nobody knows which one is meant.
    """
    finder = tool_at(api.tools, "GET", "/v1/customers")
    try:
        listed = await api.call(finder, {"email": address, "limit": 10}, headers=None, idempotency_key=None)
    except InvalidParametersError as error:
        mistakes.note(line, "customer", error.problems[0].message, "write the address of one customer, or the ID")
        return
    found = [each for each in listed.customers or () if each.email == address]
    if len(found) == 1:
        draft.resolve(address, found[0].id)
        draft.learn(found[0].id, _named(found[0]))
        return
    ids = ", ".join(each.id for each in found)
    message = f"{len(found)} customers have the e-mail address {address}: {ids}" if found else f"nobody has {address}"
    hint = "write the ID of the one that is meant" if found else "capitals count; write the customer's ID, cus_…"
    mistakes.note(line, "customer", message, hint)


async def _read_pages(api: StripeAPI, draft: Draft) -> None:
    """
    Read the list of customers as long as a page of it has one of ours: that takes fewer requests.
    """
    left = sum(1 for _ in draft.unread())
    if left < _ENOUGH:
        return
    seen = hits = 0
    async for fields in api.iterate(tool_at(api.tools, "GET", "/v1/customers"), {}, headers=None):
        seen += 1
        currency = fields.get("currency")
        named = Named(is_there=True, currency=currency.lower() if isinstance(currency, str) else None)
        hits += draft.learn(str(fields.get("id")), named)
        if hits >= left or (seen % _PAGE == 0 and hits * _PAGE < seen):
            return


async def _read(api: StripeAPI, draft: Draft, customer: str) -> bool:
    """
    Read one customer; whether the API key, or the policy, does not let it be read.
    """
    retrieve = tool_at(api.tools, "GET", "/v1/customers/{customer}")
    try:
        found = (await api.call(retrieve, {"customer": customer}, headers=None, idempotency_key=None)).customer
    except ResourceMissingError:
        draft.learn(customer, Named(is_there=False))
    except (PermissionDeniedError, PolicyRefusedError):
        return True
    except InvalidParametersError:  # which is told by line
        return False
    else:
        if found is None:
            return True
        draft.learn(customer, _named(found))
    return False


def _named(customer: Customer) -> Named:
    return Named(is_there=True, is_deleted=customer.deleted, currency=customer.currency)


async def _each(items: Iterable[_T], work: Callable[[_T], Awaitable[bool | None]]) -> list[bool | None]:
    """
    What *work* makes of each, several at a time; the first error ends it.
    """
    waiting, results = iter(items), list[bool | None]()

    async def one_after_the_other() -> None:
        for item in waiting:
            results.append(await work(item))

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_IN_FLIGHT):
                tasks.create_task(one_after_the_other())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return results
