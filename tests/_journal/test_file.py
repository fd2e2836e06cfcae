"""
The journal is the file that everybody else reads: forked, deleted, copied, replaced, restored, moved or mounted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import connect, ledger, run
from programs import CLI, started

from ocp_stripe_balance import NotSentError
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._journal.sqlite import copy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocp_stripe_balance.sandbox import Sandbox

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="of systems with forks and descriptors"),
    pytest.mark.file_only("all that may happen to a file"),
]


class Payer:
    """
    A process that pays as it is told.
    """

    def __init__(self, *arguments: str) -> None:
        words = [*started(), str(HERE / "payer.py"), *arguments]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603  ours
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline())

    def ask(self, *words: str) -> list[str]:
        """
        What came of it, a line for each name.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return [self.process.stdout.readline().strip() for _ in words[1:] or words]

    def pay(self, name: str) -> str:
        (told,) = self.ask("pay", name)
        return told

    def kill(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.stdin.close()  # which ends a daemon that it has become
        self.process.stdout.close()
        self.process.wait()


class Field:
    """
    A journal, a customer and the processes that pay under one budget of 20.00, which are four calls.
    """

    def __init__(self, stripe: Sandbox, folder: Path) -> None:
        self.stripe, self.folder = stripe, folder
        self.journal = folder / "journal.sqlite3"
        self.customer = stripe.create_customer()
        self.payers: list[Payer] = []

    def payer(self, limit: str = "20.00", timeout: float = 10) -> Payer:
        stripe = self.stripe
        words = (stripe.url, stripe.api_key, str(self.journal), self.customer, limit, str(timeout))
        self.payers.append(Payer(*words))
        return self.payers[-1]

    def end(self) -> None:
        for payer in self.payers:
            payer.kill()

    def paid(self) -> int:
        return len(asyncio.run(ledger(self.stripe, self.customer)))

    def listed(self) -> list[str]:
        """
        The outcomes on record, as another program reads them, which opens the journal and closes it.
        """
        with contextlib.closing(self.look()) as db:
            return [state for (state,) in db.execute("SELECT state FROM calls ORDER BY id")]

    def assert_kept(self, count: int = 4) -> None:
        """
        So many were paid, and all of them are on record where others read.
        """
        assert count == self.paid()
        assert ["succeeded"] * count == self.listed()

    def checkpoint(self) -> None:
        """
        Let all that is on record be in the file itself.
        """
        with contextlib.closing(self.look()) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def look(self) -> sqlite3.Connection:
        return sqlite3.connect(self.journal, isolation_level=None, timeout=5)


@pytest.fixture
def field(stripe_thread: Sandbox, tmp_path: Path) -> Iterator[Field]:
    found = Field(stripe_thread, tmp_path / "state")
    yield found
    found.end()


def is_paid(told: str) -> bool:
    assert told.partition(":")[0] in {"succeeded", "policy_refused", "not_sent"}, told
    return told == "succeeded"


# Forks


@pytest.mark.promise("closed.shared")
@pytest.mark.promise("closed.budget")
def test_children_and_their_parent_spend_one_budget(field: Field) -> None:
    """The journal was open when they were forked; another program reads and closes it in between."""
    parent = field.payer()
    told = [parent.pay("a"), *parent.ask("fork", "b", "c")]
    field.listed()
    told += [*parent.ask("fork", "d", "e", "f"), parent.pay("g")]
    assert 4 == sum(map(is_paid, told))
    field.assert_kept()


def test_a_daemon_records_where_others_read(field: Field) -> None:
    """It goes on in a grandchild, and its launcher is gone."""
    payer = field.payer()
    assert ["succeeded"] * 2 == [payer.pay("a"), *payer.ask("daemon", "b")]
    assert 2 == len(field.listed())
    assert "succeeded" == payer.pay("c")
    assert 3 == len(field.listed())
    assert [True, False] == [is_paid(field.payer().pay(name)) for name in ("d", "e")]
    field.assert_kept()


def test_threads_that_fork_at_once_do_not_harm_each_other(field: Field) -> None:
    """Six children by six threads: each makes its call or is refused by the budget, and so does the parent."""
    parent = field.payer()
    told = [parent.pay("a"), *parent.ask("threads", "b", "c", "d", "e", "f", "g"), parent.pay("h")]
    assert 4 == sum(map(is_paid, told))
    field.assert_kept()


def test_a_fork_after_a_save_that_was_refused_holds_up_nobody(field: Field) -> None:
    """The -wal was deleted twice, and only others may write: who may not gives the turn back."""
    one, two = field.payer(timeout=3), field.payer()
    told = [one.pay("a"), two.pay("b")]
    wal = Path(f"{field.journal}-wal")
    wal.unlink()
    told.append(one.pay("c"))
    wal.unlink()
    (child,) = two.ask("fork", "x")
    assert "not_sent" in child
    told.append(one.pay("d"))
    assert ["succeeded"] * 4 == told
    field.assert_kept()


def test_a_fork_while_the_journal_is_being_closed_inherits_nothing(field: Field) -> None:
    """The thread that closes it may be anywhere on its way."""
    parent = field.payer()
    told = [parent.pay("a")]
    for name in ("b", "c", "d", "e"):
        told += parent.ask("closing", name)
    assert 4 == sum(map(is_paid, told))
    field.assert_kept()


def test_a_child_by_a_fork_that_python_is_not_told_of_refuses(field: Field) -> None:
    """Its copy of SQLite believes that it has the parent's locks; the parent goes on."""
    parent = field.payer()
    assert "succeeded" == parent.pay("a")
    (told,) = parent.ask("c-fork", "b")
    assert "not_sent: " in told
    assert "forked while its parent had the journal open" in told
    assert "succeeded" == parent.pay("c")
    field.assert_kept(2)


def test_a_fork_waits_for_no_other_program(field: Field) -> None:
    """Somebody holds the database's lock, and a call waits for it: the fork goes on at once, and so does the child."""
    parent = field.payer(timeout=1)
    assert "succeeded" == parent.pay("a")
    with contextlib.closing(field.look()) as db:
        db.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        (told,) = parent.ask("fork", "b")
        took = time.monotonic() - began
        assert "another program holds its lock" in told
        db.execute("ROLLBACK")
    assert took < 25
    assert ["succeeded"] == parent.ask("fork", "c")
    field.assert_kept(2)


# Deleted, replaced, restored, moved


@pytest.mark.promise("closed.shared")
@pytest.mark.promise("closed.budget")
@pytest.mark.parametrize("names", [("", "-wal", "-shm"), ("",), ("", "-wal")])
def test_a_deleted_journal_is_not_begun_anew_until_a_person_has_seen_to_it(
    field: Field, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """Who had it open refuses, and leaves word for who begins later; an operator who looks makes nothing."""
    one, two = field.payer(), field.payer()
    told = [one.pay("a"), two.pay("b")]
    variable, copy = str(field.journal), tmp_path / "copy"
    assert 0 == run("calls", "backup", str(copy), OCP_STRIPE_JOURNAL=variable).returncode
    for name in names:
        Path(f"{field.journal}{name}").unlink()
    if len(names) == 3:
        assert "No calls." in run("calls", "list", OCP_STRIPE_JOURNAL=variable).stderr
    for payer, name in ((one, "c"), (two, "d"), (field.payer(), "e"), (one, "f")):
        assert "removed" in (refused := payer.pay(name)), refused
    assert "was removed while processes used it" in run("calls", "list", OCP_STRIPE_JOURNAL=variable).stderr
    assert 2 == field.paid()
    for payer in field.payers:
        payer.kill()
    for name in ("-wal", "-shm"):
        Path(f"{field.journal}{name}").unlink(missing_ok=True)
    copy.rename(field.journal)
    told += [field.payer().pay(name) for name in ("c", "d", "e")]
    assert 4 == sum(map(is_paid, told))
    field.assert_kept()
    assert not Path(f"{field.journal}.removed").exists()


@pytest.mark.promise("closed.budget")
@pytest.mark.parametrize("names", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_a_journal_whose_other_files_were_deleted_forgets_nothing(field: Field, names: tuple[str, ...]) -> None:
    """Cleaners go by age, and the three files are not of one age; also again, before the second process has looked."""
    one, two = field.payer(), field.payer()
    told = [one.pay("a"), two.pay("b")]
    for each, payer in (("c", one), ("x", two), ("d", one)):
        for name in names:
            Path(f"{field.journal}{name}").unlink(missing_ok=True)
        told.append(payer.pay(each))
    told += [two.pay("e"), one.pay("f"), field.payer().pay("g")]
    assert 4 == sum(map(is_paid, told))
    field.assert_kept()
    with contextlib.closing(field.look()) as db:
        assert ("ok",) == db.execute("PRAGMA integrity_check").fetchone()


def test_a_wal_that_somebody_emptied_is_noticed(field: Field) -> None:
    """Its name and inode are the same, and its records are gone."""
    payer = field.payer()
    assert ["succeeded"] * 2 == [payer.pay("a"), payer.pay("b")]
    os.truncate(f"{field.journal}-wal", 0)
    assert "not_sent" in payer.pay("c")
    assert 2 == field.paid()


def test_a_checkpoint_that_empties_the_wal_loses_nothing(field: Field) -> None:
    """An operator may do that at any time."""
    payer = field.payer()
    assert ["succeeded"] * 2 == [payer.pay("a"), payer.pay("b")]
    field.checkpoint()
    assert "succeeded" == payer.pay("c")
    field.assert_kept(3)


@pytest.mark.parametrize("seed", range(4))
async def test_a_checkpoint_that_was_killed_halfway_does_no_harm(tmp_path: Path, seed: int) -> None:
    """It leaves a file that may be unreadable alone; with its -wal it is whole."""
    path, copied = tmp_path / "journal", tmp_path / "copied"
    journal = Journal(path)
    await journal.run(lambda book: book.check())
    await journal.aclose()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        for number in (500, 3000):
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO decisions"
                " (at, decision, rule, who, reason, base_url, mode, account, key, tool, customer, moves_money, amount,"
                " currency, context_id, agent_type) SELECT i, 'refused', 'a', 'b', 'c', 'd', 'test', '', 'k' || i, 't',"
                " 'cus_1', 1, -1, 'usd', 'c', 'a' FROM n",
                (number,),
            )
            db.commit()
        copied.write_bytes(path.read_bytes())
        Path(f"{copied}-wal").write_bytes(wal := Path(f"{path}-wal").read_bytes())
    size = int.from_bytes(wal[8:12], "big")
    frames = [wal[start : start + 24 + size] for start in range(32, len(wal), 24 + size)]
    pages = {int.from_bytes(frame[:4], "big"): frame[24:] for frame in frames}
    with copied.open("r+b") as file:
        for number in random.Random(seed).sample(sorted(pages), len(pages) // 2):
            file.seek((number - 1) * size)
            file.write(pages[number])
    journal = Journal(copied)
    assert 3500 == len(await journal.run(lambda book: book.decisions()))
    await journal.aclose()


def test_the_rest_of_a_deleted_journal_is_not_begun_anew(field: Field) -> None:
    """The file is gone, its -wal is there, and nobody runs who could put it back: SQLite would delete what is left."""
    payer = field.payer()
    assert "succeeded" == payer.pay("a")
    payer.kill()
    kept = field.journal.read_bytes()
    field.journal.unlink()
    told = field.payer().pay("b")
    assert "not_sent" in told
    assert "still has records of it" in told
    field.journal.write_bytes(kept)
    field.assert_kept(1)


def test_an_older_copy_in_its_place_is_refused_until_the_file_is_back(field: Field) -> None:
    """What was recorded since the copy would be forgotten."""
    payer = field.payer()
    copy, kept = field.folder / "copy", field.folder / "kept"
    assert "succeeded" == payer.pay("a")
    assert 0 == run("calls", "backup", str(copy), OCP_STRIPE_JOURNAL=str(field.journal)).returncode
    assert "succeeded" == payer.pay("b")
    field.checkpoint()
    field.journal.rename(kept)
    copy.rename(field.journal)
    told = payer.pay("c")
    assert "not_sent" in told
    assert "the file lacks what this process recorded" in told
    assert "stop every process that uses the journal" in told
    kept.rename(field.journal)
    assert "succeeded" == payer.pay("c")
    field.assert_kept(3)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.promise("closed.shared")
def test_a_copy_written_over_the_file_in_place_is_noticed(field: Field, is_open: bool) -> None:
    """The file is the same one, yet what it has is not what was on record; also where nobody had it open just then."""
    payer = field.payer()
    assert "succeeded" == payer.pay("a")
    payer.ask("close")
    kept = field.journal.read_bytes()
    assert ["succeeded"] * 2 == [payer.pay("b"), payer.pay("c")]
    field.checkpoint()
    assert "succeeded" == payer.pay("d")
    if not is_open:
        payer.ask("close")
    with field.journal.open("r+b") as file:
        file.truncate()
        file.write(kept)
    told = payer.pay("e")
    assert "not_sent" in told
    assert "written over" in told
    assert 4 == field.paid()


def test_a_restore_by_sqlite_itself_is_noticed(field: Field) -> None:
    """A program that restores into the open database leaves a sound file, with less in it."""
    payer = field.payer()
    assert "succeeded" == payer.pay("a")
    with contextlib.closing(sqlite3.connect(":memory:")) as kept, contextlib.closing(field.look()) as db:
        db.backup(kept)
        assert "succeeded" == payer.pay("b")
        kept.backup(db)
    assert "the file lacks what this process recorded" in payer.pay("c")


def test_a_folder_that_is_taken_away_is_waited_for(field: Field) -> None:
    """Nothing is made in its place by who knows it, and when it is back everything goes on."""
    payer = field.payer()
    away = field.folder.with_name("away")
    assert "succeeded" == payer.pay("a")
    field.folder.rename(away)
    told = payer.pay("b")
    assert "not_sent" in told
    assert "its folder is not there any more" in told
    assert not field.folder.exists()
    field.folder.mkdir()  # what is left where something was mounted
    assert "is not the one that this process opened" in payer.pay("b")
    payer.ask("close")
    assert "not_sent" in payer.pay("b")
    assert [] == list(field.folder.iterdir())
    field.folder.rmdir()
    away.rename(field.folder)
    assert "succeeded" == payer.pay("b")
    field.assert_kept(2)


def test_nothing_is_made_where_a_link_leads_nowhere(field: Field) -> None:
    """A folder that is reached by a link is away: a process that begins just then makes no other one."""
    disk = field.folder.with_name("disk")
    field.folder.symlink_to("disk")
    assert "not_sent" in field.payer().pay("a")
    assert not disk.exists()
    disk.mkdir()
    assert "succeeded" == field.payer().pay("a")
    field.assert_kept(1)


@pytest.mark.promise("closed.shared")
async def test_a_commit_that_others_cannot_see_is_not_acted_upon(
    stripe: Sandbox, customer: str, tmp_path: Path
) -> None:
    """The folder is taken away between the look and the commit; what was reserved is given back when it is back."""
    folder, away = tmp_path / "state", tmp_path / "away"
    is_armed = [False]

    class Moved(Journal):
        """
        Loses its folder within the next transaction.
        """

        async def finish(self, work: Any, *rest: Any) -> Any:
            def moving(book: Any) -> Any:
                done = work(book)
                if is_armed.pop() if is_armed else False:
                    folder.rename(away)
                return done

            return await super().finish(moving, *rest)

    opened = Moved(folder / "journal")
    async with await connect(stripe, opened=opened) as agent:
        name = "postCustomersCustomerBalanceTransactions"
        parameters = {"customer": customer, "amount": -500, "currency": "usd"}
        await agent.call_tool(name, parameters, idempotency_key="first")
        is_armed.append(True)
        with pytest.raises(NotSentError, match="its folder is not there"):
            await agent.call_tool(name, parameters, idempotency_key="second")
        away.rename(folder)
        assert 1 == len(await ledger(stripe, customer))
        while "not_sent" not in (states := [str(call.state) for call in await opened.run(lambda book: book.calls())]):
            await asyncio.sleep(0.02)
        assert ["succeeded", "not_sent"] == states
        assert (await agent.call_tool(name, parameters, idempotency_key="second")).ok


# Copied by the program itself


@pytest.mark.promise("closed.budget")
def test_a_program_that_copies_its_journal_keeps_the_budget(field: Field, tmp_path: Path) -> None:
    """With the copy it loses SQLite's locks, and the next program that closes the journal takes itself for the last."""
    one, two = field.payer(), field.payer()
    told = [one.pay("a")]
    assert ["copied"] == one.ask("copy", str(tmp_path / "1"))
    field.listed()
    told.append(two.pay("b"))
    assert ["copied"] == one.ask("copy", str(tmp_path / "2"))
    two.ask("close")
    told += [one.pay("c"), two.pay("d"), one.pay("e"), two.pay("f")]
    assert 4 == sum(map(is_paid, told))
    field.assert_kept()


COPIER = """
import asyncio, shutil, sys, threading
from helpers import TOOL, order
from ocp_stripe_balance import OCPAgent, PolicyRefusedError, Settings
url, key, journal, folder, customer, name = sys.argv[1:]
policy = {'budgets': [{'per': 'all', 'window': '1h', 'credit': {'usd': '40.00'}}]}
ended = threading.Event()

def copy():
    number = 0
    while not ended.is_set():
        number += 1
        shutil.copytree(folder, f'{folder}-{name}-{number}', ignore_dangling_symlinks=True, dirs_exist_ok=True)

async def main():
    threading.Thread(target=copy).start()
    settings = Settings(api_key=key, api_base=url, journal=journal, policy=policy, rate_limit='off', timeout=20)
    async with OCPAgent(settings=settings) as agent:
        await agent.register_api('stripe')
        for number in range(60):
            try:
                await agent.call_tool(TOOL, order(customer, -100, reference=f'{name}-{number}'))
            except PolicyRefusedError:
                break
    ended.set()

asyncio.run(main())
"""


@pytest.mark.promise("closed.budget")
def test_programs_that_copy_their_journal_all_the_time_take_turns(field: Field) -> None:
    """None has a lock of SQLite's for long: a turn to write that no copy takes away stands behind them."""
    stripe = field.stripe
    where = (stripe.url, stripe.api_key, str(field.journal), str(field.folder), field.customer)
    copiers = [
        subprocess.Popen([*started(), "-c", COPIER, *where, name], stderr=subprocess.DEVNULL)  # noqa: S603  ours
        for name in ("one", "two", "three")
    ]
    for copier in copiers:
        copier.wait(50)
    assert 40 == field.paid()
    assert 40 == len(field.listed())
    with contextlib.closing(field.look()) as db:
        assert ("ok",) == db.execute("PRAGMA integrity_check").fetchone()


# Where it cannot be shared


def test_a_file_with_two_names_is_refused(field: Field) -> None:
    """SQLite looks for the -wal by name, so each name would have records of its own."""
    payer = field.payer()
    assert "succeeded" == payer.pay("a")
    other = field.folder / "other"
    os.link(field.journal, other)
    assert "2 names (hard links)" in payer.pay("b")
    assert "2 names (hard links)" in field.payer().pay("c")
    other.unlink()
    assert "succeeded" == payer.pay("b")
    field.assert_kept(2)


def test_a_file_that_is_mounted_alone_is_refused(field: Field, tmp_path: Path) -> None:
    """Each container would have a -wal of its own beside it."""
    assert "succeeded" == field.payer().pay("a")
    field.end()
    alone = tmp_path / "a container's" / "journal.sqlite3"
    alone.parent.mkdir()
    alone.touch()
    script = f"mount --bind '{field.journal}' \"{alone}\" && exec '{CLI}' calls list"
    words = ["unshare", "--mount", "sh", "-c", script]
    environment = {**os.environ, "OCP_STRIPE_JOURNAL": str(alone)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("needs the right to mount")
    assert 0 != done.returncode
    assert "the file itself is mounted" in " ".join(done.stderr.split())
    assert "Mount the folder" in " ".join(done.stderr.split())


READ_ONLY = """
import asyncio, pathlib, subprocess, sys
from ocp_stripe_balance import NotSentError
from ocp_stripe_balance._journal import Journal
path = pathlib.Path(sys.argv[1]) / 'journal.sqlite3'

async def main():
    journal = Journal(path)
    for mode in ('ro', 'rw'):
        subprocess.run(['mount', '-o', f'remount,bind,{mode}', sys.argv[1]], check=True)
        try:
            await journal.run(lambda book: book.keep(60.0))
        except NotSentError as error:
            print('not_sent', 'READONLY' in str(error))
        else:
            print('used')
    await journal.aclose()

asyncio.run(main())
"""


def test_a_volume_that_was_read_only_is_used_as_soon_as_it_is_not(field: Field) -> None:
    """Also by a process that first saw it read-only, with a -wal that somebody left: SQLite opens that for reading."""
    payer = field.payer()
    assert "succeeded" == payer.pay("a")
    payer.kill()
    mount = 'mount --bind "$1" "$1" && exec "$0" -c "$2" "$1"'
    words = ["unshare", "--mount", "sh", "-c", mount, sys.executable, str(field.folder), READ_ONLY]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("needs the right to mount")
    assert ["not_sent True", "used"] == done.stdout.splitlines(), done.stderr


def test_a_program_that_closes_all_descriptors_is_refused_and_ends(field: Field) -> None:
    """What SQLite has open belongs to somebody else by then: it is not used any more, and not closed either."""
    payer = field.payer(timeout=3)
    assert "succeeded" == payer.pay("a")
    assert ["shut"] == payer.ask("shut")
    assert "closed the descriptors of the journal" in payer.pay("b")
    (took,) = payer.ask("close")
    assert float(took) < 25
    field.assert_kept(1)


# Copies


def test_a_copy_does_not_wait_for_ever_for_another_program(field: Field, tmp_path: Path) -> None:
    """One that keeps the whole journal to itself."""
    assert "succeeded" == field.payer().pay("a")
    field.end()
    with contextlib.closing(field.look()) as owner, contextlib.closing(sqlite3.connect(field.journal, timeout=0)) as db:
        owner.execute("PRAGMA locking_mode = EXCLUSIVE")
        owner.execute("BEGIN EXCLUSIVE")
        with pytest.raises((TimeoutError, sqlite3.OperationalError), match="lock"):
            copy(db, tmp_path / "copy", patience_s=0.2)
    assert not (tmp_path / "copy").exists()


def test_backup_makes_a_private_whole_copy(field: Field, tmp_path: Path) -> None:
    """Also while the journal is in use, and never over anything that is there."""
    payer = field.payer()
    assert "succeeded" == payer.pay("a")
    target, variable = tmp_path / "copy", str(field.journal)
    done = run("calls", "backup", str(target), OCP_STRIPE_JOURNAL=variable)
    assert (0, f"Copied to {target}.") == (done.returncode, (done.stdout + done.stderr).strip())
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)
    assert "succeeded" in run("calls", "list", OCP_STRIPE_JOURNAL=str(target)).stdout
    before = target.read_bytes()
    for wrong in (target, field.journal, Path(f"{field.journal}-wal"), tmp_path / "no" / "folder"):
        done = run("calls", "backup", str(wrong), OCP_STRIPE_JOURNAL=variable)
        assert 0 != done.returncode
        assert "a file that is not there yet" in " ".join((done.stdout + done.stderr).split())
    assert before == target.read_bytes()
    assert "succeeded" == payer.pay("b")
    field.assert_kept(2)


def test_a_killed_process_leaves_no_turn_behind(field: Field) -> None:
    """The kernel gives it up, also where a child lives on."""
    payer = field.payer()
    assert "succeeded" == payer.pay("a")
    os.kill(payer.pid, signal.SIGSTOP)
    other = field.payer()
    assert "succeeded" == other.pay("b")
    payer.kill()
    assert "succeeded" == other.pay("c")
    field.assert_kept(3)
