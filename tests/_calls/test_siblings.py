"""
The operations beside create: looking at the ledger before and after, and changing an entry's words.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from helpers import (
    STRIPES,
    TOOL,
    client,
    connect,
    decisions,
    ledger,
    ledger_page,
    order,
    records,
    run,
    scripted,
    transaction,
    usual_journal,
)

from ocp_stripe_balance import InvalidParametersError, NotSentError, OutcomeUnknownError, PolicyRefusedError
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance.errors import PermissionDeniedError, ResourceMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from places import Place

    from ocp_stripe_balance import OCPAgent
    from ocp_stripe_balance.sandbox import Sandbox

LIST = "getCustomersCustomerBalanceTransactions"
RETRIEVE = "getCustomersCustomerBalanceTransactionsTransaction"
UPDATE = "postCustomersCustomerBalanceTransactionsTransaction"
CUSTOMER = "getCustomersCustomer"


async def entries(stripe: Sandbox, customer: str, count: int, **fields: str) -> list[str]:
    """
    The IDs of new entries of -1, -2, …, the newest first.
    """
    ids: list[str] = []
    async with client(stripe) as http:
        for amount in range(-1, -1 - count, -1):
            entry = {"amount": amount, "currency": "usd", **fields}
            made = await http.post(f"/v1/customers/{customer}/balance_transactions", data=entry)
            ids.insert(0, made.json()["id"])
    return ids


def counted(sent: list[httpx.Request]) -> Callable[[httpx.Request], httpx.Response]:
    """
    A Stripe that is not to be asked anything.
    """

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(500)

    return handler


async def test_an_agent_looks_before_and_after(agent: OCPAgent, customer: str) -> None:
    """The customer, the list and the entry, typed and in a sentence."""
    before = await agent.call_tool(CUSTOMER, {"customer": customer})
    assert before.customer is not None
    assert (None, 0) == (before.customer.currency, before.customer.balance)
    assert f"{customer} (Ada) has no currency yet, and no balance" == before.describe()
    made = (await agent.call_tool(TOOL, order(customer, description="sorry"))).transaction
    assert made is not None
    after = await agent.call_tool(CUSTOMER, {"customer": customer, "expand": ["invoice_credit_balance"]})
    assert after.customer is not None
    assert ({"usd": 500}, -500, "usd") == (
        after.customer.invoice_credit_balance,
        after.customer.balance,
        after.customer.currency,
    )
    assert f"{customer} (Ada) is in credit 5.00 usd" == after.describe()
    found = await agent.call_tool(RETRIEVE, {"customer": customer, "transaction": made.id})
    assert made == found.transaction
    assert f"{made.id}: {customer} was credited 5.00 usd, and then was in credit 5.00 usd" == found.describe()
    listed = await agent.call_tool(LIST, {"customer": customer})
    assert [made] == listed.transactions
    assert "1 entry: credited 5.00 usd" == listed.describe()
    for result in (before, after, found, listed):
        assert (None, False, False) == (result.idempotency_key, result.moved, result.replayed)
        assert result is before or not result.warnings  # of a customer without a currency, more is told
        assert {"outcome", "summary", "data", "request_id", "warnings"} == set(result.to_dict())


async def test_reading_a_customer_hands_the_model_no_more_than_it_needs(agent: OCPAgent, customer: str) -> None:
    """The address is in the data, for the program, and not in what the model reads."""
    result = await agent.call_tool(CUSTOMER, {"customer": customer})
    assert "address" in result.data
    told = set(result.to_dict()["data"])
    assert {"id", "object", "name", "email", "balance", "currency", "livemode", "metadata"} == told


@pytest.mark.promise("answers.known-only")
async def test_what_is_expanded_is_trimmed_at_every_depth() -> None:
    """Of an object in an answer the model reads what the schema knows, and the program what Stripe sent."""
    customer = {
        "id": "cus_1",
        "object": "customer",
        "email": "a@example.com",
        "metadata": {"plan": "gold"},
        "phone": "SECRET",
        "address": {"line1": "SECRET"},
        "invoice_credit_balance": {"usd": 5, "eur": {"line1": "SECRET"}},
    }
    invoice = {"id": "in_1", "object": "invoice", "total": 5, "customer": customer, "number": ["SECRET"]}
    entry = transaction(customer=customer, invoice=invoice, description={"of": "SECRET"}, tomorrow="SECRET")

    def handler(request: httpx.Request) -> httpx.Response:
        is_list = request.url.path.endswith("/balance_transactions") and request.method == "GET"
        page = ledger_page(entry, more=customer)
        return httpx.Response(200, json=page if is_list else entry)

    calls = {
        TOOL: order(expand=["customer", "invoice.customer"]),
        RETRIEVE: {"customer": "cus_1", "transaction": entry["id"]},
        LIST: {"customer": "cus_1"},
        UPDATE: {"customer": "cus_1", "transaction": entry["id"], "metadata": {"a": ""}},  # of which nothing is there
    }
    known = {name: customer[name] for name in ("id", "object", "email", "metadata")}
    async with await scripted(handler) as agent:
        for tool, parameters in calls.items():
            result = await agent.call_tool(tool, parameters)
            assert "SECRET" in json.dumps(result.data)
            assert "SECRET" not in f"{result.warnings} {result.describe()}"
            assert result.warnings
            told = result.to_dict()["data"]
            assert "SECRET" not in json.dumps(told)
            first = told["data"][0] if tool == LIST else told
            assert {**known, "invoice_credit_balance": {"usd": 5}} == first["customer"]
            assert {"id": "in_1", "object": "invoice", "total": 5} == first["invoice"]


async def test_a_policy_says_what_a_read_may_expand() -> None:
    """The rule holds for tools that only read, and for what a list holds."""
    async with await scripted(lambda _: httpx.Response(500), policy={"expand": ["invoice"]}) as agent:
        for tool, field in ((LIST, "data.customer"), (RETRIEVE, "customer"), (CUSTOMER, "invoice_credit_balance")):
            at = {"customer": "cus_1", "transaction": "cbtxn_1"} if tool == RETRIEVE else {"customer": "cus_1"}
            with pytest.raises(PolicyRefusedError, match="be expanded") as caught:
                await agent.call_tool(tool, {**at, "expand": [field]})
            assert "expand" == caught.value.rule


async def test_a_list_that_comes_to_no_end_is_none() -> None:
    """A cursor that was there before would go round for ever."""
    page = ledger_page(transaction(), transaction(id="b"), has_more=True)
    async with await scripted(lambda _: httpx.Response(200, json=page)) as agent:
        with pytest.raises(NotSentError, match="to no end"):
            await agent.call_tool(LIST, {"customer": "cus_1", "limit": 50})
        with pytest.raises(NotSentError, match="to no end"):
            assert [None] * 4 == [None async for _ in agent.iterate_tool(LIST, {"customer": "cus_1"})]


async def test_a_list_pages_by_itself(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """As many as the limit says, in one answer, with the order and has_more of a single page."""
    ids = await entries(stripe, customer, 205)

    async def listed(**more: Any) -> tuple[list[str], bool, int]:
        stripe.requests.clear()
        result = await agent.call_tool(LIST, {"customer": customer, **more})
        assert result.transactions is not None
        assert () == result.warnings
        return [entry.id for entry in result.transactions], result.data["has_more"], len(stripe.requests)

    assert (ids[:10], True, 1) == await listed()
    assert (ids[:100], True, 1) == await listed(limit=100)
    assert (ids[:101], True, 2) == await listed(limit=101)
    assert (ids[:204], True, 3) == await listed(limit=204)
    assert (ids, False, 3) == await listed(limit=205)
    assert (ids, False, 3) == await listed(limit=10_000)
    assert (ids[3:], False, 3) == await listed(limit=1000, starting_after=ids[2])
    assert (ids[:200], False, 2) == await listed(limit=1000, ending_before=ids[200])
    assert (ids[50:200], True, 2) == await listed(limit=150, ending_before=ids[200])
    assert (ids[1:2], True, 1) == await listed(limit=1, starting_after=ids[0], expand=["data.customer"])


async def test_a_list_is_an_async_iterator(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """A page at a time, and no page that nobody asks for."""
    ids = await entries(stripe, customer, 120)
    stripe.requests.clear()
    seen = [item["id"] async for item in agent.iterate_tool(LIST, {"customer": customer})]
    assert (ids, 2) == (seen, len(stripe.requests))
    seen = [item["id"] async for item in agent.iterate_tool(LIST, {"customer": customer, "limit": 3})]
    assert ids[:3] == seen
    back = {"customer": customer, "ending_before": ids[-1]}
    assert ids[-2::-1] == [item["id"] async for item in agent.iterate_tool(LIST, back)]
    stripe.requests.clear()
    async for item in agent.iterate_tool(LIST, {"customer": customer}):
        assert ids[0] == item["id"]
        break
    assert 1 == len(stripe.requests)
    with pytest.raises(InvalidParametersError, match="does not return a list"):
        await anext(agent.iterate_tool(RETRIEVE, {"customer": customer, "transaction": ids[0]}))
    with pytest.raises(InvalidParametersError, match="unknown parameter"):
        await anext(agent.iterate_tool(LIST, {"customer": customer, "size": 3}))


async def test_a_list_narrows_by_time(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """Bounds as Stripe writes them."""
    await entries(stripe, customer, 2)
    moment = (await agent.call_tool(LIST, {"customer": customer})).data["data"][0]["created"]
    for created, count in (({"gte": moment - 60}, 2), ({"gt": moment + 60}, 0), ({"lt": moment - 60}, 0)):
        result = await agent.call_tool(LIST, {"customer": customer, "created": created})
        assert count == len(result.data["data"])


async def test_an_update_changes_words_and_moves_nothing(stripe: Sandbox, agent: OCPAgent, customer: str) -> None:
    """One key, one effect; what this tool wrote into the entry's metadata stays."""
    made = await agent.call_tool(TOOL, order(customer, reference="ticket-812", metadata={"a": "1", "b": "2"}))
    change = {
        "customer": customer,
        "transaction": made.data["id"],
        "description": "new",
        "metadata": {"a": "", "c": "3"},
    }
    changed = await agent.call_tool(UPDATE, change, idempotency_key="call_7")
    assert changed.transaction is not None
    tags = {"ocp_call": made.idempotency_key, "ocp_reference": "ticket-812"}
    assert ("new", {"b": "2", "c": "3", **tags}) == (changed.transaction.description, changed.transaction.metadata)
    assert ("call_7", False) == (changed.idempotency_key, changed.moved)
    stripe.requests.clear()
    assert (await agent.call_tool(UPDATE, change, idempotency_key="call_7")).replayed
    assert not stripe.requests
    assert 1 == len(await ledger(stripe, customer))


