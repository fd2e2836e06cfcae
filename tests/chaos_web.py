"""
The chaos run of the gateway: agents that credit customers over HTTP, people who decide in the console, a server that is
killed and started again, and a Stripe that fails.

Each agent repeats its request under its key until it is told an outcome. After each kill, the inbox must be as before.
At the end, the three witnesses of `chaos.py` must agree on every call, and so must what people were told.

    python tests/chaos_web.py --agents 64 --kills 40 --ends 8
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import chaos
from chaos_journals import opened
from chaos_mcp_http import ended, started

from ocp_stripe_balance import Settings
from ocp_stripe_balance._journal import READING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable
    from pathlib import Path

    import httpx

    from ocp_stripe_balance.models import Proposal

_CALL = "/tools/create_balance_transaction"
_ASKED_FROM = -7  # what is credited without a person is less
_POLICY = """duplicate_window = "off"
[approval]
above = { usd = "0.06" }
two_people_above = { usd = "0.08" }
queue = true
[[budgets]]
per = "user"
window = "1h"
credit = { usd = "999999999.00" }
[[budgets]]
per = "all"
window = "2s"
credit = { usd = "999999999.00" }
"""
_OUTCOMES = {
    200: {"succeeded"},
    201: {"succeeded"},
    202: {"not_sent"},
    403: {"not_sent"},
    404: {"rejected"},
    409: {"unknown"},
    422: {"not_sent"},
    429: {"not_sent", "rejected"},
    502: {"unknown"},
    503: {"not_sent"},
    504: {"unknown"},
}
"""What each status of a call may say of the money."""
_AGAIN = {"call_again", "call_again_once_approved"}
_MOST_SHOWN = 50
_MOST_UNKNOWN = 8  # an error that Stripe stored under the key stays: what it was, reconcile finds out


class LostError(Exception):
    """
    There was no answer: whoever asked knows nothing.
    """


class Answer(NamedTuple):
    """
    What a server answered.
    """

    status: int
    location: str
    text: str


@dataclass(eq=False)
class Life:
    """
    A server process, from its start to its end.
    """

    process: subprocess.Popen[str]
    is_killed: bool = False
    stopped_at: float = math.inf
    """When it was told to end; what it had taken by then, it answers."""


class Inbox(NamedTuple):
    """
    What a person is shown.
    """

    csrf: str
    number: int
    shown: dict[str, str]
    """The digest of each proposal on the page."""


class Decisions:
    """
    What agents and people were told of proposals, held against the journal.
    """

    def __init__(self) -> None:
        self.wrong: dict[str, set[str]] = defaultdict(set)
        self.states: dict[str, set[str]] = defaultdict(set)
        self.counted: list[tuple[str, str, str]] = []
        """Whose answer to which proposal counted, as the server told them."""
        self._known: dict[str, Proposal] = {}

    def hear(self, proposal_id: str, state: str) -> None:
        """
        Note what somebody was told, after the journal was looked at last.
        """
        self.states[proposal_id].add(state)
        known = self._known.get(proposal_id)
        if known is not None and state == "waiting" != known.state:
            self.wrong["undone"].add(proposal_id)

    def look(self, proposals: Iterable[Proposal]) -> None:
        """
        See whether the journal has all of it.
        """
        found = {each.id: each for each in proposals}
        self.wrong["lost proposal"] |= self.states.keys() - found.keys()
        for proposal_id, name, decision in self.counted:
            if proposal_id in found and (name, decision) not in _votes(found[proposal_id]):
                self.wrong["undone"].add(proposal_id)
        for each in found.values():
            before = self._known.get(each.id, each)
            seen = {*self.states[each.id], before.state} - {"waiting"}
            is_other = seen - {each.state} and (seen - {each.state}, each.state) != ({"approved"}, "used")
            if is_other or _votes(before) - _votes(each):
                self.wrong["undone"].add(each.id)
            yes = [vote.by for vote in each.approvals]
            is_enough = len(yes) >= each.needed
            if len(set(yes)) < len(yes) or len(yes) > each.needed or (is_enough and each.denial is not None):
                self.wrong["decided twice"].add(f"{each.id}: {yes} of {each.needed}, {each.denial}")
            if is_enough != (each.state in {"approved", "used"}) or (each.denial is None) != (each.state != "denied"):
                self.wrong["wrong state"].add(each.id)
        self._known = found

    def judge(self, ledger: list[dict[str, Any]]) -> None:
        """
        See whether all that was paid had its yes.
        """
        said = {each.key: each for each in self._known.values()}
        for entry in ledger:
            key = entry["metadata"]["ocp_call"]
            if entry["amount"] <= _ASKED_FROM and (key not in said or said[key].state != "used"):
                self.wrong["without a yes"].add(key)


def _votes(proposal: Proposal) -> set[tuple[str, str]]:
    no = {(proposal.denial.by, "deny")} if proposal.denial else set()
    return {(vote.by, "approve") for vote in proposal.approvals} | no


def _unknown(job: chaos.Job) -> int:
    return sum(told["outcome"] == "unknown" for told in job.told)


class Gateways(chaos.Run):
    """
    One run.
    """

    def __init__(self, options: argparse.Namespace, seed: int, folder: Path) -> None:
        options.journal, options.timeout, options.margin = "file", 8, 5
        super().__init__(options, seed, folder)
        self.decisions = Decisions()
        self.wrong = self.decisions.wrong
        self.statuses: Counter[str] = Counter()
        self.begun = self.killed_at_start = self.told_to_end = self.lost = 0
        self.up, self.is_over, self.are_told = asyncio.Event(), False, False

    async def drive(self, http: httpx.AsyncClient) -> None:
        """
        Let agents call and people decide while servers end; then let all be told what they wait for.
        """
        from ocp_stripe_balance.serving.tokens import Tokens  # noqa: PLC0415  an extra

        del http
        (self.folder / "policy.toml").write_text(_POLICY)
        tokens = Tokens(Settings(api_key=self.stripe["api_key"], journal=self.journal.name))
        secrets = await self.let_in([f"person-{number}" for number in range(self.options.people)])
        await self.start()
        self.up.set()
        agents = [self.agent(tokens.create(f"agent-{number}")) for number in range(self.options.agents)]
        calling = [asyncio.create_task(each) for each in agents]
        deciding = [asyncio.create_task(self.person(*each)) for each in secrets.items()]
        harms = [True] * self.options.kills + [False] * self.options.ends
        self.chance.shuffle(harms)
        for is_kill in harms:
            await asyncio.sleep(self.chance.random() * 2 * self.options.every)
            await self.replace(next(iter(secrets.values())), is_kill=is_kill)
        self.is_over = True
        done, late = await asyncio.wait(calling, timeout=self.options.patience)
        self.are_told = True
        done |= (await asyncio.wait(deciding))[0]
        for each in late:
            each.cancel()
        assert [] == [each for each in done if each.exception()]
        await self.end(is_kill=False)
        del self.jobs[self.begun :]

    # The server

    async def start(self, port: str = "0") -> None:
        """
        Let there be a server.
        """
        process, self.url = await started(self, "serve", "--port", port)
        self.life = Life(process)

    async def end(self, *, is_kill: bool) -> None:
        """
        Let there be none, and see what it leaves behind.
        """
        if is_kill:
            self.life.is_killed = True
            self.life.process.kill()
            self.kills += 1
        else:
            self.life.stopped_at = asyncio.get_running_loop().time()
            self.life.process.terminate()
            self.told_to_end += 1
        code = await asyncio.to_thread(ended, self.life.process)
        if code != (-9 if is_kill else 0):
            self.wrong["wrong exit"].add(str(code))
        with contextlib.suppress(OSError):  # a program that a stand-in started is still there when that has ended
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                await asyncio.sleep(0.01)
        self.left = await self.proposals()
        self.decisions.look(self.left)

    async def replace(self, secret: str, *, is_kill: bool) -> None:
        """
        Let the server end, and start another one: now and then that is killed too, before it has started.
        """
        self.up.clear()
        await self.end(is_kill=is_kill)
        await self.start(str(self.port))
        if is_kill and self.chance.random() < 0.2:
            self.killed_at_start += 1
            await self.end(is_kill=True)
            await self.start(str(self.port))
        waiting = [each.id for each in self.left if each.state == "waiting"]
        async with self.client(Cookie=f"session={secret}") as http:
            inbox = await self.inbox(http)
        if (len(waiting), set(waiting[:_MOST_SHOWN])) != (inbox.number, set(inbox.shown)):
            self.wrong["inbox not as before"].add(f"after {self.kills + self.told_to_end} ends")
        self.up.set()

    @property
    def port(self) -> int:
        """
        Where the servers listen, one after the other.
        """
        return int(self.url.split(":")[2])

    async def proposals(self) -> list[Proposal]:
        """
        What the journal has, while no server runs.
        """
        journal = opened(self.journal.name)
        try:
            return await journal.run(lambda book: book.proposals(journal.now()), reach=READING)
        finally:
            await journal.aclose()

    # Who comes

    def client(self, **headers: str) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self.url, headers=headers, timeout=aiohttp.ClientTimeout(total=60))

    async def ask(self, http: aiohttp.ClientSession, method: str, path: str, **how: Any) -> Answer:
        """
        What the server answers. One that is not killed answers all that it has taken.

        Raises:
            LostError: there is no answer.
        """
        began, life = asyncio.get_running_loop().time(), self.life
        try:
            async with http.request(method, path, allow_redirects=False, **how) as answer:
                return Answer(answer.status, answer.headers.get("Location", ""), await answer.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            self.lost += 1
            if not life.is_killed and began < life.stopped_at - 1:
                self.wrong["cut off"].add(f"{method} {path}: {error!r}")
            raise LostError from error

    async def agent(self, token: str) -> None:
        """
        Call until the time is over; now and then twice at once.
        """
        async with self.client(Authorization=f"Bearer {token}") as http:
            while not self.is_over and self.begun < len(self.jobs):
                job = self.jobs[self.begun]
                self.begun += 1
                job.parameters["description"] = f"reason {job.number}"
                times = 2 if self.chance.random() < 0.1 else 1
                self.duplicates += times - 1
                await asyncio.gather(*(self.settle(http, job) for _ in range(times)))
                await asyncio.sleep(self.chance.random() * 0.2)

    async def settle(self, http: aiohttp.ClientSession, job: chaos.Job) -> None:
        """
        Repeat a call until its outcome is told.
        """
        headers = {} if job.key is None else {"Idempotency-Key": f'"{job.key}"'}
        if self.chance.random() < 0.5:
            headers["Prefer"] = "wait=10"
        while _unknown(job) < _MOST_UNKNOWN:
            with contextlib.suppress(LostError):
                told = await self.call(http, job, headers)
                if told.get("next") not in _AGAIN:
                    return
                if "proposal_id" in told:
                    await self.wait_for(http, told["proposal_id"])
                    continue
            await asyncio.sleep(self.chance.random() * 0.3)

    async def call(self, http: aiohttp.ClientSession, job: chaos.Job, headers: dict[str, str]) -> dict[str, Any]:
        """
        What the answer to a call says, noted.

        Raises:
            LostError: there is no answer.
        """
        await self.up.wait()
        job.issues += 1
        answer = await self.ask(http, "POST", _CALL, json=job.parameters, headers=headers)
        told: dict[str, Any] = json.loads(answer.text)
        self.statuses[str(answer.status)] += 1
        if told["outcome"] not in _OUTCOMES.get(answer.status, ()):
            self.wrong["wrong status"].add(f"{answer.status} {told}")
        if answer.status == 202:
            self.decisions.hear(answer.location.removeprefix("/proposals/"), "waiting")
        job.told.append(
            {
                "outcome": told["outcome"],
                "id": told.get("data", {}).get("id"),
                "key": told.get("idempotency_key"),
                "is_about_journal": str(told.get("detail", "")).startswith("The journal at"),
                "status": answer.status,
                "is_last": told.get("next") not in _AGAIN,
            }
        )
        return told

    async def wait_for(self, http: aiohttp.ClientSession, proposal_id: str) -> None:
        """
        Wait until somebody has decided.

        Raises:
            LostError: there is no answer.
        """
        state = "waiting"
        while state == "waiting":
            await self.up.wait()
            answer = await self.ask(http, "GET", f"/proposals/{proposal_id}", headers={"Prefer": "wait=10"})
            if answer.status == 200:
                state = json.loads(answer.text)["state"]
                self.decisions.hear(proposal_id, state)
            elif answer.status != 503:  # the journal is busy
                self.wrong["wrong status"].add(f"{answer.status} of {proposal_id}")
                return

    async def let_in(self, names: list[str]) -> dict[str, str]:
        """
        The session of each person. How one comes in takes a while and is tested elsewhere: here, they stay in.
        """
        from ocp_stripe_balance._journal.people import PEOPLE, People  # noqa: PLC0415  an extra
        from ocp_stripe_balance.web.access.accounts import Accounts  # noqa: PLC0415
        from ocp_stripe_balance.web.access.person import Role  # noqa: PLC0415
        from ocp_stripe_balance.web.access.sessions import begin  # noqa: PLC0415

        journal = opened(self.journal.name)
        for name in names:
            await Accounts(journal, "chaos").add(name, Role, known_as=("https://id.example", name))
        secrets = await journal.run(
            lambda book: {name: begin(People(book.db, journal.now()), name, "oidc", "127.0.0.1", "") for name in names},
            reach=PEOPLE,
        )
        await journal.aclose()
        return secrets

    async def person(self, name: str, secret: str) -> None:
        """
        Decide on what is in the inbox, a few at a time, as others do at the same moment.
        """
        async with self.client(Cookie=f"session={secret}", Origin=self.url) as http:
            while not self.are_told:
                await self.up.wait()
                with contextlib.suppress(LostError):
                    inbox = await self.inbox(http)
                    for proposal_id in self.chance.sample(list(inbox.shown), min(6, len(inbox.shown))):
                        await self.say(http, name, inbox, proposal_id)
                await asyncio.sleep(self.chance.random() * 0.2)

    async def inbox(self, http: aiohttp.ClientSession) -> Inbox:
        """
        What a person is shown.

        Raises:
            LostError: there is no answer.
        """
        page = await self.ask(http, "GET", "/console")
        number = re.search(r'data-part="count">(\d+|Nothing) ', page.text)
        if page.status != 200 or number is None:
            self.wrong["signed out"].add(f"{page.status} {page.location}")
            return Inbox("", -1, {})
        csrf = re.search(r'name="csrf" value="(\w+)"', page.text)
        shown = re.findall(r'<article class="ask" id="([^"]+)" data-id="[^"]+" data-shown="(\w+)"', page.text)
        return Inbox(csrf[1] if csrf else "", int(number[1].replace("Nothing", "0")), dict(shown))

    async def say(self, http: aiohttp.ClientSession, name: str, inbox: Inbox, proposal_id: str) -> None:
        """
        Answer one proposal, and note whether it counted.

        Raises:
            LostError: there is no answer; it may have counted.
        """
        decision = "deny" if self.chance.random() < 0.15 else "approve"
        form = {"csrf": inbox.csrf, "shown": inbox.shown[proposal_id], "decision": decision, "reason": "it is so"}
        answer = await self.ask(http, "POST", f"/console/proposals/{proposal_id}", data=form)
        self.statuses[f"{answer.status} in the console"] += 1
        if answer.status == 303:
            self.decisions.counted.append((proposal_id, name, decision))
        elif answer.status not in {403, 409, 503}:  # it does not count, somebody was faster, the journal is busy
            self.wrong["wrong status"].add(f"{answer.status} in the console")

    # The witnesses

    async def compare(self, ledger: list[dict[str, Any]]) -> dict[str, Any]:
        """
        By the keys, as in the other runs; by the reason, which each entry has in its description; and by who said yes.
        """
        report = await super().compare(ledger)
        made = Counter(entry["description"] for entry in ledger)
        report["violations"]["double"] += [reason for reason, times in made.items() if times > 1]
        self.decisions.judge(ledger)
        journal = opened(self.journal.name)
        audit = await journal.run(lambda book: book.decisions(), reach=READING)
        calls = await journal.run(lambda book: book.calls(), reach=READING)
        await journal.aclose()
        noted = Counter(each.key for each in audit if each.decision in {"approved", "denied"})
        votes = Counter(each.key for each in self.left for _ in _votes(each))
        self.wrong["decided twice"] |= {key for key in noted | votes if noted[key] != votes[key]}
        wanted = {job.parameters["description"]: job.parameters["amount"] for job in self.jobs}
        recorded = {call.key: call.intent.money.amount for call in calls if call.intent.money}
        for entry in ledger:
            key, reason = entry["metadata"]["ocp_call"], entry["description"]
            if not wanted.get(reason) == recorded.get(key) == entry["amount"]:
                self.wrong["wrong amount"].add(key)
        for job in self.jobs:
            if not any(told["is_last"] for told in job.told) and _unknown(job) < _MOST_UNKNOWN:
                self.wrong["untold"].add(str(job.number))
            if sum(told["status"] == 201 for told in job.told) > 1:
                self.wrong["made twice, as told"].add(str(job.number))
        report["violations"] |= {name: sorted(found) for name, found in self.wrong.items() if found}
        states = Counter(each.state for each in self.left)
        ends = {"killed as they started": self.killed_at_start, "told to end": self.told_to_end}
        return {**ends, "answers lost": self.lost, "answers": dict(self.statuses), "proposals": dict(states), **report}


def main() -> int:
    parser = argparse.ArgumentParser(description="a gateway that is killed, a Stripe that fails, all who were told")
    parser.add_argument("--agents", type=int, default=64)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--ends", type=int, default=8, help="how often the server is told to end")
    parser.add_argument("--every", type=float, default=2.5, help="seconds between two ends, on average")
    parser.add_argument("--faults", type=float, default=0.3, help="share of faulty exchanges")
    parser.add_argument("--calls", type=int, default=100_000, help="at most")
    parser.add_argument("--patience", type=float, default=120, help="seconds in which all are told at the end")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    return chaos.run_seeds(Gateways, "gateway", parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
