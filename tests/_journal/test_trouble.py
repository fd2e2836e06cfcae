"""
Trouble with a journal's server is an ordinary outcome: nothing is sent unrecorded, and what moved is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from helpers import TOOL, UNGUARDED, answered, connect, ledger, order, run, scripted
from places import Places, locked, look
from postgres import Server, as_role, new_database, own_server
from programs import started
from proxy import between

from ocp_stripe_balance import ConfigurationError, NotSentError, OCPAgent, PolicyRefusedError, Settings
from ocp_stripe_balance._journal import Journal, postgres
from ocp_stripe_balance._text.database_url import DatabaseURL
from ocp_stripe_balance.errors import ResourceMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from proxy import Fault

    from ocp_stripe_balance.sandbox import Sandbox


PASSWORD = "tr%6Fub%6Ce"
MEANT = "trouble"
POLICY = {"budgets": [{"per": "all", "window": "1h", "credit": {"usd": "10.00"}}], "duplicate_window": "off"}


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """
    A server that may be hurt.
    """
    server = own_server()
    yield server
    server.signal(signal.SIGCONT)


@pytest.fixture
def url() -> str:
    """
    A database with nothing in it.
    """
    return new_database()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[str]:
    """
    A database with a journal in it, for tests that leave nothing there but rows: to make one takes longer than a test.
    """
    places = Places("postgres", tmp_path)
    place = places("journal")
    assert isinstance(place, DatabaseURL)
    yield place.reveal()
    places.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nobody waits long for a server that does not answer.
    """
    monkeypatch.setattr(postgres._Patient, "answer_s", 0.4)
    monkeypatch.setattr(postgres, "_ANSWER_S", 0.4)
    monkeypatch.setattr(postgres, "_FIND_OUT_S", 0.4)


