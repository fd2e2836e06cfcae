"""
A process that is stopped or ends in the middle of a transaction on a server: others do not wait for it for ever.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from places import look
from programs import processes

from ocp_stripe_balance._journal import postgres
from ocp_stripe_balance._journal.database import DatabaseError, LostError, Reach
from ocp_stripe_balance._journal.stores import server_of

if TYPE_CHECKING:
    from places import Place

    from ocp_stripe_balance._journal.book import Book


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
@pytest.mark.parametrize("where", ["at the beginning", "after it read", "while it sends"])
def test_who_is_stopped_loses_what_it_has_to_itself(place: Place, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Wherever in the transaction; and nothing of it is done."""
    monkeypatch.setattr(postgres, "_BEGIN", postgres._BEGIN.replace("'10s'", "'50ms'"))
    store = postgres.PostgresStore(place)  # type: ignore[arg-type]  # a server's
    done = {"at the beginning": _nothing, "after it read": _read, "while it sends": _write}[where]
    with look(place) as db:
        if where == "while it sends":
            if db.raw.info.server_version < 170000:
                pytest.skip("an older server cannot tell")
            monkeypatch.setattr(postgres, "_LIMIT", postgres._LIMIT.format(200))
        book = store.begin([Reach(("customer",))])
        done(book)
        db.execute("SET lock_timeout TO '5s'")
        db.execute(f"SELECT pg_advisory_lock({postgres._number('customer')})")
        with pytest.raises(LostError):
            book.check()
        store.roll_back(LostError("", ""))
        assert [] == db.execute("SELECT * FROM windows").fetchall()
    store.close()


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_who_is_killed_has_nothing_to_itself_though_a_child_lives(place: Place) -> None:
    """The server sees the end of a process also where a child of it has all that was open."""
    mine, its = processes().Pipe()
    parent = processes().Process(target=_begin_fork_and_end, args=(place, its))
    parent.start()
    parent.join()
    its.close()
    assert "the child" == mine.recv()
    with look(place) as db:
        db.execute("SET lock_timeout TO '5s'")
        db.execute(f"SELECT pg_advisory_lock({postgres._number('customer')})")
    mine.close()


def _begin_fork_and_end(place: Place, pipe: Any) -> None:
    server_of(place).begin([Reach(("customer",))])  # type: ignore[arg-type]  # a server's
    if os.fork() == 0:
        pipe.send("the child")
        with contextlib.suppress(EOFError):
            pipe.recv()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def _nothing(_: Book) -> None: ...


def _read(book: Book) -> None:
    book.check()


def _write(book: Book) -> None:
    book.keep(1.0)


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_a_session_that_ended_is_put_away_without_a_word(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A log that nobody asked for would be on somebody's terminal; the outcome is told already."""
    store = postgres.PostgresStore(place)  # type: ignore[arg-type]  # a server's
    book = store.begin([Reach(("customer",))])
    with look(place) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = 'ocp-stripe-balance' AND datname = current_database()"
        )
    with contextlib.suppress(LostError):
        book.keep(1.0)
    with pytest.raises(DatabaseError):
        store.commit()
    del book
    store.close()
    gc.collect()
    assert [] == caplog.messages