async def test_an_update_is_no_entry_for_the_rules(stripe: Sandbox, customer: str, place: Place) -> None:
    """Neither the limits nor the duplicates nor another currency; but the customers, the minute and the audit."""
    policy = {"calls_per_minute": 4, "customers": {"deny": ["cus_no*"]}, "directions": ["credit"]}
    async with await connect(stripe, policy=policy, customer_check="on", journal=str(place)) as agent:
        made = await agent.call_tool(TOOL, order(customer))
        change = {"customer": customer, "transaction": made.data["id"], "description": "x"}
        for _ in range(2):
            await agent.call_tool(UPDATE, change)
        await agent.call_tool(TOOL, order(customer, -1))
        with pytest.raises(PolicyRefusedError) as caught:
            await agent.call_tool(UPDATE, change)
        assert "calls_per_minute" == caught.value.rule
        with pytest.raises(PolicyRefusedError) as caught:
            await agent.call_tool(UPDATE, {**change, "customer": "cus_no1"})
        assert "customers.deny" == caught.value.rule
    journal = Journal(place)
    calls = await records(journal)
    await journal.aclose()
    assert ["credit 5.00 usd", *["update (no money)"] * 2, "credit 0.01 usd"] == [call.intent.effect for call in calls]


async def test_an_update_that_was_cut_off_is_open_until_it_is_repeated(stripe: Sandbox, customer: str) -> None:
    """Reconciling cannot tell; the same key settles it."""
    async with await connect(stripe, max_attempts=1) as agent:
        made = await agent.call_tool(TOOL, order(customer))
        change = {"customer": customer, "transaction": made.data["id"], "description": "x"}
        stripe.faults.add("reset", executed=True, path="balance")
        with pytest.raises(OutcomeUnknownError, match="may have taken effect"):
            await agent.call_tool(UPDATE, change, idempotency_key="k")
        (settlement,) = await agent.reconcile()
        assert ("unknown", "It moves no money.") == (settlement.outcome, settlement.advice[:18])
        assert (await agent.call_tool(UPDATE, change, idempotency_key="k")).data["description"] == "x"


