"""
Bad input is refused before the wire, each kind with a message a stranger could act on.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import json
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import strategies
from helpers import TOOL, answered, order, scripted, transaction
from hypothesis import given
from hypothesis import strategies as st

from ocp_stripe_balance import InvalidParametersError
from ocp_stripe_balance._text import placeholders
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance._tools.validation import ParameterValidator, ResponseValidator, _compile, _slow

CREATE = load_manifest().tools[0]
VALIDATOR = ParameterValidator(CREATE.parameters_json_schema)
LEFT_OUT = object()


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in order().items() if key != name}


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


# (what is passed, the path that is named, what is said, what would be right)
BAD: dict[str, tuple[Any, str, str, str]] = {
    # the parameters as a whole
    "a list": ([order()], "parameters", "a list", "one JSON object"),
    "a JSON text": (json.dumps(order()), "parameters", "is a string", "one JSON object"),
    "a number": (5, "parameters", "is an integer", "one JSON object"),
    "a boolean": (False, "parameters", "false is a boolean", "one JSON object"),
    "nothing": (None, "customer", "required parameter is missing", "cus_"),
    "an empty object": ({}, "amount", "required parameter is missing", "smallest currency unit"),
    "a key that is no string": ({**order(), 7: 1}, "7", "the key 7 is an integer", ""),
    "a key with a surrogate": ({**order(), "\ud800": 1}, "'\\ud800'", "lone surrogate", ""),
    "a 10 MB key": ({**order(), "k" * 10_000_000: 1}, "'kkkk", "unknown parameter", "the parameters are customer"),
    # unknown names
    "misspelt": ({**without("currency"), "currncy": "usd"}, "currncy", "unknown parameter", "did you mean currency?"),
    "capitals": ({**without("amount"), "Amount": -500}, "Amount", "unknown parameter", "did you mean amount?"),
    "plural": (order(descriptions="x"), "descriptions", "unknown parameter", "did you mean description?"),
    "another API's": (order(payment_method="pm_1"), "payment_method", "unknown parameter", "the parameters are"),
    "a header": (order(Authorization="Bearer x"), "Authorization", "unknown parameter", "the parameters are"),
    "brackets": ({**order(), "metadata[a]": "b"}, "'metadata[a]'", "unknown parameter", "did you mean metadata?"),
    "an unknown null": (order(nonsense=None), "nonsense", "unknown parameter", "the parameters are"),
    # customer
    "no customer": (without("customer"), "customer", "required parameter is missing", "cus_"),
    "a null customer": (order(None), "customer", "null", "cus_"),
    "an empty customer": (order(""), "customer", "is empty", "cus_"),
    "a number for a customer": (order(5), "customer", "5 is an integer", "cus_"),
    "a list of customers": (order(["cus_1"]), "customer", "a list", "cus_"),
    "a path up": (order("../charges"), "customer", "'../charges' is not allowed", "without / \\ ? # %"),
    "a dot": (order("."), "customer", "'.' is not allowed", "cus_"),
    "two dots": (order(".."), "customer", "'..' is not allowed", "cus_"),
    "encoded dots": (order("%2e%2e"), "customer", "is not allowed", "without / \\ ? # %"),
    "a slash": (order("cus_1/"), "customer", "is not allowed", "without / \\ ? # %"),
    "a backslash": (order("cus\\1"), "customer", "is not allowed", "without / \\ ? # %"),
    "a query": (order("cus_1?a=b"), "customer", "is not allowed", "without / \\ ? # %"),
    "a fragment": (order("cus_1#a"), "customer", "is not allowed", "without / \\ ? # %"),
    "a space": (order("cus 1"), "customer", "'cus 1' is not allowed here because of ' '", "without spaces"),
    "a header injection": (order("cus_1\r\nX-A: b"), "customer", "is not allowed", "printable ASCII"),
    "a line break at the end": (order("cus_1\n"), "customer", "is not allowed", "printable ASCII"),
    "a NUL": (order("cus_1\0"), "customer", "has a NUL character", "printable ASCII"),
    "a look-alike": (order("cus_1\N{CYRILLIC SMALL LETTER A}"), "customer", "is not allowed", "printable ASCII"),
    "a long customer": (order("c" * 256), "customer", "has 256 characters; at most 255", "cus_"),
    "a 10 MB customer": (order("c" * 10_000_000), "customer", "has 10,000,000 characters; at most 255", "cus_"),
    "a key for a customer": (order("sk_test_abc/def"), "customer", "'sk_test_[masked]/def' is not allowed", "cus_"),
    # amount
    "no amount": (without("amount"), "amount", "required parameter is missing", "negative to credit"),
    "a null amount": (order(amount=None), "amount", "null", "smallest currency unit"),
    "a decimal text": (
        order(amount="5.00"),
        "amount",
        "'5.00' is a string",
        "smallest unit: 500 for 5.00 usd, negative to credit",
    ),
    "a text in yen": (order(amount="5.00", currency="jpy"), "amount", "is a string", "5 for 5 jpy"),
    "a text in dinars": (order(amount="-1.5", currency="kwd"), "amount", "is a string", "-1500 for -1.500 kwd"),
    "a whole text": (order(amount="-500"), "amount", "'-500' is a string", "the integer -500, without quotes"),
    "words": (order(amount="five dollars"), "amount", "'five dollars' is a string", "smallest currency unit"),
    "a currency sign": (order(amount="$5"), "amount", "'$5' is a string", "smallest currency unit"),
    "a fraction": (order(amount=5.5), "amount", "5.5 is a number", "550 for 5.50 usd"),
    "a tiny fraction": (order(amount=0.001), "amount", "0.001 is a number", "smallest currency unit"),
    "zero": (order(amount=0), "amount", "0 changes nothing", "negative to credit"),
    "minus zero": (order(amount=-0.0), "amount", "0 changes nothing", "negative to credit"),
    "true": (order(amount=True), "amount", "true is a boolean", "smallest currency unit"),
    "false": (order(amount=False), "amount", "false is a boolean", "smallest currency unit"),
    "too much": (order(amount=100000000000), "amount", "the largest allowed is 99999999999", "smallest"),
    "too little": (order(amount=-100000000000), "amount", "the smallest allowed is -99999999999", "smallest"),
    "1e300": (order(amount=1e300), "amount", "the largest allowed is 99999999999", "smallest"),
    "a huge integer": (order(amount=10**5000), "amount", "far too many digits", ""),
    "NaN": (order(amount=float("nan")), "amount", "nan is not a number JSON can hold", ""),
    "infinity": (order(amount=float("-inf")), "amount", "-inf is not a number JSON can hold", ""),
    "a Decimal": (order(amount=decimal.Decimal(5)), "amount", "a Python Decimal is not a JSON value", ""),
    "an amount object": (order(amount={"value": 5}), "amount", "an object", "smallest currency unit"),
    "an amount list": (order(amount=[-500]), "amount", "a list", "smallest currency unit"),
    # currency
    "no currency": (without("currency"), "currency", "required parameter is missing", "three-letter"),
    "an empty currency": (order(currency=""), "currency", "is not allowed", "three-letter"),
    "two letters": (order(currency="us"), "currency", "'us' is not allowed", "three-letter"),
    "four letters": (order(currency="usdt"), "currency", "'usdt' is not allowed", "three-letter"),
    "a sign": (order(currency="$"), "currency", "'$' is not allowed", "three-letter"),
    "digits": (order(currency="840"), "currency", "'840' is not allowed", "three-letter"),
    "a Cyrillic letter": (
        order(currency="u\N{CYRILLIC SMALL LETTER DZE}d"),
        "currency",
        "is not allowed",
        "three-letter",
    ),
    "a currency with a line break": (order(currency="usd\n"), "currency", "is not allowed", "three-letter"),
    "a currency list": (order(currency=["usd"]), "currency", "a list", "three-letter"),
    "a surrogate": (order(currency="\ud800"), "currency", "lone surrogate", ""),
    # description
    "a long description": (order(description="x" * 351), "description", "has 351 characters; at most 350", "350"),
    "a 10 MB description": (order(description="x" * 10_000_000), "description", "has 10,000,000 characters", "350"),
    "a description with NUL": (order(description="a\0b"), "description", "has a NUL character", "350"),
    "a number for a description": (order(description=5), "description", "5 is an integer", "text"),
    "bytes": (order(description=b"x"), "description", "a Python bytes is not a JSON value", ""),
    "a date": (order(description=dt.date(2026, 1, 1)), "description", "a Python date is not a JSON value", ""),
    "an emoji torn apart": (order(description="\ud83d"), "description", "lone surrogate", ""),
    # metadata
    "a text for metadata": (order(metadata="a=b"), "metadata", "'a=b' is a string", "an object of string values"),
    "a list for metadata": (order(metadata=["a"]), "metadata", "a list", "an object of string values"),
    "a number in metadata": (order(metadata={"a": 1}), "metadata.a", "1 is an integer", "string values"),
    "null in metadata": (order(metadata={"a": None}), "metadata.a", "null", "string values"),
    "an object in metadata": (order(metadata={"a": {"b": "c"}}), "metadata.a", "an object", "string values"),
    "51 keys": (order(metadata={f"k{i}": "v" for i in range(51)}), "metadata", "has 51 keys; at most 50", "50 keys"),
    "no room for ours": (
        order(metadata={f"k{i}": "v" for i in range(50)}),
        "metadata",
        "at most 49 are left",
        "ocp_call",
    ),
    "our own key": (order(metadata={"ocp_call": "x"}), "metadata", "'ocp_call' is reserved", "1 to 40 characters"),
    "a long key": (order(metadata={"k" * 41: "v"}), "metadata", "has 41 characters; at most 40", "40 characters"),
    "an empty key": (order(metadata={"": "v"}), "metadata", "is empty", "1 to 40 characters"),
    "a bracket in a key": (order(metadata={"a[b]": "v"}), "metadata", "'a[b]' has a square bracket", "without [ or ]"),
    "a long value": (order(metadata={"a": "v" * 501}), "metadata.a", "has 501 characters; at most 500", "500"),
    "a NUL in a value": (order(metadata={"a": "\0"}), "metadata.a", "has a NUL character", "string values"),
    "a number for a key": (order(metadata={1: "a"}), "metadata.1", "the key 1 is an integer", ""),
    "NaN in metadata": (order(metadata={"a": float("nan")}), "metadata.a", "nan is not a number", ""),
    "1000 deep": (order(metadata={"a": nested(1000)}), "metadata.a[0]", "is nested more than 32 deep", ""),
    # expand
    "a text for expand": (order(expand="customer"), "expand", "'customer' is a string", '["customer"]'),
    "not expandable": (order(expand=["amount"]), "expand[0]", "'amount' is not allowed", "the expandable ones are"),
    "five deep": (order(expand=["invoice.a.b.c.d"]), "expand[0]", "is not allowed", "at most four names deep"),
    "an empty name": (order(expand=["customer."]), "expand[0]", "is not allowed", "the expandable ones are"),
    "the second of two": (order(expand=["customer", "x"]), "expand[1]", "'x' is not allowed", "the expandable"),
    "a number in expand": (order(expand=[1]), "expand[0]", "1 is an integer", "the expandable ones are"),
    "a set": (order(expand={"customer"}), "expand", "a Python set is not a JSON value", ""),
    # reference
    "a long reference": (order(reference="r" * 201), "reference", "has 201 characters; at most 200", "ticket-812"),
    "a number for a reference": (order(reference=812), "reference", "812 is an integer", "ticket-812"),
    # idempotency_key
    "a long key name": (order(idempotency_key="k" * 256), "idempotency_key", "has 256 characters", "255"),
    "a key with a space at its end": (order(idempotency_key="k "), "idempotency_key", "is not allowed", "space"),
    "a key with a line break": (order(idempotency_key="a\nb"), "idempotency_key", "is not allowed", "printable ASCII"),
    "a key with an umlaut": (order(idempotency_key="ü"), "idempotency_key", "is not allowed", "printable ASCII"),
    "a number for a key name": (order(idempotency_key=1), "idempotency_key", "1 is an integer", "printable ASCII"),
}


def test_there_are_at_least_sixty_kinds() -> None:
    """The table is as long as promised."""
    assert len(BAD) >= 60


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.promise("input.never-on-the-wire")
async def test_bad_input_never_reaches_the_wire(kind: str) -> None:
    """Each kind is refused with its path, what was wrong and what would be right, and nothing is sent."""
    parameters, path, said, right = BAD[kind]
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async with await scripted(handler) as agent:
        with pytest.raises(InvalidParametersError) as caught:
            await agent.call_tool(TOOL, parameters)
    assert [] == sent
    error = caught.value
    assert isinstance(error, ValueError)
    assert "not_sent" == error.outcome
    problem = next(p for p in error.problems if p.path.startswith(path))
    assert said in problem.message
    assert right in problem.hint
    assert str(problem) in str(error)
    assert len(str(error)) < 5000
    assert error.to_dict() == json.loads(json.dumps(error.to_dict()))
    str(error).encode()


async def test_all_problems_are_told_at_once() -> None:
    """A model mends everything in one go."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        with pytest.raises(InvalidParametersError) as caught:
            await agent.call_tool(TOOL, {"amount": "5.00", "currncy": "usd", "metadata": {"a": 1}, "expand": ["x"]})
    paths = {problem.path for problem in caught.value.problems}
    assert {"customer", "amount", "currency", "currncy", "metadata.a", "expand[0]"} == paths


