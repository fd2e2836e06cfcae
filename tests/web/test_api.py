"""
The agents' side over HTTP: what a call is answered with, how it waits for a person, and what there is to call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, TOOLS, ledger, order, records, usual_journal

pytest.importorskip("uvicorn")
from serving import ASKS, USER, approved, as_caller, client, settings_for

from ocp_stripe_balance import OCPAgent, Settings, ToolResult, errors
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance._tools.validation import parameter_validator, response_validator
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.serving.tokens import Tokens
from ocp_stripe_balance.web.api import documents, problems
from ocp_stripe_balance.web.api.kinds import KINDS

if TYPE_CHECKING:
    import httpx

    from ocp_stripe_balance.sandbox import Sandbox

CALL = f"/tools/{TOOL}"
KEY = {"Idempotency-Key": '"order-17"'}


async def decide(answer: httpx.Response, *, yes: bool = True) -> None:
    """
    A person's decision on the proposal that an answer names.
    """
    async with BackOffice(Settings()) as office:
        proposal = await office.proposal(answer.headers["location"].rpartition("/")[2])
        assert "waiting" == proposal.state
        await office.decide(proposal.approve(by="bo") if yes else proposal.deny(by="bo", reason="not our fault"))


async def test_an_entry_is_201_and_its_repeat_200(stripe: Sandbox, customer: str) -> None:
    """The key is a structured-field string; without quotes, it is the same key. It is the caller's own."""
    async with client(settings_for(stripe)) as http:
        made = await http.post(CALL, json=order(customer), headers=KEY)
        repeats = [
            await http.post(CALL, json=order(customer), headers=headers)
            for headers in (KEY, {"Idempotency-Key": "order-17"}, {"idempotency_key": "order-17"})
        ]
        other = await http.post(CALL, json=order(customer, -501), headers=KEY)
    assert (201, "order-17") == (made.status_code, made.json()["idempotency_key"])
    assert "idempotent-replayed" not in made.headers
    assert {(200, "true")} == {(each.status_code, each.headers["idempotent-replayed"]) for each in repeats}
    assert {made.json()["data"]["id"]} == {each.json()["data"]["id"] for each in repeats}
    assert (422, "idempotency_conflict") == (other.status_code, other.json()["error"])
    assert 1 == len(await ledger(stripe, customer))
    async with usual_journal() as journal:
        (row,) = await records(journal)
    assert ("caller", USER, "gateway") == (row.intent.key.origin, row.intent.caller.user, row.intent.caller.agent_type)


async def test_a_read_is_200_and_takes_no_body(stripe: Sandbox, customer: str) -> None:
    async with client(settings_for(stripe)) as http:
        found = await http.post("/tools/get_customer", json={"customer": customer})
        listed = await http.post("/tools/getCustomers")
        missing = await http.post("/tools/getCustomersCustomer", json={"customer": "cus_none"})
    assert (200, customer) == (found.status_code, found.json()["data"]["id"])
    assert 200 == listed.status_code
    assert (404, "resource_missing") == (missing.status_code, missing.json()["error"])
    assert missing.json()["type"].endswith("/problems/resource-missing")


async def test_a_problem_says_all_that_the_error_says(stripe: Sandbox, customer: str) -> None:
    async with client(settings_for(stripe)) as http:
        invalid = await http.post(CALL, json={"customer": customer, "amount": "5", "curency": "usd"})
        refused = await http.post(CALL, json=order(customer, -99_999_999))
        pages = [await http.get(each.json()["type"]) for each in (invalid, refused)]
    assert [422, 403] == [invalid.status_code, refused.status_code]
    assert "application/problem+json" == invalid.headers["content-type"]
    told = invalid.json()
    assert {"amount", "curency", "currency"} == {each["path"] for each in told["problems"]}
    assert ("not_sent", "mend_and_call_again", 422) == (told["outcome"], told["next"], told["status"])
    assert "default limit" == refused.json()["rule"]
    assert all(each.status_code == 200 and "Nothing was sent" in each.text for each in pages)


