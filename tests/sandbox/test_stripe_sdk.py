"""
The sandbox is held to Stripe's own SDK, sync and async: what works against Stripe works here.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import stripe as sdk

from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


class Sync:
    """
    The SDK's plain methods behind an awaitable surface, so that one test drives both.
    """

    def __init__(self, client: sdk.StripeClient) -> None:
        self.customers = client.v1.customers
        self.entries = client.v1.customers.balance_transactions

    async def __call__(self, service: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(service, method)(*args, **kwargs)

    async def page_through(self, found: Any) -> list[Any]:
        return list(found.auto_paging_iter())


class Async(Sync):
    """
    The SDK's async methods.
    """

    async def __call__(self, service: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(service, f"{method}_async")(*args, **kwargs)

    async def page_through(self, found: Any) -> list[Any]:
        return [item async for item in found.auto_paging_iter()]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as stripe:
        yield stripe


def connect(stripe: Sandbox, api_key: str | None = None, **options: Any) -> sdk.StripeClient:
    return sdk.StripeClient(api_key or stripe.api_key, base_addresses={"api": stripe.url}, **options)


@contextlib.asynccontextmanager
async def closing(client: sdk.StripeClient) -> AsyncIterator[sdk.StripeClient]:
    try:
        yield client
    finally:
        http: Any = client._requestor._client
        await http.close_async()


@pytest.fixture(params=[Sync, Async])
async def api(request: pytest.FixtureRequest, sandbox: Sandbox) -> AsyncIterator[Sync]:
    async with closing(connect(sandbox)) as client:
        yield request.param(client)


@pytest.fixture
async def customer(api: Sync) -> str:
    return str((await api(api.customers, "create", {"name": "Ada", "email": "ada@example.com"})).id)


async def enter(api: Sync, customer: str, amount: int = -500, currency: str = "usd", **more: Any) -> Any:
    options = more.pop("options", None)
    params = {"amount": amount, "currency": currency, **more}
    return await api(api.entries, "create", customer, params, options)


async def test_create_returns_the_whole_entry(api: Sync, customer: str) -> None:
    """Every field of the object, as the API reference shows it."""
    entry = await enter(api, customer, description="Sorry", metadata={"order": "1"})
    assert entry.id.startswith("cbtxn_")
    assert 24 == len(entry.id) - len("cbtxn_")
    assert "customer_balance_transaction" == entry.object
    assert (-500, "usd", customer, -500, "Sorry", False, "adjustment") == (
        entry.amount,
        entry.currency,
        entry.customer,
        entry.ending_balance,
        entry.description,
        entry.livemode,
        entry.type,
    )
    assert {"order": "1"} == entry.metadata.to_dict()
    assert (None, None, None) == (entry.invoice, entry.credit_note, entry.checkout_session)
    assert entry.last_response.headers["Request-Id"].startswith("req_")


async def test_balances_add_up_per_currency(api: Sync, customer: str) -> None:
    """The first entry fixes the customer's currency; another currency has a balance of its own."""
    amounts = [(-500, "usd"), (200, "USD"), (-70, "jpy"), (1, "usd")]
    endings = [(await enter(api, customer, *amount)).ending_balance for amount in amounts]
    assert [-500, -300, -70, -299] == endings
    found = await api(api.customers, "retrieve", customer, {"expand": ["invoice_credit_balance"]})
    assert ("usd", -299) == (found.currency, found.balance)
    assert {"usd": 299, "jpy": 70} == found.invoice_credit_balance.to_dict()
    assert "invoice_credit_balance" not in await api(api.customers, "retrieve", customer)


async def test_a_balance_at_creation_is_an_initial_entry(api: Sync) -> None:
    """Setting a balance enters the difference."""
    made = await api(api.customers, "create", {"balance": -1000})
    await api(api.customers, "update", made.id, {"balance": 250})
    await api(api.customers, "update", made.id, {"balance": 250})
    entries = await api.page_through(await api(api.entries, "list", made.id))
    assert [
        ("adjustment", 1250, 250),
        ("initial", -1000, -1000),
    ] == [(e.type, e.amount, e.ending_balance) for e in entries]


async def test_retrieve_and_modify_an_entry(api: Sync, customer: str) -> None:
    """Description and metadata change, keys are merged and unset by an empty value."""
    made = await enter(api, customer, metadata={"a": "1", "b": "2"})
    changed = await api(
        api.entries, "update", customer, made.id, {"description": "new", "metadata": {"a": "", "c": "3"}}
    )
    assert ("new", {"b": "2", "c": "3"}, -500) == (changed.description, changed.metadata.to_dict(), changed.amount)
    assert changed.to_dict() == (await api(api.entries, "retrieve", customer, made.id)).to_dict()
    emptied = await api(api.entries, "update", customer, made.id, {"metadata": ""})
    assert ({}, "new") == (emptied.metadata.to_dict(), emptied.description)


