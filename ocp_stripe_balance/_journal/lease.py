"""
Who sends a call, and whether whoever does still runs.
"""

from __future__ import annotations

import itertools
import os
import secrets
import socket
from functools import cache
from typing import TYPE_CHECKING

from ocp_stripe_balance._domain import State
from ocp_stripe_balance._journal.records import Lease

if TYPE_CHECKING:
    from ocp_stripe_balance._journal.records import Record

# A call that overruns its deadline by so much at most is still recorded by its own process.
_LEASE_MARGIN_S = 5.0


@cache
def host() -> str:
    """
    The name of this machine, as leases bear it.
    """
    return socket.gethostname()


class Leases:
    """
    The leases of one journal object, each with a name of its own among those of all processes and hosts.
    """

    def __init__(self) -> None:
        """
        Draw the name that all of them share.
        """
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count()

    def new(self, until: float) -> Lease:
        """
        A lease of this process, which it loses a little after *until*.
        """
        pid = os.getpid()
        owner = f"{host()}:{pid}:{self._name}-{next(self._numbers)}"
        return Lease(owner, host(), pid, until + _LEASE_MARGIN_S)


def is_alive(record: Record, now: float) -> bool:
    """
    Whether the owner of a call under way still runs, as far as can be told from here.

    A wrong yes ends with the lease. After a wrong no, both send the same key, which Stripe executes once, and only
    the one who took the call last records an outcome that is not final.
    """
    lease = record.lease
    if record.state is not State.SENDING or not lease.owner or now >= lease.until:
        return False
    if lease.host != host() or lease.pid is None:
        return True
    try:
        os.kill(lease.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
