"""
Trouble with a journal's server is an ordinary outcome: nothing is sent unrecorded, and what moved is told.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from helpers import TOOL, answered, order, run, scripted
from places import look
from postgres import Server, new_database

from ocp_stripe_balance import ConfigurationError, NotSentError
from ocp_stripe_balance._journal import Journal, postgres
from ocp_stripe_balance._text.database_url import DatabaseURL
from ocp_stripe_balance.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


PASSWORD = "tr%6Fub%6Ce"
MEANT = "trouble"
POLICY = {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10.00"}}], "duplicate_window": "off"}


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """
    A server that may be hurt.
    """
    server = Server()
    yield server
    server.signal(signal.SIGCONT)


@pytest.fixture
def url() -> str:
    return new_database()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nobody waits long for a server that does not answer.
    """
    monkeypatch.setattr(postgres._Patient, "answer_s", 0.4)
    monkeypatch.setattr(postgres, "_ANSWER_S", 0.4)
    monkeypatch.setattr(postgres, "_FIND_OUT_S", 0.4)


def as_role(url: str, role: str, password: str = "") -> str:
    """
    That database, as another role.
    """
    parts = urlsplit(url)
    user = f"{role}:{password}" if password else role
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


def execute(url: str, *statements: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as db:
        for statement in statements:
            cursor = db.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


async def states(url: str) -> list[str]:
    """
    The outcomes on record, as another process reads them.
    """
    with look(DatabaseURL(url)) as db:
        return [state for (state,) in db.execute("SELECT state FROM calls ORDER BY id")]


def sessions(url: str) -> list[int]:
    """
    The server's processes for sessions of ours.
    """
    found = execute(
        url,
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'ocp-stripe-balance' "
        "AND datname = current_database() AND pid != pg_backend_pid()",
    )
    return [pid for (pid,) in found]


async def refused(url: str, what: str, hint: str, **settings: Any) -> NotSentError:
    """
    What a call is told; nothing is sent.
    """
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async with await scripted(handler, journal=url, **settings) as agent:
        with pytest.raises(NotSentError) as caught:
            await agent.call_tool(TOOL, order())
    error = caught.value
    told = f"{error} {error.to_dict()} {error.__cause__!r} {error.hint}"
    assert PASSWORD not in told
    assert MEANT not in told
    assert [] == sent
    assert what in str(error)
    assert hint in str(error.hint)
    return error


# Nothing is sent


async def test_a_server_that_nobody_runs(tmp_path: Path) -> None:
    where = f"postgresql://me:{PASSWORD}@127.0.0.1:1/db"
    await refused(where, "refused", "A person must look at the server that OCP_STRIPE_JOURNAL names")
    await refused(f"postgresql://me:{PASSWORD}@/db?host={tmp_path}", "No such file", "A person must look at the server")


async def test_a_wrong_password_is_told_without_it(own: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Neither as it is written in the URL nor as it is meant: not in the log, nor by the doctor."""
    url = new_database(own.url)
    own.demand_password("secretive")
    execute(url, "CREATE ROLE secretive LOGIN PASSWORD 'right'")
    wrong = as_role(url, "secretive", PASSWORD)
    caplog.set_level("DEBUG")
    await refused(wrong, "password authentication failed", "A person must mend the user or the password")
    for words in (("doctor",), ("doctor", "--json"), ("journal", "list"), ("journal", "list", "--json")):
        done = run(
            *words, OCP_STRIPE_JOURNAL=wrong, STRIPE_SECRET_KEY="sk_test_1", STRIPE_API_BASE="http://127.0.0.1:1"
        )
        said = done.stdout + done.stderr
        assert "password authentication failed" in " ".join(said.split())
        assert not [each for each in (PASSWORD, MEANT) if each in said]
    assert not [each for each in (PASSWORD, MEANT) if each in caplog.text]
    assert MEANT not in repr(Journal(DatabaseURL(wrong)).__dict__)


async def test_no_such_database_and_no_such_role(url: str) -> None:
    parts = urlsplit(url)
    await refused(urlunsplit(parts._replace(path="/none")), "does not exist", "A person must make that database")
    await refused(as_role(url, "nobody_of_that_name", PASSWORD), "does not exist", "A person must mend the user")


@pytest.fixture
def role(url: str) -> Iterator[str]:
    """
    A role that may do nothing yet, and ends with the test.
    """
    name = urlsplit(url).path[1:].replace("t_", "r_")
    execute(url, f"CREATE ROLE {name} LOGIN")
    yield name
    execute(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def test_a_role_without_rights(url: str, role: str) -> None:
    """Neither to make the journal nor to use one that is there."""
    await refused(as_role(url, role), "permission denied", "A person must give the user its rights")
    async with await scripted(answered, journal=url) as agent:
        await agent.call_tool(TOOL, order())
    await refused(as_role(url, role), "permission denied", "A person must give the user its rights")


async def test_a_server_that_only_reads(own: Server) -> None:
    """As a standby does; a default of the role alone is overruled."""
    url = new_database(own.url)
    async with await scripted(answered, journal=url) as agent:
        await agent.call_tool(TOOL, order())
        execute(url, f"ALTER DATABASE {urlsplit(url).path[1:]} SET default_transaction_read_only = on")
        for pid in sessions(url):
            execute(url, f"SELECT pg_terminate_backend({pid})")
        await agent.call_tool(TOOL, order())
    assert ["succeeded"] * 2 == await states(url)


async def test_out_of_connections(url: str, role: str) -> None:
    """A person must allow more; the next call finds that."""
    execute(
        url, f"ALTER ROLE {role} CONNECTION LIMIT 0", f"GRANT CREATE ON DATABASE {urlsplit(url).path[1:]} TO {role}"
    )
    await refused(as_role(url, role), "too many connections", "A person must allow more")
    async with await scripted(answered, journal=as_role(url, role)) as agent:
        with pytest.raises(NotSentError):
            await agent.call_tool(TOOL, order())
        execute(url, f"ALTER ROLE {role} CONNECTION LIMIT 9")
        assert (await agent.call_tool(TOOL, order())).ok


async def test_a_newer_format_is_refused_undamaged(url: str) -> None:
    """Also where it became newer while a process had the journal open."""
    async with await scripted(answered, journal=url) as agent:
        await agent.call_tool(TOOL, order())
    with look(DatabaseURL(url)) as db:
        db.execute("INSERT INTO migrations VALUES (99, 0)")
    async with await scripted(answered, journal=url) as agent:
        with pytest.raises(ConfigurationError, match="newer version"):
            await agent.call_tool(TOOL, order())
    assert ["succeeded"] == await states(url)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_texts_that_no_database_takes(url: str, text: str) -> None:
    """Each is its caller's trouble: it is told, nothing is sent, and the next call is served."""
    async with await scripted(answered, journal=url) as agent:
        for more in ({"description": text}, {"reference": text}, {"metadata": {"a": text}}):
            with contextlib.suppress(ToolError):
                await agent.call_tool(TOOL, order(**more))
        assert (await agent.call_tool(TOOL, order())).ok
