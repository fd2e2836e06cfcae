"""
What the doctor says of a server, and the rights and queries of docs/postgres.md.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from helpers import TOOL, connect, order, run
from pages import DOCS, block
from places import look
from postgres import new_database, server_url

from ocp_stripe_balance import OutcomeUnknownError, Settings
from ocp_stripe_balance._journal.inspection import RIGHTS, RIGHTS_OF_CONSOLE, Server, look_at
from ocp_stripe_balance._text.database_url import DatabaseURL
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.cli.doctor import _facts_of_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocp_stripe_balance.sandbox import Sandbox

PAGE = DOCS / "postgres.md"
POLICY = {"approval": {"above": {"usd": "20.00"}, "queue": True}, "calls_per_minute": 100}
POLICY |= {"budgets": [{"per": "customer", "window": "1h", "credit": {"usd": "50.00"}}]}


class Roles:
    """
    The roles and the database of the page, under names of their own.
    """

    def __init__(self) -> None:
        self._mark = f"t{secrets.token_hex(6)}"
        self.owner, self.agent = self._url("ocp_owner"), self._url("ocp_agent")
        self.execute(server_url(), "roles")

    def _url(self, user: str) -> str:
        parts = urlsplit(server_url())
        netloc = f"{self._mark}{user}:change-me{'-too' * (user == 'ocp_agent')}@{parts.netloc.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{self._mark}ocp"))

    def execute(self, url: str, name: str) -> None:
        """
        A block of the page.
        """
        text = block(PAGE, name).replace("ocp_stripe_balance", "@").replace("ocp", f"{self._mark}ocp")
        with psycopg.connect(url, autocommit=True) as db:
            for statement in text.replace("@", "ocp_stripe_balance").split(";\n"):
                db.execute(statement.encode())

    def drop(self) -> None:
        with psycopg.connect(server_url(), autocommit=True) as db:
            for each in ("DATABASE", "ROLE"):
                for name in ("ocp",) if each == "DATABASE" else ("ocp_agent", "ocp_owner"):
                    force = "WITH (FORCE)" if each == "DATABASE" else ""
                    db.execute(f"DROP {each} {self._mark}{name} {force}".encode())


@pytest.fixture
def roles() -> Iterator[Roles]:
    made = Roles()
    yield made
    made.drop()


def found(url: str) -> tuple[list[str], int | None]:
    """
    What the role lacks, and the format.
    """
    server = look_at(DatabaseURL(url))
    return server.lacks, server.format


async def test_the_rights_of_the_page_are_all_that_is_needed(roles: Roles) -> None:
    """The owner makes the tables; the agents' role lacks nothing, and has nothing more."""
    assert (["CREATE on the database"], None) == found(roles.agent)
    assert ([], None) == found(roles.owner)
    async with BackOffice(Settings(journal=roles.owner)) as office:
        await office.check()
    assert (["USAGE on the schema ocp_stripe_balance"], None) == found(roles.agent)
    roles.execute(roles.owner, "rights")
    server = look_at(DatabaseURL(roles.agent))
    assert ([], False) == (server.lacks, server.is_superuser)
    with look(DatabaseURL(roles.agent)) as db:
        off = [name for name in ("fsync", "full_page_writes") if db.execute(f"SHOW {name}").fetchone()[0] == "off"]
    assert off == server.unsafe
    with look(DatabaseURL(roles.owner)) as db:
        db.execute(f"REVOKE DELETE ON calls FROM {server.user}")
    told = run("doctor", OCP_STRIPE_JOURNAL=roles.agent, STRIPE_API_BASE="http://127.0.0.1:9").stdout
    assert f"!! server rights      no: {server.user} lacks DELETE on calls\n" in told
    with look(DatabaseURL(roles.owner)) as db:
        granted = "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = ?"
        held = {tuple(each) for each in db.execute(granted, (server.user,))}
    wanted = {(table, right) for table, rights in RIGHTS.items() for right in rights}
    assert wanted - {("calls", "DELETE")} == held


def test_the_rights_of_the_console_are_those_of_the_page() -> None:
    lines = re.findall(r"GRANT ([A-Z, ]+) ON ([a-z, ]+) TO", block(PAGE, "rights-of-console"))
    given = {(table, right) for rights, tables in lines for table in tables.split(", ") for right in rights.split(", ")}
    assert given == {(table, right) for table, rights in RIGHTS_OF_CONSOLE.items() for right in rights}


async def test_the_queries_of_the_page_find_what_they_say(stripe: Sandbox, customer: str) -> None:
    """An open call, what a budget counted, and whose lease it is."""
    url = new_database()
    stripe.faults.add("reset", path="balance")
    async with await connect(stripe, journal=url, policy=POLICY, max_attempts=1) as agent:
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order(customer), idempotency_key="lost")
        await agent.call_tool(TOOL, order(customer, -100, reference="ticket-2"))
    with look(DatabaseURL(url)) as db:
        db.execute("UPDATE calls SET state = 'sending', owner_host = 'a', lease_until = 5 WHERE key = 'lost'")
        (lost,) = db.execute(block(PAGE, "open")).fetchall()
        assert ("test", "sending", 1) == tuple(lost)[:3]
        totals = [tuple(row) for row in db.execute(block(PAGE, "budgets"))]
        assert ("customer", 3600.0, customer, "test", "", "usd", "credit", 600) in totals
        (lease,) = db.execute(block(PAGE, "lease")).fetchall()
        assert ("lost", customer, "a") == tuple(lease)[:3]
        db.execute(block(PAGE, "waits"))


def test_the_doctor_has_a_cross_for_what_a_person_must_change() -> None:
    """Clear text on the way, commits that a crash loses, rights that lack, a clock that is wrong."""
    good = Server("18.1", "db.test", "ocp", "ada", True, True, [], False, [], 11, -0.26)  # noqa: FBT003  a row
    facts = _facts_of_server(good)
    assert {
        "server": "PostgreSQL 18.1 at db.test, database ocp, user ada",
        "server_encrypted": True,
        "server_durable": True,
        "server_rights": "those that are needed",
        "server_format": 11,
        "server_clock": "0.3 s behind this machine's",
    } == facts
    for change, name, said in (
        ({"is_encrypted": False}, "server_encrypted", "no: whoever is on the way to db.test reads it"),
        ({"is_verified": False}, "server_encrypted", "yes, to whoever answers"),
        ({"is_encrypted": False, "host": "/run/postgresql"}, "server_encrypted", "not on this machine"),
        ({"is_encrypted": False, "host": "127.0.0.1"}, "server_encrypted", "not on this machine"),
        (
            {"unsafe": ["fsync", "full_page_writes"]},
            "server_durable",
            "no: a crash loses calls (fsync, full_page_writes",
        ),
        ({"is_superuser": True}, "server_rights", "more than are needed"),
        ({"lacks": ["DELETE on calls"]}, "server_rights", "no: ada lacks DELETE on calls"),
        ({"ahead_s": 90.0}, "server_clock", "no: 90.0 s ahead"),
    ):
        assert str(_facts_of_server(good._replace(**change))[name]).startswith(said)
