"""
Stripe's limits when asked for: requests per second, and one write at a time on a customer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance.sandbox._errors import lock_timeout, rate_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

    from ocp_stripe_balance.sandbox._operations import Operation

_WINDOW_S = 1.0


class Limits:
    """
    Lets requests through, and counts them.
    """

    def __init__(
        self, total_per_s: float | None, endpoint_per_s: float | None, lock_s: float, now: Callable[[], float]
    ) -> None:
        """
        Start with nothing counted; None is no limit.

        Raises:
            ValueError: a limit is not positive, or the lock takes less than no time.
        """
        if not all(limit is None or limit > 0 for limit in (total_per_s, endpoint_per_s)) or not lock_s >= 0:
            message = "a rate limit is a positive number of requests per second, and a lock takes 0 seconds or more"
            raise ValueError(message)
        self._total_per_s, self._endpoint_per_s = total_per_s, endpoint_per_s
        self._lock_s = lock_s
        self._now = now
        self._passed: defaultdict[Hashable, deque[float]] = defaultdict(deque)
        self._held: set[Hashable] = set()
        self.admitted = 0
        """How many requests the rate limits let through."""
        self.refused: Counter[str] = Counter()
        """How many they did not, by reason, and how many met a lock."""
        self._first_at: float | None = None
        self._last_at = 0.0

    def counts(self) -> dict[str, Any]:
        """
        Both counts as JSON, and how many seconds lie between the first and the last that was let through.
        """
        seconds = 0.0 if self._first_at is None else self._last_at - self._first_at
        return {"admitted": self.admitted, "seconds": seconds, "refused": dict(self.refused)}

    def admit(self, who: str, operation: Operation) -> None:
        """
        Count a request, if those of the last second leave room for it.

        Raises:
            StripeError: they do not.
        """
        now = self._now()
        endpoint = who, operation.method, operation.path.pattern
        if self._is_full(who, self._total_per_s, now):
            self._refuse("global-rate")
        if self._is_full(endpoint, self._endpoint_per_s, now):
            self._refuse("endpoint-rate")
        self.admitted += 1
        self._first_at, self._last_at = now if self._first_at is None else self._first_at, now
        for name, limit in ((who, self._total_per_s), (endpoint, self._endpoint_per_s)):
            if limit is not None:
                self._passed[name].append(now)

    def _is_full(self, name: Hashable, limit_per_s: float | None, now: float) -> bool:
        if limit_per_s is None:
            return False
        passed = self._passed[name]
        window_s = max(_WINDOW_S, 1 / limit_per_s)  # less than one a second is one in several
        while passed and passed[0] <= now - window_s:
            passed.popleft()
        return len(passed) + 1 > max(limit_per_s, 1)

    def _refuse(self, reason: str) -> None:
        self.refused[reason] += 1
        raise rate_limit(reason)

    @contextlib.asynccontextmanager
    async def hold(self, customer: Hashable | None) -> AsyncIterator[None]:
        """
        Hold the customer for as long as a write takes; None is no customer.

        Raises:
            StripeError: another write holds it.
        """
        if customer is None or not self._lock_s:
            yield
            return
        if customer in self._held:
            self.refused["lock_timeout"] += 1
            raise lock_timeout()
        self._held.add(customer)
        try:
            await asyncio.sleep(self._lock_s)
            yield
        finally:
            self._held.discard(customer)
