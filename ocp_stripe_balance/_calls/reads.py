"""
Tools that only read: one GET, or one per page of a list. Nothing to record, and safe to repeat.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._stripe.evidence import REFERENCE, expected_of, marks_of
from ocp_stripe_balance._stripe.headers import stripe_headers
from ocp_stripe_balance._stripe.request import build_request
from ocp_stripe_balance._text.plain import shown
from ocp_stripe_balance._text.spelling import one_spelling
from ocp_stripe_balance._tools.validation import response_validator
from ocp_stripe_balance.errors import NotSentError
from ocp_stripe_balance.models import ToolResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from ocp_stripe_balance._domain import Context
    from ocp_stripe_balance._stripe.access import Access
    from ocp_stripe_balance._stripe.attempts import Reply
    from ocp_stripe_balance._stripe.client import StripeClient
    from ocp_stripe_balance._stripe.request import Request
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.settings import Settings

_MAX_WARNINGS = 20
USUAL_LIMIT = 10
"""Of what is listed where nothing else was asked for, as at Stripe."""


class Reader:
    """
    Reads one registered API through a client that it shares.
    """

    def __init__(self, base_url: str, context: Context, settings: Settings, client: StripeClient) -> None:
        """
        Prepare.
        """
        self._base_url = base_url
        self._context = context
        self._shares_context = settings.share_context
        self._timeout_s = settings.timeout
        self._client = client

    def request(self, tool: ToolSpec, arguments: Mapping[str, Any], access: Access) -> Request:
        """
        The request for the one answer, or the first page; it is made the same way where it is no read.
        """
        if tool.page_size is not None and "limit" in arguments:
            arguments = {**arguments, "limit": int(min(arguments["limit"], tool.page_size))}
        headers = stripe_headers(access, access.api_version, self._context, shares_context=self._shares_context)
        request = build_request(tool, arguments, base_url=self._base_url, headers=headers, api_key=access.api_key)
        return request._replace(expected=expected_of(tool, arguments))

    async def fetch(self, tool: ToolSpec, arguments: Mapping[str, Any], access: Access, deadline: float) -> ToolResult:
        """
        The answer; of a list, as many items as ``limit`` says, over as many pages as it takes, as one page.

        *deadline* is one for all of them, in the loop's time.

        Raises:
            NotSentError: no answer in time.
            RejectedError: Stripe said no.
        """
        items: list[Any] = []
        warnings: dict[str, None] = {}
        attempts, wanted = 0, _filter(arguments)
        async for reply, page in self._replies(tool, arguments, access, deadline):
            attempts += reply.attempts
            warnings |= dict.fromkeys(response_validator(tool).warnings(reply.data))
            found = page if wanted is None else [item for item in page if wanted(item)]
            # Stripe gives newest first, whichever way it is paged.
            items = [*found, *items] if "ending_before" in arguments else [*items, *found]
        data, total = reply.data, None
        if tool.page_size is not None:
            has_more = reply.data.get("has_more") is True
            is_whole = not has_more and not {"starting_after", "ending_before"} & set(arguments)
            total = len(items) if is_whole else None
            if wanted is not None:  # all pages were read
                limit = int(arguments.get("limit", USUAL_LIMIT))
                items, has_more = items[:limit], len(items) > limit
            data = {**reply.data, "data": items, "has_more": has_more}
        return ToolResult(
            tool=tool.name,
            data=data,
            total=total,
            is_full=arguments.get("full") is True,
            status_code=reply.status,
            headers=reply.headers,
            idempotency_key=None,
            request_id=reply.request_id,
            attempts=attempts,
            replayed=False,
            warnings=tuple(warnings)[:_MAX_WARNINGS],
        )

    async def iterate(
        self, tool: ToolSpec, arguments: Mapping[str, Any], access: Access, deadline: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """
        The items of a list one by one, a page at a time: up to ``limit``, or all where there is none.

        All pages have until *deadline*, in the loop's time; without it, each has the time of one call.

        Raises:
            NotSentError: no answer in time; what came so far is good.
            RejectedError: Stripe said no.
        """
        wanted, left = _filter(arguments), arguments.get("limit", math.inf)
        async for _, page in self._replies(tool, {"limit": math.inf, **arguments}, access, deadline):
            for item in reversed(page) if "ending_before" in arguments else page:
                if left > 0 and (wanted is None or wanted(item)):
                    left -= 1
                    yield item

    async def _replies(
        self, tool: ToolSpec, arguments: Mapping[str, Any], access: Access, deadline: float | None
    ) -> AsyncIterator[tuple[Reply, list[Any]]]:
        """
        The one reply, or those of a list's pages until there are ``limit`` items. Without *deadline*, each has its own.

        Raises:
            NotSentError: a page cannot be read, or goes on where an earlier one did: what came is not the whole.
        """
        if _filter(arguments) is not None:  # what is looked for may be on any page
            arguments = {**arguments, "limit": math.inf}
        cursors = set()
        loop = asyncio.get_running_loop()
        cursor = "ending_before" if "ending_before" in arguments else "starting_after"
        most = tool.page_size or 1
        while True:
            asked = {**arguments, "limit": min(arguments["limit"], most)} if "limit" in arguments else arguments
            remaining_s = self._timeout_s if deadline is None else max(deadline - loop.time(), 0.001)
            request = self.request(tool, asked, access)
            reply = await self._client.execute(request, tool=tool.name, idempotency_key=None, timeout_s=remaining_s)
            if reply.lost_body is not None:  # of a page; of anything else, it was not believed
                if asked.get("limit", 1) > 1:
                    most = max(int(asked["limit"]) // 4, 1)  # fewer may fit
                    continue
                raise _unreadable(tool, reply, reply.lost_body)
            page = reply.data["data"] if tool.page_size is not None else []
            yield reply, page
            left = arguments.get("limit", 0) - len(page)
            if left <= 0 or not page or reply.data.get("has_more") is not True:
                return
            last = page[0 if cursor == "ending_before" else -1]["id"]
            if last in cursors:
                raise _unreadable(tool, reply, f"the list comes to {shown(last)} again, and so to no end")
            cursors.add(last)
            arguments = {**arguments, "limit": left, cursor: last}


def _filter(arguments: Mapping[str, Any]) -> Callable[[Any], bool] | None:
    """
    Which entries are asked for, by words of the description or by reference, as Stripe cannot; None for all.
    """
    words = one_spelling(arguments.get("words") or "").split()
    reference = one_spelling(arguments.get("reference") or "")
    if not words and not reference:
        return None

    def is_wanted(item: Any) -> bool:
        description = one_spelling(str(item.get("description") or ""))
        said = one_spelling(str(marks_of(item).get(REFERENCE) or ""))
        return all(word in description for word in words) and reference in {"", said}

    return is_wanted


def _unreadable(tool: ToolSpec, reply: Reply, why: str) -> NotSentError:
    return NotSentError(
        f"Nothing moved: a page of the list could not be read ({why}).",
        hint="Call again, for fewer at once (limit) or without expand.",
        next="call_again",
        attempts=reply.attempts,
        tool=tool.name,
    )
