"""
One connection to a host that may have several addresses (RFC 8305, "Happy Eyeballs").

asyncio does this too, but loses an open socket when it is cancelled in the wrong turn, and uvloop does not offer it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

_Protocol = TypeVar("_Protocol", bound=asyncio.Protocol)
_HEAD_START_S = 0.25  # RFC 8305, section 5


async def dial(factory: Callable[[], _Protocol], host: str, port: int, tls: ssl.SSLContext | None) -> _Protocol:
    """
    The protocol of the first connection that is made, TLS included; each address has a head start before the next.

    Raises:
        OSError: no address can be reached.
    """
    loop = asyncio.get_running_loop()
    left = _interleaved(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    name = host if tls else None
    tasks: list[asyncio.Task[tuple[asyncio.Transport, _Protocol]]] = []
    failures: dict[str, None] = {}
    pending: set[asyncio.Task[tuple[asyncio.Transport, _Protocol]]] = set()
    try:
        while left or pending:
            if left:
                connecting = loop.create_connection(factory, left.pop(0), port, ssl=tls, server_hostname=name)
                tasks.append(loop.create_task(connecting))
                pending.add(tasks[-1])
            head_start_s = _HEAD_START_S if left else None
            done, pending = await asyncio.wait(pending, timeout=head_start_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    tasks.remove(task)
                    return task.result()[1]
                failures[str(error) or type(error).__name__] = None
        # In words: the errors themselves would lead back to this frame, a circle for the garbage collector.
        raise OSError("; ".join(failures) or "the host has no address")
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)  # a loop that ends now would leave their sockets open
        raise
    finally:
        for task in tasks:
            if task.cancel():
                task.add_done_callback(_hang_up)
            else:
                _hang_up(task)


def _hang_up(task: asyncio.Task[tuple[asyncio.Transport, _Protocol]]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[0].abort()


def _interleaved(found: Iterable[tuple[Any, ...]]) -> list[str]:
    """
    The addresses that DNS found, each once, the families in turns.
    """
    rank: Counter[int] = Counter()
    ranked: dict[str, int] = {}
    for family, _, _, _, (address, *_) in found:
        if address not in ranked:
            ranked[address] = rank[family]
            rank[family] += 1
    return sorted(ranked, key=ranked.__getitem__)
