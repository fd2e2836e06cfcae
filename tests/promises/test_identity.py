"""
Which calls are one decision: by reference, by the name of a tool call, by a key that was told, and by an approval.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import sqlite3
import string
import time
import uuid
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from helpers import (
    TOOL,
    admit,
    connect,
    decide,
    decisions,
    draft,
    ledger,
    order,
    proposals,
    records,
    run,
    settle,
    usual_journal,
)
from hypothesis import strategies as st
from places import Place, look

from ocp_stripe_balance import ApprovalRequiredError, InvalidParametersError, Policy, ToolCall, ToolError
from ocp_stripe_balance._calls.endings import Ready, Repeated, Waiting
from ocp_stripe_balance._calls.tool_calls import is_evidently_unique
from ocp_stripe_balance._domain import Key, Origin, State
from ocp_stripe_balance._journal import Journal
from ocp_stripe_balance._journal.statements import migrations
from ocp_stripe_balance._text.placeholders import is_unfilled, says_nothing
from ocp_stripe_balance._text.spelling import one_spelling
from ocp_stripe_balance.errors import IdempotencyConflictError, PolicyRefusedError
from ocp_stripe_balance.exports import langchain_tools, run_tool_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

    from ocp_stripe_balance import OCPAgent, Proposal
    from ocp_stripe_balance.sandbox import Sandbox

REVERSE, CUSTOMER = "reverseCustomerBalanceTransaction", "getCustomersCustomer"
UPDATE = "postCustomersCustomerBalanceTransactionsTransaction"
ASKING: dict[str, Any] = {"approval": {"always": True, "queue": True}, "duplicate_window": "off"}
UNIQUE = "call_Jq7xR2vKpW9sTzB4mXcD8LfG"


async def told(call: Awaitable[Any]) -> dict[str, Any]:
    """
    What a model reads of a call.
    """
    try:
        facts: dict[str, Any] = (await call).to_dict()
    except ToolError as error:
        return error.to_dict()
    return facts


async def said_by(
    agent: OCPAgent, call_id: str, arguments: dict[str, Any], conversation: str | None = None
) -> dict[str, Any]:
    """
    What a model is told of its tool call.
    """
    call = {"id": call_id, "name": TOOL, "arguments": arguments}
    answer = await run_tool_call("json-schema", agent, call, conversation=conversation)
    result: dict[str, Any] = answer["result"]
    return result


# References

SPACES = [" ", "\n", "\t", "\u00a0", "\u2003", "\u3000", "\u2028", "  \r\n"]
UNSEEN = [
    "",
    "\u200b",
    "\ufeff",
    "\u200d",
    "\u200c",
    "\u2060",
    "\u00ad",
    "\u202e",
    "\U000e0067",
    "\ufe0f",
    "\x07",
    "\u3164",
]
DASHES = ["-", "\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2212", "\uff0d", "\ufe63"]
QUOTES = ["'", "\u2018", "\u2019", "\u02bc", "\uff07"]
WAYS = {" ": SPACES, "-": DASHES, "'": QUOTES, '"': ['"', "\u201c", "\u201d", "\u201e", "\uff02"]}


def typed(char: str) -> st.SearchStrategy[str]:
    """
    A character as keyboards, word processors and models write it.
    """
    ways = list(WAYS.get(char, [char]))
    if char.isalnum() and char.isascii():
        bold = ord("\U0001d7ce") - ord("0") if char.isdigit() else 0
        ways += [char.upper(), chr(ord(char) + 0xFEE0), *([chr(ord(char) + bold)] if bold else [])]
    ways += {"é": ["e\u0301", "E\u0301", "É"], "f": ["F"], "ﬁ": ["fi", "FI"]}.get(char, [])
    return st.tuples(st.sampled_from(ways), st.sampled_from(UNSEEN)).map("".join)


typings = st.tuples(*map(typed, 'ada\'s café "ticket"-900 ﬁx')).map("".join)
padding = st.lists(st.sampled_from([*SPACES, *UNSEEN]), max_size=3).map("".join)


@pytest.mark.promise("once.one-reason")
@hypothesis.given(st.tuples(padding, typings, padding).map("".join))
def test_a_reference_is_one_however_it_is_typed(written: str) -> None:
    """White space, what nobody sees, dashes, quotes, widths, styles, accents and case do not count."""
    assert 'ada\'s café "ticket"-900 fix' == one_spelling(written)


@pytest.mark.promise("once.one-reason")
@hypothesis.given(
    st.text(max_size=12)
    | st.text(st.sampled_from([*UNSEEN[1:], "\u0301", "\u0345", "🏴", "👩", "A", "ß", "م", "²", "\xb4"]))
)
def test_the_one_spelling_of_a_reference_is_its_own(written: str) -> None:
    """So it can be stored, and stored again."""
    assert one_spelling(written) == one_spelling(one_spelling(written))


def flag(letters: str) -> str:
    return "🏴" + "".join(chr(0xE0000 + ord(char)) for char in letters) + "\U000e007f"


DIFFERENT = [
    ("10²", "102"),
    ("x₂", "x2"),
    ("①", "1"),
    ("½", "1/2"),
    ("Straße", "Strasse"),
    ("kas\u0131m", "kasim"),
    ("résumé", "resume"),
    ("ticket 900", "ticket900"),
    ("ticket-900", "ticket--900"),
    (flag("gbeng"), flag("gbsct")),
    (flag("gbeng"), "🏴"),
    ("👨\u200d👩\u200d👧", "👨👩👧"),
    ("👍🏽", "👍🏿"),
    ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u062e"),
    ("\U0001fb01\U0001fadf", "\U0001fb01\U0001fae9"),
    ("\U000323b0", "\U000323b1"),  # ideographs of a later Unicode than many a Python's
    ("葛\U000e0100", "葛\U000e0101"),
    ("m²", "m2"),
    ("5 €", "5"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_references_that_a_person_tells_apart_are_two(one: str, other: str) -> None:
    """Superscripts, flags, families, new emoji and ideographs: nobody is answered from another's payment."""
    assert one_spelling(one) != one_spelling(other)
    assert one_spelling(f"refund {one} ") != one_spelling(f" Refund {other}")


