"""
What stands between a journal and its server: a network that loses answers, or a pooler in transaction mode.

It understands as much of PostgreSQL's protocol as it takes to know where a message ends.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Literal

from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

Fault = Literal["cut before", "cut after", "silent after"]
"""What happens to a commit: it does not arrive, or its answer does not, and whether anybody is told so."""


class Proxy:
    """
    Listens on loopback until it is closed; with several *sessions* each transaction of a client gets the next one.
    """

    def __init__(self, url: str, sessions: int = 1) -> None:
        at = conninfo_to_dict(url)
        self._folder, self._sessions = f"{at['host']}/.s.PGSQL.{at.get('port', 5432)}", sessions
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = (
            f"postgresql://{at['user']}@127.0.0.1:{self._listening.getsockname()[1]}/{at['dbname']}?sslmode=disable"
        )
        self.faults: dict[int, Fault] = {}
        """By the number of a commit, from now on, from 1."""
        self.commits = 0
        self.is_deaf = False
        """Whether nobody new is let in."""
        self._wires: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for wire in self._wires:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self.is_deaf:
                    client.close()
                    continue
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else answers wait 40 ms
                self._wires.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        servers: list[socket.socket] = []
        try:
            hello = _exactly(client, 4)
            hello += _exactly(client, struct.unpack("!i", hello)[0] - 4)
            for number in range(self._sessions):
                servers.append(socket.socket(socket.AF_UNIX))
                self._wires.append(servers[-1])
                servers[-1].connect(self._folder)
                servers[-1].sendall(hello)
                for kind, whole in iter(lambda at=servers[-1]: _message(at), None):  # type: ignore[misc]
                    if number == 0:
                        client.sendall(whole)
                    if kind == b"Z":
                        break
            self._relay(client, servers)
        except (OSError, EOFError, ValueError):  # a wire that was closed meanwhile has no number
            pass
        finally:
            for wire in (client, *servers):
                wire.close()

    def _relay(self, client: socket.socket, servers: list[socket.socket]) -> None:
        asked = 0  # how many answers are still to come
        is_idle, is_silent, fault = True, False, None
        while True:
            for wire in select.select([client, servers[0]], [], [])[0]:
                kind, whole = _message(wire)
                if wire is servers[0]:
                    if kind == b"Z":
                        asked -= 1
                        is_idle = asked == 0 and whole[-1:] == b"I"
                        if is_idle and fault == "cut after":
                            return
                    if fault is None and not is_silent:
                        client.sendall(whole)
                    continue
                if is_idle:
                    servers[:] = servers[1:] + servers[:1]
                    is_idle = False
                if b"COMMIT\0" in whole:
                    self.commits += 1
                    fault = self.faults.pop(self.commits, None)
                    is_silent = fault == "silent after"
                if fault == "cut before":
                    return
                asked += kind in {b"Q", b"S"}
                servers[0].sendall(whole)


def _message(wire: socket.socket) -> tuple[bytes, bytes]:
    """
    The kind of the next message, and all of it.

    Raises:
        EOFError: there is none.
    """
    head = _exactly(wire, 5)
    return head[:1], head + _exactly(wire, struct.unpack("!i", head[1:])[0] - 4)


def _exactly(wire: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = wire.recv(count - len(found))
        if not more:
            raise EOFError
        found += more
    return found


@contextlib.contextmanager
def between(url: str, sessions: int = 1) -> Iterator[Proxy]:
    """
    A proxy before that server, until the block ends.
    """
    proxy = Proxy(url, sessions)
    try:
        yield proxy
    finally:
        proxy.close()
