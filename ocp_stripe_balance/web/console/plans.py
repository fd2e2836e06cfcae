"""
The plans that people make in the console: a folder for each beside the journal, and what is done with it.

A list is kept under the digest of itself and of how it is to be read, so what is sent twice is one plan. What became of
its rows is in the journal and nowhere else: a run that ended with the server goes on where it is run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._domain import Money
from ocp_stripe_balance.bulk import Bulk, Common, Expected, Form, open_plan
from ocp_stripe_balance.errors import NotSentError, ToolError
from ocp_stripe_balance.models import shown_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from ocp_stripe_balance.bulk import Plan, Run, Status
    from ocp_stripe_balance.models import Answer, Proposal
    from ocp_stripe_balance.settings import Settings
    from ocp_stripe_balance.web.access.person import Person

_FOLDER = "bulk"
_LONGEST_NAME = 200  # bytes, of which a disk takes 255
_ID = re.compile(r"[0-9a-f]{24}")


class Asked(NamedTuple):
    """
    How a list is to be read, and what it should say.
    """

    form: Form
    common: Common
    expected: Expected

    def facts(self) -> dict[str, Any]:
        """
        The same as JSON.
        """
        form = asdict(self.form) | {"ignored": sorted(self.form.ignored)}
        return {"form": form, "common": asdict(self.common), "expected": self.expected}


class Kept(NamedTuple):
    """
    One plan, or what is to be one, on the disk.
    """

    id: str
    folder: Path
    facts: dict[str, Any]
    """``name`` of the list, ``by`` and ``at``; ``asked`` of a list, ``reverses`` of what takes another plan back."""

    @property
    def source(self) -> Path:
        """
        The list.
        """
        return self.folder / "list" / str(self.facts["name"])

    @property
    def plan(self) -> Plan | None:
        """
        The plan; None where there is none, or none yet.

        Raises:
            NotSentError: it was changed since it was made.
        """
        path = self.folder / "plan"
        return open_plan(path) if path.exists() else None

    @property
    def trouble(self) -> dict[str, Any] | None:
        """
        Why there is no plan, as an error says it.
        """
        path = self.folder / "trouble.json"
        return json.loads(path.read_text()) if path.exists() else None


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """
    What is done with a plan in the background.
    """

    kept: Kept
    doing: str
    """``planning``, ``running`` or ``counting``."""
    person: Person
    begun_at: float
    number: int = 0
    """How many rows so far."""
    moved: Counter[str] = field(default_factory=Counter)
    """What a run has moved, by currency."""
    run: Run | None = None
    trouble: ToolError | None = None
    """Why it did not come to its end."""
    task: asyncio.Task[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """
        Whether it has not ended.
        """
        return self.task is not None and not self.task.done()


class Plans:
    """
    The plans of one server.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Touch nothing yet.
        """
        self._settings = settings
        self._folder = settings.state_folder / _FOLDER
        self._is_closing = False
        self.works: dict[str, Work] = {}
        """What is done with each plan, or was done last, by its ID."""
        self.counted: dict[str, tuple[Status, float]] = {}
        """How far each plan was, and when that was counted, by its ID."""

    def all(self) -> list[Kept]:
        """
        The newest first.
        """
        found = [self.get(path.parent.name) for path in self._folder.glob("*/facts.json")]
        return sorted((kept for kept in found if kept is not None), key=lambda kept: -float(kept.facts["at"]))

    def get(self, plan_id: str) -> Kept | None:
        """
        The one of that ID, where there is one.
        """
        path = self._folder / plan_id / "facts.json"
        if not _ID.fullmatch(plan_id) or not path.exists():
            return None
        return Kept(plan_id, path.parent, json.loads(path.read_text()))

    def of(self, key: str) -> Kept | None:
        """
        The one whose plan has that key, where there is one.
        """
        for kept in self.all():
            with contextlib.suppress(NotSentError):
                if (plan := kept.plan) is not None and plan.key == key:
                    return kept
        return None

    def keep(self, name: str, upload: BinaryIO, asked: Asked, by: str) -> Kept:
        """
        Keep a list that was sent; where it was sent before, that is what there is.
        """
        digest = hashlib.sha256(json.dumps(asked.facts(), sort_keys=True).encode())
        while part := upload.read(1 << 20):
            digest.update(part)
        kept = self.get(digest.hexdigest()[:24])
        if kept is not None:
            return kept
        upload.seek(0)
        return self._made(digest.hexdigest()[:24], {"name": _plain(name), "by": by, "asked": asked.facts()}, upload)

    def keep_reversal(self, of: Kept, by: str) -> Kept:
        """
        Keep that what a plan paid is to be taken back.
        """
        return self._made(secrets.token_hex(12), {"name": of.facts["name"], "by": by, "reverses": of.id})

    def begin(
        self, kept: Kept, doing: str, person: Person, work: Callable[[Bulk, Work], Coroutine[Any, Any, None]]
    ) -> Work:
        """
        Do something with a plan in the background; where something is done with it already, that goes on.

        But for counting, which nobody waits for.
        """
        found = self.works.get(kept.id)
        if found is not None and found.task is not None and found.doing == "counting":
            found.task.cancel()
            found = None
        if found is None or not found.is_under_way:
            found = self.works[kept.id] = Work(kept=kept, doing=doing, person=person, begun_at=time.time())
            found.task = asyncio.create_task(self._do(found, work))
        return found

    async def make_plan(self, bulk: Bulk, work: Work) -> None:
        """
        Plan a list, or what takes another plan back.
        """
        kept, out = work.kept, work.kept.folder / "plan.new"  # until it is whole, whenever the server ends
        for path in (out, kept.folder / "trouble.json"):
            path.unlink(missing_ok=True)
        try:
            if "asked" in kept.facts:
                form, common, expected = _asked(kept.facts["asked"])
                await bulk.plan(kept.source, out, common=common, form=form, expected=expected)
            elif (paid := self.get(kept.facts["reverses"])) is not None and (plan := paid.plan) is not None:
                await bulk.reverse(plan, out)
            out.rename(out.with_name("plan"))
        except ToolError as error:
            _write(kept.folder / "trouble.json", error.to_dict())
            raise

    async def run(self, bulk: Bulk, work: Work) -> None:
        """
        Send what a plan says and is not paid yet, once a person said yes: in the inbox, where the policy has one.
        """

        async def confirmed(proposal: Proposal) -> Answer:
            by = work.person.name
            return proposal.approve(by=by, how=work.person.how, shown=shown_digest(proposal), person=by)

        has_inbox, plan = self._settings.policy_in_force.approval.queue, work.kept.plan
        if plan is None:
            return
        work.run = await bulk.run(plan, approver=None if has_inbox else confirmed, asks_always=True)
        async for result in work.run:
            work.number += 1
            if result.outcome == "succeeded":
                work.moved[result.row.moved.currency] += result.row.moved.amount
        if not self._is_closing:
            await self.count(bulk, work)

    async def count(self, bulk: Bulk, work: Work) -> None:
        """
        Look how far a plan is.
        """
        plan = work.kept.plan
        if plan is not None:
            self.counted[work.kept.id] = await bulk.status(plan), time.time()

    async def report(self, kept: Kept, plan: Plan, by: str) -> Path:
        """
        The file that says what became of each row, written now.

        Raises:
            NotSentError: the journal cannot be read, or the file not be written.
        """
        target = kept.folder / f"report-{secrets.token_hex(4)}.csv"
        async with Bulk(self._settings, user=by) as bulk:
            self.counted[kept.id] = await bulk.report(plan, target), time.time()
        return target

    async def close(self, *plan_ids: str) -> None:
        """
        Stop what is done with some plans, or with all; what may have been sent is waited for.
        """
        self._is_closing = not plan_ids
        works = [self.works[each] for each in plan_ids or self.works if each in self.works]
        tasks = [work.task for work in works if work.task is not None and not work.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _do(self, work: Work, what: Callable[[Bulk, Work], Coroutine[Any, Any, None]]) -> None:
        def tell(number: int) -> None:
            work.number = number

        try:
            async with Bulk(self._settings, user=work.person.name, progress=tell) as bulk:
                await what(bulk, work)
        except ToolError as error:
            work.trouble = error
        except OSError as error:
            work.trouble = NotSentError(f"A file of the plan cannot be used: {error.strerror or error}.")

    def _made(self, plan_id: str, facts: dict[str, Any], upload: BinaryIO | None = None) -> Kept:
        folder = self._folder / plan_id
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "list").mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = Kept(plan_id, folder, {**facts, "at": time.time()})
        if upload is not None:
            with _replacing(kept.source) as file:
                shutil.copyfileobj(upload, file)
        _write(folder / "facts.json", kept.facts)
        return kept


def _asked(facts: dict[str, Any]) -> Asked:
    """
    What was kept as JSON.
    """
    rows, totals = facts["expected"]
    form = Form(**facts["form"] | {"ignored": frozenset(facts["form"]["ignored"])})
    return Asked(form, Common(**facts["common"]), Expected(rows, tuple(Money(*each) for each in totals)))


def _plain(name: str) -> str:
    """
    A name for a file, whatever a browser sent: its end says of which kind it is.
    """
    name = re.sub(r"[^\w. -]", "_", name).encode()[-_LONGEST_NAME:].decode(errors="ignore")
    return name.lstrip(". ") or "list"


def _write(path: Path, facts: dict[str, Any]) -> None:
    with _replacing(path) as file:
        file.write(json.dumps(facts).encode())


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """
    A file to write, which is there under its name once it is whole: others read it meanwhile, and servers are killed.
    """
    new = path.parent / f"new-{secrets.token_hex(4)}"
    new.touch(mode=0o600)
    try:
        with new.open("wb") as file:
            yield file
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