@hypothesis.given(st.lists(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Mn", "Zs", "Zl", "Zp"]), max_size=4))
def test_no_letter_vanishes_from_a_reference(chars: list[str]) -> None:
    """What is neither a space, a mark nor set aside as unseen is seen, also where Python does not know it yet."""
    unseen = "\u2800\u115f\u1160\u3164\uffa0\u2065\ufff0\ufff8"
    seen = [char for char in chars if char not in unseen and not 0xE0000 <= ord(char) < 0xE1000]
    hypothesis.assume(seen == chars and not any(0xFFF0 <= ord(char) <= 0xFFFB for char in chars))
    assert len(one_spelling("".join(chars))) >= len(chars) - sum(0x1100 <= ord(char) < 0xD800 for char in chars)


@pytest.mark.promise("once.one-reason")
async def test_a_reference_typed_otherwise_is_answered_from_the_first(
    agent: OCPAgent, stripe: Sandbox, customer: str
) -> None:
    """And the caller is told for which it was taken; Stripe has it as it was written."""
    first = await agent.call_tool(TOOL, order(customer, reference="Ticket-900 "))
    for written in ("ticket\u2212900", "TICKET-900\u200b", "\uff54icket-900"):
        again = await agent.call_tool(TOOL, order(customer, reference=written))
        assert (True, first.data) == (again.replayed, again.data)
        assert [f"reference {written!r} is taken for 'Ticket-900 ', which was used before"] == list(again.warnings)
    with pytest.raises(IdempotencyConflictError, match="already belongs to another entry"):
        await agent.call_tool(TOOL, order(customer, -900, reference="ticket\u2010900"))
    assert (await agent.call_tool(TOOL, order(customer, reference="ticket-90²"))).replayed is False
    assert ["ticket-90²", "Ticket-900 "] == [
        entry["metadata"]["ocp_reference"] for entry in await ledger(stripe, customer)
    ]


@contextlib.contextmanager
def of_version(number: int, path: Path, newer: Path) -> Iterator[sqlite3.Connection]:
    """
    The calls of a journal in a file as an earlier version made it.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.create_function("one_spelling", 1, one_spelling)
        db.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, applied_at REAL NOT NULL)")
        for version, script in enumerate(migrations()[:number], 1):
            for statement in script:
                db.execute(statement)
            db.execute("INSERT INTO migrations VALUES (?, 0)", (version,))
        names = ", ".join(f'"{row[1]}"' for row in db.execute("PRAGMA table_info(calls)"))
        db.execute("ATTACH ? AS newer", (str(newer),))
        db.execute(f"INSERT INTO calls ({names}) SELECT {names} FROM newer.calls")  # noqa: S608  the table's own names
        yield db


@pytest.mark.file_only("formats of before")
@pytest.mark.promise("once.one-reason")
@pytest.mark.parametrize("version", [4, 7, None])
async def test_the_words_of_a_reversal_are_no_other_reference(
    stripe: Sandbox, customer: str, tmp_path: Path, version: int | None
) -> None:
    """They are one in any case, with the reversal that has them too, and in a file in which they kept theirs."""
    newer, path, written = tmp_path / "newer", tmp_path / "journal", "reversal of INV-7"
    async with await connect(stripe, journal=str(newer)) as agent:
        first = await agent.call_tool(TOOL, order(customer, 300, reference=written))
        undone = await agent.call_tool(REVERSE, {"transaction": first.data["id"]})
    words = f"reversal of {first.data['id']}"
    if version is not None:
        with of_version(version, path, newer) as db:
            db.execute("UPDATE calls SET reference = ? WHERE key_origin = 'reference'", (written,))
            db.execute("UPDATE calls SET reference = ? WHERE key_origin = 'reversal'", (words,))
    async with await connect(stripe, journal=str(path if version else newer)) as agent:
        for made, amount, reference in ((first, 300, written), (undone, -300, words)):
            for again in (reference, reference.capitalize(), reference.upper(), reference.replace(" ", "  ")):
                result = await agent.call_tool(TOOL, order(customer, amount, reference=again))
                assert (True, made.data["id"]) == (result.replayed, result.data["id"])
    assert 2 == len(await ledger(stripe, customer))


async def test_entries_whose_ids_differ_in_case_alone_are_reversed_each() -> None:
    """Also while a person is asked; for anybody else the words are one reason."""
    journal, asking = Journal(None), Policy.model_validate(ASKING)
    asked = [
        await admit(journal, draft(key, reference="reversal of cbtxn_a", origin=Origin.REVERSAL, arguments=key), asking)
        for key in ("rev-a", "rev-A")
    ]
    assert [True, True] == [each.is_new for each in asked]
    for key in ("rev-b", "rev-B"):
        made = await admit(journal, draft(key, 7, "reversal of cbtxn_b", origin=Origin.REVERSAL))
        assert isinstance(made, Ready)
        await settle(journal, made.record, State.SUCCEEDED)
    again = await admit(journal, draft("ref-b", 7, "reversal of cbtxn_b", origin=Origin.REFERENCE))
    assert isinstance(again, Repeated)


@pytest.mark.file_only("formats of before")
@pytest.mark.promise("once.one-reason")
async def test_references_of_a_file_of_the_version_before_are_found(
    stripe: Sandbox, customer: str, tmp_path: Path
) -> None:
    """Also where that version derived their keys from the text as it was written, and where only some differ."""
    newer, path, written = tmp_path / "newer", tmp_path / "journal", "Ticket\u2011900\u200b"
    async with await connect(stripe, journal=str(newer)) as agent:
        first = await agent.call_tool(TOOL, order(customer, reference=written))
        undone = await agent.call_tool(REVERSE, {"transaction": first.data["id"]})
    reason = ("", "test", TOOL, customer, "usd", -500, written)
    old_key = "ref-" + hashlib.sha256(json.dumps(reason).encode()).hexdigest()
    with of_version(4, path, newer) as db:
        db.execute("UPDATE calls SET reference = ?, key = ? WHERE key_origin = 'reference'", (written, old_key))
    async with await connect(stripe, journal=str(path)) as agent:
        for again in ("ticket-900", written):
            result = await agent.call_tool(TOOL, order(customer, reference=again))
            assert (old_key, True) == (result.idempotency_key, result.replayed)
        with pytest.raises(PolicyRefusedError, match=undone.data["id"]):
            await agent.call_tool(REVERSE, {"transaction": first.data["id"]})
    assert 2 == len(await ledger(stripe, customer))


# Names of tool calls

ALNUM, HEX = string.ascii_letters + string.digits, "0123456789abcdef"


def random_of(alphabet: str, length: int) -> st.SearchStrategy[str]:
    """
    What a provider draws: every character as likely as any other, which Hypothesis's own texts are not.
    """
    return st.randoms(use_true_random=False).map(lambda source: "".join(source.choices(alphabet, k=length)))


@pytest.mark.parametrize(
    ("prefix", "alphabet", "length"),
    [
        ("call_", ALNUM, 24),
        ("call_00_", ALNUM, 22),
        ("toolu_01", ALNUM, 22),
        ("tooluse_", ALNUM + "-_", 22),
        ("fc_", HEX, 48),
        ("call_", string.ascii_lowercase + string.digits, 26),
    ],
)
def test_ids_as_providers_draw_them_are_seen_to_be_unique(prefix: str, alphabet: str, length: int) -> None:
    """Nearly all of them: a host's retry is the same decision without naming the conversation."""
    source = random.Random(7)
    drawn = [prefix + "".join(source.choices(alphabet, k=length)) for _ in range(500)]
    assert sum(map(is_evidently_unique, drawn)) >= 485
    uuids = [uuid.UUID(int=source.getrandbits(128), version=4) for _ in range(50)]
    assert all(is_evidently_unique(f"call_{each}") for each in uuids)
    assert sum(is_evidently_unique(f"chatcmpl-tool-{each.hex}") for each in uuids) >= 48


@pytest.mark.parametrize("prefix", ["", "call_", "call", "toolu_", "chatcmpl-tool-"])
def test_32_hexadecimal_digits_that_were_drawn_are_seen_to_be_unique(prefix: str) -> None:
    """But for those that by chance have the form of a UUID made from a name, which is one in 32."""
    source = random.Random(7)
    drawn = ["".join(source.choices(HEX, k=32)) for _ in range(1000)]
    others = [each for each in drawn if uuid.UUID(each).version not in {3, 5}]
    assert sum(is_evidently_unique(prefix + each) for each in others) >= len(others) - 5
    assert sum(is_evidently_unique(prefix + each.upper()) for each in others) >= len(others) - 5
    assert len(others) >= 950


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("made", [uuid.uuid3, uuid.uuid5])
@pytest.mark.parametrize("spelling", ["{}", "call_{}", "{{{}}}", "urn:uuid:{}", "chatcmpl-tool-{}-0", "call{}"])
def test_a_uuid_made_from_a_name_comes_again(made: Any, spelling: str) -> None:
    """With hyphens, without, or with some; in either case."""
    for number in range(50):
        name = made(uuid.NAMESPACE_DNS, f"call_{number}")
        for text in (str(name), name.hex, name.hex[:8] + "-" + name.hex[8:], name.hex[:16] + "-" + name.hex[16:]):
            assert not is_evidently_unique(spelling.format(text))
            assert not is_evidently_unique(spelling.format(text.upper()))


WORDS = "call tool turn step run gpt 4o claude v2 qwen2 chat msg x id functions thread session a"
words = st.sampled_from(WORDS.split())
names = st.sampled_from([TOOL, REVERSE, CUSTOMER, UPDATE, "call_tool", "getWeather"])
counters = st.integers(0, 10**9).map(str) | st.integers(0, 9999).map("{:012d}".format)
dates = st.datetimes().map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ")) | st.dates().map("{:%Y%m%d}".format)
counted = st.builds(
    lambda parts, separator: separator.join(parts),
    st.lists(words | names | counters | dates, min_size=1, max_size=12),
    st.sampled_from(["-", "_", ".", ":", "/", " "]),
)


@hypothesis.example("turn-1-step-2-tool-0")
@hypothesis.example("gpt-4o-2024-08-06-call-0")
@hypothesis.example("00000000-0000-4000-8000-000000000001")
@hypothesis.example(str(uuid.uuid5(uuid.NAMESPACE_DNS, "call_0")))
@hypothesis.example("abcdefghijklmnopqrstuvwxyz0123456789")
@hypothesis.example("a1b2c3d4e5f6g7h8i9j0k1l2m3")
@hypothesis.example("thread1turn2step3tool4call5x")
@hypothesis.example("0" * 31 + "7")
@hypothesis.example("call_0123456789abcdef0123456789abcdef")
@hypothesis.example("00112233445566778899AABBCCDDEEFF")
@hypothesis.example("A1b2" * 150)
@hypothesis.given(counted | words | names | counters | st.text(max_size=19))
def test_ids_that_may_come_again_are_not_taken_for_unique(call_id: str) -> None:
    """Names, counters, dates, versions and repetitions, however long; and whatever is short."""
    assert not is_evidently_unique(call_id)


COUNTED = ["call_0", f"tool_0_{TOOL}", TOOL, f"functions.{TOOL}:0", "turn-1-step-2-tool-0", "gpt-4o-2024-08-06-call-0"]


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("call_id", COUNTED)
async def test_an_id_that_may_come_again_is_no_key(call_id: str, stripe: Sandbox, customer: str) -> None:
    """Another conversation's decision is made; who asks for the same at once is stopped by the policy."""
    async with await connect(stripe) as agent, await connect(stripe, policy=None) as guarded:
        results = [await said_by(agent, call_id, order(customer)) for _ in range(2)]
        assert [("succeeded", False)] * 2 == [(each["outcome"], each["replayed"]) for each in results]
        stopped = await said_by(guarded, call_id, order(customer))
        assert ("not_sent", "duplicate_window") == (stopped["outcome"], stopped["rule"])
    assert 2 == len(await ledger(stripe, customer))


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("call_id", [UNIQUE, *COUNTED[:2], "\u8c03\u7528_1", " x "])
async def test_in_its_conversation_an_id_names_one_decision(call_id: str, stripe: Sandbox, customer: str) -> None:
    """Also after a restart; with other parameters or in another conversation it is another."""
    other = stripe.create_customer()
    made = [("june", order(customer)), ("july", order(customer)), ("june", order(other)), ("june", order(customer, -7))]
    made += [("june", order(customer, description="x")), ("5", order(customer))]
    ids = []
    for is_again in (False, True):
        async with await connect(stripe) as agent:
            results = [await said_by(agent, call_id, arguments, name) for name, arguments in made]
        assert [("succeeded", is_again)] * len(made) == [(each["outcome"], each["replayed"]) for each in results]
        ids.append([each["entry"]["id"] for each in results])
    assert ids[0] == ids[1]
    assert len(made) == len(set(ids[0])) == len(stripe.requests) - sum(r.method == "GET" for r in stripe.requests)


@pytest.mark.promise("once.origin")
async def test_a_unique_id_is_a_key_of_its_own(stripe: Sandbox, customer: str) -> None:
    """The same call again is answered; with other parameters it is refused, and never answered from the first."""
    long_id = f"{UNIQUE}__thought__{'A1b2' * 150}"
    async with await connect(stripe) as agent:
        for call_id in (UNIQUE, long_id, f"调用_{UNIQUE} "):
            results = [await said_by(agent, call_id, order(customer, -len(call_id))) for _ in range(2)]
            assert [False, True] == [each["replayed"] for each in results]
            assert (call_id == UNIQUE) is (results[0]["idempotency_key"] == call_id)
            other = await said_by(agent, call_id, order(customer, -9))
            assert ("not_sent", "idempotency_conflict") == (other["outcome"], other["error"])
        own = await agent.call_tool(TOOL, order(customer, -1), idempotency_key=ToolCall("call_0", "c"))
        again = await agent.call_tool(TOOL, order(customer, -1), idempotency_key=ToolCall("call_0", "c"))
        assert (False, True, own.data) == (own.replayed, again.replayed, again.data)
    assert 4 == len(await ledger(stripe, customer))


@pytest.mark.parametrize("name", [None, "", " ", "None", "null"])
async def test_a_conversation_that_says_nothing_names_none(
    name: str | None, agent: OCPAgent, stripe: Sandbox, customer: str
) -> None:
    """As where a host's variable is not set; what is no ID at all is refused."""
    for _ in range(2):
        assert not (await said_by(agent, "call_0", order(customer), name))["replayed"]
    odd: Any = ToolCall(5, "c")  # type: ignore[arg-type]  # what a careless host passes
    with pytest.raises(InvalidParametersError, match="5 is no ID of a tool call"):
        await agent.call_tool(TOOL, order(customer), idempotency_key=odd)
    assert 2 == len(await ledger(stripe, customer))


async def test_langgraphs_thread_is_the_conversation(stripe: Sandbox, customer: str) -> None:
    """It is named with every call, and stays over restarts."""
    pytest.importorskip("langchain_core")
    call = {"type": "tool_call", "id": "call_0", "name": TOOL, "args": order(customer)}
    async with await connect(stripe) as agent:
        tool = next(each for each in langchain_tools(agent) if each.name == TOOL)
        named = next(each for each in langchain_tools(agent, conversation="c") if each.name == TOOL)
        threads: list[Any] = [{"configurable": {"thread_id": thread}} for thread in ("a", "a", "b")]
        told = [(await tool.ainvoke(call, thread)).artifact["replayed"] for thread in threads]
        assert [False, True, False] == told
        assert [False, True] == [(await named.ainvoke(call)).artifact["replayed"] for _ in range(2)]


# A model's own key


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("key", ["order-1", "string", "N/A", "", "call_0", UNIQUE])
async def test_a_key_that_a_model_makes_up_names_nothing(key: str, stripe: Sandbox, customer: str) -> None:
    """It displaces no other name of the call, answers nobody from another's, and the model is told."""
    other = stripe.create_customer()
    async with await connect(stripe) as agent:
        first = await said_by(agent, "toolu_1", order(customer, idempotency_key=key))
        second = await said_by(agent, "toolu_2", order(other, idempotency_key=key))
        third = await said_by(agent, "toolu_3", order(customer, idempotency_key=key))
        assert [("succeeded", False)] * 3 == [(each["outcome"], each["replayed"]) for each in (first, second, third)]
        assert all("idempotency_key was left out" in each["warnings"][0] for each in (first, second, third))
        named = [await said_by(agent, UNIQUE[::-1], order(customer, -9, idempotency_key=key)) for _ in range(2)]
        assert [False, True] == [each["replayed"] for each in named]
    assert 3 == len(await ledger(stripe, customer))


@pytest.mark.promise("once.origin")
async def test_a_key_that_was_told_repeats_its_call(stripe: Sandbox, customer: str) -> None:
    """In whatever words, of this tool and account alone, and for no other amount."""
    async with await connect(stripe) as agent:
        stripe.faults.add("reset", executed=True, times=9, path="balance_transactions")
        lost = await said_by(agent, "call_0", order(customer, description="a"))
        assert "unknown" == lost["outcome"]
        key = lost["idempotency_key"]
        stripe.faults.clear()
        found = await said_by(agent, "call_0", order(customer, description="b", idempotency_key=key))
        assert ("succeeded", key) == (found["outcome"], found["idempotency_key"])
        assert any("the first call's description was kept" in each for each in found["warnings"])
        other = await said_by(agent, "call_0", order(customer, -9, idempotency_key=key))
        assert "idempotency_conflict" == other["error"]
        entry = {"customer": customer, "transaction": found["entry"]["id"], "metadata": {"a": "1"}}
        changed = await told(agent.call_tool(UPDATE, {**entry, "idempotency_key": key}))
        assert any("idempotency_key was left out" in each for each in changed["warnings"])
    async with await connect(stripe, account="acct_2", customer_check="off") as elsewhere:
        dry = await elsewhere.call_tool(TOOL, order(customer, idempotency_key=key), dry_run=True)
        assert ("send", True) == (dry.verdict, "idempotency_key was left out" in dry.warnings[0])
    assert 1 == len(await ledger(stripe, customer))


def test_on_the_command_line_the_parameter_is_a_persons_own(stripe_thread: Sandbox) -> None:
    """It names the decision, as --idempotency-key does; two different ones are refused."""
    call = ["call", TOOL, f"customer={stripe_thread.create_customer()}", "amount=-5", "currency=usd", "--json"]
    results = [json.loads(run(*call, "idempotency_key=string", stripe=stripe_thread).stdout) for _ in range(2)]
    assert [("string", False), ("string", True)] == [(each["idempotency_key"], each["replayed"]) for each in results]
    assert "given twice" in run(*call, "idempotency_key=a", "--idempotency-key=b", stripe=stripe_thread).stderr


# Placeholders

PLACEHOLDERS = [
    "string",
    "N/A",
    "n/a",
    "null",
    "None",
    "undefined",
    "-",
    "",
    "  ",
    "\u200b\n",
    "<none>",
    "—",
    "…",
    "NA.",
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
async def test_what_says_nothing_is_left_out_with_a_warning(text: str, stripe: Sandbox, customer: str) -> None:
    """In parameters that may be left out; in metadata it is the caller's own, and what must be there is refused."""
    given = order(customer, description=text, reference=text, stated_effect=text, metadata={"ticket": text})
    async with await connect(stripe) as agent:
        results = [await told(agent.call_tool(TOOL, given)) for _ in range(2)]
        assert [False, False] == [each["replayed"] for each in results]
        assert ["description", "reference", "stated_effect"] == [each.split()[0] for each in results[0]["warnings"]]
        assert all("was left out" in each for each in results[0]["warnings"])
        with pytest.raises(InvalidParametersError, match="currency"):
            await agent.call_tool(TOOL, order(customer, currency=text))
        dry = await agent.call_tool(TOOL, given, dry_run=True)
        assert 3 == len(dry.warnings)
    (entry, _) = await ledger(stripe, customer)
    assert (None, text or None) == (entry["description"], entry["metadata"].get("ticket"))
    assert "ocp_reference" not in entry["metadata"]


async def test_an_error_tells_too_what_was_left_out(agent: OCPAgent) -> None:
    """A model that reads of a refusal learns of the parameter that did not count."""
    refused = await told(agent.call_tool(TOOL, order("cus_none", reference="N/A", expand=["string"])))
    assert ("rejected", ["reference", "expand"]) == (refused["outcome"], [w.split()[0] for w in refused["warnings"]])


async def test_an_update_that_says_nothing_is_refused(agent: OCPAgent) -> None:
    """An empty change is none; beside another one, what says nothing is left out."""
    entry = {"customer": "cus_1", "transaction": "cbtxn_1", "description": "N/A"}
    with pytest.raises(InvalidParametersError, match="description: 'N/A' says nothing"):
        await agent.call_tool(UPDATE, {**entry, "expand": ["customer"], "idempotency_key": "string"})
    dry = await agent.call_tool(UPDATE, {**entry, "metadata": {"a": "N/A"}}, dry_run=True)
    assert ("metadata[a]=N%2FA", 1) == (dry.body.replace("%5B", "[").replace("%5D", "]"), len(dry.warnings))


UNFILLED = """unknown|no reference|reference|<reference>|{{reference}}|[Reference]|your-reference|your reference here
REFERENCE_ID|<ticket id>|${REF}|%REF%|todo|[TODO]|tbc|xxx|XXX|ticket-XXX|INV-####|test|example|0|000|no|void|false|none.
N/A (not provided)|n/a - none given|none provided|not given|Not specified.|not available|not applicable|no value given
not set|not known|not yet assigned|no reference number provided|No reason was given by the user|business reason|???"""


@pytest.mark.promise("once.origin")
@pytest.mark.parametrize("text", UNFILLED.replace("\n", "|").split("|"))
async def test_what_nobody_filled_in_is_no_reason(text: str, agent: OCPAgent, customer: str) -> None:
    """Or the next decision that has no reason either would be taken for this one."""
    dry = await agent.call_tool(TOOL, order(customer, reference=text), dry_run=True)
    assert (False, 1) == (str(dry.idempotency_key).startswith("ref-"), len(dry.warnings))


REASONS = """not received|no show|not delivered|not needed|no longer needed|void invoice 7|test 7|ticket-812|t|x
1|<ticket-812>|goodwill|refund|reference 12|unknown charge|no invoice|no ticket|no data|noted|nova|referral|setup
not found|no-reply outage|007|known issue|no known issue|foot|testing fee|todo-12|late delivery"""


def test_a_reason_is_never_taken_for_none() -> None:
    """What somebody might give as a reason stays; and a description, a filter or a conversation may say test or 0."""
    assert [] == [text for text in REASONS.replace("\n", "|").split("|") if is_unfilled(text, "reference")]
    assert not any(is_unfilled(text, "description") for text in ("test", "0", "no", "void", "thanks xxx", "reference"))
    assert not any(map(says_nothing, ("todo", "test", "xxx", "<reference>", "reference", "0")))
    assert is_unfilled("<description>", "description")


@pytest.mark.parametrize("text", ["no" + "id" * 31, "no" + "reference" * 6, "a" * 64, "none" * 16, "the" * 21])
def test_no_text_takes_long_to_be_weighed(text: str) -> None:
    """Whoever writes it."""
    began = time.process_time()
    is_unfilled(text, "reference")
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize("text", ["ticket", "none of it", "string theory", "0", "🎉", "n", "null-7", "nanny", "空"])
def test_what_says_something_stays(text: str) -> None:
    """Only what stands for nothing as a whole is left out."""
    assert not says_nothing(text)


# Approvals


@pytest.mark.promise("closed.unasked-is-refused")
async def test_a_call_that_waits_is_found_by_its_intent(stripe: Sandbox, customer: str) -> None:
    """Under other IDs, in other words, with no name at all: one question, one yes, one entry, in the words approved."""
    async with await connect(stripe, policy=ASKING) as agent:
        first = await said_by(agent, UNIQUE, order(customer, description="a"))
        again = await said_by(agent, "call_0", order(customer, description="b"))
        third = await said_by(agent, UNIQUE[::-1], order(customer))
        assert 1 == len({each["proposal_id"] for each in (first, again, third)})
        assert "the first call's description was kept" in again["warnings"][0]
        async with usual_journal() as journal:
            (proposal,) = await proposals(journal)
            await decide(journal, proposal.approve(by="Ana"))
        paid = await said_by(agent, "call_1", order(customer, description="c", metadata={"x": "y"}))
        assert ("succeeded", UNIQUE, False) == (paid["outcome"], paid["idempotency_key"], paid["replayed"])
        assert "description and metadata was kept" in paid["warnings"][0]
        # Whoever waited with it is told of it, whenever it comes back.
        for call_id, words in ((UNIQUE, {"description": "a"}), (UNIQUE[::-1], {})):
            late = await said_by(agent, call_id, order(customer, **words))
            assert ("succeeded", True, paid["entry"]["id"]) == (late["outcome"], late["replayed"], late["entry"]["id"])
        fresh = await said_by(agent, "call_2", order(customer))
        assert "approval_required" == fresh["error"], "an approval that was used is used"
    (entry,) = await ledger(stripe, customer)
    assert ("a", {"ocp_call": UNIQUE}) == (entry["description"], entry["metadata"])


@pytest.mark.promise("closed.unasked-is-refused")
@pytest.mark.parametrize(
    "other", [{"amount": -501}, {"currency": "eur"}, {"reference": "t2"}, {"reference": None}], ids=str
)
async def test_another_intent_is_asked_on_its_own(stripe: Sandbox, customer: str, other: dict[str, Any]) -> None:
    """Another amount, currency or reference is not what was approved; nor is another customer."""
    async with await connect(stripe, policy=ASKING) as agent:
        first = await told(agent.call_tool(TOOL, order(customer, reference="t1")))
        async with usual_journal() as journal:
            (proposal,) = await proposals(journal)
            await decide(journal, proposal.approve(by="Ana"))
        for parameters in (
            order(customer, **{"reference": "t1", **other}),
            order(stripe.create_customer(), reference="t1"),
        ):
            told_of = await told(agent.call_tool(TOOL, parameters))
            assert ("approval_required", False) == (told_of["error"], told_of["proposal_id"] == first["proposal_id"])
    assert [] == await ledger(stripe, customer)


@pytest.mark.promise("closed.unasked-is-refused")
async def test_a_no_is_not_joined_into_a_yes(stripe: Sandbox, customer: str) -> None:
    """Who asked before the no is refused, whichever key it asked under; who asks after it comes to a person."""
    async with await connect(stripe, policy=ASKING) as agent:
        for call_id in (UNIQUE, UNIQUE[::-1]):
            await said_by(agent, call_id, order(customer, description=call_id))
        async with usual_journal() as journal:
            (proposal,) = await proposals(journal)
            await decide(journal, proposal.deny(by="Ana", reason="never"))
        for call_id in (UNIQUE, UNIQUE[::-1]):
            refused = await said_by(agent, call_id, order(customer, description=call_id))
            assert ("policy_refused", True) == (refused["error"], "Ana denied it: never" in refused["message"])
        new = await said_by(agent, "call_0", order(customer))
        assert ("approval_required", False) == (new["error"], new["proposal_id"] == proposal.id)
    assert [] == await ledger(stripe, customer)


async def test_a_program_that_names_a_decision_anew_joins_by_its_reason_alone(stripe: Sandbox, customer: str) -> None:
    """Without a reference, another key of its own is another decision."""
    async with await connect(stripe, policy=ASKING) as agent:
        asked = {
            reference: [
                (await told(agent.call_tool(TOOL, order(customer, reference=reference), idempotency_key=key)))[
                    "proposal_id"
                ]
                for key in (f"{reference}-1", f"{reference}-2")
            ]
            for reference in (None, "t")
        }
    assert (2, 1) == tuple(len(set(ids)) for ids in asked.values())


async def test_many_who_ask_for_the_same_at_once_ask_once(stripe: Sandbox, customer: str) -> None:
    """Whoever comes first; and the model that does as it is told gets its answer, in its own words too."""
    async with await connect(stripe, policy=ASKING) as agent:
        calls = [told(agent.call_tool(TOOL, order(customer, description=f"d{n}"))) for n in range(20)]
        waiting = await asyncio.gather(*calls)
        assert 1 == len({each["proposal_id"] for each in waiting})
        async with usual_journal() as journal:
            (proposal,) = await proposals(journal)
            await decide(journal, proposal.approve(by="Ana"))
            assert 20 == len([each for each in await decisions(journal) if each.decision == "asked"])
        named = [order(customer, description=f"d{n}", idempotency_key=waiting[n]["idempotency_key"]) for n in range(20)]
        paid = await asyncio.gather(*(told(agent.call_tool(TOOL, each)) for each in named))
    assert 1 == len({each["data"]["id"] for each in paid})
    (entry,) = await ledger(stripe, customer)
    assert proposal.parameters["description"] == entry["description"]


async def test_approvers_that_are_asked_at_once_pay_once(stripe: Sandbox, customer: str) -> None:
    """Two callers without a name for their calls, both approved: one entry, and both are told of it."""
    asked: list[Proposal] = []

    async def approver(proposal: Proposal) -> Any:
        asked.append(proposal)
        await asyncio.sleep(0.1 * len(asked))
        return proposal.approve(by="Ana")

    seams = {"approver": approver}
    async with await connect(
        stripe, policy={"approval": {"always": True}, "duplicate_window": "off"}, seams=seams
    ) as agent:
        results = await asyncio.gather(*(agent.call_tool(TOOL, order(customer, description=d)) for d in "ab"))
    assert ({asked[0].id}, 1) == ({each.id for each in asked}, len({each.data["id"] for each in results}))
    assert asked[0].parameters["description"] == (await ledger(stripe, customer))[0]["description"]
    assert 1 == len(await ledger(stripe, customer))


async def test_a_question_at_a_terminal_is_about_its_own_command(stripe: Sandbox, customer: str) -> None:
    """It joins nothing that waits in the queue, and a no there denies nobody else's call."""

    async def approver(proposal: Proposal) -> Any:
        return proposal.deny(by="Ana")

    seams = {"approver": approver, "asks_always": True}
    async with await connect(stripe, policy=ASKING) as agent, await connect(stripe, seams=seams) as terminal:
        waiting = await told(agent.call_tool(TOOL, order(customer)))
        with pytest.raises(PolicyRefusedError, match="did not send it"):
            await terminal.call_tool(TOOL, order(customer))
        assert waiting["proposal_id"] == (await told(agent.call_tool(TOOL, order(customer))))["proposal_id"]


steps = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from(["x", "y"]))
    | st.sampled_from(["yes", "no", "late"]),
    max_size=14,
)


@pytest.mark.promise("closed.unasked-is-refused")
@hypothesis.given(steps, st.sampled_from([None, "t"]), st.sampled_from([Origin.CALLER, Origin.TOOL_CALL]))
def test_no_order_of_calls_and_answers_pays_more_often_than_a_person_said_yes(
    made: list[Any], reference: str | None, origin: Origin
) -> None:
    """Each yes is used once, each name is paid once, and nobody is told of a payment before there was one."""

    async def main() -> None:
        now = [1000.0]
        journal = Journal(None, clock=lambda: now[0])
        policy = Policy.model_validate(
            {"approval": {"always": True, "queue": True, "expires": "1h"}, "duplicate_window": "off"}
        )
        yes = paid = 0
        paid_names: set[str] = set()
        for number, step in enumerate(made):
            if step == "late":
                now[0] += 1800
            elif isinstance(step, str):
                for proposal in await proposals(journal):
                    if proposal.state == "waiting":
                        await decide(journal, proposal.approve(by="A") if step == "yes" else proposal.deny(by="A"))
                        yes += step == "yes"
                        break
            else:
                name, words_ = step
                arguments = json.dumps({"amount": -5, "currency": "usd", "customer": "cus_1", "description": words_})
                if reference is not None:
                    arguments = json.dumps({**json.loads(arguments), "reference": reference})
                key = Key(f"{name}{words_}" if name else f"drawn-{number}", origin if name else Origin.DRAWN)
                call = draft(key.text, -5, reference, origin=key.origin, arguments=arguments)
                admitted = await admit(journal, call, policy)
                if isinstance(admitted, Ready):
                    paid += 1
                    assert key.text not in paid_names
                    await settle(journal, admitted.record, State.SUCCEEDED)
                    paid_names |= {admitted.record.key, key.text}
                elif isinstance(admitted, Repeated):
                    assert paid
                else:
                    assert key.text not in paid_names
                    assert isinstance(admitted, Waiting) or admitted.sentence().verdict in {"refused", "conflict"}
            assert paid <= yes

    asyncio.run(main())


# Words that Stripe rejected


async def test_an_answer_to_the_first_words_is_no_answer_to_others(stripe: Sandbox, customer: str) -> None:
    """Nothing is sent for the others, and it is said whose answer it is; the same words have theirs as it was."""
    async with await connect(stripe) as agent:
        said = order(customer, reference="ticket-7", expand=["customer.nope"])
        first = await said_by(agent, "call_0", said)
        again, other = await said_by(agent, "call_0", said), await said_by(agent, "call_0", {**said, "expand": []})
        assert 1 == len([request for request in stripe.requests if request.method == "POST"])
    assert ["rejected"] * 3 == [each["outcome"] for each in (first, again, other)]
    assert (first["hint"], None) == (again["hint"], again.get("warnings"))
    assert other["hint"].startswith("This is the answer to the first call")
    assert "expand" in " ".join(other["warnings"])


# What was, and what is


async def test_a_replay_says_what_was_then(stripe: Sandbox, customer: str) -> None:
    """Other entries have moved the balance since, and the reversal that the journal knows of is told."""
    async with await connect(stripe) as agent:
        first = await agent.call_tool(TOOL, order(customer, reference="t"))
        await agent.call_tool(TOOL, order(customer, -900))
        again = await agent.call_tool(TOOL, order(customer, reference="t"))
        assert "and now is in credit 5.00 usd" in first.describe()
        assert ("and then was in credit 5.00 usd" in again.describe(), ()) == (True, again.warnings)
        undone = await agent.call_tool(REVERSE, {"transaction": first.data["id"]})
        again = await agent.call_tool(TOOL, order(customer, reference="t"))
        assert f"{first.data['id']} was reversed by {undone.data['id']}" in again.warnings[0]
        assert again.data == first.data


@pytest.mark.parametrize(("state", "is_told"), [("unknown", True), ("sending", True), ("rejected", False)])
async def test_a_replay_says_where_a_reversal_is_not_settled(
    stripe: Sandbox, customer: str, place: Place, state: str, is_told: bool
) -> None:
    """It may have been reversed; a reversal that was turned away changed nothing."""
    async with await connect(stripe, journal=str(place)) as agent:
        first = await agent.call_tool(TOOL, order(customer, reference="t"))
        await agent.call_tool(REVERSE, {"transaction": first.data["id"]})
        with look(place) as db:
            db.execute("UPDATE calls SET state = ?, is_final = FALSE WHERE key_origin = 'reversal'", (state,))
        again = await agent.call_tool(TOOL, order(customer, reference="t"))
    assert is_told is any("may have been reversed" in each for each in again.warnings)


async def test_the_key_of_a_call_is_on_record_with_its_reference(stripe: Sandbox, customer: str) -> None:
    """As it was written in the parameters, in its one spelling beside them."""
    async with await connect(stripe) as agent:
        await agent.call_tool(TOOL, order(customer, reference="Ticket\u20137"))
    async with usual_journal() as journal:
        (record,) = await records(journal)
    assert ("ticket-7", "Ticket\u20137") == (record.intent.reference, json.loads(record.intent.arguments)["reference"])


async def test_a_proposal_shows_the_reference_as_it_is_sent(stripe: Sandbox, customer: str) -> None:
    """A person approves what will be in the ledger."""
    async with await connect(stripe, policy=ASKING) as agent:
        with pytest.raises(ApprovalRequiredError):
            await agent.call_tool(TOOL, order(customer, reference="Ticket 7"))
    async with usual_journal() as journal:
        (proposal,) = await proposals(journal)
    assert "reference   Ticket 7" in proposal.describe()
