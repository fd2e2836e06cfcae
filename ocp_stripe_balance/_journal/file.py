"""
Which files a journal's path names now, and whether they are where all processes can share them.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ocp_stripe_balance._text.database_url import DatabaseURL

try:
    import fcntl
except ImportError:  # Windows, where SQLite's locks belong to the open file and need no help
    fcntl = None  # type: ignore[assignment]

_REMOVED = ".removed"
_RESTART = (
    "A person must put the file with the newest records back. Where there is none: stop every process that uses the "
    "journal, look at Stripe's ledger for what the file lacks, and start them again."
)


class BusyError(Exception):
    """
    Another program holds the journal's lock.
    """

    hint = (
        "Another program holds it open for writing (a database browser, a backup; on a server, a session that "
        "pg_stat_activity shows): close it, and call again."
    )

    def __init__(self) -> None:
        """
        Say so.
        """
        super().__init__("another program holds its lock")


class MisplacedError(Exception):
    """
    What stands at the path is not what everybody else reads, and a person must mend that.
    """

    def __init__(self, message: str, hint: str = _RESTART) -> None:
        """
        Say what is so, and what a person must do.
        """
        super().__init__(message)
        self.hint = hint


class Files(NamedTuple):
    """
    The files that a path names at one moment.
    """

    ids: tuple[int, ...]
    """Device and inode of the database, its ``-wal`` and its ``-shm``."""
    version: tuple[int, int]
    """Size and time of the last change of the database, which only checkpoints write."""
    wal_size: int
    links: int

    @property
    def main(self) -> tuple[int, ...]:
        """
        Device and inode of the database.
        """
        return self.ids[:2]


class Place:
    """
    The path of a journal, and the folder it is in, whose lock is the turn to write.

    SQLite's own locks are lost when a program closes any other descriptor of the file, as where it copies it; the
    folder's is not.
    """

    def __init__(self, path: Path, *, makes_folder: bool) -> None:
        """
        Open the folder, which is made where it is missing and *makes_folder* says so.

        Raises:
            OSError: it cannot be made.
        """
        if makes_folder:  # by the path as it is written: a link that leads nowhere is no reason to make what it names
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.real = os.path.realpath(path)
        self._wal, self._shm, self._word = self.real + "-wal", self.real + "-shm", self.real + _REMOVED
        self._folder = os.path.dirname(self.real)
        self._fd: int | None = None
        with contextlib.suppress(OSError):  # one that may not be listed has no turn
            self._fd = os.open(self._folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        self.folder = _id_of(self._folder)
        """Device and inode of the folder."""

    def look(self) -> Files | None:
        """
        The files that the path names now; None where one of them is missing.
        """
        try:
            main, wal, shm = os.stat(self.path), os.stat(self._wal), os.stat(self._shm)
        except OSError:
            return None
        ids = (main.st_dev, main.st_ino, wal.st_dev, wal.st_ino, shm.st_dev, shm.st_ino)
        return Files(ids, (main.st_size, main.st_mtime_ns), wal.st_size, main.st_nlink)

    def main(self) -> tuple[int, ...] | None:
        """
        Device and inode of the database that the path names now.
        """
        return _id_of(self.path)

    def main_version(self) -> tuple[int, int] | None:
        """
        Size and time of the last change of the database.
        """
        with contextlib.suppress(OSError):
            found = os.stat(self.path)
            return (found.st_size, found.st_mtime_ns)
        return None

    @property
    def has_wal(self) -> bool:
        """
        Whether there is a ``-wal`` with something in it.
        """
        return _size_of(self._wal) > 0

    def remove_index(self) -> None:
        """
        Let whoever opens the database begin a new ``-wal`` and a new ``-shm``.
        """
        for name in (self._wal, self._shm):
            Path(name).unlink(missing_ok=True)

    def note_removal(self) -> None:
        """
        Leave word that the database was removed, so that no process begins another one in its place.
        """
        with contextlib.suppress(OSError):
            fd = os.open(self._word, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(fd, b"The journal beside this file was removed while it was in use.\n")
            os.close(fd)

    @property
    def is_there(self) -> bool:
        """
        Whether the folder is still the one that was opened.
        """
        return self.folder is not None and _id_of(self._folder) == self.folder

    @property
    def is_held(self) -> bool:
        """
        Whether our descriptors are still ours: a program that becomes a daemon may close them all.
        """
        if self._fd is None:
            return True
        try:
            found = os.fstat(self._fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.folder

    def take_turn(self) -> None:
        """
        Be the only one of our processes that writes.

        Raises:
            BusyError: another one does.
        """
        if self._fd is not None and fcntl is not None:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError from None
            except OSError:  # a file system without such locks: SQLite's are what there is
                pass

    def give_turn(self) -> None:
        """
        Let others write.
        """
        if self._fd is not None and fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """
        Close the folder.
        """
        if self._fd is not None and self.is_held:
            os.close(self._fd)
        self._fd = None

    def check(self) -> None:
        """
        Look whether a database at the path is shared with everybody who opens it.

        Raises:
            MisplacedError: it is not.
        """
        if Path(self._word).exists():
            if self.main() is None:
                raise MisplacedError(
                    "it was removed while processes used it",
                    "A person must put a copy back. To begin a new journal, look at Stripe's ledger for what was paid, "
                    f"and remove {self._word}.",
                )
            Path(self._word).unlink(missing_ok=True)
        is_empty = not _size_of(self.real)
        if is_empty and _size_of(self._wal):
            raise MisplacedError(
                f"the file is missing, and {self._wal} beside it still has records of it",
                "A person must put the file back where it was; both belong together.",
            )
        if _is_mounted(self.real):
            raise MisplacedError(
                "the file itself is mounted, so that each container writes into a -wal of its own beside it",
                "Mount the folder that it is in.",
            )
        check_links(0 if is_empty else os.stat(self.real).st_nlink)


def has_journal(place: Path | DatabaseURL) -> bool:
    """
    Whether there is anything at a path that opening would use, or be refused for; of a server only opening can tell.
    """
    if not isinstance(place, Path):
        return True
    path = place
    for name in (path, f"{path}{_REMOVED}", f"{path}-wal"):
        try:
            os.stat(name)
        except FileNotFoundError:
            continue
        except OSError:
            return True
        return True
    return False


def check_links(links: int) -> None:
    """
    Look whether a database has one name only: SQLite finds its ``-wal`` by the name.

    Raises:
        MisplacedError: it has several.
    """
    if links > 1:
        raise MisplacedError(
            f"the file has {links} names (hard links), and a -wal beside each",
            "A person must remove the other names; a copy for keeping is made with the command for backups.",
        )


def _id_of(path: str | Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _is_mounted(path: str) -> bool:
    """
    Whether something is mounted at that very path, where the system says so.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    points = (line.split(" ")[4] for line in lines)
    return path in {re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), point) for point in points}
