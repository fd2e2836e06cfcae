"""
When the next request may go, under one limit.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque

LEAST_BURST = 5
"""Requests that may go at once after a while without any; in any second there are never more than the limit."""
# Of the limit, where that is more: what a busy event loop holds up is to be caught up with.
_BURST_SHARE = 0.12
# Below the limit, because a network lets some requests catch up with those before them.
_SHARE = 0.97
_CUT, _MAX_CUT = 0.05, 0.4
_LEAST_SHARE = 0.05
_LOWER_AGAIN_S = 0.5
_QUIET_S = 1.0
_REGAIN_PER_S = 0.05  # of the limit
# The first request after a while may open a connection, and arrive this much later than those that follow it.
_COLD_AFTER_S = 1.0
_COLD_S = 0.05


def burst(limit_per_s: float) -> int:
    """
    How many may go at once.
    """
    return min(max(LEAST_BURST, int(limit_per_s * _BURST_SHARE)), math.ceil(limit_per_s))


class Bucket:
    """
    When the next request may go, under one limit.

    A few at once, then evenly, and never more than the limit in any second: Stripe may count in any way.
    """

    __slots__ = (
        "_cut",
        "_lowered_at",
        "_rate_per_s",
        "_slack_s",
        "_step_s",
        "_taken",
        "_troubled_at",
        "_undo",
        "free_at",
        "limit_per_s",
    )

    def __init__(self, limit_per_s: float) -> None:
        """
        Start free.
        """
        self.limit_per_s = limit_per_s
        self.free_at = -math.inf
        """When the next may go, on the loop's clock."""
        self._taken: deque[float] = deque(maxlen=math.ceil(limit_per_s))
        self._lowered_at = self._troubled_at = -math.inf
        self._cut = _CUT
        self._undo = -math.inf, -math.inf
        self._set_rate(limit_per_s)

    def _set_rate(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._step_s = 1 / (rate_per_s * _SHARE)
        self._slack_s = (burst(self.limit_per_s) - 1) * self._step_s

    def rate_per_s(self, now: float) -> float:
        """
        The limit, or less for a while after Stripe said that it was too much.
        """
        regained = max(now - self._troubled_at - _QUIET_S, 0.0) * _REGAIN_PER_S * self.limit_per_s
        return min(self._rate_per_s + regained, self.limit_per_s)

    def take(self, now: float) -> None:
        """
        Let one go.
        """
        if self._rate_per_s < self.limit_per_s:
            self._regain(now)
        self._undo = now, self.free_at
        is_first = not self._taken or now > self._taken[-1] + _COLD_AFTER_S
        self._taken.append(now + _COLD_S if is_first else now)
        self.free_at = max(self.free_at, now - self._slack_s) + self._step_s
        self._keep_to_window()

    def _regain(self, now: float) -> None:
        rate_per_s = self.rate_per_s(now)
        self._troubled_at = max(self._troubled_at, now - _QUIET_S)
        self._set_rate(rate_per_s)

    def _keep_to_window(self) -> None:
        """
        As many as the limit take a second, those that went at once included.
        """
        taken = self._taken
        if len(taken) == taken.maxlen:
            self.free_at = max(self.free_at, taken[0] + len(taken) * self._step_s)

    def give_back(self, taken_at: float) -> None:
        """
        Undo `take`: what it was for did not happen.
        """
        last_at, free_at = self._undo
        self.free_at = free_at if last_at == taken_at else self.free_at - self._step_s
        with contextlib.suppress(ValueError):  # so many went since that it is forgotten
            self._taken.remove(taken_at if taken_at in self._taken else taken_at + _COLD_S)

    def lower(self, now: float) -> None:
        """
        Slow down, by little at first; the answers to requests that were under way together count once.
        """
        rate_per_s = self.rate_per_s(now)
        self._troubled_at = now
        if now - self._lowered_at >= _LOWER_AGAIN_S:
            # One may be chance; what goes on shows that the limit is another.
            goes_on = now - self._lowered_at < _LOWER_AGAIN_S + _QUIET_S
            self._cut = min(self._cut * 2, _MAX_CUT) if goes_on else _CUT
            self._lowered_at = now
            rate_per_s = max(rate_per_s * (1 - self._cut), self.limit_per_s * _LEAST_SHARE)
        self._set_rate(rate_per_s)
        self._keep_to_window()

    def narrow(self, limit_per_s: float) -> None:
        """
        Keep to a lower limit from now on.
        """
        if limit_per_s < self.limit_per_s:
            self.limit_per_s = limit_per_s
            self._taken = deque(self._taken, maxlen=math.ceil(limit_per_s))
            self._set_rate(min(self._rate_per_s, limit_per_s))
            self._keep_to_window()

    def wait_s(self, ahead: float, now: float) -> float:
        """
        Seconds until a request may go that *ahead* others precede.
        """
        return max(self.free_at - now, 0.0) + ahead / (self.rate_per_s(now) * _SHARE)

    def is_as_new(self, now: float) -> bool:
        """
        Whether nothing of the past matters any more.
        """
        is_over = not self._taken or now > self._taken[-1] + len(self._taken) * self._step_s + self._slack_s
        return is_over and self.rate_per_s(now) >= self.limit_per_s
