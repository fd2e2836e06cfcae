"""
Whoever is refused again and again has to wait, each time longer: a name, and an address. Nobody waits for ever.

A name is waited for apart where it comes from an address that it came in from of late: who guesses elsewhere does not
keep the person out.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ocp_stripe_balance._journal.people import People

WINDOW_S = 24 * 3600.0
"""After which time without a refusal it is forgotten."""
_KNOWN_S = 30 * 24 * 3600.0


class Counter(NamedTuple):
    """
    Whose refusals are counted, how many cost nothing, and how long the longest wait is.
    """

    whose: str
    free: int
    longest_s: float

    def wait_s(self, failures: int) -> float:
        """
        How long somebody waits after so many refusals: a second, then twice as long each time.
        """
        return 0.0 if failures <= self.free else min(2.0 ** min(failures - self.free - 1, 20), self.longest_s)


def counters(people: People, name: str | None, address: str) -> list[Counter]:
    """
    Those that count for a name at an address; for no name, the address alone.
    """
    found = [Counter(f"address {_network(address)}", 20, 900.0)]
    if name is not None:
        # People type a password where the name belongs: what is kept does not say it.
        whose = f"name {hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()}"
        known = f" at {address}" if people.came_from(name, address, _KNOWN_S) else ""
        found.append(Counter(whose + known, 5, 300.0))
    return found


def enter(people: People, all_of_them: list[Counter], now: float) -> float:
    """
    How many seconds are still to wait; where there are none, the attempt is counted as a refusal until it is not one.

    So that a hundred attempts at once are a hundred attempts.
    """
    known = [(each, *people.failures(each.whose, WINDOW_S)) for each in all_of_them]
    wait_s = max(until for _, _, until in known) - now
    if wait_s > 0:
        return wait_s
    people.forget_refusals(WINDOW_S)
    for each, failures, _ in known:
        people.refuse(each.whose, failures + 1, now + each.wait_s(failures + 1))
    return 0.0


def forgive(people: People, all_of_them: list[Counter], now: float) -> None:
    """
    Take back what `enter` counted: all of a name; of an address this one alone, or its owner could guess without end.
    """
    address, *names = all_of_them
    failures = people.failures(address.whose, WINDOW_S)[0] - 1
    if failures > 0:
        people.refuse(address.whose, failures, now + address.wait_s(failures))
    else:
        people.forgive(address.whose)
    for each in names:
        people.forgive(each.whose)


def _network(address: str) -> str:
    """
    An address, or of the newer kind the network that one customer of a provider has to itself.
    """
    try:
        number = ipaddress.ip_address(address)
    except ValueError:  # a socket of this machine
        return address
    mapped = getattr(number, "ipv4_mapped", None) or number
    is_old = isinstance(mapped, ipaddress.IPv4Address)
    return str(mapped) if is_old else str(ipaddress.ip_network((int(mapped), 64), strict=False))