async def test_a_person_is_shown_what_an_update_changes(stripe: Sandbox, customer: str, place: Place) -> None:
    """Where every call is put to one."""
    from ocp_stripe_balance import OCPAgent, Proposal, Settings  # noqa: PLC0415  only here

    shown: list[str] = []

    async def approver(proposal: Proposal) -> Any:
        shown.append(proposal.describe())
        return proposal.approve(by="Ana")

    settings = Settings(api_key=stripe.api_key, api_base=stripe.url, journal=str(place))
    async with OCPAgent(settings=settings, approver=approver, asks_always=True) as agent:
        await agent.register_api("stripe")
        made = await agent.call_tool(TOOL, order(customer))
        await agent.call_tool(UPDATE, {"customer": customer, "transaction": made.data["id"], "description": "words"})
        await agent.call_tool(CUSTOMER, {"customer": customer})  # reading asks nobody
    assert 2 == len(shown)
    for words in ("update (no money)", made.data["id"], "words"):
        assert words in shown[1]
    assert "balance" not in shown[1]


async def test_reads_obey_the_rules_about_who(stripe: Sandbox, customer: str) -> None:
    """A denied customer is not looked at, and the refusal is on record."""
    async with await connect(stripe, policy={"customers": {"allow": ["cus_another"]}, "calls_per_minute": 1}) as agent:
        stripe.requests.clear()
        for tool in (CUSTOMER, LIST):
            with pytest.raises(PolicyRefusedError) as caught:
                await agent.call_tool(tool, {"customer": customer})
            assert "customers.allow" == caught.value.rule
            assert "refused" == (await agent.call_tool(tool, {"customer": customer}, dry_run=True)).verdict
        with pytest.raises(PolicyRefusedError):
            await anext(agent.iterate_tool(LIST, {"customer": customer}))
        assert not stripe.requests
        async with usual_journal() as journal:
            assert 3 == len(await decisions(journal))
    async with await connect(stripe, api_key="sk_live_x", policy={}) as agent:
        with pytest.raises(PolicyRefusedError, match="live-mode key"):
            await agent.call_tool(CUSTOMER, {"customer": customer})


