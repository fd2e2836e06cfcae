"""
The tools in the models' formats, held to each provider's own package; and the models' calls back.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import hypothesis
import jsonschema
import pytest
import sdk_double
from helpers import TOOL, TOOLS, UNGUARDED, answered, client, connect, ledger, order, run, scripted
from hypothesis import strategies as st
from pydantic import TypeAdapter
from strategies import any_parameters, json_values, valid_parameters

from ocp_stripe_balance import Settings, register
from ocp_stripe_balance._text.placeholders import is_unfilled, says_nothing
from ocp_stripe_balance._tools.dialects import arguments_of
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance._tools.validation import parameter_validator
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.exports import FORMATS, Format, export_tools, langchain_tools, run_tool_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance import OCPAgent
    from ocp_stripe_balance.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
SPECS = {tool.name: tool for tool in load_manifest().tools}
LIST = "getCustomersCustomerBalanceTransactions"


def schema_of(form: Format, name: str) -> dict[str, Any]:
    """
    The schema of the parameters in an exported definition.
    """
    (definition,) = export_tools(form, [name])
    definition = definition.get("function", definition)
    schemas = [
        definition[key] for key in ("parameters", "input_schema", "inputSchema", "args_schema") if key in definition
    ]
    return dict(schemas[0])


@pytest.mark.parametrize("form", FORMATS)
def test_definitions_are_the_golden_ones(form: Format) -> None:
    """A change of what a model is told is seen; `ocp-stripe-balance tools --format` writes the file anew."""
    assert json.loads((GOLDEN / f"{form}.json").read_text("utf-8")) == export_tools(form)


@pytest.mark.parametrize("form", FORMATS)
def test_definitions_are_valid_schemas(form: Format) -> None:
    """Of JSON Schema 2020-12, with names that every provider takes, and without our own annotations."""
    for name in TOOLS:
        schema = schema_of(form, name)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_-]{0,63}", name)
        assert "x-" not in json.dumps(schema)
        assert '"examples"' not in json.dumps(schema)


def test_what_there_is_not_is_named() -> None:
    """A format or a tool, with those that there are."""
    form: Any = "cohere"
    with pytest.raises(ValueError, match=r"'cohere' is not a format; the formats are openai, "):
        export_tools(form)
    with pytest.raises(ValueError, match=r"'cohere' is not a format"):
        asyncio.run(run_tool_call(form, None, {}))
    with pytest.raises(ValueError, match=r"'nope' is not a tool; the tools are postCustomers"):
        export_tools("openai", ["nope"])


def test_openai_takes_the_definitions() -> None:
    """As its package types them, for both of its APIs."""
    pytest.importorskip("openai")
    from openai.types.chat import ChatCompletionFunctionToolParam  # noqa: PLC0415  an extra
    from openai.types.responses import FunctionToolParam  # noqa: PLC0415

    for tool in export_tools("openai"):
        TypeAdapter(FunctionToolParam).validate_python(tool, strict=True)
    for tool in export_tools("openai-chat"):
        TypeAdapter(ChatCompletionFunctionToolParam).validate_python(tool, strict=True)


# https://platform.openai.com/docs/guides/structured-outputs ("Supported schemas")
STRICT_KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "description"),
    *("pattern", "minimum", "maximum", "minItems", "maxItems"),
}


def strict_objects(schema: dict[str, Any]) -> int:
    """
    Check a schema against OpenAI's rules; how many properties it has.
    """
    assert STRICT_KEYWORDS >= set(schema), schema
    assert "\0" not in json.dumps(schema).replace("\\u0000", "\0")
    kinds = schema.get("type", [])
    count = 0
    if "object" in ([kinds] if isinstance(kinds, str) else kinds):
        assert schema["additionalProperties"] is False
        assert list(schema["properties"]) == schema["required"]
        count += len(schema["properties"])
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", []), *filter(None, [schema.get("items")])]
    return count + sum(strict_objects(part) for part in parts)


@pytest.mark.parametrize("name", TOOLS)
def test_openai_schemas_keep_to_the_strict_subset(name: str) -> None:
    """Every object closed, every property required, no other keyword; the root is an object."""
    schema = schema_of("openai", name)
    assert "object" == schema["type"]
    assert strict_objects(schema) < 100
    optional = set(SPECS[name].parameters_json_schema["properties"]) - set(
        SPECS[name].parameters_json_schema["required"]
    )
    for parameter in optional:
        jsonschema.Draft202012Validator(schema["properties"][parameter]).validate(None)


def test_the_agents_sdk_leaves_the_schemas_as_they_are() -> None:
    """Its own strictness finds nothing to change."""
    strict_schema = pytest.importorskip("agents.strict_schema")
    for tool in export_tools("openai"):
        made = strict_schema.ensure_strict_json_schema(copy.deepcopy(tool["parameters"]))
        assert tool["parameters"] == made


def test_anthropic_takes_the_definitions() -> None:
    """As its package types them."""
    pytest.importorskip("anthropic")
    from anthropic.types import ToolParam  # noqa: PLC0415  an extra

    for tool in export_tools("anthropic"):
        TypeAdapter(ToolParam).validate_python(tool, strict=True)


def test_gemini_takes_the_definitions() -> None:
    """Its package knows every keyword, and nothing is lost on the way into its types."""
    types = pytest.importorskip("google.genai.types")
    for tool in export_tools("gemini"):
        declared = types.FunctionDeclaration.model_validate(tool)
        said = declared.model_dump(exclude_none=True, by_alias=True, mode="json")
        lower = json.loads(
            re.sub(r'("type": )"([A-Z]+)"', lambda match: f'{match[1]}"{match[2].lower()}"', json.dumps(said))
        )
        wanted = json.loads(json.dumps(tool))
        assert wanted == as_numbers(lower)
        assert "anyOf" not in json.dumps(tool)
        assert "additionalProperties" not in json.dumps(tool)


def as_numbers(value: Any) -> Any:
    """
    Whole floats and digits of bounds as integers: Gemini's types have them so.
    """
    if isinstance(value, dict):
        bounds = {"minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum"}
        return {
            key: int(item) if key in bounds and not isinstance(item, dict) else as_numbers(item)
            for key, item in value.items()
        }
    return [as_numbers(item) for item in value] if isinstance(value, list) else value


def test_mcp_takes_the_definitions() -> None:
    """With hints that say which tools change something."""
    types = pytest.importorskip("mcp.types")
    for tool in export_tools("mcp"):
        made = types.Tool.model_validate(tool).model_dump(by_alias=True, exclude_none=True)
        assert tool == made
    hints = {name: export_tools("mcp", [name])[0]["annotations"] for name in TOOLS}
    assert {name for name in TOOLS if name.startswith("get")} == {n for n, h in hints.items() if h["readOnlyHint"]}
    assert [TOOL] == [n for n, h in hints.items() if not h["idempotentHint"]]


@pytest.mark.parametrize("server", ["stripe", "stripe-balance", "ocp-stripe-balance", "a-server-name-of-thirty-chars-"])
def test_names_for_mcp_fit_in_64_characters(server: str) -> None:
    """As hosts put the server's name before them; no two alike, and no text names a tool that the model cannot see."""
    exported = export_tools("mcp")
    assert [] == [tool["name"] for tool in exported if len(f"mcp__{server}__{tool['name']}") > 64]
    assert len(TOOLS) == len({tool["name"] for tool in exported} - set(TOOLS))
    assert [] == [name for name in TOOLS if re.search(rf"\b{name}\b", json.dumps(exported))]