async def test_what_stripe_says_stands_beside_what_rfc_9457_says(stripe: Sandbox) -> None:
    async with client(settings_for(stripe, customer_check="off", max_attempts=1)) as http:
        told = (await http.post(CALL, json=order("cus_none"))).json()
        stripe.faults.add("bad_gateway", path="balance_transactions$")
        lost = await http.post(CALL, json=order("cus_none", -501))
    assert (404, 404, "rejected") == (told["status"], told["stripe_status"], told["outcome"])
    assert told["type"].endswith("/problems/resource-missing")
    assert (502, 502, "unknown") == (lost.status_code, lost.json()["stripe_status"], lost.json()["outcome"])


async def test_an_unknown_outcome_is_504_and_the_same_key_finds_out(stripe: Sandbox, customer: str) -> None:
    stripe.faults.add("reset", executed=True, path="balance_transactions$")
    async with client(settings_for(stripe, max_attempts=1)) as http:
        lost = await http.post(CALL, json=order(customer))
        told = lost.json()
        found = await http.post(CALL, json=order(customer), headers={"Idempotency-Key": told["idempotency_key"]})
    assert (504, "unknown", "call_again") == (lost.status_code, told["outcome"], told["next"])
    assert "1" == lost.headers["retry-after"]
    assert 200 == found.status_code
    assert 1 == len(await ledger(stripe, customer))


async def test_the_same_call_twice_at_once_is_one(stripe: Sandbox, customer: str) -> None:
    stripe.faults.add("stall", seconds=0.3, path="balance_transactions$")
    async with client(settings_for(stripe)) as http:
        answers = await asyncio.gather(*(http.post(CALL, json=order(customer), headers=KEY) for _ in range(5)))
    assert [200, 200, 200, 200, 201] == sorted(each.status_code for each in answers)
    assert 1 == len(await ledger(stripe, customer))


async def test_a_call_that_another_process_sends_is_409(stripe: Sandbox, customer: str) -> None:
    """Whose outcome is not known within the time of a call."""
    stripe.faults.add("stall", seconds=2, path="balance_transactions$")
    async with OCPAgent(user="bo", settings=settings_for(stripe)) as elsewhere:
        calling = asyncio.create_task(elsewhere.call_tool(TOOL, order(customer), idempotency_key="order-17"))
        while not stripe.faults.met["stall"]:
            await asyncio.sleep(0.01)
        async with client(settings_for(stripe, timeout=0.5)) as http:
            busy = await http.post(CALL, json=order(customer), headers=KEY)
        await calling
    assert (409, "unknown", "1") == (busy.status_code, busy.json()["outcome"], busy.headers["retry-after"])
    assert busy.json()["type"].endswith("/problems/under-way")
    assert 1 == len(await ledger(stripe, customer))


async def test_a_call_waits_for_a_person_and_goes_on(stripe: Sandbox, customer: str) -> None:
    """The held request is answered with the entry; without Prefer, it is to be made again."""
    async with client(settings_for(stripe, policy=ASKS)) as http:
        waiting = await http.post(CALL, json=order(customer, -2500))
        asked = await http.get(waiting.headers["location"])
        again = {"Idempotency-Key": waiting.json()["idempotency_key"], "Prefer": "respond-async, Wait = 30"}
        held = asyncio.create_task(http.post(CALL, json=order(customer, -2500), headers=again))
        looking = asyncio.create_task(http.get(waiting.headers["location"], headers={"Prefer": "wait=30"}))
        await asyncio.sleep(0)
        await decide(waiting)
        done, seen = await held, await looking
    assert (202, "approval_required") == (waiting.status_code, waiting.json()["error"])
    assert ("waiting", "call_again_once_approved") == (asked.json()["state"], asked.json()["next"])
    assert (201, "wait=30") == (done.status_code, done.headers["preference-applied"])
    assert seen.json()["state"] in {"approved", "used"}
    assert [-2500] == [entry["amount"] for entry in await ledger(stripe, customer)]