async def test_lists_page_by_themselves_newest_first(api: Sync, customer: str) -> None:
    """Auto-paging meets every entry once, in both directions, and a full last page is the last."""
    made = [(await enter(api, customer, -n)).id for n in range(1, 8)]
    newest_first = made[::-1]
    first = await api(api.entries, "list", customer, {"limit": 3})
    assert (newest_first[:3], True) == ([entry.id for entry in first.data], first.has_more)
    assert f"/v1/customers/{customer}/balance_transactions" == first.url
    assert newest_first == [entry.id for entry in await api.page_through(first)]
    last = await api(api.entries, "list", customer, {"limit": 3, "starting_after": newest_first[3]})
    assert (newest_first[4:], False) == ([entry.id for entry in last.data], last.has_more)
    before = await api(api.entries, "list", customer, {"limit": 2, "ending_before": newest_first[3]})
    assert (newest_first[1:3], True) == ([entry.id for entry in before.data], before.has_more)
    backwards = await api(api.entries, "list", customer, {"limit": 2, "ending_before": newest_first[-1]})
    assert set(newest_first[:-1]) == {entry.id for entry in await api.page_through(backwards)}
    assert 7 == len((await api(api.entries, "list", customer)).data)


async def test_lists_filter_by_time_and_invoice(api: Sync, customer: str) -> None:
    """created is a moment or a range; no entry here comes from an invoice."""
    made = await enter(api, customer)
    for params, count in (
        ({"created": made.created}, 1),
        ({"created": {"gte": made.created, "lt": made.created + 10}}, 1),
        ({"created": {"gt": made.created + 10}}, 0),
        ({"invoice": "in_1"}, 0),
    ):
        assert count == len((await api(api.entries, "list", customer, params)).data)


async def test_expand_returns_whole_objects(api: Sync, customer: str) -> None:
    """On create, retrieve, update and list, one and two deep."""
    made = await enter(api, customer, expand=["customer", "invoice"])
    assert ("customer", -500, None) == (made.customer.object, made.customer.balance, made.invoice)
    deep = {"expand": ["customer.invoice_credit_balance"]}
    assert 500 == (await api(api.entries, "retrieve", customer, made.id, deep)).customer.invoice_credit_balance.usd
    assert "Ada" == (await api(api.entries, "update", customer, made.id, {"expand": ["customer"]})).customer.name
    listed = await api(api.entries, "list", customer, {"expand": ["data.customer"]})
    assert customer == listed.data[0].customer.id


async def test_customers_are_listed_found_and_deleted(api: Sync, customer: str) -> None:
    """A deleted customer is a stub, takes no entries, and is in no list."""
    other = (await api(api.customers, "create", {"name": "Bob"})).id
    assert [other, customer] == [
        found.id for found in await api.page_through(await api(api.customers, "list", {"limit": 1}))
    ]
    assert [customer] == [c.id for c in (await api(api.customers, "list", {"email": "ada@example.com"})).data]
    changed = await api(api.customers, "update", customer, {"email": "", "metadata": {"a": "b"}})
    assert (None, "Ada", {"a": "b"}) == (changed.email, changed.name, changed.metadata.to_dict())
    assert (await api(api.customers, "delete", customer)).deleted
    assert {"id": customer, "object": "customer", "deleted": True} == (
        await api(api.customers, "retrieve", customer)
    ).to_dict()
    assert [other] == [found.id for found in (await api(api.customers, "list")).data]
    with pytest.raises(sdk.InvalidRequestError, match="No such customer") as caught:
        await enter(api, customer)
    assert (404, "resource_missing") == (caught.value.http_status, caught.value.code)


async def test_a_key_replays_its_first_result(api: Sync, customer: str) -> None:
    """Same key, same parameters: the first reply again, marked, and one entry."""
    options = {"idempotency_key": "k"}
    first = await enter(api, customer, options=options)
    await enter(api, customer, -1)
    again = await enter(api, customer, options=options)
    assert first.to_dict() == again.to_dict()
    headers = again.last_response.headers
    assert "true" == headers["Idempotent-Replayed"]
    assert "k" == headers["Idempotency-Key"]
    assert first.last_response.headers["Request-Id"] == headers["Original-Request"] != headers["Request-Id"]
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert 2 == len((await api(api.entries, "list", customer)).data)


async def test_a_key_is_bound_to_parameters_and_path(api: Sync, customer: str) -> None:
    """Another amount or another customer under the same key is refused, across endpoints of the account."""
    options = {"idempotency_key": "k"}
    await enter(api, customer, options=options)
    with pytest.raises(sdk.IdempotencyError, match="same parameters they were first used with") as caught:
        await enter(api, customer, -501, options=options)
    assert 400 == caught.value.http_status
    other = (await api(api.customers, "create", {})).id
    with pytest.raises(sdk.IdempotencyError, match="same endpoint they were first used for"):
        await enter(api, other, options=options)


