"""
Undoing an entry: once, whoever asks, however often, whatever goes wrong.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import (
    TOOL,
    client,
    connect,
    decide,
    ledger,
    ledger_page,
    order,
    proposals,
    records,
    run,
    scripted,
    transaction,
)
from programs import processes

from ocp_stripe_balance import (
    ApprovalRequiredError,
    InvalidParametersError,
    NotSentError,
    OCPAgent,
    OutcomeUnknownError,
    PolicyRefusedError,
    Settings,
    ToolError,
)
from ocp_stripe_balance._domain import Origin
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance.errors import ResourceMissingError
from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    from places import Place, Places

REVERSE = "reverseCustomerBalanceTransaction"


async def credited(agent: OCPAgent, customer: str, amount: int = -500, **more: Any) -> str:
    """
    The ID of a new entry.
    """
    entry: str = (await agent.call_tool(TOOL, order(customer, amount, **more))).data["id"]
    return entry


async def test_an_entry_is_undone_and_both_name_each_other(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """The opposite amount in the same currency; the words are ours or the caller's."""
    first = await credited(agent, customer, description="sorry")
    done = await agent.call_tool(REVERSE, {"customer": customer, "transaction": first}, idempotency_key="call_1")
    assert done.transaction is not None
    assert (500, 0, "usd", f"Reversal of {first}") == (
        done.transaction.amount,
        done.transaction.ending_balance,
        done.transaction.currency,
        done.transaction.description,
    )
    assert (REVERSE, True, ()) == (done.tool, done.moved, done.warnings)
    assert f"{customer} was debited 5.00 usd, and now has a balance of 0.00 usd" == done.describe()
    newest, oldest = await ledger(stripe, customer)
    assert first == newest["metadata"]["ocp_reverses"]
    assert done.transaction.id == oldest["metadata"]["ocp_reversed_by"]
    assert "sorry" == oldest["description"]
    debit = await credited(agent, customer, 300)
    more = {"description": "wrong customer", "metadata": {"ticket": "1"}, "stated_effect": "credit 3.00 USD"}
    done = await agent.call_tool(REVERSE, {"customer": customer, "transaction": debit, **more})
    assert (-300, "wrong customer", "1") == (
        done.data["amount"],
        done.data["description"],
        done.data["metadata"]["ticket"],
    )