async def test_a_held_call_without_a_key_goes_on_too(stripe: Sandbox, customer: str) -> None:
    """Under the name of what was decided: of two that wait for one decision, the second gets the entry of the first."""
    async with client(settings_for(stripe, policy=ASKS)) as http:
        wait = {"Prefer": "wait=5"}
        held = [asyncio.create_task(http.post(CALL, json=order(customer, -2500), headers=wait)) for _ in range(2)]
        (waiting,) = await approved()
        done = await asyncio.gather(*held)
    assert [200, 201] == sorted(each.status_code for each in done)
    assert {waiting.key} == {each.json()["idempotency_key"] for each in done}
    assert 1 == len(await ledger(stripe, customer))


async def test_a_no_ends_a_held_call(stripe: Sandbox, customer: str) -> None:
    async with client(settings_for(stripe, policy=ASKS)) as http:
        waiting = await http.post(CALL, json=order(customer, -2500), headers=KEY)
        held = asyncio.create_task(http.post(CALL, json=order(customer, -2500), headers={**KEY, "Prefer": "wait=30"}))
        await asyncio.sleep(0)
        await decide(waiting, yes=False)
        denied = await held
        after = await http.get(waiting.headers["location"])
    assert (403, "not_sent") == (denied.status_code, denied.json()["outcome"])
    assert "not our fault" in denied.json()["detail"]
    assert ("denied", "stop_and_tell") == (after.json()["state"], after.json()["next"])
    assert [] == await ledger(stripe, customer)