async def test_validation_failures_leave_the_key_free_and_business_failures_keep_it(api: Sync, customer: str) -> None:
    """What failed before execution began is not remembered; what failed during it is."""
    with pytest.raises(sdk.InvalidRequestError):
        await api(api.entries, "create", customer, {"amount": "x", "currency": "usd"}, {"idempotency_key": "a"})
    assert (await enter(api, customer, options={"idempotency_key": "a"})).amount
    for _ in range(2):
        with pytest.raises(sdk.InvalidRequestError, match="Invalid currency: zzz") as caught:
            await enter(api, customer, currency="zzz", options={"idempotency_key": "b"})
    assert "true" == (caught.value.headers or {})["Idempotent-Replayed"]


REFUSALS: list[tuple[dict[str, Any], str, str | None, str | None]] = [
    ({}, "Missing required param: amount.", "parameter_missing", "amount"),
    ({"amount": 5}, "Missing required param: currency.", "parameter_missing", "currency"),
    ({"amount": "10.5", "currency": "usd"}, "Invalid integer: 10.5", "parameter_invalid_integer", "amount"),
    ({"amount": "+5", "currency": "usd"}, "Invalid integer:", "parameter_invalid_integer", "amount"),
    ({"amount": "", "currency": "usd"}, "Invalid integer:", "parameter_invalid_integer", "amount"),
    ({"amount": 5, "currency": "usd", "reason": "x"}, "unknown parameter: reason", "parameter_unknown", "reason"),
    ({"amount": 5, "currency": "zzz"}, "Invalid currency: zzz", None, "currency"),
    ({"amount": 5, "currency": "usd", "description": "x" * 351}, "at most 350 characters", None, "description"),
    ({"amount": 5, "currency": "usd", "description": ""}, "empty string", "parameter_invalid_empty", "description"),
    ({"amount": 5, "currency": "usd", "metadata": {"k" * 41: "v"}}, "under 40 characters", None, "metadata"),
    ({"amount": 5, "currency": "usd", "metadata": {"k": "v" * 501}}, "under 500 characters", None, "metadata"),
    ({"amount": 5, "currency": "usd", "metadata": {str(i): "v" for i in range(51)}}, "up to 50 keys", None, "metadata"),
    ({"amount": 5, "currency": "usd", "expand": "customer"}, "Invalid array", None, "expand"),
    ({"amount": 5, "currency": "usd", "expand": ["amount"]}, "cannot be expanded (amount)", None, None),
    ({"amount": 5, "currency": "usd", "expand": ["a.b.c.d.e"]}, "more than 4 levels", None, "expand"),
    ({"amount": 10**12, "currency": "usd"}, "no more than", "amount_too_large", "amount"),
]


@pytest.mark.parametrize(("params", "message", "code", "param"), REFUSALS)
async def test_bad_parameters_are_refused(
    api: Sync, customer: str, params: dict[str, Any], message: str, code: str | None, param: str | None
) -> None:
    """400 as the SDK's InvalidRequestError, with Stripe's words, code and parameter; nothing is entered."""
    with pytest.raises(sdk.InvalidRequestError) as caught:
        await api(api.entries, "create", customer, params)
    assert message in str(caught.value)
    assert (400, code, param) == (caught.value.http_status, caught.value.code, caught.value.param)
    assert [] == (await api(api.entries, "list", customer)).data


@pytest.mark.parametrize(
    ("method", "args", "status", "message"),
    [
        ("retrieve", ("cbtxn_none",), 404, "No such customer balance transaction: 'cbtxn_none'"),
        ("list", ({"starting_after": "cbtxn_none"},), 400, "No such customer balance transaction"),
        ("list", ({"starting_after": "a", "ending_before": "b"},), 400, "Please pass in only one"),
        ("list", ({"limit": 0},), 400, "between 1 and 100"),
        ("list", ({"limit": 101},), 400, "between 1 and 100"),
        ("list", ({"expand": ["customer"]},), 400, "try expanding 'data.customer' instead"),
        ("update", ("cbtxn_none", {"amount": 5}), 400, "unknown parameter: amount"),
    ],
)
async def test_bad_reads_are_refused(
    api: Sync, customer: str, method: str, args: tuple[Any, ...], status: int, message: str
) -> None:
    """Missing objects and wrong pages."""
    if method == "update":
        args = ((await enter(api, customer)).id, args[1])
    with pytest.raises(sdk.InvalidRequestError) as caught:
        await api(api.entries, method, customer, *args)
    assert status == caught.value.http_status
    assert message in str(caught.value)