def test_short_names_are_published() -> None:
    """docs/formats.md has each beside the operation's."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", (ROOT / "docs" / "formats.md").read_text("utf-8"), re.MULTILINE)
    assert [(tool["name"], name) for tool, name in zip(export_tools("mcp"), TOOLS, strict=True)] == rows


@pytest.mark.parametrize("name", TOOLS)
def test_a_short_name_stands_for_the_tool_at_every_door(name: str) -> None:
    """Both are taken, and mean the same."""
    (exported,) = export_tools("mcp", [name])
    short = exported["name"]
    for form in FORMATS:
        assert export_tools(form, [name]) == export_tools(form, [short])
    assert run("tools", name).stdout == run("tools", short).stdout


def test_token_counts_are_published() -> None:
    """What the definitions of all tools cost in each format, by o200k_base over their compact JSON."""
    splintr = pytest.importorskip("splintr")
    tokenizer = splintr.Tokenizer.from_pretrained("o200k_base")
    text = (ROOT / "docs" / "formats.md").read_text("utf-8")
    published = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| ([\d,]+) \|$", text, re.MULTILINE))
    counted = {
        form: f"{len(tokenizer.encode(json.dumps(export_tools(form), separators=(',', ':'), ensure_ascii=False))):,}"
        for form in FORMATS
    }
    assert counted == published
    averages = {form: int(tokens.replace(",", "")) / len(TOOLS) for form, tokens in counted.items()}
    assert {} == {form: average for form, average in averages.items() if average > 450}


AMOUNT_SAYS = ("Negative credits", "positive debits", "-500 with usd", "isk, ugx, huf and twd", "-500 with jpy")


@pytest.mark.parametrize("form", FORMATS)
def test_sign_and_unit_stand_on_the_amount_itself(form: Format) -> None:
    """With the currencies whose unit surprises: a model that reads one parameter only is told all of it."""
    words = schema_of(form, TOOL)["properties"]["amount"]["description"]
    for said in (*AMOUNT_SAYS, "bhd, jod, kwd, omr and tnd count thousandths"):
        assert said in words


async def fill(stripe: Sandbox, customer: str, count: int, words: dict[int, str]) -> None:
    """
    Entries as an agent makes them, with fewer steps: the newest last.
    """
    async with client(stripe) as http:
        for n in range(1, count + 1):
            body = {"amount": str(-n), "currency": "usd", "metadata[ocp_reference]": f"Ticket-{n}"}
            body |= {"description": words[n]} if n in words else {}
            await http.post(f"/v1/customers/{customer}/balance_transactions", data=body)


def text_of(form: Format, name: str, arguments: dict[str, Any], agent: OCPAgent) -> Any:
    """
    What a model reads in answer to a call.
    """

    async def told() -> dict[str, Any]:
        call = {"id": "c", "name": name, "arguments": arguments}
        message = await run_tool_call(form, agent, call)
        return dict(message["structuredContent"] if form == "mcp" else message["result"])

    return told()


async def test_a_list_is_rows_with_a_total_and_without_what_is_empty(stripe: Sandbox, customer: str) -> None:
    """130 entries are told in a fourth of the characters; a reversed one is marked, and times are dates."""
    async with await connect(stripe) as agent:
        first = (await agent.call_tool(TOOL, order(customer, -1, reference="ticket-1"))).data["id"]
        await fill(stripe, customer, 128, {})
        back = await agent.call_tool("reverseCustomerBalanceTransaction", {"transaction": first})
        told = await text_of("json-schema", LIST, {"customer": customer, "limit": 200}, agent)
        whole = await text_of("json-schema", LIST, {"customer": customer, "limit": 200, "full": True}, agent)
    assert (130, 130, 130) == (told["total"], len(told["rows"]), len(whole["data"]["data"]))
    assert "130 entries: credited 82.57 usd, debited 0.01 usd" == told["summary"]
    rows = [dict(zip(told["columns"], row, strict=True)) for row in told["rows"]]
    assert ("credit 0.01 usd", "ticket-1", "in credit 0.01 usd") == tuple(
        rows[-1][name] for name in ("effect", "reference", "balance_after")
    )
    assert f"reversed by {back.data['id']}" == rows[-1]["note"]
    assert f"reverses {first}" == rows[0]["note"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", rows[0]["at"])
    assert len(json.dumps(told)) * 3 < len(json.dumps(whole))


async def test_a_list_is_filtered_by_words_and_by_reference(stripe: Sandbox, customer: str) -> None:
    """On every page, however it was typed; the total says how many there are beyond the limit."""
    await fill(stripe, customer, 120, {n: f"Late  delivery {n}" for n in (2, 3, 119)})
    async with await connect(stripe) as agent:

        async def found(**asked: Any) -> tuple[int, list[str]]:
            told = await text_of("mcp", LIST, {"customer": customer, **asked}, agent)
            return told["total"], [row[told["columns"].index("reference")] for row in told["rows"]]

        assert (3, ["Ticket-119", "Ticket-3", "Ticket-2"]) == await found(words="DELIVERY late")
        assert (3, ["Ticket-119"]) == await found(words="delivery", limit=1)
        assert (1, ["Ticket-4"]) == await found(reference=" ticket-4")
        assert (0, []) == await found(reference="ticket-4", words="delivery")
        items = [item async for item in agent.iterate_tool(LIST, {"customer": customer, "words": "late", "limit": 2})]
        assert [-119, -3] == [item["amount"] for item in items]
    assert not [request for request in stripe.requests if "words" in request.target or "full" in request.target]


async def test_a_result_is_what_a_model_needs(stripe: Sandbox, customer: str) -> None:
    """Summary, entry, balance, key and warnings, and nothing that is empty; `full` gives the rest of what is read."""
    retrieve = f"{LIST}Transaction"
    async with await connect(stripe) as agent:
        told = await text_of("mcp", TOOL, order(customer, reference="r", metadata={"a": "1"}), agent)
        at = {"customer": customer, "transaction": told["entry"]["id"]}
        read, full = [await text_of("mcp", retrieve, {**at, **more}, agent) for more in ({}, {"full": True})]
        who = await text_of("mcp", "getCustomersCustomer", {"customer": customer}, agent)
    assert ["outcome", "summary", "entry", "balance", "idempotency_key", "replayed"] == list(told)
    assert ["id", "effect", "amount", "currency", "customer", "at", "reference", "metadata"] == list(told["entry"])
    assert ("credit 5.00 usd", -500, "r", {"a": "1"}) == tuple(
        told["entry"][name] for name in ("effect", "amount", "reference", "metadata")
    )
    assert ("in credit 5.00 usd", told["entry"]) == (told["balance"], read["entry"])
    assert {"ocp_call", "ocp_reference", "a"} == set(full["data"]["metadata"])
    assert isinstance(full["data"]["created"], int)
    assert ({"id": customer, "name": "Ada", "currency": "usd"}, "in credit 5.00 usd") == (
        who["customer"],
        who["balance"],
    )


def model_call(  # noqa: PLR0911  one return per format
    form: Format, call_id: str, name: str, arguments: dict[str, Any]
) -> Any:
    """
    A tool call as the provider's SDK gives it.
    """
    text = json.dumps(arguments)
    if form == "openai":
        from openai.types.responses import ResponseFunctionToolCall  # noqa: PLC0415  an extra

        return ResponseFunctionToolCall(type="function_call", id="fc_1", call_id=call_id, name=name, arguments=text)
    if form == "openai-chat":
        from openai.types.chat import ChatCompletionMessageToolCall  # noqa: PLC0415

        function = {"name": name, "arguments": text}
        return ChatCompletionMessageToolCall.model_validate({"id": call_id, "type": "function", "function": function})
    if form == "anthropic":
        from anthropic.types import ToolUseBlock  # noqa: PLC0415

        return ToolUseBlock(type="tool_use", id=call_id, name=name, input=arguments)
    if form == "gemini":
        from google.genai import types  # noqa: PLC0415

        return types.FunctionCall(id=call_id, name=name, args=arguments)
    if form == "mcp":
        from mcp import types as mcp_types  # noqa: PLC0415

        return mcp_types.CallToolRequestParams(name=name, arguments=arguments)
    if form == "langchain":
        return {"type": "tool_call", "id": call_id, "name": name, "args": arguments}
    return {"id": call_id, "name": name, "arguments": arguments}


def told_by(  # noqa: PLR0911  one return per format
    form: Format, message: Any, call_id: str
) -> dict[str, Any]:
    """
    What the model reads in the message, checked against the provider's own type of it.
    """
    if form == "openai":
        from openai.types.responses.response_input_param import FunctionCallOutput  # noqa: PLC0415  an extra

        TypeAdapter(FunctionCallOutput).validate_python(message)
        assert call_id == message["call_id"]
        return dict(json.loads(message["output"]))
    if form == "openai-chat":
        from openai.types.chat import ChatCompletionToolMessageParam  # noqa: PLC0415

        TypeAdapter(ChatCompletionToolMessageParam).validate_python(message)
        assert call_id == message["tool_call_id"]
        return dict(json.loads(message["content"]))
    if form == "anthropic":
        from anthropic.types import ToolResultBlockParam  # noqa: PLC0415

        TypeAdapter(ToolResultBlockParam).validate_python(message)
        told = json.loads(message["content"])
        assert (call_id, "error" in told) == (message["tool_use_id"], message["is_error"])
        return dict(told)
    if form == "gemini":
        from google.genai import types  # noqa: PLC0415

        response = types.Part.model_validate(message).function_response
        assert response is not None
        assert call_id == response.id
        (told,) = (response.response or {}).values()
        assert ("error" if "error" in told else "output") in (response.response or {})
        return dict(told)
    if form == "mcp":
        from mcp import types as mcp_types  # noqa: PLC0415

        mcp_types.CallToolResult.model_validate(message)
        assert message["structuredContent"] == json.loads(message["content"][0]["text"])
        assert ("error" in message["structuredContent"]) is message["isError"]
        return dict(message["structuredContent"])
    if form == "langchain":
        assert call_id == message.tool_call_id
        assert ("error" in message.artifact) is (message.status == "error")
        return dict(json.loads(message.content))
    assert call_id == message["id"]
    return dict(message["result"])


CALL_ID = "call_Jq7xR2vKpW9sTzB4mXcD8LfG"
PACKAGES = {"openai": "openai", "openai-chat": "openai", "anthropic": "anthropic", "gemini": "google.genai"} | {
    "mcp": "mcp",
    "langchain": "langchain_core",
    "json-schema": "json",
}


@pytest.mark.parametrize("form", FORMATS)
async def test_a_model_calls_by_either_name(form: Format, agent: OCPAgent, customer: str) -> None:
    """And is told of the names that it was given, where there is no such tool."""
    pytest.importorskip(PACKAGES[form])
    short = export_tools("mcp", [TOOL])[0]["name"]
    for number, name in enumerate((TOOL, short)):
        made = model_call(form, f"c{number}", name, order(customer, -100 - number))
        told = told_by(form, await run_tool_call(form, agent, made), f"c{number}")
        assert "succeeded" == told["outcome"]
    known = short if form == "mcp" else TOOL
    told = told_by(form, await run_tool_call(form, agent, model_call(form, "c2", f"{known}x", {})), "c2")
    assert f"did you mean {known}" in json.dumps(told)
    assert (await agent.call_tool(short, order(customer, -300))).ok


@pytest.mark.parametrize("form", FORMATS)
async def test_a_models_call_is_answered(form: Format, stripe: Sandbox, customer: str) -> None:
    """Done once under its own ID, told so; errors come back as JSON to correct oneself by."""
    pytest.importorskip(PACKAGES[form])
    async with await connect(stripe) as agent:

        async def said(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            return told_by(form, await run_tool_call(form, agent, model_call(form, call_id, name, arguments)), call_id)

        has_pairs = "array" in schema_of(form, TOOL)["properties"]["metadata"].get("type", "")
        metadata: Any = [{"key": "a", "value": "1"}] if has_pairs else {"a": "1"}
        arguments = order(customer, metadata=metadata, description=None, idempotency_key=None, reference="r")
        told = await said(CALL_ID, TOOL, arguments)
        assert ("succeeded", "1") == (told["outcome"], told["entry"]["metadata"]["a"])
        assert form == "mcp" or told["idempotency_key"] == CALL_ID
        again = await said(CALL_ID, TOOL, arguments)
        assert (again["replayed"], again["entry"]["id"]) == (True, told["entry"]["id"])
        repeated = {**arguments, "idempotency_key": told["idempotency_key"]}
        assert (await said("call_2", TOOL, repeated))["replayed"]
        wrong = await said("call_3", TOOL, {**arguments, "amount": "5.00"})
        assert ("not_sent", "invalid_parameters") == (wrong["outcome"], wrong["error"])
        assert "500 for 5.00 usd" in wrong["message"]
        nobody = await said("call_4", "nope", {})
        assert "there is no tool 'nope'" in nobody["message"]
        looked = await said("call_5", LIST, {"customer": customer, "limit": 5, "created": {"gte": 5, "gt": None}})
        assert 1 == len(looked["rows"]) == looked["total"]
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("arguments", ['{"amount": -5, "amount": -777}', "{", "[1]", '"x"', "", "null", "[" * 100_000])
async def test_arguments_that_are_no_json_object_are_told(arguments: str) -> None:
    """As a model in a hurry writes them."""
    async with await scripted(lambda _: httpx.Response(500)) as agent:
        call = {"call_id": "c", "name": TOOL, "arguments": arguments}
        told = json.loads((await run_tool_call("openai", agent, call))["output"])
    assert ("invalid_parameters", "not_sent") == (told["error"], told["outcome"])


@pytest.mark.parametrize(
    ("metadata", "path", "words"),
    [
        ([{"key": "a"}], "metadata[0]", "is not a key and a value"),
        (["a"], "metadata[0]", "is not a key and a value"),
        ([{"key": "a", "value": "1"}, {"key": "a", "value": "2"}], "metadata[1]", "given before"),
        ([{"key": "[", "value": "1"}], "metadata", "square bracket"),
        ([{"key": "a", "value": 5}], "metadata.a", "5 is an integer"),
        ("", "metadata", None),
        ({"a": "1"}, "metadata", None),
    ],
)
async def test_pairs_that_are_none_are_explained_as_pairs(metadata: Any, path: str, words: str | None) -> None:
    """The hint speaks of what the model was shown; an object in their place does no harm."""
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async with await scripted(handler) as agent:
        call = {"call_id": "c", "name": TOOL, "arguments": json.dumps(order(metadata=metadata))}
        told = json.loads((await run_tool_call("openai", agent, call))["output"])
    if words is None:
        assert ("succeeded", 1) == (told["outcome"], len(sent))
        return
    (problem,) = told["problems"]
    assert (path, True) == (problem["path"], words in problem["message"])
    assert problem["hint"].startswith("pass a list of objects, each with a key and a value")
    assert [] == sent


def in_dialect(schema: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """
    Valid parameters as a model would have to write them for that schema.
    """
    said: dict[str, Any] = {}
    for name, spec in schema["properties"].items():
        value = parameters.get(name)
        if isinstance(value, dict) and "array" in spec.get("type", ""):
            value = [{"key": key, "value": item} for key, item in value.items()]
        if value is not None or name in schema["required"]:
            said[name] = value
    return said


# What a dialect cannot express, as docs/formats.md says: it would change nothing where it is missing.
NOTES: dict[str, Callable[[dict[str, Any]], bool]] = {
    'metadata `""`': lambda parameters: parameters.get("metadata") == "",
}


@pytest.mark.parametrize("form", FORMATS)
@hypothesis.settings(max_examples=60)
@hypothesis.given(parameters=valid_parameters)
def test_what_we_take_can_be_said(form: Format, parameters: dict[str, Any]) -> None:
    """In every format, but for what the notes name; and comes back as the same call."""
    if any(is_noted(parameters) for is_noted in NOTES.values()) or any(map(says_nothing, parameters.values())):
        return
    if is_unfilled(parameters.get("description"), "description"):
        return
    schema = schema_of(form, TOOL)
    said = in_dialect(schema, parameters)
    jsonschema.Draft202012Validator(schema).validate(said)
    back, problems = parameter_validator(SPECS[TOOL]).check(arguments_of(SPECS[TOOL], said))
    assert ([], parameters) == (problems, back)


def test_what_cannot_be_said_is_noted() -> None:
    """In the docs, word by word."""
    text = (ROOT / "docs" / "formats.md").read_text("utf-8")
    for note in NOTES:
        assert note in text


# Arguments near to what the schemas ask for, right and wrong.
near = st.fixed_dictionaries(
    {
        "customer": st.sampled_from(["cus_1", "../x", "", "cus 1", "%2e", "."]),
        "amount": st.sampled_from([-500, 0, 10**12, 5.5, "5", True]),
        "currency": st.sampled_from(["usd", "US", "€€€", "usd\n"]),
    },
    optional={
        "description": st.none() | st.sampled_from(["", "x" * 351, "\0", "fine"]),
        "metadata": st.none()
        | st.lists(st.fixed_dictionaries({"key": st.text(max_size=41), "value": st.text(max_size=3)}), max_size=3)
        | st.dictionaries(st.text(max_size=3), json_values, max_size=3),
        "expand": st.none() | st.lists(st.sampled_from(["customer", "x", "customer.a.b.c.d"]), max_size=2),
        "reference": st.none() | st.sampled_from(["", "x" * 201, "r"]),
        "stated_effect": st.none() | st.sampled_from(["credit 5.00 USD", "debit 5.00 USD", "much"]),
        "idempotency_key": st.none() | st.sampled_from(["", "k" * 256, " k", "k"]),
    },
)


def near_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """
    Arguments for any tool: its examples, and what stands beside them.
    """
    specs = SPECS[name].parameters_json_schema["properties"]
    odd = (
        st.none() | json_values | st.sampled_from(["../x", "x" * 400, 0, -1, 10**9, {"gte": None}, {"since": 1}, [""]])
    )
    return st.fixed_dictionaries(
        {}, optional={parameter: st.sampled_from(spec["examples"]) | odd for parameter, spec in specs.items()}
    )


calls = st.tuples(st.just(TOOL), near | any_parameters) | st.sampled_from(TOOLS).flatmap(
    lambda name: st.tuples(st.just(name), near_of(name))
)


@pytest.mark.parametrize("form", FORMATS)
@hypothesis.settings(max_examples=25)  # of each format, and the ways of all cross in one validator
@hypothesis.given(made=calls)
def test_what_a_schema_lets_through_and_we_refuse_is_explained(form: Format, made: tuple[str, dict[str, Any]]) -> None:
    """Never sent: a message with what was wrong, in every format, for every tool."""
    if form == "langchain":  # the others' messages are plain
        pytest.importorskip("langchain_core")
    name, given = made
    said = {**dict.fromkeys(schema_of(form, name)["required"]), **given}
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    async def main() -> Any:
        async with await scripted(handler, journal="off") as agent:
            call: dict[str, Any] = {"id": "c", "call_id": "c", "name": name, "type": "tool_call"}
            call |= dict.fromkeys(("arguments", "input", "args"), said)
            return await run_tool_call(form, agent, {**call, "function": call})

    message = asyncio.run(main())
    text = message.content if form == "langchain" else json.dumps(message)
    try:
        is_accepted = not parameter_validator(SPECS[name]).check(arguments_of(SPECS[name], said))[1]
    except ValueError:
        is_accepted = False
    if not is_accepted:
        assert [] == sent
        assert "invalid_parameters" in text
        assert "Nothing was sent" in text
    elif not sent and name != "getBalanceCalls":  # which reads the journal
        # For another reason than the schema's: the effect stated, or the reversal made before.
        assert "not_sent" in text


async def test_a_dry_run_says_whether_a_person_is_asked(stripe: Sandbox, customer: str) -> None:
    """In the words of the format, and without a trace: neither an entry nor a proposal."""
    policy = {"approval": {"above": {"usd": "4.00"}, "queue": True}}
    async with await connect(stripe, policy=policy) as agent:
        for amount, verdict in ((-400, "send"), (-401, "ask")):
            said = order(customer, amount, metadata=[{"key": "ticket", "value": "812"}])
            call = {"call_id": "c", "name": TOOL, "arguments": json.dumps(said)}
            message = await run_tool_call("openai", agent, call, conversation="ticket-812", dry_run=True)
            assert verdict == json.loads(message["output"])["verdict"]
    assert [] == await ledger(stripe, customer)
    async with BackOffice() as office:
        assert [] == await office.proposals()


async def test_langchain_tools_run(stripe: Sandbox, customer: str) -> None:
    """A ToolCall is answered by a ToolMessage, plain arguments by its content; errors are messages too."""
    pytest.importorskip("langchain_core")
    async with await connect(stripe) as agent:
        tools = {tool.name: tool for tool in langchain_tools(agent)}
        assert TOOLS == list(tools)
        call = {"type": "tool_call", "id": CALL_ID, "name": TOOL, "args": order(customer)}
        message = await tools[TOOL].ainvoke(call)
        assert ("tool", CALL_ID, "success") == (message.type, message.tool_call_id, message.status)
        assert CALL_ID == json.loads(message.content)["idempotency_key"]
        assert (await tools[TOOL].ainvoke(call)).artifact["replayed"]
        wrong = await tools[TOOL].ainvoke({**call, "id": "call_2", "args": order(customer, "5")})
        assert "error" == wrong.status
        told = json.loads(await tools["getCustomersCustomer"].ainvoke({"customer": customer}))
        assert "in credit 5.00 usd" == told["balance"]
        calls = [{**call, "id": f"{CALL_ID}{n}", "args": order(customer, -n)} for n in range(10, 20)]
        messages = await asyncio.gather(*(tools[TOOL].ainvoke(each) for each in calls))
        assert [each["id"] for each in calls] == [json.loads(each.content)["idempotency_key"] for each in messages]
    assert 11 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("call", [None, {}, {"function": None}, {"id": 5, "call_id": [], "name": {}, "args": 5}, "x"])
async def test_whatever_a_model_sends_is_answered(form: Format, call: Any) -> None:
    """With a message, also by an agent of the SDK; never with an exception, and nothing is sent."""
    if form == "langchain":  # the others' messages are plain
        pytest.importorskip("langchain_core")
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answered(request)

    theirs = sdk_double.OCPAgent()
    settings = Settings(api_key="sk_test_x", journal="off")
    async with await scripted(handler) as ours, register(theirs, settings=settings):
        unregistered = await run_tool_call(form, theirs, call)
        theirs.register_api("stripe")
        messages = [unregistered, *[await run_tool_call(form, agent, call) for agent in (ours, theirs)]]
    for message in messages:
        text = message.content if form == "langchain" else json.dumps(message)
        assert "not_sent" in text
    assert [] == sent


@pytest.mark.parametrize("name", ["self", "config", "run_manager", "nonsense"])
async def test_langchain_drops_no_argument(stripe: Sandbox, customer: str, name: str) -> None:
    """An unknown one is refused, whatever LangChain calls so itself."""
    pytest.importorskip("langchain_core")
    async with await connect(stripe) as agent:
        (tool,) = langchain_tools(agent, [TOOL])
        call = {"type": "tool_call", "id": "call_1", "name": TOOL, "args": {**order(customer), name: 1}}
        message = await tool.ainvoke(call)
    assert f"{name}: unknown parameter" in message.content
    assert [] == await ledger(stripe, customer)


def test_a_sync_agent_of_the_sdk_answers_too(stripe_thread: Sandbox) -> None:
    """In plain code, by hand and by LangChain."""
    pytest.importorskip("langchain_core")
    customer = stripe_thread.create_customer()
    agent = sdk_double.OCPAgent()
    settings = Settings(api_key=stripe_thread.api_key, api_base=stripe_thread.url, **UNGUARDED)
    with register(agent, sync=True, settings=settings):
        agent.register_api("stripe")
        call = {"id": "call_1", "name": TOOL, "input": order(customer)}
        assert not asyncio.run(run_tool_call("anthropic", agent, call))["is_error"]
        (tool,) = langchain_tools(agent, [TOOL])
        made = {"type": "tool_call", "id": "call_2", "name": TOOL, "args": order(customer)}
        assert "success" == tool.invoke(made).status


def test_langchain_tools_run_without_a_loop(stripe_thread: Sandbox) -> None:
    """In plain code."""
    pytest.importorskip("langchain_core")
    customer = stripe_thread.create_customer()
    agent: OCPAgent = asyncio.run(connect(stripe_thread))
    (tool,) = langchain_tools(agent, [TOOL])
    message = tool.invoke({"type": "tool_call", "id": CALL_ID, "name": TOOL, "args": order(customer)})
    assert ("success", CALL_ID) == (message.status, json.loads(message.content)["idempotency_key"])
    agent.close()


async def test_the_loop_of_the_docs_answers(stripe: Sandbox, customer: str) -> None:
    """As it stands on the page, with a model that calls once."""
    match = re.search(
        r"<!-- loop -->\n```python\n(.*?)```", (ROOT / "docs" / "frameworks.md").read_text("utf-8"), re.DOTALL
    )
    assert match
    names: dict[str, Any] = {}
    exec(match[1], names)  # noqa: S102  the page's own code

    responses = pytest.importorskip("openai.types.responses")

    async def model(conversation: list[Any], tools: list[Any]) -> list[Any]:
        assert TOOLS == [tool["name"] for tool in tools]
        if conversation[-1].get("type") != "function_call_output":
            return [model_call("openai", "call_0", TOOL, order(customer))]
        text = json.loads(conversation[-1]["output"])["summary"]
        said = responses.ResponseOutputText(type="output_text", text=text, annotations=[])
        message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [said]}
        return [responses.ResponseOutputMessage(**message)]

    async with await connect(stripe) as agent:
        said = await names["answer"](agent, model, [{"role": "user", "content": "Credit 5 dollars."}], "ticket-812")
    assert f"{customer} was credited 5.00 usd, and now is in credit 5.00 usd" == said


def test_the_command_line_prints_formats() -> None:
    """All tools, or one."""
    assert export_tools("anthropic") == json.loads(run("tools", "--format", "anthropic").stdout)
    assert export_tools("gemini", [TOOL]) == json.loads(run("tools", TOOL, "--format", "gemini").stdout)
    assert "'nope' is not a tool" in run("tools", "nope", "--format", "mcp").stderr
