"""
A process that is stopped in the middle of a transaction on a server: others do not wait for it for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from places import look

from ocp_stripe_balance._journal import postgres
from ocp_stripe_balance._journal.database import LostError, Reach

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


def _nothing(_: Book) -> None: ...


def _read(book: Book) -> None:
    book.check()


def _write(book: Book) -> None:
    book.keep(1.0)