async def test_keys_that_may_not_are_told_so(sandbox: Sandbox) -> None:
    """No such key, a live key, a restricted key: 401 and 403, the key masked."""
    for key in ("sk_test_nobody", "sk_live_1234567890"):
        async with closing(connect(sandbox, key)) as client:
            with pytest.raises(sdk.AuthenticationError, match=r"Invalid API Key provided: sk_\w+_\*+") as caught:
                client.v1.customers.list()
            assert 401 == caught.value.http_status
            assert key not in str(caught.value)
            with pytest.raises(sdk.AuthenticationError):
                await client.v1.customers.list_async()
    async with closing(connect(sandbox, sandbox.read_only_key)) as client:
        assert [] == client.v1.customers.list().data
        with pytest.raises(sdk.PermissionError, match="rak_customer_write"):
            client.v1.customers.create({})
        with pytest.raises(sdk.PermissionError):
            await client.v1.customers.create_async({})


FAULTS: list[tuple[str, type[sdk.StripeError], int | None]] = [
    ("rate_limit", sdk.RateLimitError, 429),
    ("lock_timeout", sdk.RateLimitError, 429),
    ("key_in_use", sdk.APIError, 409),
    ("server_error", sdk.APIError, 500),
    ("server_error_stored", sdk.APIError, 500),
    ("bad_gateway", sdk.APIError, 502),
    ("broken_json", sdk.APIError, 200),
    ("reset", sdk.APIConnectionError, None),
]


@pytest.mark.parametrize(("kind", "cls", "status"), FAULTS)
async def test_faults_are_the_sdks_errors(
    sandbox: Sandbox, api: Sync, customer: str, kind: str, cls: type[sdk.StripeError], status: int | None
) -> None:
    """What the sandbox breaks on demand, the SDK takes for what it is."""
    sandbox.faults.add(kind)
    with pytest.raises(cls) as caught:
        await enter(api, customer)
    assert cls is type(caught.value)
    assert status == caught.value.http_status


async def test_a_running_key_is_a_conflict(sandbox: Sandbox, api: Sync, customer: str) -> None:
    """While the first request under a key runs, the second is told 409 idempotency_key_in_use."""
    import asyncio  # noqa: PLC0415
    import threading  # noqa: PLC0415

    sandbox.faults.add("stall", seconds=1.0)
    options = {"idempotency_key": "k"}
    params = {"amount": -500, "currency": "usd"}
    first = threading.Thread(
        target=connect(sandbox).v1.customers.balance_transactions.create, args=(customer, params, options)
    )
    first.start()
    async with asyncio.timeout(20):
        while not any("balance" in request.target for request in sandbox.requests):
            await asyncio.sleep(0.001)
    with pytest.raises(sdk.APIError) as caught:
        await enter(api, customer, options=options)
    first.join()
    assert caught.value.error is not None
    assert (409, "idempotency_key_in_use") == (caught.value.http_status, caught.value.error.code)
    assert "true" == (await enter(api, customer, options=options)).last_response.headers["Idempotent-Replayed"]


async def test_the_sdk_retries_into_a_replay(sandbox: Sandbox, customer: str, api: Sync) -> None:
    """A reply lost after execution: the SDK's own retry finds the stored one, and there is one entry."""
    sandbox.faults.add("reset", executed=True)
    async with closing(connect(sandbox, max_network_retries=2)) as client:
        entries = client.v1.customers.balance_transactions
        made = entries.create(customer, {"amount": -500, "currency": "usd"})
        assert made.last_response is not None
        assert "true" == made.last_response.headers["Idempotent-Replayed"]
    assert 1 == len((await api(api.entries, "list", customer)).data)


async def test_connected_accounts_have_their_own_customers_and_keys(api: Sync, customer: str) -> None:
    """Stripe-Account is another ledger and another namespace of keys."""
    options = {"stripe_account": "acct_1", "idempotency_key": "k"}
    await enter(api, customer, options={"idempotency_key": "k"})
    with pytest.raises(sdk.InvalidRequestError, match="No such customer"):
        await enter(api, customer, options=options)
    with pytest.raises(sdk.PermissionError) as caught:
        await api(api.customers, "list", {}, {"stripe_account": "nonsense"})
    assert caught.value.error is not None
    assert "account_invalid" == caught.value.error.code


def test_every_error_class_of_this_domain_is_met() -> None:
    """The SDK's classes for HTTP answers, but for card errors, which no balance has."""
    met: set[Callable[..., Any] | Awaitable[Any]] = {cls for _, cls, _ in FAULTS}
    met |= {sdk.InvalidRequestError, sdk.IdempotencyError, sdk.AuthenticationError, sdk.PermissionError}
    known = {
        sdk.APIConnectionError,
        sdk.APIError,
        sdk.AuthenticationError,
        sdk.IdempotencyError,
        sdk.InvalidRequestError,
        sdk.PermissionError,
        sdk.RateLimitError,
    }
    assert known == met