async def test_a_dry_run_of_a_read_shows_the_request() -> None:
    """And sends nothing."""
    sent: list[httpx.Request] = []
    async with await scripted(counted(sent)) as agent:
        parameters = {"customer": "cus_1", "limit": 250, "created": {"gte": 5, "lt": 9}, "expand": ["data.customer"]}
        dry = await agent.call_tool(LIST, parameters, dry_run=True)
    query = "limit=100&created%5Bgte%5D=5&created%5Blt%5D=9&expand%5B0%5D=data.customer"
    assert f"https://api.stripe.com/v1/customers/cus_1/balance_transactions?{query}" == dry.url
    assert ("GET", "", None, "send") == (dry.method, dry.body, dry.idempotency_key, dry.verdict)
    assert "Idempotency-Key" not in dry.headers
    assert [] == sent


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (LIST, {"limit": 0}, "limit: 0 is out of range: the smallest allowed is 1"),
    (LIST, {"limit": 10_001}, "limit: 10001 is out of range: the largest allowed is 10000"),
    (LIST, {"limit": "10"}, "limit: '10' is a string; pass an integer from 1 to 10000"),
    (LIST, {"created": {"since": 5}}, "created"),
    (LIST, {"created": "yesterday"}, "created: 'yesterday' is a string; pass whole seconds"),
    (LIST, {"expand": ["customer"]}, "expand[0]: 'customer' is not allowed here; pass a list of field names"),
    (LIST, {"starting_after": "../x"}, "starting_after"),
    (LIST, {"idempotency_key": "k"}, "idempotency_key: unknown parameter"),
    (RETRIEVE, {}, "transaction: required parameter is missing; pass the transaction's ID"),
    (RETRIEVE, {"transaction": "../../x"}, "transaction"),
    (UPDATE, {"transaction": "cbtxn_1", "amount": 5}, "amount: unknown parameter"),
    (UPDATE, {"transaction": "cbtxn_1", "metadata": ""}, "metadata: '' says nothing, and nothing else is"),
    (UPDATE, {"transaction": "cbtxn_1", "metadata": {}}, "metadata: is an empty object; pass an object"),
    (UPDATE, {"transaction": "cbtxn_1", "metadata": {"ocp_call": ""}}, "is reserved for this tool's own use"),
    (UPDATE, {"transaction": "cbtxn_1", "metadata": {"ocp_reversed_by": "x"}}, "is reserved for this tool's own use"),
    (CUSTOMER, {"expand": ["sources"]}, "expand[0]"),
]


@pytest.mark.parametrize(("tool", "parameters", "words"), WRONG, ids=[f"{w[0]}-{n}" for n, w in enumerate(WRONG)])
async def test_wrong_parameters_never_reach_the_wire(tool: str, parameters: dict[str, Any], words: str) -> None:
    """Each with a message to act on."""
    sent: list[httpx.Request] = []
    async with await scripted(counted(sent)) as agent:
        with pytest.raises(InvalidParametersError) as caught:
            await agent.call_tool(tool, {"customer": "cus_1", **parameters})
    assert words in str(caught.value)
    assert [] == sent