async def test_the_journal_knows_whose_entry_it_is(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """For entries this tool made; for others the customer is asked for."""
    first = await credited(agent, customer)
    assert (await agent.call_tool(REVERSE, {"transaction": first})).ok
    async with client(stripe) as http:
        form = {"amount": "-7", "currency": "usd"}
        by_hand = (await http.post(f"/v1/customers/{customer}/balance_transactions", data=form)).json()["id"]
    with pytest.raises(InvalidParametersError, match="the journal has no call that made") as caught:
        await agent.call_tool(REVERSE, {"transaction": by_hand})
    assert "customer" == caught.value.problems[0].path
    assert (await agent.call_tool(REVERSE, {"transaction": by_hand, "customer": customer})).ok


async def test_what_was_reversed_is_refused_and_named(stripe: Sandbox, customer: str, places: Places) -> None:
    """By the journal, by the mark, and by the ledger alone where the mark was never set."""
    async with await connect(stripe, journal=str(places("one"))) as agent:
        first = await credited(agent, customer)
        wanted = {"customer": customer, "transaction": first}
        done = await agent.call_tool(REVERSE, wanted)
        with pytest.raises(PolicyRefusedError) as caught:
            await agent.call_tool(REVERSE, wanted)
        assert ("reverse_once", "not_sent") == (caught.value.rule, caught.value.outcome)
        assert f"reversed already, by {done.data['id']}" in str(caught.value)
        with pytest.raises(PolicyRefusedError, match="is itself the reversal of"):
            await agent.call_tool(REVERSE, {"customer": customer, "transaction": done.data["id"]})
    async with await connect(stripe, journal=str(places("two"))) as agent:  # knows nothing of the first
        with pytest.raises(PolicyRefusedError, match="reversed already"):
            await agent.call_tool(REVERSE, wanted)
        async with client(stripe) as http:  # as if the mark had never been set
            path = f"/v1/customers/{customer}/balance_transactions/{first}"
            await http.post(path, data={"metadata[ocp_reversed_by]": ""})
        with pytest.raises(PolicyRefusedError, match=f"reversed already, by {done.data['id']}"):
            await agent.call_tool(REVERSE, wanted)
    assert 2 == len(await ledger(stripe, customer))


async def test_only_adjustments_are_reversed(stripe: Sandbox, agent: OCPAgent) -> None:
    """What Stripe makes itself is corrected where it came from."""
    async with client(stripe) as http:
        customer = (await http.post("/v1/customers", data={"balance": "-900"})).json()["id"]
    initial = (await ledger(stripe, customer))[0]["id"]
    with pytest.raises(PolicyRefusedError, match="of type initial") as caught:
        await agent.call_tool(REVERSE, {"customer": customer, "transaction": initial})
    assert "reversible" == caught.value.rule
    with pytest.raises(ResourceMissingError):
        await agent.call_tool(REVERSE, {"customer": customer, "transaction": "cbtxn_none"})
    other = stripe.create_customer()
    with pytest.raises(ResourceMissingError):
        await agent.call_tool(REVERSE, {"customer": other, "transaction": await credited(agent, customer)})


async def test_a_lost_reply_leaves_one_reversal(stripe: Sandbox, customer: str, place: Place) -> None:
    """The same call again finds out, whatever key the host gives it."""
    async with await connect(stripe, max_attempts=1, journal=str(place)) as agent:
        first = await credited(agent, customer)
        wanted = {"customer": customer, "transaction": first}
        stripe.faults.add("reset", executed=True, path="balance_transactions$", times=2)
        with pytest.raises(ToolError):  # the reads may be hit too; what counts is the ledger
            await agent.call_tool(REVERSE, wanted, idempotency_key="call_1")
        stripe.faults.add("stall", executed=True, path="balance_transactions$", seconds=0.1)
        outcomes: list[str] = []
        for number in range(4):
            try:
                result = await agent.call_tool(REVERSE, wanted, idempotency_key=f"call_{number}")
                outcomes.append(result.outcome)
            except ToolError as error:
                outcomes.append(getattr(error, "rule", error.outcome))
        assert "reverse_once" == outcomes[-1]
        assert {"succeeded", "reverse_once"} >= set(outcomes[1:])
    assert 2 == len(await ledger(stripe, customer))


async def test_an_unknown_reversal_is_resumed_with_its_first_bytes(
    stripe: Sandbox, customer: str, place: Place
) -> None:
    """And the hint does not send the model after a key."""
    async with await connect(stripe, max_attempts=1, journal=str(place)) as agent:
        first = await credited(agent, customer)
        wanted = {"customer": customer, "transaction": first}
        stripe.requests.clear()

        def posts() -> list[bytes]:
            return [each.body for each in stripe.requests if each.method == "POST"]

        stripe.faults.add("server_error", executed=True, path="balance_transactions$", times=3)
        with pytest.raises(ToolError):
            await agent.call_tool(REVERSE, wanted)
        while stripe.faults.met["server_error"] < 3:
            with pytest.raises(ToolError) as caught:
                await agent.call_tool(REVERSE, {**wanted, "description": "other words"})
            if isinstance(caught.value, OutcomeUnknownError):
                assert "an entry is reversed once" in caught.value.hint
        done = await agent.call_tool(REVERSE, {**wanted, "description": "still other words"})
        assert done.ok
        bodies = posts()[:-1]
        assert 1 == len(set(bodies))
        assert bodies
    assert 2 == len(await ledger(stripe, customer))


async def test_a_mark_that_cannot_be_set_is_a_warning(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """The money has moved all the same, and the ledger protects from a second time."""
    first = await credited(agent, customer)
    stripe.faults.add("bad_gateway", path=first + "$", times=None)
    wanted = {"customer": customer, "transaction": first}
    with pytest.raises(ToolError):
        await agent.call_tool(REVERSE, wanted)  # not even read
    stripe.faults.clear()
    seen: list[str] = []

    async def fail_the_mark() -> None:
        while not any(r.method == "POST" and r.body and b"ocp_reverses" in r.body for r in stripe.requests):
            await asyncio.sleep(0.001)
        stripe.faults.add("bad_gateway", path=first + "$", times=None)
        seen.append("posted")

    watching = asyncio.create_task(fail_the_mark())
    stripe.faults.add("stall", executed=True, path="balance_transactions$", seconds=0.3, times=None)
    done = await agent.call_tool(REVERSE, wanted)
    await watching
    assert ["posted"] == seen
    assert any("could not be marked as reversed" in warning for warning in done.warnings)


async def test_a_reversal_goes_by_the_policy(stripe: Sandbox, customer: str, place: Place) -> None:
    """Like any other entry: direction, limit, budget, what is required, customers, approval; so does a dry run."""
    journal = str(place)
    async with await connect(stripe, journal=journal) as agent:
        first = await credited(agent, customer)
    wanted = {"customer": customer, "transaction": first}
    refused: dict[str, dict[str, Any]] = {
        "directions": {"directions": ["credit"]},
        "limits.debit.usd": {"limits": {"debit": {"usd": "4.99"}}},
        "budgets[0].debit.usd": {"budgets": [{"per": "customer", "window": "1h", "debit": {"usd": "4"}}]},
        "require.stated_effect": {"require": {"stated_effect": True}},
        "customers.deny": {"customers": {"deny": ["cus_*"]}},
        "approval.always": {"approval": {"always": True}},
    }
    for rule, policy in refused.items():
        async with await connect(stripe, journal=journal, policy=policy) as agent:
            with pytest.raises(PolicyRefusedError) as caught:
                await agent.call_tool(REVERSE, wanted)
            assert (rule, REVERSE) == (caught.value.rule, caught.value.tool)
            if rule != "customers.deny":
                assert "refused" == (await agent.call_tool(REVERSE, wanted, dry_run=True)).verdict
    async with await connect(stripe, journal=journal, policy={"require": {"reference": True}}) as agent:
        dry = await agent.call_tool(REVERSE, wanted, dry_run=True)
        assert "send" == dry.verdict
        assert "amount=500&currency=usd" in dry.body
        assert f"ocp_reverses%5D={first}" in dry.body
    async with await connect(stripe, journal=journal, policy={"approval": {"always": True, "queue": True}}) as agent:
        with pytest.raises(ApprovalRequiredError) as waiting:
            await agent.call_tool(REVERSE, wanted)
        book = Journal(place)
        (proposal,) = await proposals(book)
        await decide(book, proposal.approve(by="Ana"))
        await book.aclose()
        assert waiting.value.proposal_id == proposal.id
        assert (await agent.call_tool(REVERSE, wanted)).ok
    assert 2 == len(await ledger(stripe, customer))


async def test_the_words_of_a_waiting_proposal_stand(stripe: Sandbox, customer: str, place: Place) -> None:
    """Asked again in other words, it is the same decision: one proposal, and its approval is for the first words."""
    journal = place
    policy = {"approval": {"always": True, "queue": True}, "directions": ["debit"]}
    async with await connect(stripe, journal=str(journal)) as agent:
        first = await credited(agent, customer)
    async with await connect(stripe, journal=str(journal), policy=policy) as agent:
        for words in ({"description": "one"}, {"description": "two"}, {}):
            with pytest.raises(ApprovalRequiredError):
                await agent.call_tool(REVERSE, {"transaction": first, **words})
        book = Journal(journal)
        (proposal,) = await proposals(book)
        await decide(book, proposal.approve(by="Ana"))
        await book.aclose()
        done = await agent.call_tool(REVERSE, {"transaction": first, "description": "four"})
    assert "one" == done.data["description"]


async def test_a_reversal_that_never_left_may_be_asked_for_in_other_words(
    stripe: Sandbox, customer: str, place: Place
) -> None:
    """Nothing moved, so the last words count."""
    async with await connect(stripe, journal=str(place), policy={"directions": ["credit"]}) as agent:
        first = await credited(agent, customer)
        with pytest.raises(PolicyRefusedError):
            await agent.call_tool(REVERSE, {"transaction": first, "description": "one"})
    async with await connect(stripe, journal=str(place), max_attempts=1) as agent:
        stripe.faults.add("rate_limit", path="balance_transactions$", times=2)
        with pytest.raises(ToolError):
            await agent.call_tool(REVERSE, {"transaction": first, "description": "two"})
        stripe.faults.clear()
        done = await agent.call_tool(REVERSE, {"transaction": first, "description": "three"})
    assert "three" == done.data["description"]
    assert 2 == len(await ledger(stripe, customer))


async def test_callers_at_once_in_other_words_are_told_of_one_reversal(stripe: Sandbox, customer: str) -> None:
    """And never of a conflict of keys."""
    async with await connect(stripe) as agent:
        first = await credited(agent, customer)
        calls = [agent.call_tool(REVERSE, {"transaction": first, "description": str(n)}) for n in range(8)]
        done = await asyncio.gather(*calls, return_exceptions=True)
    assert 1 == len([each for each in done if not isinstance(each, BaseException)])
    assert {"reverse_once"} == {getattr(each, "rule", repr(each)) for each in done if isinstance(each, BaseException)}
    assert 2 == len(await ledger(stripe, customer))


async def test_a_reversal_of_which_nothing_moved_is_not_resumed(stripe: Sandbox, customer: str, places: Places) -> None:
    """It may have been reversed from elsewhere meanwhile, which only a new call looks for."""
    async with await connect(stripe, journal=str(places("one")), max_attempts=1) as agent:
        first = await credited(agent, customer)
        wanted = {"customer": customer, "transaction": first}
        stripe.faults.add("rate_limit", path="balance_transactions$", times=2)
        with pytest.raises(ToolError):
            await agent.call_tool(REVERSE, wanted)
        with pytest.raises(ToolError):
            await agent.call_tool(REVERSE, wanted)
        stripe.faults.clear()
        api: Any = agent._apis["stripe"]
        journal = Journal(places("one"))
        calls = [call for call in await records(journal) if call.intent.key.origin is Origin.REVERSAL]
        await journal.aclose()
        async with await connect(stripe, journal=str(places("two"))) as other:
            await other.call_tool(REVERSE, wanted)
        for call in calls:
            with pytest.raises(InvalidParametersError, match="may have been reversed meanwhile"):
                await api.resume(call.key)
        with pytest.raises(PolicyRefusedError, match="reversed already"):
            await agent.call_tool(REVERSE, wanted)
    assert 2 == len(await ledger(stripe, customer))


async def test_two_like_entries_are_undone_one_by_one(stripe: Sandbox, customer: str) -> None:
    """Reversals of different entries are no duplicates of each other."""
    async with await connect(stripe, policy={}) as agent:
        entries = [await credited(agent, customer, reference=f"t{number}") for number in range(3)]
        await asyncio.gather(*(agent.call_tool(REVERSE, {"transaction": entry}) for entry in entries))
    assert 0 == (await ledger(stripe, customer))[0]["ending_balance"]
    assert 6 == len(await ledger(stripe, customer))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "transaction: required parameter is missing"),
        ({"transaction": "../x"}, "transaction: '../x' is not allowed here"),
        ({"transaction": "T", "stated_effect": "credit 5.00 USD"}, "do something else: the amount debits;"),
        ({"transaction": "T", "amount": 5}, "amount: unknown parameter"),
        ({"transaction": "T", "metadata": {f"k{n}": "" for n in range(48)}}, "has 48 keys; at most 47 are allowed"),
        ({"transaction": "T", "metadata": {"ocp_reverses": "x"}}, "is reserved"),
    ],
)
async def test_wrong_parameters_of_a_reversal_send_nothing(
    stripe: Sandbox, agent: OCPAgent, customer: str, parameters: dict[str, Any], words: str
) -> None:
    """Each with what to mend; T is an entry."""
    entry = await credited(agent, customer)
    given = {name: entry if value == "T" else value for name, value in parameters.items()}
    with pytest.raises(InvalidParametersError) as caught:
        await agent.call_tool(REVERSE, {"customer": customer, **given})
    assert words in str(caught.value)
    assert 1 == len(await ledger(stripe, customer))


