"""
The one connection that this process has to a journal's file, and the proof that it is what everybody else reads.

Every transaction looks before it writes, and again after its commit, whether the path, its ``-wal`` and its ``-shm``
name the very files that are held, and whether the last decision that this process knows of is in them. Where they do
not, it goes on only with what has all that was on record:

| what happened                                  | what is done                                                 |
|------------------------------------------------|--------------------------------------------------------------|
| the ``-wal`` or the ``-shm`` was deleted, or   | what is held is written into the file, where nobody else has |
| given up for us                                | written it since; then that is opened anew                   |
| another file, which has all that was on record | it is opened                                                 |
| anything else: the file was deleted, replaced  | refused, until the files are back, or a person has mended;   |
| by an older one, its folder is gone            | nothing is ever put in its place                             |
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._journal.book import Book
from ocp_stripe_balance._journal.database import UnprovedError
from ocp_stripe_balance._journal.file import BusyError, Files, MisplacedError, Place, check_links
from ocp_stripe_balance._journal.forks import forks
from ocp_stripe_balance._journal.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ocp_stripe_balance._journal.database import Decided, Reach

    Opener = Callable[[Path], sqlite3.Connection]

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NEWEST = "SELECT number, key, context_id FROM decisions WHERE number = (SELECT MAX(number) FROM decisions)"
_THAT_ONE = "SELECT number, key, context_id FROM decisions WHERE number = ?"
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510  # the bytes of SQLite's shared lock


class _Held(NamedTuple):
    """
    What is open.
    """

    place: Place
    book: Book
    db: sqlite3.Connection
    files: Files

    @property
    def is_in_place(self) -> bool:
        """
        Whether the path names the very files that are open.
        """
        found = self.place.look()
        return found is not None and found.ids == self.files.ids


class FileStore:
    """
    A journal's file, as this process has it: one connection for all agents and threads.
    """

    max_batch = 256

    def __init__(self, path: Path) -> None:
        """
        Prepare; nothing is opened yet.
        """
        self.lock = threading.Lock()
        self.users = 0
        self.shares = Shares()
        self._path = path
        self._held: _Held | None = None
        self._folder: tuple[int, ...] | None = None
        """The folder that it was opened in."""
        self._known: Decided | None = None
        """The newest decision that this process has seen on record, here or before the fork."""
        self._known_in_main: Decided | None = None
        """The same, of what checkpoints have written: it is there whatever becomes of the ``-wal``."""
        self._version: tuple[int, int] | None = None
        """Of the database, when it was looked into last."""
        self._generation = 0
        """How often what was held had to be saved into the file (`user_version`)."""
        self._wal_size = 0
        """Of the ``-wal``, after our last transaction; only a checkpoint makes it smaller."""
        self._verdict: MisplacedError | None = None
        """What cannot be mended while this process runs."""

    now = staticmethod(time.time)

    def begin(self, opener: Opener, _reach: Sequence[Reach] = ()) -> Book:
        """
        Begin a transaction on what everybody else reads; SQLite has one at a time, whatever it touches.

        Raises:
            BusyError: another program is writing; nothing was begun.
            MisplacedError: the path does not lead there.
            ToolError: a newer version wrote it.
            OSError: it cannot be opened.
            sqlite3.Error: it cannot be opened or read.
        """
        forks.notice()
        if self._verdict is not None:
            raise self._verdict
        place = self._held.place if self._held else Place(self._path, makes_folder=self._folder is None)
        if not place.is_held:
            self._verdict = MisplacedError(
                "the program closed the descriptors of the journal, as daemons do",
                "Make the agent after that, or begin the process anew.",
            )
            raise self._verdict
        try:
            place.take_turn()
            held = self._held = self._held or self._opened(place, opener)
            if not held.is_in_place:
                held = self._held = self._moved(held, opener)
            held.book.begin()
            self._prove(held)
        except BaseException as error:
            if self._held is None:
                place.close()
            else:
                self.roll_back(error)
            if _code_of(error) == sqlite3.SQLITE_BUSY:
                raise BusyError from error
            raise
        return held.book

    def commit(self) -> None:
        """
        Let what was done hold, and prove again that others see it.

        Raises:
            UnprovedError: it was committed, but others may not see it.
            sqlite3.Error: it was not.
        """
        held = self._held
        if held is None:
            raise sqlite3.ProgrammingError("nothing was begun")
        held.book.commit()
        try:
            found = held.place.look()
            if found is None or found.ids != held.files.ids:
                raise UnprovedError(_gone(held.place))
            if held.book.noted is not None:
                self._known = held.book.noted
            self._wal_size = found.wal_size
            if found.version != self._version:  # our own checkpoint
                self._look_into_main(held, found.version)
        except (MisplacedError, sqlite3.Error) as error:
            raise UnprovedError(error) from error
        finally:
            held.place.give_turn()

    def roll_back(self, error: BaseException) -> None:
        """
        Undo what was done since `begin`, because of *error*.
        """
        if self._held is not None:
            self._held.book.roll_back()
            self._held.place.give_turn()
        if _code_of(error) == sqlite3.SQLITE_READONLY:  # for as long as it is open, whatever becomes of the volume
            self.rest()

    def close(self) -> None:
        """
        Close the file, where nobody uses it any more; *lock* is held.
        """
        self.rest()
        if self._held is not None:  # records are in nothing else, or its descriptors are somebody else's by now
            _keep_for_ever(self._held.db)
            self._held.place.close()
            self._held = None

    def rest(self) -> None:
        """
        Close the file, so that it can be opened again; left open where that is somebody else's turn.
        """
        held = self._held
        if held is None or not held.place.is_held:
            return
        try:
            if held.is_in_place:
                held.db.close()
                held.place.close()
            else:
                held.place.take_turn()
                self._save(held)
                self._let_go(held)
        except (BusyError, MisplacedError, sqlite3.Error, OSError):
            held.place.give_turn()
            return
        self._held = None

    def inherit(self) -> None:
        """
        Begin anew in a child.
        """
        self.lock, self.users = threading.Lock(), 0
        if self._held is not None:
            _keep_for_ever(self._held.db)
            self._held = None
            self._verdict = MisplacedError(
                "this process was forked while its parent had the journal open: Python was not told of the fork, or a "
                "transaction outlasted it",
                "Begin this process anew, or make its first call after the fork.",
            )

    # Opening

    def _opened(self, place: Place, opener: Opener) -> _Held:
        """
        What the path names, opened, with all in it that this process knows.

        Raises:
            MisplacedError: it is not what everybody reads, or lacks what this process knows.
        """
        before = place.main()
        if before is None and self._folder is not None:
            raise _gone(place) if place.folder == self._folder else _moved_folder(place)
        place.check()
        db = opener(place.path)
        try:
            db.execute("PRAGMA busy_timeout = 0")  # whoever waits does so where it can be told to stop
            newest = db.execute(_NEWEST).fetchone()
            found = place.look()
            held = _Held(place, Book(db), db, _steady(found, before))
            _check_has(db, self._known)
            self._look_into_main(held, held.files.version)
        except BaseException:
            db.close()
            raise
        self._known = tuple(newest) if newest else self._known
        self._folder, self._wal_size = held.place.folder, held.files.wal_size
        self._generation = _generation_of(held.db)
        return held

    def _prove(self, held: _Held) -> None:
        """
        Look whether what is held has what this process knows: the file may have been written over.
        """
        found = held.place.look()
        if found is None or found.ids != held.files.ids:  # it is being changed right now
            raise BusyError
        check_links(found.links)
        if found.wal_size < self._wal_size:  # by a checkpoint that left nothing in it, or by somebody
            with _read_only(held.place) as main:
                _check_has(main, self._known)
        self._wal_size = found.wal_size
        newest = held.db.execute(_NEWEST).fetchone()
        if self._known is not None and (newest is None or tuple(newest) != self._known):
            _check_has(held.db, self._known)
        if newest is not None:
            self._known = tuple(newest)
        if found.version != self._version:
            self._look_into_main(held, found.version)

    def _look_into_main(self, held: _Held, version: tuple[int, int]) -> None:
        """
        Look whether the database was written by checkpoints only: what it had once, it has for ever.
        """
        with _read_only(held.place) as main:
            _check_has(main, self._known_in_main)
            self._known_in_main = _newest_in(main)
        self._version = version

    # What is not where it was

    def _moved(self, held: _Held, opener: Opener) -> _Held:
        """
        What is to be used in place of what is held; the turn is ours.

        Raises:
            MisplacedError: nothing is known to have all that was on record.
        """
        if (main := held.place.main()) is None:
            raise _gone(held.place)
        self._known = _newest_in(held.db) or self._known
        is_same = main == held.files.main
        if is_same:
            self._save(held)
            self._let_go(held)  # SQLite knows files by their inode, so it cannot have this one twice
            self._held = None
        else:
            held.place.give_turn()  # the folder may be the same
        place = Place(self._path, makes_folder=False)
        try:
            place.take_turn()
            opened = self._opened(place, opener)
        except BaseException:
            place.close()
            raise
        if not is_same:
            self._let_go(held)
        return opened

    def _save(self, held: _Held) -> None:
        """
        Write what is held into the file, where its ``-wal`` is gone and nobody has done so yet; the turn is ours.

        Whoever opens the file then needs a new ``-shm``: this one is an index of the ``-wal`` that is gone.
        """
        place = held.place
        if place.main() != held.files.main or place.has_wal:
            return
        if _generation_of(held.db) != self._generation:
            raise MisplacedError(
                "its -wal was removed again, and another process has records that were in it",
                "Let the processes that use the journal make a call each; if they all refuse, a person must start them "
                "again, and look at Stripe's ledger for what the file lacks.",
            )
        if place.main_version() == self._version:
            held.db.execute(f"PRAGMA user_version = {self._generation + 1}")  # whoever else has this -wal sees it too
            held.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            place.remove_index()

    def _let_go(self, held: _Held) -> None:
        """
        Give up a connection whose names others use now: closed the usual way, SQLite would delete their ``-wal``.
        """
        if sys.version_info >= (3, 12):
            held.db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)
            held.db.close()
        elif held.place.main() == held.files.main:
            with _shared(held.place):
                held.db.close()
        else:
            _keep_for_ever(held.db)
        held.place.close()


def _steady(found: Files | None, before: tuple[int, ...] | None) -> Files:
    """
    The files that were opened, where they are the same as before.

    Raises:
        BusyError: they are being changed right now.
    """
    if found is None or before not in {None, found.main}:
        raise BusyError
    return found


def _gone(place: Place) -> MisplacedError:
    if not place.is_there:
        return _moved_folder(place)
    if place.main() is None:
        place.note_removal()
    return MisplacedError("the file was removed, or another stands in its place")


def _moved_folder(place: Place) -> MisplacedError:
    return MisplacedError(
        f"its folder is not there any more, or is not the one that this process opened ({place.real})",
        "A person must give it back: mount it again, or put it where it was.",
    )


def _code_of(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _generation_of(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _newest_in(db: sqlite3.Connection) -> Decided | None:
    """
    The newest decision on record; None where there is none, or no table yet.
    """
    try:
        found = db.execute(_NEWEST).fetchone()
    except sqlite3.OperationalError:
        return None
    return None if found is None else tuple(found)


def _check_has(db: sqlite3.Connection, known: Decided | None) -> None:
    """
    Look whether a decision is on record.

    Raises:
        MisplacedError: it is not.
    """
    if known is None:
        return
    try:
        found = db.execute(_THAT_ONE, (known[0],)).fetchone()
    except sqlite3.OperationalError:  # it has no tables
        found = None
    if found is None or tuple(found) != known:
        raise MisplacedError(
            "the file lacks what this process recorded: it was written over or replaced by an older one, or by another"
        )


@contextlib.contextmanager
def _read_only(place: Place) -> Iterator[sqlite3.Connection]:
    """
    The database without its ``-wal``, without a lock, and without losing those that this process has.

    Where a checkpoint is half done, or was killed, the other half of some pages is in the ``-wal``: then the file alone
    may be unreadable, which says nothing, and the block ends there.
    """
    db = sqlite3.connect(f"{Path(place.real).as_uri()}?immutable=1", uri=True)
    try:
        yield db
    except sqlite3.DatabaseError as error:
        if _code_of(error) != sqlite3.SQLITE_CORRUPT:
            raise
    finally:
        db.close()


@contextlib.contextmanager
def _shared(place: Place) -> Iterator[None]:
    """
    Let nobody lock the database for himself alone, not even this process's own connections.
    """
    if not hasattr(fcntl, "F_OFD_SETLK"):
        yield
        return
    fd = os.open(place.real, os.O_RDONLY)
    try:
        lock = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        yield
    finally:
        os.close(fd)


def _keep_for_ever(db: sqlite3.Connection) -> None:
    """
    Let a connection never be closed, also not at the end of the process.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