async def test_reads_that_fail_move_nothing_and_say_so(stripe: Sandbox, customer: str) -> None:
    """Stripe's no, no answer, and no list where one was asked for."""
    async with await connect(stripe, max_attempts=2, timeout=5) as agent:
        with pytest.raises(ResourceMissingError):
            await agent.call_tool(RETRIEVE, {"customer": customer, "transaction": "cbtxn_none"})
        stripe.faults.add("reset", times=2)
        with pytest.raises(NotSentError, match="Nothing moved") as caught:
            await agent.call_tool(CUSTOMER, {"customer": customer})
        assert (True, None) == (caught.value.retryable, caught.value.idempotency_key)
        stripe.faults.add("bad_gateway")  # one lost answer is no matter
        assert (await agent.call_tool(CUSTOMER, {"customer": customer})).attempts == 2

    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json={"error": {"type": "invalid_request_error", "message": "no"}}, headers=STRIPES)

    async with await scripted(refuse) as agent:
        with pytest.raises(PermissionDeniedError):
            await agent.call_tool(LIST, {"customer": "cus_1"})


def popped(pages: list[httpx.Response], _: httpx.Request) -> httpx.Response:
    return pages.pop(0)


async def test_a_list_with_a_page_that_cannot_be_read_is_none() -> None:
    """What came before is not taken for the whole, neither as a list nor by an iterator."""
    page = ledger_page(transaction(), has_more=True)
    for broken in (b"<html>", b'{"object": "list", "data": "nonsense"}', b"[]", b'{"object": "list", "data": [{}]}'):
        pages = [httpx.Response(200, json=page), httpx.Response(200, content=broken)] * 2
        async with await scripted(partial(popped, pages), max_attempts=1) as agent:
            with pytest.raises(NotSentError, match="Nothing moved"):
                await agent.call_tool(LIST, {"customer": "cus_1", "limit": 50})
            items = agent.iterate_tool(LIST, {"customer": "cus_1"})
            assert transaction()["id"] == (await anext(items))["id"]
            with pytest.raises(NotSentError, match="Nothing moved"):
                await anext(items)


async def test_pages_that_are_too_large_are_read_in_smaller_ones(stripe: Sandbox, agent: OCPAgent) -> None:
    """Entries of 20 kB each: a hundred of them are past what one response may have."""
    customer = stripe.create_customer()
    await entries(stripe, customer, 61, **{f"metadata[k{n}]": "x" * 490 for n in range(45)})
    found = [item["amount"] async for item in agent.iterate_tool(LIST, {"customer": customer})]
    assert list(range(-61, 0)) == found
    listed = await agent.call_tool(LIST, {"customer": customer, "limit": 100})
    assert 61 == len(listed.data["data"])
    assert () == listed.warnings


async def test_a_host_may_name_every_call(agent: OCPAgent, customer: str) -> None:
    """Tools that only read need no key, and take no offence at one."""
    result = await agent.call_tool(CUSTOMER, {"customer": customer}, idempotency_key="call_1")
    assert result.idempotency_key is None
    await asyncio.gather(*(agent.call_tool(LIST, {"customer": customer}, idempotency_key="call_1") for _ in range(9)))


def test_the_command_line_reads(stripe_thread: Sandbox) -> None:
    """Without asking, and without a key."""
    customer = stripe_thread.create_customer(name="Ada\x1b[2J")
    run("call", TOOL, f"customer={customer}", "amount=-500", "currency=usd", stripe=stripe_thread)
    done = run("call", CUSTOMER, f"customer={customer}", stripe=stripe_thread)
    assert done.stdout.startswith(f"succeeded: {customer} (Ada\\x1b[2J) is in credit 5.00 usd\nrequest ")
    done = run("call", LIST, f"customer={customer}", "limit=5", "--json", stripe=stripe_thread)
    assert 1 == len(json.loads(done.stdout)["data"]["data"])
    done = run("call", LIST, f"customer={customer}", "created[gte]=5", stripe=stripe_thread)
    assert "credit 5.00 usd" in done.stdout
    done = run("call", LIST, f"customer={customer}", "created=5", stripe=stripe_thread)
    assert done.stdout.startswith("succeeded: 0 entries")
    done = run("call", LIST, f"customer={customer}", "created[gte]=soon", stripe=stripe_thread)
    assert "created.gte: 'soon' is a string" in done.stderr
    done = run("call", CUSTOMER, f"customer={customer}", "--dry-run", stripe=stripe_thread)
    assert done.stdout.startswith("send: The call would be sent; it only reads.\n\nThe request, not sent:\nGET http")
    done = run("call", "getBalanceCalls", f"customer={customer}", "--dry-run", stripe=stripe_thread)
    assert "send: The call would be answered from the journal; it only reads.\n" == done.stdout