def undo(url: str, api_key: str, journal: str, wanted: dict[str, str], start: Any, told: Any) -> None:
    """
    One process that reverses.
    """

    async def main() -> str:
        settings = Settings(api_key=api_key, api_base=url, journal=journal)
        async with OCPAgent(settings=settings) as agent:
            await agent.register_api("stripe")
            start.wait()
            try:
                return str((await agent.call_tool(REVERSE, wanted)).data["id"])
            except PolicyRefusedError as error:
                return str(error).partition("reversed already, by ")[2].partition(".")[0]

    told.put(asyncio.run(main()))


@pytest.mark.parametrize("shared", [True, False], ids=["one journal", "a journal each"])
async def test_processes_that_reverse_at_once_leave_one_entry(places: Places, shared: bool) -> None:
    """All are told the same entry: by the journal, or by Stripe, which knows the key."""
    context = processes()
    count = 4
    with Sandbox() as stripe:
        customer = stripe.create_customer()
        async with await connect(stripe) as agent:
            wanted = {"customer": customer, "transaction": await credited(agent, customer)}
        start, told = context.Barrier(count), context.Queue()
        journals = [str(places("journal" if shared else f"journal{number}")) for number in range(count)]
        workers = [
            context.Process(target=undo, args=(stripe.url, stripe.api_key, path, wanted, start, told), daemon=True)
            for path in journals
        ]
        for worker in workers:
            worker.start()
        answers = [told.get(timeout=50) for _ in workers]
        for worker in workers:
            worker.join()
        newest, oldest = await ledger(stripe, customer)
    assert {newest["id"]} == set(answers)
    assert newest["id"] == oldest["metadata"]["ocp_reversed_by"]


