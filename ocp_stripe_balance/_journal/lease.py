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
from ocp_stripe_balance._journal.process import began
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


class _Process:
    """
    The name of this process among all that have, or had, the same ID; a child that is forked has another.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.name = secrets.token_hex(8)
        self.numbers = itertools.count()


_process = _Process()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_process.begin)


def process_name() -> str:
    """
    The name of this process among those of all hosts; a child that is forked has another.
    """
    return _process.name


class Leases:
    """
    The leases of this process, each with a name of its own among those of all processes and hosts.
    """

    def new(self, until: float) -> Lease:
        """
        A lease of this process, which it loses a little after *until*.
        """
        pid = os.getpid()
        owner = f"{host()}:{pid}:{_process.name}-{next(_process.numbers)}"
        return Lease(owner, host(), pid, until + _LEASE_MARGIN_S, _began_of_ours(pid))


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
    if lease.pid == os.getpid():  # or of one that had the same ID before this one began
        return lease.owner.rpartition(":")[2].startswith(f"{_process.name}-")
    found = began(lease.pid)
    return found is not None and (not found or not lease.began or found == lease.began)


@cache
def _began_of_ours(pid: int) -> str | None:
    return began(pid) or None
