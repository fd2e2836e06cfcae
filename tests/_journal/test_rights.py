"""
On a server, one role makes the journal, and another one makes calls and may do only what they need.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
from helpers import TOOL, connect, decide, ledger, order, proposals
from postgres import as_role, new_database

from ocp_stripe_balance import ApprovalRequiredError, PolicyRefusedError, Settings
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._journal.inspection import RIGHTS, RIGHTS_OF_CONSOLE, look_at
from ocp_stripe_balance._journal.statements import statements
from ocp_stripe_balance._text.database_url import DatabaseURL
from ocp_stripe_balance.backoffice import BackOffice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocp_stripe_balance.sandbox import Sandbox

REVERSE = "reverseCustomerBalanceTransaction"
POLICY = {
    "duplicate_window": "off",
    "calls_per_minute": 100,
    "budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10.00"}}],
    "approval": {"above": {"usd": "3.00"}, "queue": True},
}


@pytest.fixture
def roles() -> Iterator[tuple[str, str]]:
    """
    A database as the journal's owner and a caller reach it.
    """
    url = new_database()
    name = urlsplit(url).path[1:]
    owner, caller = f"{name}_owner", f"{name}_caller"
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(f"CREATE ROLE {owner} LOGIN; CREATE ROLE {caller} LOGIN".encode())
        db.execute(f"GRANT CREATE ON DATABASE {name} TO {owner}".encode())
    yield as_role(url, owner), as_role(url, caller)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(f"DROP OWNED BY {owner}, {caller} CASCADE; DROP ROLE {owner}, {caller}".encode())


def grants(role: str) -> str:
    """
    What the owner lets a caller do.
    """
    given = [f"GRANT {', '.join(rights)} ON ocp_stripe_balance.{table} TO {role}" for table, rights in RIGHTS.items()]
    return "; ".join([f"GRANT USAGE ON SCHEMA ocp_stripe_balance TO {role}", *given])


async def test_a_caller_needs_no_more_than_is_granted(stripe: Sandbox, customer: str, roles: tuple[str, str]) -> None:
    """Calls, budgets, repeats, approvals, reversals, reconciling, pruning and checking; it cannot change the audit."""
    owner, caller = roles
    journal = Journal(DatabaseURL(owner))
    await journal.run(lambda book: book.check())
    await journal.aclose()
    with psycopg.connect(owner, autocommit=True) as db:
        db.execute(grants(str(urlsplit(caller).username)).encode())
    async with await connect(stripe, journal=caller, policy=POLICY) as agent:
        first = await agent.call_tool(TOOL, order(customer, -300, reference="t"))
        assert (await agent.call_tool(TOOL, order(customer, -300, reference="t"))).replayed
        await agent.call_tool(REVERSE, {"transaction": first.data["id"]})
        with pytest.raises(ApprovalRequiredError):
            await agent.call_tool(TOOL, order(customer, -400, reference="asked"))
        people = Journal(DatabaseURL(caller))
        (proposal,) = await proposals(people)
        await decide(people, proposal.approve(by="Ana"))
        await people.aclose()
        await agent.call_tool(TOOL, order(customer, -400, reference="asked"))
        with pytest.raises(PolicyRefusedError, match="budget"):
            await agent.call_tool(TOOL, order(customer, -301))
        assert [] == await agent.reconcile()
    settings = Settings(api_key=stripe.api_key, api_base=stripe.url, journal=caller, policy=POLICY)
    async with BackOffice(settings) as office:
        assert 0 == await office.prune(0.0)
        assert 3 == len(await office.calls())
        audit = await office.decisions()
    assert 3 == len(await ledger(stripe, customer))
    server = look_at(DatabaseURL(caller))
    assert (False, []) == (server.is_superuser, server.lacks)
    with psycopg.connect(caller, autocommit=True) as db:
        for statement in (
            "UPDATE ocp_stripe_balance.decisions SET reason = ''",
            "DELETE FROM ocp_stripe_balance.decisions",
            "TRUNCATE ocp_stripe_balance.decisions",
            "DROP TABLE ocp_stripe_balance.decisions",
            "ALTER TABLE ocp_stripe_balance.calls DISABLE TRIGGER ALL",
            "DELETE FROM ocp_stripe_balance.proposals",
            "INSERT INTO ocp_stripe_balance.migrations VALUES (99, 0)",
            "CREATE TABLE ocp_stripe_balance.more (number BIGINT)",
            "CREATE SCHEMA more",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(statement.encode())
    async with BackOffice(settings) as office:
        assert audit == await office.decisions()


@pytest.mark.parametrize(("rights", "files"), [(RIGHTS, ["statements"]), (RIGHTS_OF_CONSOLE, ["people", "deliveries"])])
def test_the_rights_are_those_that_the_statements_need(rights: dict[str, tuple[str, ...]], files: list[str]) -> None:
    """None too many: every table is read, and what changes it is named."""
    done = {(table, "SELECT") for table in rights}
    for text in (text for file in files for text in statements(file).values()):
        done |= {(table, "INSERT") for table in re.findall(r"INSERT INTO (\w+)", text)}
        done |= {(table, "UPDATE") for table in re.findall(r"(?<!DO )UPDATE (\w+) SET", text)}
        done |= {(table, "UPDATE") for table in re.findall(r"INSERT INTO (\w+)\b[^;]*DO UPDATE", text)}
        done |= {(table, "DELETE") for table in re.findall(r"DELETE FROM (\w+)", text)}
    assert done == {(table, right) for table, given in rights.items() for right in given}
