"""
Stripe's rate limit, divided among the processes of one journal that call Stripe just now.

Four times a second a process that does leaves word of it, in a transaction that is begun anyway, and counts those who
did so within the last seconds. Who is killed is not counted any more three seconds later.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal.lease import process_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance._journal.book import Book

_RENEWED_S, _LIVING_S, _WANTED_S = 0.25, 3.0, 2.0


class Shares:
    """
    What this process knows of the others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Know of no other; *clock* is in seconds and never steps.
        """
        self._clock = clock
        self._wanted: dict[str, float] = {}
        """When a request last wanted a turn at a pace."""
        self._living: dict[str, int] = {}
        self._due = 0.0

    def part_of(self, pace: str) -> float:
        """
        Which part of that pace's limit is ours, from now on for a request that wants a turn.
        """
        self._wanted[pace] = self._clock()
        return 1 / self._living.get(pace, 1)

    def renew(self, book: Book, now: float) -> None:
        """
        Leave word, and count the others, where that is due; *now* is the journal's time.
        """
        here = self._clock()
        if here < self._due or not self._wanted:
            return
        wanted = {pace for pace, at in self._wanted.copy().items() if here - at < _WANTED_S}
        self._due = here + _RENEWED_S
        self._living = {pace: book.share(pace, process_name(), now, now + _LIVING_S) for pace in sorted(wanted)}
        for pace in self._wanted.keys() - wanted:
            self._wanted.pop(pace, None)