def endless() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError


class HostileDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError


HOSTILE: list[tuple[Any, str]] = [
    (order(expand=endless()), "is nested more than 32 deep"),
    (order(expand=["customer"] * 1_000_000), "past the 1,000 values"),
    (order(expand=[object()] * 1_000_000), "not a JSON value"),
    (order(metadata={str(i): 5 for i in range(100_000)}), "past the 1,000 values"),
    ({**order(), **{f"x{i}": i for i in range(100_000)}}, "past the 1,000 values"),
    (10**5000, "a Python int"),
    ({**order(), 10**5000: 1}, "a Python int"),
    (order(amount=Hostile()), "a Python Hostile is not a JSON value"),
    ({**order(), Hostile(): 1}, "a Python Hostile"),
    (HostileDict(order()), "cannot be read: RuntimeError"),
    (order(metadata=HostileDict(a="b")), "cannot be read: RuntimeError"),
]


@pytest.mark.parametrize(("parameters", "said"), HOSTILE, ids=map(str, range(len(HOSTILE))))
async def test_hostile_objects_are_refused_in_good_time(parameters: Any, said: str) -> None:
    """Endless, huge and lying values cost neither time nor another type of error."""
    async with await scripted(lambda _: httpx.Response(500)) as agent, asyncio.timeout(20):
        with pytest.raises(InvalidParametersError) as caught:
            await agent.call_tool(TOOL, parameters)
    assert any(said in problem.message for problem in caught.value.problems)
    assert len(caught.value.problems) <= 20