async def test_a_call_that_cannot_be_told_of_may_have_moved_money(
    stripe: Sandbox, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is there, or may be, and this program fails to say so."""

    def fail(_: object) -> Any:
        raise ValueError

    monkeypatch.setattr(ToolResult, "to_dict", fail)
    monkeypatch.setattr(problems, "_wait_s", fail)
    async with client(settings_for(stripe, max_attempts=1)) as http:
        made = await http.post(CALL, json=order(customer), headers=KEY)
        stripe.faults.add("reset", executed=True, path="balance_transactions$")
        lost = await http.post(CALL, json=order(customer, -501))
    assert {(500, "unknown")} == {(each.status_code, each.json()["outcome"]) for each in (made, lost)}
    assert 2 == len(await ledger(stripe, customer))


async def test_a_question_that_is_over_is_asked_again_by_the_same_call(stripe: Sandbox, customer: str) -> None:
    policy = {"approval": {**ASKS["approval"], "expires": "1s"}}
    async with client(settings_for(stripe, policy=policy)) as http:
        first = await http.post(CALL, json=order(customer, -2500), headers=KEY)
        over = await http.get(first.headers["location"], headers={"Prefer": "wait=30"})
        second = await http.post(CALL, json=order(customer, -2500), headers=KEY)
    assert ("expired", "call_again") == (over.json()["state"], over.json()["next"])
    assert 202 == second.status_code
    assert first.headers["location"] != second.headers["location"]


async def test_nobody_decides_in_time_and_the_call_goes_on_waiting(stripe: Sandbox, customer: str) -> None:
    async with client(settings_for(stripe, policy=ASKS)) as http:
        waiting = await http.post(CALL, json=order(customer, -2500), headers={**KEY, "Prefer": "wait=1"})
    assert (202, "wait=1") == (waiting.status_code, waiting.headers["preference-applied"])
    assert [] == await ledger(stripe, customer)


async def test_a_token_has_its_own_policy_tools_and_rate(stripe: Sandbox, customer: str, tmp_path: Any) -> None:
    """From the next request on after it was made anew; over MCP it has the same."""
    tokens = Tokens(Settings())
    policy = tmp_path / "small.toml"
    policy.write_text('[limits]\ncredit = { usd = "1.00" }\n')
    small = as_caller(tokens.create("small", policy=str(policy)))
    reader = as_caller(tokens.create("reader", tools=["get_customer"], rate=2))
    async with client(settings_for(stripe)) as http:
        refused = await http.post(CALL, json=order(customer), headers=small)
        hidden = await http.post(CALL, json=order(customer), headers=reader)
        read = [await http.post("/tools/get_customer", json={"customer": customer}, headers=reader) for _ in range(3)]
        entry = await http.get("/registry/stripe", headers=reader)
        tokens.revoke("small")
        gone = await http.post(CALL, json=order(customer), headers=small)
        anew = await http.post(CALL, json=order(customer), headers=as_caller(tokens.create("small")))
    assert (403, "limits.credit.usd") == (refused.status_code, refused.json()["rule"])
    assert 404 == hidden.status_code
    assert [200, 200, 429] == [each.status_code for each in read]
    assert ("token.rate", "60") == (read[-1].json()["rule"], read[-1].headers["retry-after"])
    assert ["getCustomersCustomer"] == [each["name"] for each in entry.json()["tools"]]
    assert [401, 201] == [gone.status_code, anew.status_code]


@pytest.mark.parametrize(("amount", "status", "effect"), [(-1500, 201, "15.00 usd"), (-2500, 202, "25.00 usd")])
async def test_a_key_of_another_caller_tells_nothing_of_its_call(
    stripe: Sandbox, customer: str, amount: int, status: int, effect: str
) -> None:
    """Neither of one that was sent nor of one that waits for a person; whose it is, is told what it was."""
    settings = settings_for(stripe, policy=ASKS)
    ola, zoe = (as_caller(Tokens(settings).create(name)) for name in ("ola", "zoe"))
    async with client(settings) as http:
        first = await http.post(CALL, json=order(customer, amount), headers={**KEY, **ola})
        own, others = [await http.post(CALL, json=order(customer, -1), headers={**KEY, **who}) for who in (ola, zoe)]
    assert (status, 422, 422) == (first.status_code, own.status_code, others.status_code)
    assert (True, False) == (effect in own.text, effect in others.text)
    assert '"order-17"' in others.text


# What there is


async def test_a_registry_of_ocp_has_the_complete_tools(stripe: Sandbox) -> None:
    """No token is asked for: the OCP agents send none there."""
    Tokens(Settings()).create("bot")
    async with client(settings_for(stripe)) as http:
        entry = (await http.get("/registry/stripe")).json()
        names = [(await http.get(path)).json() for path in ("/registry", "/search?q=str&per_page=10")]
        missing = await http.get("/registry/github")
        one = (await http.get(f"/tools/{TOOL}")).json()
        assert str(http.base_url).rstrip("/") == entry["base_url"]
    assert TOOLS == [tool["name"] for tool in entry["tools"]]
    create = entry["tools"][0]
    assert ("POST", CALL) == (create["method"], create["path"])
    assert "header" == create["parameters"].pop("idempotency_key")["location"]
    assert {"body"} == {each["location"] for each in create["parameters"].values()}
    assert "stripe" == names[0][0]["name"] == names[1]["results"][0]["name"]
    assert 404 == missing.status_code
    assert one["documentation"].startswith("## ")


async def test_the_openapi_document_is_valid_and_its_examples_are(stripe: Sandbox) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    async with client(settings_for(stripe)) as http:
        document = (await http.get("/openapi.json")).json()
    validator.validate(document)
    for tool in load_manifest().tools:
        operation = document["paths"][f"/tools/{tool.name}"]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert ({**example}, []) == parameter_validator(tool).check(example)
    create = load_manifest().tools[0]
    assert [] == response_validator(create).warnings(documents._RESULT["data"])


def test_every_error_is_a_problem_that_has_a_page() -> None:
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ToolError)]
    kinds = {next(kind for known, kind in problems._KINDS_OF.items() if issubclass(each, known)) for each in found}
    assert kinds <= set(KINDS)
