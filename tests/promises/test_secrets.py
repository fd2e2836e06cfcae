"""
The API key is planted, everything that can go wrong goes wrong, and then it is looked for everywhere.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import pickle
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httpx
import pytest
import rich.traceback
from helpers import (
    STRIPES,
    TEST_KEY,
    TOOL,
    UNGUARDED,
    answered,
    connect,
    decisions,
    entry_of,
    ledger,
    order,
    records,
    run,
    scripted,
    transaction,
)
from test_errors import SCENARIOS

from ocp_stripe_balance import OCPAgent, Settings, ToolError, errors
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._stripe.access import Access
from ocp_stripe_balance._text.secrets import Concealed, concealed, holds_key, redact
from ocp_stripe_balance.sandbox import FaultKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from places import Place

    from ocp_stripe_balance.sandbox import Sandbox

MARK = "planted0key"


TESTS = str(Path(__file__).parents[1])


def without_callers(error: BaseException | None) -> None:
    """
    Cut the frames of the test itself, which knows the key, off the errors of a chain.
    """
    while error is not None:
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_filename.startswith(TESTS):
            frame = frame.tb_next
        error.__traceback__ = frame
        error = error.__cause__ or error.__context__


def printed(error: BaseException) -> dict[str, str]:
    """
    The error in every form in which people and programs see it, tracebacks with locals among them.
    """
    forms = {"str": str(error), "repr": repr(error), "vars": repr(vars(error)), "args": repr(error.args)}
    if isinstance(error, ToolError):
        forms["dict"] = json.dumps(error.to_dict())
    forms["pickle"] = pickle.dumps(error).decode("latin-1")
    forms["locals"] = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    for link in (error.__cause__, error.__context__):  # also where "from None" keeps it from being shown
        if link is not None:
            forms["locals"] += "".join(traceback.TracebackException.from_exception(link, capture_locals=True).format())
    trace = rich.traceback.Traceback.extract(
        type(error), error, error.__traceback__, show_locals=True, locals_max_length=1000, locals_max_string=5000
    )
    nodes = [node for stack in trace.stacks for frame in stack.frames for node in (frame.locals or {}).values()]
    forms["rich"] = "\n".join(map(str, nodes))
    with contextlib.suppress(ImportError), warnings.catch_warnings():  # gone in Python 3.13
        warnings.simplefilter("ignore", DeprecationWarning)
        import cgitb  # noqa: PLC0415

        assert error.__traceback__ is not None
        forms["cgitb"] = cgitb.text((type(error), error, error.__traceback__))
    return forms


def test_the_forms_would_show_a_key() -> None:
    """What is looked through has the locals of every frame in it: a key that stood there would be found."""

    def careless(key: str) -> None:
        raise errors.NotSentError(f"lost {len(key)} characters")

    with pytest.raises(errors.NotSentError) as caught:
        careless("sk_test_planted0key")
    forms = printed(caught.value)
    assert all(MARK in forms[name] for name in ("locals", "rich", "cgitb") if name in forms)


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    for name in ("", "httpx", "httpcore", "aiohttp", "asyncio", "ocp_stripe_balance", "pydantic"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def assert_unseen(found: dict[str, str]) -> None:
    assert {} == {name: text[max(text.index(MARK) - 300, 0) :][:400] for name, text in found.items() if MARK in text}


async def raised(scenario: Callable[[], Awaitable[Any]]) -> BaseException:
    try:
        await scenario()
    except errors.ToolError as error:
        without_callers(error)
        return error
    raise AssertionError("nothing was raised")


async def careless_parameters() -> Any:
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        return await agent.call_tool(TOOL, order("a/b", "5.00"))


@pytest.mark.parametrize("cls", SCENARIOS, ids=lambda cls: str(cls.__name__))
async def test_no_error_shows_the_key(
    cls: type[errors.ToolError], everything_logged: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Every class of the tree: text, repr, pickle, dict, tracebacks with locals, logs and journal."""
    # Parameters are the caller's own: one that has the key in it is tested below.
    scenario = careless_parameters if cls is errors.InvalidParametersError else SCENARIOS[cls][1]
    error = await raised(scenario)
    assert cls is type(error)
    assert_unseen(printed(error))
    assert_unseen({"log": everything_logged.text, **files_below(tmp_path)})


