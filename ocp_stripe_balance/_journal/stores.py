"""
What holds each journal in this process: one store for all agents that name the same one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal.forks import forks
from ocp_stripe_balance._journal.store import FileStore
from ocp_stripe_balance.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocp_stripe_balance._journal.book import Book
    from ocp_stripe_balance._journal.database import Reach, Store
    from ocp_stripe_balance._journal.postgres import PostgresStore
    from ocp_stripe_balance._journal.store import Opener
    from ocp_stripe_balance._text.database_url import DatabaseURL

    Begin = Callable[[Sequence[Reach]], Book]

_files: dict[str, FileStore] = {}
_servers: dict[DatabaseURL, PostgresStore] = {}


def store_of(place: Path | DatabaseURL, opener: Opener) -> tuple[Store, Begin]:
    """
    The store of a journal, and how a transaction begins on it; `forks.lock` is held.
    """
    if not isinstance(place, Path):
        server = server_of(place)
        return server, server.begin
    name = str(place.absolute())
    if name not in _files:
        _files[name] = FileStore(Path(name))
        forks.add(_files[name])
    return _files[name], partial(_files[name].begin, opener)


def server_of(url: DatabaseURL) -> PostgresStore:
    """
    The store of a server.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    if url not in _servers:
        made = new_server(url)
        if _servers.setdefault(url, made) is made:  # two threads may ask for the time at once
            forks.add(made)
    return _servers[url]


def new_server(url: DatabaseURL, *, is_copy: bool = False) -> PostgresStore:
    """
    A store of its own, which no agent of this process uses.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    try:
        from ocp_stripe_balance._journal.postgres import PostgresStore  # an extra
    except ImportError as error:
        hint = "Install the extra: pip install '.[postgres]' in a copy of the repository."
        raise ConfigurationError(f"The package of PostgreSQL is not there: {error}.", hint=hint) from error
    return PostgresStore(url, is_copy=is_copy)
