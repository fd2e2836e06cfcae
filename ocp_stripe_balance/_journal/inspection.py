"""
What a person should know of the server that a journal is on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from ocp_stripe_balance._journal.postgres import CONNECT_S, told

if TYPE_CHECKING:
    from ocp_stripe_balance._text.database_url import DatabaseURL

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
RIGHTS = {
    "calls": _ALL,
    "decisions": ("SELECT", "INSERT"),
    "joined": ("SELECT", "INSERT", "UPDATE"),
    "migrations": ("SELECT",),
    "proposals": ("SELECT", "INSERT", "UPDATE"),
    "shares": _ALL,
    "totalled": _ALL,
    "totals": _ALL,
    "votes": ("SELECT", "INSERT"),
    "windows": ("SELECT", "INSERT"),
}
"""What agents and people do with each table; no decision is ever changed."""
RIGHTS_OF_CONSOLE = {
    "attempts": _ALL,
    "deliveries": _ALL,
    "people": ("SELECT", "INSERT", "UPDATE"),
    "sessions": _ALL,
    "visits": ("SELECT", "INSERT"),
}
"""What the server of the console does besides; what was noted of people is never changed."""

_FACTS = """
SELECT current_setting('server_version'), rolsuper, has_database_privilege(current_database(), 'CREATE'),
    ARRAY(SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name)
FROM pg_roles WHERE rolname = current_user
"""
_USAGE = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'ocp_stripe_balance'"
_HELD = """
SELECT privilege || ' on ' || relname FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
WHERE relnamespace = 'ocp_stripe_balance'::regnamespace AND has_table_privilege(pg_class.oid, privilege)
"""
_FORMAT = "SELECT MAX(version) FROM ocp_stripe_balance.migrations"


class Server(NamedTuple):
    """
    A server as it was found.
    """

    version: str
    host: str
    """Its name or address; a path where it is reached through a socket of this machine."""
    database: str
    user: str
    is_encrypted: bool
    is_verified: bool
    """Whether the certificate had to be the server's own."""
    unsafe: list[str]
    """The settings by which what was committed can be lost."""
    is_superuser: bool
    lacks: list[str]
    """The rights that the user would need and has not."""
    format: int | None
    """Of the journal; None where there is none yet, or it cannot be read."""
    ahead_s: float
    """By how much its clock is ahead of this machine's."""


def look_at(url: DatabaseURL) -> Server:
    """
    What there is to say of a server; nothing is changed.

    Raises:
        DatabaseError: it cannot be reached, or refuses.
    """
    with told(url), psycopg.connect(url.reveal(), autocommit=True, connect_timeout=CONNECT_S) as db:
        began = time.time()
        (now,) = db.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone() or (0.0,)
        ahead_s = now - (began + time.time()) / 2
        version, is_superuser, may_make, unsafe = db.execute(_FACTS).fetchone() or ("", False, False, [])
        (may_use,) = db.execute(_USAGE).fetchone() or (None,)
        if may_use:
            held = {right for (right,) in db.execute(_HELD)}
            wanted = [f"{right} on {table}" for table, rights in RIGHTS.items() for right in rights]
            lacks = [right for right in wanted if right not in held]
        elif may_use is None:  # there is none yet
            lacks = [] if may_make else ["CREATE on the database"]
        else:
            lacks = ["USAGE on the schema ocp_stripe_balance"]
        (known,) = (may_use and "SELECT on migrations" not in lacks and db.execute(_FORMAT).fetchone()) or (None,)
        return Server(
            version=version,
            host=db.info.host,
            database=db.info.dbname,
            user=db.info.user,
            is_encrypted=bool(db.pgconn.ssl_in_use),
            is_verified=db.info.get_parameters().get("sslmode", "") in {"verify-ca", "verify-full"},
            unsafe=unsafe,
            is_superuser=is_superuser,
            lacks=lacks,
            format=known,
            ahead_s=ahead_s,
        )