def files_below(folder: Path) -> dict[str, str]:
    return {str(path): path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()}


TRANSPORTS: dict[str, Callable[[], httpx.AsyncBaseTransport | None]] = {
    "aiohttp": lambda: None,
    "httpcore": httpx.AsyncHTTPTransport,
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", FaultKind)
async def test_no_fault_on_the_wire_shows_the_key(
    stripe: Sandbox,
    customer: str,
    kind: FaultKind,
    transport: str,
    everything_logged: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Real sockets, real HTTP libraries, every fault: their frames hold the headers, ours do not show them."""
    stripe.api_key = "sk_test_planted0key"
    takes_time = kind in {FaultKind.STALL, FaultKind.DRIP, FaultKind.REFUSE}
    stripe.faults.add(kind, times=None, seconds=0.3 if takes_time else 30.0)
    values = {"api_key": stripe.api_key, "api_base": stripe.url, "max_attempts": 1, "timeout": 1, **UNGUARDED}
    agent = OCPAgent(settings=Settings(**values), transport=TRANSPORTS[transport]())
    async with agent:
        await agent.register_api("stripe")
        try:
            result = await agent.call_tool(TOOL, order(customer))
        except errors.ToolError as error:
            without_callers(error)
            assert_unseen(printed(error))
        else:
            assert_unseen({"result": repr(result), "pickle": pickle.dumps(result).decode("latin-1")})
        context = json.dumps(agent.context.to_dict())
    received = [
        str(header) for request in stripe.requests for header in request.headers if header[0] != "Authorization"
    ]
    assert_unseen(
        {"log": everything_logged.text, "context": context, "headers": str(received), **files_below(tmp_path)}
    )


ECHOES: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "escaped": lambda text: text.replace("_", "\\u005f").replace(".", "\\u002E").encode(),
    "escaped in part": lambda text: (
        text.replace("k", "\\u006b", 1).replace(MARK, MARK.replace("a", "\\u0061")).encode()
    ),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "with a mark before it": lambda text: text.encode("utf-8-sig"),
    "percent-encoded": lambda text: text.replace("_", "%5f").replace(".", "%2E").encode(),
    "percent-encoded twice": lambda text: text.replace("_", "%255F").encode(),
    "percent-encoded behind an escape": lambda text: text.replace("_", r"\u00255F").encode(),
    "escaped twice": lambda text: text.replace("_", r"\\u005f").encode(),
    "escaped in UTF-32": lambda text: text.replace("_", r"\u005f").encode("utf-32-be"),
}


@pytest.mark.promise("secrets.stay")
@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize(("status", "is_cut"), [(200, False), (200, True), (400, False), (500, False)])
async def test_an_echo_is_masked_however_it_is_written(echo: str, status: int, is_cut: bool, tmp_path: Path) -> None:
    """What is masked is the text that was decoded, in values and names; and what is stored is what was masked."""
    secret = "rk_test_" + MARK + "_of.another-form"

    def handler(request: httpx.Request) -> httpx.Response:
        entry = entry_of(request.url.raw_path, request.content, description=f"it is {secret}", **{secret: [secret]})
        body = {"error": {"type": "card_error", "message": secret, "code": secret}} if status == 400 else entry
        # An answer that is cut off is masked too.
        text = json.dumps({**body, "end": 1})[: -1 if is_cut else None]
        headers = {**STRIPES, "X-Id": f"req_{secret}".replace("_", "%5F"), "X-Echo": secret}
        return httpx.Response(status, content=ECHOES[echo](text), headers=headers)

    told: dict[str, str] = {}
    async with await scripted(handler, api_key=secret, max_attempts=1) as agent:
        for turn in range(2):  # from Stripe, then from the journal
            try:
                result = await agent.call_tool(TOOL, order(), idempotency_key="k")
            except errors.ToolError as error:
                without_callers(error)
                told |= {f"{turn} {name}": text for name, text in printed(error).items()}
            else:
                told |= {f"{turn} result": repr(result), f"{turn} dict": json.dumps(result.to_dict())}
                told[f"{turn} decoded"] = unquote(unquote(repr(result).replace("\\\\u005f", "_")))
                assert "it is [api key]" == result.data["description"]
    assert_unseen({**told, **files_below(tmp_path)})
    assert not [name for name, text in files_below(tmp_path).items() if "another-form" in text or "u005f" in text]


@pytest.mark.parametrize("where", ["body", "request id", "header", "rejection"])
async def test_an_echo_of_the_key_is_masked(where: str, tmp_path: Path) -> None:
    """A server or proxy that sends the key back gets it into nothing that is kept or shown."""
    secret = "rk_test_" + MARK + "_of.another-form"

    def handler(_: httpx.Request) -> httpx.Response:
        if where == "rejection":
            body = {"error": {"type": "invalid_request_error", "message": secret, "code": secret, "doc_url": secret}}
            return httpx.Response(400, json=body, headers=STRIPES)
        headers = {"request id": {"Request-Id": secret}, "header": {"X-Echo": f"Bearer {secret}"}}.get(where, {})
        data = transaction(description=secret) if where == "body" else transaction()
        return httpx.Response(200, json=data, headers=headers)

    async with await scripted(handler, api_key=secret) as agent:
        for _ in range(2):  # from Stripe, then from the journal
            try:
                result = await agent.call_tool(TOOL, order(), idempotency_key="k")
            except errors.RejectedError as error:
                without_callers(error)
                assert_unseen(printed(error))
            else:
                assert_unseen(
                    {"result": repr(result), "headers": repr(dict(result.headers)), "id": str(result.request_id)}
                )
        assert_unseen({"context": json.dumps(agent.context.to_dict()), **files_below(tmp_path)})


@pytest.mark.parametrize(
    "parameters",
    [
        order(description=f"key is {TEST_KEY}"),
        order(metadata={"k": TEST_KEY}),
        order(metadata={TEST_KEY: "v"}),
        order(reference=TEST_KEY),
        order(idempotency_key=TEST_KEY),
        order(customer=TEST_KEY),
        order(description="sk_live_51Habcdefgh"),
        order(description="a restricted one: rk_live_51Habcdefgh."),
    ],
)
async def test_a_key_in_a_parameter_is_refused(parameters: dict[str, Any], tmp_path: Path) -> None:
    """A model that was handed a key does not get it into the ledger or the journal."""
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async with await scripted(handler) as agent:
        with pytest.raises(errors.InvalidParametersError, match="looks like an API key") as caught:
            await agent.call_tool(TOOL, parameters)
    assert [] == sent
    assert_unseen({"str": str(caught.value), "dict": json.dumps(caught.value.to_dict()), **files_below(tmp_path)})
    assert "51Habcdefgh" not in str(caught.value)


@pytest.mark.parametrize("key", [TEST_KEY, "rk_live_odd.planted0key"])
@pytest.mark.parametrize("name", ["currency", "customer", "amount", "metadata", "expand", "description", "unknown"])
async def test_a_key_glued_to_something_is_masked(name: str, key: str) -> None:
    """Wherever it stands in a value that is refused."""
    glued = f"x{key}/"
    values = {"metadata": {glued: 5}, "expand": [glued], "description": f"{glued}\0", "unknown": 1}
    parameters = order(**({glued: 1} if name == "unknown" else {name: values.get(name, glued)}))
    async with await scripted(lambda _: httpx.Response(500), api_key=key) as agent:
        with pytest.raises(errors.InvalidParametersError) as caught:
            await agent.call_tool(TOOL, parameters)
    assert_unseen({"str": str(caught.value), "repr": repr(caught.value), "dict": json.dumps(caught.value.to_dict())})


async def test_bad_headers_and_settings_do_not_show_the_key() -> None:
    """Where the key itself, or what stands beside it, is wrong."""
    wrong: list[Callable[[], Awaitable[Any]]] = []

    async def settings(**values: Any) -> Any:
        values = {name: globals()["TEST_KEY"] + "\n." if value is None else value for name, value in values.items()}
        return make(values)

    def make(values: Any, **more: Any) -> Any:
        given, values = values, None
        return Settings(**given, **more)

    async def header(name: str, prefix: str, suffix: str) -> Any:
        async with await scripted(lambda _: httpx.Response(500)) as agent:
            return await agent.call_tool(TOOL, order(), headers={name: prefix + globals()["TEST_KEY"] + suffix})

    async def unread_headers(headers: Any) -> Any:
        async with await scripted(lambda _: httpx.Response(500)) as agent:
            return await agent.call_tool(TOOL, order(), headers=headers)

    async def environment() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STRIPE_SECRET_KEY", globals()["TEST_KEY"])
            patch.setenv("OCP_STRIPE_POLICY", "/nowhere.toml")
            return OCPAgent()

    wrong += [
        lambda: settings(api_key=None),
        lambda: settings(api_key=TEST_KEY, timeout=-1),
        lambda: settings(api_key=TEST_KEY, policy={"directions": ["up"]}),
        lambda: settings(api_key=TEST_KEY, policy="/nowhere.toml"),
        lambda: settings(apikey=TEST_KEY),
        lambda: settings(account=TEST_KEY),
        lambda: unread_headers([("Authorization", "Bearer " + globals()["TEST_KEY"])]),
        lambda: unread_headers("Bearer " + globals()["TEST_KEY"]),
        environment,
        lambda: header("Authorization", "Basic ", ""),
        lambda: header("Authorization", "Bearer ", "\r\n"),
        lambda: header("Authorization", "Bearer pk_", ""),
        lambda: header("X-Key", "", ""),
    ]
    for scenario in wrong:
        error = await raised(scenario)
        text = "".join(
            line
            for frame in traceback.TracebackException.from_exception(error, capture_locals=True).stack
            if "ocp_stripe_balance" in frame.filename
            for line in (frame.locals or {}).values()
        )
        assert_unseen({"message": str(error), "locals": text})


@pytest.mark.promise("secrets.stay")
async def test_what_holds_the_key_is_not_pickled_and_not_shown(stripe: Sandbox) -> None:
    """Settings, an agent, its access and its headers: neither repr nor pickle has it."""
    stripe.api_key = "sk_test_planted0key"
    agent = await connect(stripe)
    api: Any = await agent.register_api("stripe", headers={"Authorization": "Bearer sk_test_planted0key"})
    settings = Settings(api_key=stripe.api_key)
    access = Access(api_key=settings.api_key, account=None, api_version="v")
    for thing in (settings, agent, api, access, concealed({"Authorization": stripe.api_key})):
        assert_unseen({"repr": repr(thing), "vars": repr(getattr(thing, "__dict__", ""))})
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pickle.dumps(thing)
    assert settings.model_copy() == settings == copy.copy(settings) == copy.deepcopy(settings)
    assert_unseen({"json": settings.model_dump_json()})
    await agent.aclose()


@pytest.mark.promise("secrets.stay")
async def test_results_and_dry_runs_and_exports_have_no_key(stripe_thread: Sandbox, place: Place) -> None:
    """What succeeds is as silent as what fails."""
    stripe, customer = stripe_thread, stripe_thread.create_customer()
    stripe.api_key = "sk_test_planted0key"
    async with await connect(stripe, journal=str(place)) as agent:
        result = await agent.call_tool(TOOL, order(customer))
        dry = await agent.call_tool(TOOL, order(customer, -1), dry_run=True)
        found = {
            "result": repr(result) + json.dumps(result.to_dict()),
            "pickle": pickle.dumps(result).decode("latin-1"),
        }
        found |= {"dry run": repr(dry) + json.dumps(dry.to_dict())}
        assert "Bearer [api key]" == dry.headers["Authorization"]
    journal = Journal(place)
    found["rows"] = repr(await records(journal)) + repr(await decisions(journal))
    await journal.aclose()
    assert_unseen(found)
    variables = {"OCP_STRIPE_JOURNAL": str(place)}
    for arguments in (("journal", "export"), ("journal", "list"), ("doctor",), ("policy", "check"), ("tools",)):
        done = run(*arguments, stripe=stripe, **variables)
        assert_unseen({" ".join(arguments): done.stdout + done.stderr})


# Not one of them is a key: they are put together, so that no scanner of repositories takes them for one.
_DRAWN = "51" + "HabcDefgH2iJk9LmN4"
WITH_A_KEY = [
    f"sk_live_{_DRAWN}",
    f"x rk_test_{_DRAWN}.",
    "x sk_org_" + "abcdefgh1",
    "sk_org_test_" + "abcdefgh1",
    f"(sk_test_{_DRAWN})",
    f"my_sk_live_{_DRAWN}",
    f"KEY=sk_live_{_DRAWN}",
    f"helpdesk_live_sk_live_{_DRAWN}",
    f"keysk_live_{_DRAWN}{_DRAWN}",
    f"\u30ad\u30fcsk_live_{_DRAWN}",
    f"https://sk_live_{_DRAWN}:@api.stripe.com/v1",
    f"https://h.test/sk_live_{_DRAWN}?x",
    f"https://h.test/?key%3Dsk_live_{_DRAWN}",
    f"https://h.test/?key=sk%5Flive%5f{_DRAWN}",
    f"https://h.test/#sk_live_{_DRAWN}",
    f'{{"a": "b\\nsk_live_{_DRAWN}"}}',
    f'"\\u003dsk_live_{_DRAWN}"',
    "sk_live_" + "aBcDeFgHiJkLmNoPqRsT",
]
WORDS = [
    "sk_test_",
    "task_test_force",
    "Chat via helpdesk_live_chatwidget",
    "framework_test_integration",
    "network_live_monitoring",
    "task_test_regression1",
    "task_live_51abcdef99",
    "risk_test_2024report",
    "disk_live_20241101",
    "kiosk_test_IntegrationSuite2024Run",
    "fork_live_deployment_number_12",
    "sk_live_streaming",
    "rk_test_integration",
    "apk_test_upload12345",
]


@pytest.mark.promise("secrets.stay")
@pytest.mark.parametrize("text", WITH_A_KEY)
def test_a_key_is_found_wherever_it_stands(text: str) -> None:
    """In each part of a URL, behind escapes, glued to a word; and what is masked has none of it."""
    assert holds_key(text, None)
    if "%5" not in text:
        assert _DRAWN[:9] not in redact(text)
        assert "[masked]" in redact(text)


@pytest.mark.parametrize("text", WORDS)
def test_a_word_is_no_key(text: str) -> None:
    """A key begins a word, and has the shape of one."""
    assert not holds_key(text, None)
    assert text.startswith(("sk_", "rk_")) or text == redact(text)


async def test_words_reach_the_ledger_as_they_are(agent: OCPAgent, customer: str, stripe: Sandbox) -> None:
    """In a description, metadata and a reference."""
    for number, text in enumerate(WORDS):
        made = order(customer, -1 - number, description=text, metadata={"suite": text}, reference=text)
        assert text == (await agent.call_tool(TOOL, made)).data["description"]
    assert len(WORDS) == len(await ledger(stripe, customer))


def test_masking_knows_keys_of_every_kind() -> None:
    """Secret, restricted and publishable ones in running text; and what only looks alike is no key."""
    assert "a sk_live_[masked] b rk_test_[masked]" == redact("a sk_live_51abc b rk_test_***xyz")
    assert "[api key]" == redact("odd/key", "odd/key")
    assert holds_key("my odd/key!", "odd/key")
    hidden = Concealed({"Authorization": TEST_KEY})
    assert_unseen({"repr": repr(hidden), "str": str(hidden)})
    assert (1, TEST_KEY) == (len(hidden), hidden["Authorization"])
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(hidden)