@pytest.mark.parametrize("value", ["x\u200b" * 5000, "\u3000" * 5000, ["\u200b" * 900] * 100])
def test_a_text_that_is_far_too_long_is_not_read_letter_by_letter(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte of letters that look like others would keep all callers of a server waiting for seconds."""
    read: list[str] = []

    def one_spelling(text: str) -> str:
        read.append(text)
        return text

    monkeypatch.setattr(placeholders, "one_spelling", one_spelling)
    VALIDATOR.check(order(reference=value, expand=value, description=value))
    assert sum(map(len, read)) < 1000


async def test_a_text_for_parameters_is_named_also_with_a_key() -> None:
    """The key given beside it does not hide what was wrong."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        with pytest.raises(InvalidParametersError, match="is a string; pass one JSON object"):
            await agent.call_tool(TOOL, json.dumps(order()), idempotency_key="k")  # type: ignore[call-overload]


class Amount(IntEnum):
    FIVE = -500


class Currency(StrEnum):
    USD = "usd"


@pytest.mark.parametrize(
    "parameters",
    [
        order(amount=-500.0),
        order(description=None, metadata=None, expand=None, idempotency_key=None),
        order(amount=Amount.FIVE, currency=Currency.USD),
        MappingProxyType(order(metadata=MappingProxyType({"a": "b"}), expand=("customer",))),
        order(description="x" * 350, metadata={"k" * 40: "v" * 500}),
        order(description="😀" * 350),
        order("c" * 255, amount=99999999999),
        order(amount=-99999999999, metadata={f"k{i}": "" for i in range(49)}),
        order(reference="r" * 200, metadata={f"k{i}": "" for i in range(48)}),
        order(expand=["invoice.a.b.c"]),
    ],
)
async def test_what_is_right_at_the_edge_is_sent(parameters: Any) -> None:
    """The bounds themselves are allowed, and a null means left out."""
    body: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        body.append(request.content)
        return answered(request)

    async with await scripted(handler) as agent:
        await agent.call_tool(TOOL, parameters)
    assert b"None" not in body[0]
    assert 1 == len(body)


@given(strategies.any_parameters | strategies.valid_parameters)
def test_fast_verdict_and_explanation_agree(parameters: dict[str, Any]) -> None:
    """jsonschema-rs and jsonschema say the same of every value, and a refusal always has an explanation."""
    plain, problems = VALIDATOR.check(parameters)
    schema = CREATE.parameters_json_schema
    if not any("JSON can hold" in p.message or "surrogate" in p.message or "digits" in p.message for p in problems):
        fast = _compile(schema).is_valid(plain)
        assert _slow(schema).is_valid(plain) is fast
        assert fast is not bool(problems)
    assert all(problem.path and problem.message for problem in problems)


@given(st.text(), st.sampled_from(["customer", "currency", "idempotency_key", "description"]))
def test_both_validators_read_patterns_alike(text: str, name: str) -> None:
    """A line break at the end of a text fools neither of them."""
    for value in (text, text + "\n", f"usd{text}", f"{text}usd"):
        plain, problems = VALIDATOR.check(order(**{name: value}) if name != "customer" else order(value))
        if not any("surrogate" in problem.message for problem in problems):
            assert _slow(CREATE.parameters_json_schema).is_valid(plain) is not bool(problems)


async def test_the_caller_may_change_its_parameters_meanwhile() -> None:
    """What was validated is what is sent: the call works on its own copy."""
    parameters = order(metadata={"a": "b"})
    bodies = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        parameters["metadata"]["a"] = "changed"
        parameters["amount"] = 1
        return httpx.Response(500 if len(bodies) < 2 else 200, json=transaction(), headers={"Retry-After": "0"})

    async with await scripted(handler) as agent:
        await agent.call_tool(TOOL, parameters)
    assert bodies[0].startswith(b"amount=-500&currency=usd&metadata%5Ba%5D=b&")
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (transaction(type="a_new_type"), "at type"),
        (transaction(amount="-500"), "at amount"),
        (transaction(object="other"), "at object"),
        ({}, "without amount and "),
        (transaction(metadata={"a": 1}), "at metadata.a"),
        (transaction(customer={"object": "customer"}), "at customer"),
        (transaction(invoice={"id": "in_1", "object": "invoice", "total": "1"}), "at invoice"),
    ],
)
def test_a_surprising_response_is_described(data: dict[str, Any], said: str) -> None:
    """Each difference from the response schema is a sentence."""
    warnings = ResponseValidator(CREATE.response_json_schema).warnings(data)
    assert any(said in warning for warning in warnings)


@pytest.mark.parametrize(
    "data",
    [
        transaction(),
        transaction(metadata=None, new_field={"a": [1]}, checkout_session=None, customer_account="acct_1"),
        transaction(customer={"id": "cus_1", "object": "customer", "balance": -500, "more": 1}),
        transaction(customer={"id": "cus_1", "object": "customer", "deleted": True}),
        transaction(invoice={"id": "in_1", "object": "invoice", "total": 5}, credit_note="cn_1"),
        transaction(checkout_session={"id": "cs_1", "object": "checkout.session", "currency": None}),
    ],
)
def test_what_stripe_documents_is_no_surprise(data: dict[str, Any]) -> None:
    """Expanded objects, new fields and nulls pass."""
    assert [] == ResponseValidator(CREATE.response_json_schema).warnings(data)
