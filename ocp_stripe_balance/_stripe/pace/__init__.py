"""
The pace of requests: as many a second as Stripe takes, in turns that are fair between customers.

Stripe's limits are for an account as a whole and for each endpoint, lower in test mode than in live mode
(https://docs.stripe.com/rate-limits). What is sent beyond them is answered with 429.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from ocp_stripe_balance._stripe.pace.pacer import Limits, NoTurnError, Pacer, RateLimit
from ocp_stripe_balance.settings import mode_of

if TYPE_CHECKING:
    from ocp_stripe_balance._stripe.request import Request

__all__ = ["Limits", "NoTurnError", "Pace", "Pacer", "RateLimit", "pace_of"]

# https://docs.stripe.com/rate-limits
_OF_STRIPE = {"test": Limits(25, 25), "live": Limits(100, 25)}
_MANY_PACERS = 64


class Pace:
    """
    The pacers of one registered API, which all agents of the process share.
    """

    def __init__(self, rate_limit: float | Literal["auto"], base_url: str) -> None:
        """
        Prepare.

        Args:
            rate_limit: requests per second, or ``auto`` for Stripe's own limits.
            base_url: where the requests go.
        """
        self._rate_limit = rate_limit
        self._base_url = base_url

    def pacer_of(self, request: Request) -> Pacer:
        """
        The pacer of the account that the request acts on, in the running loop.
        """
        secret = request.api_key.get_secret_value() if request.api_key is not None else ""
        digest = hashlib.sha256(secret.encode()).digest()
        name = self._base_url, request.headers.get("Stripe-Account", ""), digest
        pacers = _pacers_of(asyncio.get_running_loop())
        pacer = pacers.get(name)
        if pacer is None:
            _forget_idle(pacers)
            pacer = pacers[name] = Pacer(self._limits(secret))
        if self._rate_limit not in pacer.rate_limits:
            pacer.rate_limits.add(self._rate_limit)
            pacer.narrow(self._limits(secret))
        return pacer

    def _limits(self, secret: str) -> Limits:
        if self._rate_limit == "auto":
            return _OF_STRIPE[mode_of(secret)]
        return Limits(self._rate_limit, self._rate_limit)


_Pacers = dict[tuple[str, str, bytes], Pacer]
_LOOPS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pacers] = WeakKeyDictionary()
_LOOPS_LOCK = threading.Lock()


def pace_of(rate_limit: RateLimit, base_url: str) -> Pace | None:
    """
    The pace that the setting wants, None where it is off.
    """
    return None if rate_limit == "off" else Pace(rate_limit, base_url)


def _pacers_of(loop: asyncio.AbstractEventLoop) -> _Pacers:
    pacers = _LOOPS.get(loop)
    if pacers is None:
        with _LOOPS_LOCK:  # loops run in threads
            for other in list(_LOOPS):
                if other.is_closed():  # with requests that waited, it would never be collected
                    del _LOOPS[other]
            pacers = _LOOPS[loop] = {}
    return pacers


def _forget_idle(pacers: _Pacers) -> None:
    """
    A platform has thousands of accounts: keep those whose past matters.
    """
    if len(pacers) >= _MANY_PACERS and len(pacers).bit_count() == 1:  # at powers of two, so seldom
        now = asyncio.get_running_loop().time()
        for name in [name for name, pacer in pacers.items() if pacer.is_as_new(now)]:
            del pacers[name]