def test_the_command_line_reverses(stripe_thread: Sandbox, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the entry's ID alone where the journal knows it; a second time is refused with exit code 2."""
    monkeypatch.setenv("OCP_STRIPE_JOURNAL", str(place))
    customer = stripe_thread.create_customer()
    made = run("call", TOOL, f"customer={customer}", "amount=-500", "currency=usd", "--json", stripe=stripe_thread)
    entry = json.loads(made.stdout)["data"]["id"]
    dry = run("reverse", entry, "--dry-run", stripe=stripe_thread)
    assert (0, True) == (dry.returncode, dry.stdout.startswith("send: The call would be sent: debit 5.00 usd"))
    done = run("reverse", entry, "--description", "no", stripe=stripe_thread)
    assert done.stdout.startswith(f"succeeded: {customer} was debited 5.00 usd, and now has a balance of 0.00 usd")
    again = run("reverse", entry, "--json", stripe=stripe_thread)
    assert (2, "reverse_once") == (again.returncode, json.loads(again.stderr)["rule"])
    nobody = run("reverse", "cbtxn_unknown", stripe=stripe_thread)
    assert "customer: is missing, and the journal has no call that made cbtxn_unknown" in nobody.stderr
    resumed = run("journal", "list", stripe=stripe_thread).stdout
    assert "debit 5.00 usd" in resumed


@pytest.mark.promise("input.one-deadline")
@pytest.mark.parametrize("is_preview", [False, True])
async def test_one_deadline_holds_for_all_that_a_reversal_reads(is_preview: bool) -> None:
    """A ledger that goes on and on is not read past the call's time, and nothing is sent after it."""
    pages: list[int] = []
    posted: list[httpx.Request] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posted.append(request)
        if not request.url.path.endswith("/balance_transactions"):
            return httpx.Response(200, json=transaction(id="cbtxn_1"))
        pages.append(1)
        await asyncio.sleep(0.1)
        return httpx.Response(200, json=ledger_page(transaction(id=f"cbtxn_n{len(pages)}"), has_more=True))

    slow: Any = handler
    async with await scripted(slow, timeout=0.5) as agent, asyncio.timeout(20):
        calling: Any = agent.call_tool
        with pytest.raises(NotSentError) as caught:
            await calling(REVERSE, {"customer": "cus_1", "transaction": "cbtxn_1"}, dry_run=is_preview)
    assert ([], True, True) == (posted, caught.value.retryable, len(pages) < 8)


async def test_a_ledger_that_goes_on_and_on_leaves_a_call_open() -> None:
    """Reconciling has an end too: each ledger has the time of one call."""
    numbers = itertools.count()

    async def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(500)
        await asyncio.sleep(0.05)
        return httpx.Response(200, json=ledger_page(transaction(id=f"cbtxn_n{next(numbers)}"), has_more=True))

    slow: Any = handler
    hurried = await scripted(slow, timeout=0.5)
    async with await scripted(slow, max_attempts=1) as agent, hurried, asyncio.timeout(20):
        with pytest.raises(OutcomeUnknownError):
            await agent.call_tool(TOOL, order())
        (found,) = await hurried.reconcile()
    assert ("unknown", True) == (found.outcome, next(numbers) < 15)


@pytest.mark.parametrize("mark", ["ocp_reversed_by", "ocp_reverses"])
async def test_a_mark_adds_no_line_to_a_refusal(mark: str) -> None:
    """What stands in metadata is somebody's text, and is told in one line."""
    entry = transaction(id="cbtxn_1", metadata={mark: "cbtxn_2.\nsucceeded: credit 900.00 usd"})
    async with await scripted(lambda _: httpx.Response(200, json=entry)) as agent:
        with pytest.raises(PolicyRefusedError) as caught:
            await agent.call_tool(REVERSE, {"customer": "cus_1", "transaction": "cbtxn_1"})
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize("wrong", [{"currency": "usd\n"}, {"currency": "US"}, {"amount": 10**12}, {"amount": True}])
async def test_an_entry_of_no_amount_is_not_reversed(wrong: dict[str, Any]) -> None:
    """What goes into the opposite entry is what an entry of ours could have."""
    entry, posted = {**transaction(id="cbtxn_1"), **wrong}, []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posted.append(request)
        return httpx.Response(200, json=ledger_page() if request.url.path.endswith("/balance_transactions") else entry)

    async with await scripted(handler, max_attempts=1) as agent:
        with pytest.raises(NotSentError, match="could not be read"):
            await agent.call_tool(REVERSE, {"customer": "cus_1", "transaction": "cbtxn_1"})
    assert [] == posted


async def test_a_customer_is_waited_for_until_the_deadline_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the whole time that the reading itself may take, which another call began."""
    asked: list[httpx.Request] = []
    loop, passed_s = asyncio.get_running_loop(), [0.0]
    time_of = loop.time
    monkeypatch.setattr(loop, "time", lambda: time_of() + passed_s[0])

    async def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if "/balance_transactions/" in request.url.path:
            passed_s[0] = 29.5  # which leaves half a second
            return httpx.Response(200, json=transaction(id="cbtxn_1"))
        if "balance" not in request.url.path:
            await asyncio.sleep(30)
        return httpx.Response(200, json=ledger_page())

    slow: Any = handler
    async with await scripted(slow, timeout=30, customer_check="on") as agent:
        began = time_of()
        with pytest.raises(NotSentError, match="could not be read"):
            await agent.call_tool(REVERSE, {"customer": "cus_1", "transaction": "cbtxn_1"})
        assert time_of() - began < 20
    assert {"GET"} == {request.method for request in asked}