def execute(url: str, *statements: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as db:
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
    for words in (("doctor", "--json"), ("journal", "list")):
        done = run(
            *words, OCP_STRIPE_JOURNAL=wrong, STRIPE_SECRET_KEY="sk_test_1", STRIPE_API_BASE="http://127.0.0.1:1"
        )
        said = done.stdout + done.stderr
        assert "password authentication failed" in " ".join(said.split())
        assert not [each for each in (PASSWORD, MEANT) if each in said]
    assert not [each for each in (PASSWORD, MEANT) if each in caplog.text]
    settings = Settings(journal=wrong)
    shown = f"{settings!r} {settings.model_dump_json()} {Journal(settings.journal_place).__dict__}"
    assert not [each for each in (PASSWORD, MEANT) if each in shown]


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
async def test_texts_that_no_database_takes(kept: str, text: str) -> None:
    """Each is its caller's trouble: it is told, nothing is sent, and the next call is served."""
    async with await scripted(answered, journal=kept) as agent:
        for more in ({"description": text}, {"reference": text}, {"metadata": {"a": text}}):
            with pytest.raises(NotSentError):
                await agent.call_tool(TOOL, order(**more))
        assert (await agent.call_tool(TOOL, order())).ok


# A server that is slow, ends, or is another one


async def test_a_server_that_stands_still_before_a_call(own: Server) -> None:
    """Its call ends at its own deadline, and nothing of it is done later."""
    url = new_database(own.url)
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async with await scripted(handler, journal=url, timeout=0.5) as agent:
        await agent.call_tool(TOOL, order())
        own.signal(signal.SIGSTOP)
        try:
            for _ in range(2):
                with pytest.raises(NotSentError, match="or the server does not answer"):
                    await asyncio.wait_for(agent.call_tool(TOOL, order()), postgres._ANSWER_S - 1)
        finally:
            own.signal(signal.SIGCONT)
        assert 1 == len(sent)
        await agent.call_tool(TOOL, order())
    assert ["succeeded"] * 2 == await states(url)


@pytest.mark.parametrize("how", ["stands still", "is killed", "ends the session"])
@pytest.mark.usefixtures("hasty")
async def test_a_server_that_fails_while_a_request_is_out(own: Server, how: str) -> None:
    """The success is told, with a warning; it is on record as soon as the server is there again."""
    url = new_database(own.url)
    execute(url, "CHECKPOINT")  # or a start after a kill takes seconds

    def handler(request: httpx.Request) -> httpx.Response:
        if how == "stands still":
            own.signal(signal.SIGSTOP)
        elif how == "is killed":
            own.kill()
        else:
            execute(url, f"SELECT pg_terminate_backend({sessions(url)[0]})")
        return answered(request)

    try:
        async with await scripted(handler, journal=url, timeout=4) as agent:
            result = await agent.call_tool(TOOL, order(), idempotency_key="k")
            assert result.ok
            assert (how != "ends the session") is any("not in the journal yet" in each for each in result.warnings)
            go_on(own, how)
            assert (await agent.call_tool(TOOL, order(), idempotency_key="k")).replayed
    finally:
        go_on(own, how)
    assert ["succeeded"] == await states(url)


def go_on(server: Server, how: str) -> None:
    if how == "is killed":
        server.start()
    else:
        server.signal(signal.SIGCONT)


async def test_what_a_killed_server_did_not_record_is_found(own: Server, stripe: Sandbox, customer: str) -> None:
    """The process ends before the server is there again: the next start reads Stripe's ledger."""
    url = new_database(own.url)
    execute(url, "CHECKPOINT")  # or a start after a kill takes seconds
    try:
        async with await connect(stripe, journal=url, timeout=5) as agent:
            stripe.faults.add("stall", seconds=0.5, executed=True, path="balance")
            calling = asyncio.create_task(agent.call_tool(TOOL, order(customer), idempotency_key="k"))
            while not [each for each in stripe.requests if each.method == "POST"]:
                await asyncio.sleep(0.01)
            own.kill()
            assert (await calling).warnings
    finally:
        own.start()
    assert ["sending"] == await states(url)
    with look(DatabaseURL(url)) as db:
        db.execute("UPDATE calls SET owner_pid = ?, lease_until = 0", (2**22 + 1,))
    async with await connect(stripe, journal=url) as agent:
        (finding,) = await agent.reconcile()
        assert "succeeded" == finding.outcome
        assert (await agent.call_tool(TOOL, order(customer), idempotency_key="k")).replayed
    assert 1 == len(await ledger(stripe, customer))


async def test_a_session_that_is_ended_while_idle_is_no_trouble(kept: str) -> None:
    """As a server does that restarts, or a person at it."""
    async with await scripted(answered, journal=kept) as agent:
        for _ in range(3):
            assert (await agent.call_tool(TOOL, order())).ok
            for pid in sessions(kept):
                execute(kept, f"SELECT pg_terminate_backend({pid}, 5000)")
    assert ["succeeded"] * 3 == await states(kept)


async def test_a_session_that_is_ended_in_a_transaction(kept: str) -> None:
    """Nothing of it holds, and it is begun again."""
    journal, begun = Journal(DatabaseURL(kept)), []

    def work(book: Any) -> int:
        begun.append(True)
        if len(begun) == 1:
            execute(kept, f"SELECT pg_terminate_backend({sessions(kept)[0]}, 5000)")
        book.keep(77.0)
        return len(book.calls())

    await journal.run(lambda book: book.check())
    assert 0 == await journal.run(work)
    with look(DatabaseURL(kept)) as db:
        assert [77.0] == [seconds for (seconds,) in db.execute("SELECT longest_s FROM windows")]
    await journal.aclose()


async def test_a_standby_that_lacks_the_newest_decision_is_refused(own: Server) -> None:
    """Each time, until the processes are started anew: its budgets and keys are those of before."""
    url = new_database(own.url)
    async with await scripted(answered, journal=url) as agent:
        await agent.call_tool(TOOL, order(reference="t"))
        lost = "DELETE FROM ocp_stripe_balance.calls; DELETE FROM ocp_stripe_balance.decisions"
        execute(url, lost, f"SELECT pg_terminate_backend({sessions(url)[0]}, 5000)")
        for _ in range(2):
            with pytest.raises(NotSentError, match="lacks what this process put on record"):
                await agent.call_tool(TOOL, order(reference="t"))


async def test_a_hot_standby_is_told_apart(own: Server) -> None:
    """It lets readers in, and no call is made until it is the one that writes."""
    url = new_database(own.url)
    async with await scripted(answered, journal=url) as agent:
        await agent.call_tool(TOOL, order(), idempotency_key="k")
        own.stand_by()
        try:
            with pytest.raises(NotSentError) as caught:
                await agent.call_tool(TOOL, order())
        finally:
            own.stand_by(stands_by=False)
        assert "The server only reads: it is a standby" in str(caught.value.hint)
        assert (await agent.call_tool(TOOL, order(), idempotency_key="k")).replayed


# A commit whose answer is lost


@pytest.mark.parametrize("fault", ["cut before", "cut after", "silent after"])
@pytest.mark.usefixtures("hasty")
async def test_an_admission_whose_commit_is_not_answered(
    stripe: Sandbox, customer: str, kept: str, fault: Fault
) -> None:
    """Whether it came about is found out; the money moves once, or nothing was sent and nothing is on record."""
    with between(kept) as proxy:
        async with await connect(stripe, journal=proxy.url, policy=POLICY) as agent:
            await agent.call_tool(TOOL, order(customer, reference="first"))
            proxy.faults[proxy.commits + 1] = fault
            told = await asyncio.gather(agent.call_tool(TOOL, order(customer, reference="t")), return_exceptions=True)
            assert {} == proxy.faults
            is_told = not isinstance(told[0], NotSentError)
            assert is_told or "cut before" == fault
            assert ["succeeded"] * (1 + is_told) == await states(kept)
            again = await agent.call_tool(TOOL, order(customer, reference="t"))
            assert ("succeeded", is_told) == (again.outcome, again.replayed)
    assert ["succeeded"] * 2 == await states(kept)
    assert 2 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("fault", ["cut before", "cut after", "silent after"])
@pytest.mark.usefixtures("hasty")
async def test_an_outcome_whose_commit_has_no_answer(stripe: Sandbox, customer: str, kept: str, fault: Fault) -> None:
    """It is written again, which changes nothing where it was written."""
    with between(kept) as proxy:
        async with await connect(stripe, journal=proxy.url) as agent:
            await agent.call_tool(TOOL, order(customer, reference="first"))
            proxy.faults[proxy.commits + 2] = fault
            assert "succeeded" == (await agent.call_tool(TOOL, order(customer, reference="t"))).outcome
            assert {} == proxy.faults
    assert ["succeeded"] * 2 == await states(kept)


@pytest.mark.promise("outcomes.no-fifth")
@pytest.mark.parametrize("fault", ["cut before", "cut after"])
@pytest.mark.usefixtures("hasty")
async def test_a_rejection_whose_commit_has_no_answer_is_told_as_one(
    stripe: Sandbox, customer: str, kept: str, fault: Fault
) -> None:
    """Nobody else has the call: it is what this one has on record."""
    with between(kept) as proxy:
        async with await connect(stripe, journal=proxy.url) as agent:
            await agent.call_tool(TOOL, order(customer, reference="first"))
            proxy.faults[proxy.commits + 2] = fault
            with pytest.raises(ResourceMissingError) as caught:
                await agent.call_tool(TOOL, order("cus_none"))
            assert ({}, "rejected") == (proxy.faults, caught.value.outcome)
    assert ["succeeded", "rejected"] == await states(kept)


@pytest.mark.usefixtures("hasty")
async def test_a_commit_of_which_nobody_can_be_asked(stripe: Sandbox, customer: str, kept: str) -> None:
    """Nothing is sent, and it is told; what is on record says so once the server is there again."""
    with between(kept) as proxy:
        async with await connect(stripe, journal=proxy.url, timeout=2) as agent:
            await agent.call_tool(TOOL, order(customer, reference="first"))
            proxy.faults[proxy.commits + 1] = "cut after"
            proxy.is_deaf = True
            with pytest.raises(NotSentError):
                await agent.call_tool(TOOL, order(customer, reference="t"))
            proxy.is_deaf = False
            assert 1 == len(await ledger(stripe, customer))
            assert not (await agent.call_tool(TOOL, order(customer, reference="t"))).replayed
    assert 2 == len(await ledger(stripe, customer))


# What a connection is like: another one for each transaction, another clock, another process, other defaults


async def test_a_pooler_that_hands_out_sessions_by_the_transaction(stripe: Sandbox, customer: str, kept: str) -> None:
    """Nothing is kept in a session from one transaction to the next, or it is done without."""
    with between(kept, sessions=3) as pooler:
        async with await connect(stripe, journal=pooler.url, policy=POLICY) as agent:
            outcomes = []
            for number in range(25):
                try:
                    result = await agent.call_tool(TOOL, order(customer, -10, reference=f"t{number}"))
                except NotSentError as error:
                    outcomes.append(str(error))
                else:
                    outcomes.append("warned" if result.warnings else "succeeded")
    assert ["succeeded"] * 25 == outcomes
    assert ["succeeded"] * 25 == await states(kept)
    assert 25 == len(await ledger(stripe, customer))


FORKED = """
import asyncio, os, sys
from helpers import TOOL, UNGUARDED, order
from ocp_stripe_balance import OCPAgent, Settings
url, key, journal, customer = sys.argv[1:]

async def pay(agent, name):
    result = await agent.call_tool(TOOL, order(customer, -100, reference=name))
    assert (result.outcome, result.warnings) == ('succeeded', ()), result

async def main(name, agent=None):
    policy = {'calls_per_minute': 99, 'duplicate_window': 'off'}
    settings = Settings(api_key=key, api_base=url, journal=journal, policy=policy, customer_check='off')
    agent = agent or OCPAgent(settings=settings)
    await agent.register_api('stripe')
    for number in range(4):
        await pay(agent, f'{name}{number}')
    return agent

agent = asyncio.run(main('before'))
children = []
for name in ('one', 'two'):
    child = os.fork()
    if child == 0:
        asyncio.run(main(name))
        os._exit(0)
    children.append(child)
asyncio.run(main('after'))
assert [0, 0] == [os.waitpid(child, 0)[1] for child in children]
"""


def test_a_process_that_forks_with_an_open_connection(stripe_thread: Sandbox, kept: str) -> None:
    """Parent and children each have their own from then on, and all pay."""
    customer = stripe_thread.create_customer()
    words = [*started(), "-c", FORKED, stripe_thread.url, stripe_thread.api_key, kept, customer]
    subprocess.run(words, check=True, timeout=50)  # noqa: S603  ours
    assert 16 == len(asyncio.run(ledger(stripe_thread, customer)))
    assert ["succeeded"] * 16 == asyncio.run(states(kept))


DEFAULTS = {
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "statement_timeout": "300ms",
    "lock_timeout": "1ms",
    "default_transaction_read_only": "on",
    "search_path": "pg_catalog",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German",
    "client_encoding": "latin1",
}


async def test_defaults_of_a_role_do_not_matter(stripe: Sandbox, customer: str, url: str) -> None:
    """Of how transactions are kept apart, when a commit returns, how long is waited, and how texts are written."""
    name = urlsplit(url).path[1:]
    async with await scripted(answered, journal=url) as agent:
        await agent.call_tool(TOOL, order())
    with look(DatabaseURL(url)) as db:
        db.execute("CREATE TABLE seen (isolation TEXT, synchronous TEXT)")
        db.execute(
            "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ocp_stripe_balance.seen "
            "VALUES (current_setting('transaction_isolation'), current_setting('synchronous_commit')); RETURN NULL; "
            "END $$; CREATE TRIGGER see AFTER INSERT OR UPDATE ON calls EXECUTE FUNCTION see()"
        )
    execute(url, *(f"ALTER DATABASE {name} SET {setting} TO '{value}'" for setting, value in DEFAULTS.items()))
    words = order(customer, description="50 € für Zoë", reference="Straße \\ 7 €")
    async with await connect(stripe, journal=url, policy=POLICY) as agent:
        with contextlib.ExitStack() as lock:
            lock.enter_context(locked(DatabaseURL(url)))
            asyncio.get_running_loop().call_later(0.7, lock.close)
            assert "succeeded" == (await agent.call_tool(TOOL, words)).outcome
        with pytest.raises(PolicyRefusedError, match="budget"):
            await agent.call_tool(TOOL, order(customer, -501))
    async with await connect(stripe, journal=url, policy=POLICY) as agent:
        assert (await agent.call_tool(TOOL, words)).replayed
    execute(url, *(f"ALTER DATABASE {name} RESET {setting}" for setting in DEFAULTS))
    with look(DatabaseURL(url)) as db:
        assert {("read committed", "on")} == set(map(tuple, db.execute("SELECT * FROM seen")))
    (entry,) = await ledger(stripe, customer)
    assert "50 € für Zoë" == entry["description"]


HOSTILE = ["a\0b", "\ud800", "'; DROP TABLE calls; --", "%s %(key)s :key ? $1", "\u202e\U0010ffff"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_user_whose_name_is_no_plain_text(stripe: Sandbox, customer: str, kept: str, text: str) -> None:
    """What no database takes is told before anything is sent; the rest is on record as it is."""
    is_taken = not {"\0", "\ud800"} & {*text}
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "journal": kept, **UNGUARDED}
    async with OCPAgent(user=text, settings=Settings(**values)) as agent:
        await agent.register_api("stripe")
        told = await asyncio.gather(agent.call_tool(TOOL, order(customer)), return_exceptions=True)
    assert is_taken is not isinstance(told[0], NotSentError), told
    assert is_taken or "cannot be used" in str(told[0])
    assert "\0" not in text or "leave it out" in str(told[0])
    with look(DatabaseURL(kept)) as db:
        assert [text] * is_taken == [user for (user,) in db.execute('SELECT "user" FROM calls')]
    assert is_taken == len(await ledger(stripe, customer))
