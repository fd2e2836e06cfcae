"""
A journal that the system does not let a user at: what is told names the command that lets in.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocp_stripe_balance import NotSentError
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._journal.permissions import hint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.file_only("permissions")
OWNER, OTHER, GROUP = 61001, 61002, 61000
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="other users need root")


def as_user(user: int, work: Callable[[], str]) -> str:
    """
    What *work* says in a process of another user.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(GROUP)
        os.setuid(user)
        os.write(theirs, work().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(theirs)
    with open(ours, "rb") as said:  # noqa: PTH123  it is no path
        return said.read().decode()


def used(path: Path) -> str:
    """
    What is told to whoever uses that journal.
    """

    async def use() -> None:
        journal = Journal(path)
        try:
            await journal.run(lambda book: book.check())
        finally:
            await journal.aclose()

    try:
        asyncio.run(use())
    except NotSentError as error:
        return f"{error.hint} | {error.retryable}"
    except BaseException as error:  # noqa: BLE001  it would be lost in the other process
        return repr(error)
    return "used"


@pytest.fixture
def shared() -> Iterator[Path]:
    """
    A folder that every user may look into; pytest's own let no other user in.
    """
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o2770])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_hint_lets_in_a_second_user(shared: Path, mode: int) -> None:
    """As a person runs it, with the group in place of GROUP: then both use one journal, also the files made later."""
    path = shared / "of one" / "journal.sqlite3"
    path.parent.mkdir()
    os.chown(path.parent, OWNER, GROUP)
    path.parent.chmod(mode)
    assert "used" == as_user(OWNER, lambda: used(path))
    told = as_user(OTHER, lambda: used(path))
    assert "another user's" in told
    assert told.endswith("| False")
    command = re.findall("`(.+)`", told)[0].replace("GROUP", str(GROUP))
    subprocess.run(["/bin/sh", "-c", command], check=True)  # noqa: S603  our own command
    for user in (OTHER, OWNER, OTHER):
        assert "used" == as_user(user, lambda: used(path))


@needs_root
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_folder_that_cannot_be_made_is_named(shared: Path) -> None:
    """Of an arbitrary user in a container, whose home folder is /."""
    told = as_user(OTHER, lambda: used(shared / "state" / "ocp" / "journal.sqlite3"))
    assert f"may make nothing in {shared}. A person must make {shared}/state/ocp for it" in told


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    """A container's root often is; everything else has no such hint."""
    path = tmp_path / "journal.sqlite3"
    hint = hint_of(path, OSError(errno.EROFS, "Read-only file system"))
    assert hint == f"{tmp_path} is read-only. A person must set OCP_STRIPE_JOURNAL to a file on a volume that is not."
    assert hint_of(path, OSError(errno.ENOSPC, "No space left on device")) is None
