"""
The pages of docs: their snippets and commands run, their links lead somewhere, the reference is that of the code.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import tomllib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import reference
import sdk_double
from helpers import TOOL, TOOLS, client, connect, ledger
from pages import BIN, DOCS, PAGES, README, ROOT, block, commands, names_of, run
from postgres import new_database
from programs import folder, started

from ocp_stripe_balance import OCPAgent, Settings, errors
from ocp_stripe_balance._journal.sqlite import open_database
from ocp_stripe_balance._policy import in_words, load_policy
from ocp_stripe_balance.sandbox import FaultKind, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

FRAMEWORKS, POLICY = DOCS / "frameworks.md", DOCS / "policy.md"
CLI = "ocp-stripe-balance"


def order(customer: str, amount: int = -500) -> dict[str, Any]:
    return {"customer": customer, "amount": amount, "currency": "usd"}


def test_the_reference_is_that_of_the_code() -> None:
    """Written anew by make docs-reference, and no page more: one that the code does not make is never found stale."""
    written = {path.name: path.read_text("utf-8") for path in (DOCS / "reference").iterdir()}
    assert reference.pages() == written, "make docs-reference"


def test_every_page_is_in_the_site() -> None:
    """Once, under the name that the navigation has."""
    nav = json.dumps(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"])
    named = re.findall(r'"([\w/-]+\.md)"', nav)
    assert sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")) == sorted(named)


def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Strictly: a page or an anchor that is missing stops it."""
    if not (BIN / "zensical").exists():
        pytest.skip("make docs installs what builds the site")
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    run(str(BIN / "zensical"), "build", "--clean", "--strict", cwd=tmp_path)
    site = tmp_path / "build" / "site"
    for page in DOCS.rglob("*.md"):
        html = (site / page.relative_to(DOCS).with_suffix(".html")).read_text("utf-8")
        assert [] == re.findall(r'<(?:script|img|iframe)[^>]*src="?http|<link[^>]*stylesheet[^>]*http', html)


def test_every_shown_program_is_run() -> None:
    """Python, TOML and JSON stand under a name that a test asks for."""
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for page in [README, *DOCS.glob("*.md")]:
        for name, language in re.findall(r"(?:<!-- ([\w-]+) -->\n|\n)```(\w+)\n", page.read_text("utf-8")):
            if language in {"python", "toml", "json", "ini"}:
                assert name, f"{page.name}: a block without a name"
                assert f'"{name}"' in tests, f"{page.name}: {name}"


@pytest.mark.parametrize(
    "page", [page for page in DOCS.glob("*.md") if list(commands(page))], ids=lambda page: page.stem
)
def test_consoles_run(page: Path, tmp_path: Path) -> None:
    """One after the other, in a shell that has the sandbox's variables and the policy worth copying."""
    if "curl" in page.read_text("utf-8") and shutil.which("curl") is None:
        pytest.skip("needs curl")
    (tmp_path / "policy.toml").write_text(block(POLICY, "policy"))
    with Sandbox() as stripe:
        variables: dict[str, Any] = {
            "STRIPE_SECRET_KEY": stripe.api_key,
            "STRIPE_API_BASE": stripe.url,
            "OCP_STRIPE_JOURNAL": str(tmp_path / "journal.sqlite3"),
            "CUSTOMER": stripe.create_customer(),
        }
        if "$SERVER" in page.read_text("utf-8"):
            variables["SERVER"] = new_database()
            open_database(tmp_path / "journal.sqlite3").close()
        lines = [f"{line}; test $? = {code} || exit 9" for line, code in commands(page)]
        run("bash", "-xc", "\n".join(lines), cwd=tmp_path, **variables)


def test_policy_of_who_may_say_yes_says_all_of_it() -> None:
    """The one of the page, in sentences."""
    policy = load_policy(tomllib.loads(block(POLICY, "people")))
    said = " ".join(sentence for _, sentence in in_words(policy, allow_live=False))
    for words in ("500.00 usd", "kim approves at most 200.00 usd", "Everybody else approves", "may not approve it"):
        assert words in said


def test_policy_worth_copying_says_what_is_shown(tmp_path: Path) -> None:
    """The policy is valid, and its explanation is the one printed."""
    (tmp_path / "policy.toml").write_text(block(POLICY, "policy"))
    assert block(POLICY, "check").strip() == run(CLI, "policy", "check", "policy.toml", cwd=tmp_path).strip()


def test_explained_call_is_told_what_is_shown(tmp_path: Path) -> None:
    """Rule by rule, by the policy worth copying."""
    (tmp_path / "policy.toml").write_text(block(POLICY, "policy"))
    (tmp_path / "call.json").write_text(block(POLICY, "call"))
    told = run(CLI, "policy", "explain", "call.json", "--policy", "policy.toml", code=2, cwd=tmp_path)
    assert block(POLICY, "explain").strip() == told.strip()


def test_who_reads_one_page_after_another_meets_nothing_twice() -> None:
    """A ticket or a file of one is not that of the next, and a terminal knows the command before it is given alone."""
    pages = [path.read_text("utf-8") for path in (README, DOCS / "index.md", DOCS / "lost.md", DOCS / "approve.md")]
    met = [set(re.findall(r"ticket-\d+|\w+\.py\b", text)) for text in pages]
    assert all(met)
    assert sum(map(len, met)) == len(set().union(*met)), met
    assert ["source .venv/bin/activate" in text for text in pages[:2]] == [True, True]
    assert pages[1].index("`source .venv/bin/activate` there too") < pages[1].index(f"{CLI} credit")


def test_what_pages_install_can_be_installed() -> None:
    """Extras of ours from a copy of the repository, and what the loops are tested with."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    tested = {re.split(r"[<>=]", each)[0] for each in extras["providers"]} | {"crewai"}
    text = "".join(page.read_text("utf-8") for page in PAGES)
    named = " ".join(re.findall(r"pip install ([^`\n]+)`", text)).replace("'", "").split()
    runners = re.findall(r"^\| [\w ]+ \| `([\w-]+)` \|", (DOCS / "agents.md").read_text("utf-8"), re.MULTILINE)
    assert 4 == len(runners)
    assert [] == [each for each in [*named, *runners] if each not in tested | {"."} | {f".[{name}]" for name in extras}]
    assert {"mcp", "langchain"} <= {each[2:-1] for each in named}


async def test_approver_example_decides(stripe: Sandbox) -> None:
    """It sends after a yes only."""
    answers = ["yes", "no"]
    names: dict[str, Any] = {"input": lambda _: answers.pop(0)}
    exec(block(DOCS / "approve.md", "approver"), names)  # noqa: S102  the page's own code
    settings = Settings(api_key=stripe.api_key, api_base=stripe.url, policy={"approval": {"always": True}})
    async with OCPAgent(settings=settings, approver=names["approver"]) as agent:
        await agent.register_api("stripe")
        assert (await agent.call_tool(TOOL, order(stripe.create_customer()))).ok
        with pytest.raises(errors.PolicyRefusedError, match="not our fault"):
            await agent.call_tool(TOOL, order(stripe.create_customer()))


async def test_bulk_example_pays_from_a_list(
    stripe: Sandbox, customer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row, one entry."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", stripe.api_key)
    monkeypatch.setenv("STRIPE_API_BASE", stripe.url)
    (tmp_path / "list.csv").write_text(f"customer,amount\n{customer},5.00\n")
    assert {"succeeded": 1} == await names_of(DOCS / "bulk.md", "bulk")["pay"](tmp_path / "list.csv")
    assert [-500] == [entry["amount"] for entry in await ledger(stripe, customer)]


async def test_undo_example_looks_and_undoes(stripe: Sandbox, customer: str) -> None:
    """What was credited, the sum of the ledger, and an entry undone."""
    names = names_of(DOCS / "undo.md", "siblings")
    async with await connect(stripe) as agent:
        made = await agent.call_tool(TOOL, order(customer))
        assert ["credit 5.00 usd"] == await names["last_credits"](agent, customer)
        assert "was debited 5.00 usd" in await names["undo"](agent, made.data["id"])
        assert 0 == await names["total"](agent, customer)


async def test_lost_example_finds_out(stripe: Sandbox, customer: str) -> None:
    """By the same key, when one round of attempts was lost."""
    credit = names_of(DOCS / "lost.md", "lost")["credit"]
    async with OCPAgent(settings=Settings(api_key=stripe.api_key, api_base=stripe.url)) as agent:
        stripe.faults.add("reset", times=4, executed=True, path="balance")
        assert "credit 5.00 usd" in await credit(agent, order(customer))
    assert 1 == len(await ledger(stripe, customer))


async def test_accounts_example_credits_in_each_account(stripe: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reference is another decision in another account."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", stripe.api_key)
    monkeypatch.setenv("STRIPE_API_BASE", stripe.url)
    credit = names_of(DOCS / "accounts.md", "accounts")["credit"]
    for account in ("acct_1", "acct_2"):
        async with client(stripe) as http:
            made = await http.post("/v1/customers", headers={"Stripe-Account": account})
        assert "now is in credit 5.00 usd" in await credit(account, made.json()["id"], "ticket-812")


async def test_verbs_example_credits_once(tmp_path: Path) -> None:
    """However often it is run."""
    (tmp_path / "sorry.py").write_text(block(DOCS / "index.md", "verbs"))
    with Sandbox() as stripe:
        customer = stripe.create_customer()
        variables: dict[str, Any] = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
        for _ in range(2):
            printed = run(*started(), str(tmp_path / "sorry.py"), customer, **variables)
            assert f"{customer} was credited 5.00 usd" in printed
        assert 1 == len(await ledger(stripe, customer))


def test_sandbox_example_prints_what_it_says(tmp_path: Path) -> None:
    """The reply is lost, and the second attempt is told the first result."""
    page = DOCS / "sandbox.md"
    (tmp_path / "example.py").write_text(block(page, "sandbox"))
    printed = run(*started(), str(tmp_path / "example.py"))
    assert f"prints `{printed.strip()}`" in page.read_text("utf-8")


def test_fault_table_has_every_fault() -> None:
    """docs/sandbox.md lists what the sandbox can break."""
    text = (DOCS / "sandbox.md").read_text("utf-8")
    assert [str(kind) for kind in FaultKind] == re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


def test_sdk_example_credits_a_customer(stripe_thread: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without an event loop; the double stands in for the SDK."""
    monkeypatch.setitem(sys.modules, "ocp_agent", sdk_double)
    monkeypatch.setenv("STRIPE_SECRET_KEY", stripe_thread.api_key)
    monkeypatch.setenv("STRIPE_API_BASE", stripe_thread.url)
    names = names_of(FRAMEWORKS, "sdk")
    customer = stripe_thread.create_customer()
    assert -400 == asyncio.run(names["in_async_code"](customer))
    assert -700 == names["in_plain_code"](customer)


async def test_host_example_runs_a_tool_call(stripe: Sandbox, customer: str) -> None:
    """Successes and errors come back as JSON for the model."""
    host = names_of(FRAMEWORKS, "host")["run_tool_call"]
    async with await connect(stripe) as agent:
        told = await host(agent, "c", "call_1", TOOL, order(customer))
        assert ("succeeded", False) == (told["outcome"], told["replayed"])
        assert "not_sent" == (await host(agent, "c", "call_2", TOOL, {}))["outcome"]


async def test_anthropic_example_answers(stripe: Sandbox, customer: str) -> None:
    """With a model that calls once."""
    types = pytest.importorskip("anthropic.types")

    async def create(**asked: Any) -> Any:
        assert TOOLS == [tool["name"] for tool in asked["tools"]]
        if len(asked["messages"]) == 1:
            return SimpleNamespace(
                content=[types.ToolUseBlock(type="tool_use", id="c", name=TOOL, input=order(customer))]
            )
        (result,) = asked["messages"][-1]["content"]
        assert ("tool_result", "c") == (result["type"], result["tool_use_id"])
        return SimpleNamespace(content=[types.TextBlock(type="text", text="done")])

    model_api = SimpleNamespace(messages=SimpleNamespace(create=create))
    async with await connect(stripe) as agent:
        ask = [{"role": "user", "content": "Credit 5 dollars."}]
        assert "done" == await names_of(FRAMEWORKS, "anthropic")["answer"](agent, model_api, ask, "ticket-812")
    assert 1 == len(await ledger(stripe, customer))


async def test_gemini_example_answers(stripe: Sandbox, customer: str) -> None:
    """With a model that calls once; what it sends is what the SDK takes."""
    types = pytest.importorskip("google.genai.types")

    async def generate_content(*, model: str, contents: list[Any], config: Any) -> Any:
        types.GenerateContentConfig.model_validate(config)
        assert model
        part = types.Part(function_call=types.FunctionCall(name=TOOL, args=order(customer)))
        if len(contents) > 1:
            types.Content.model_validate(contents[-1])
            part = types.Part(text="done")
        return SimpleNamespace(candidates=[SimpleNamespace(content=types.Content(role="model", parts=[part]))])

    model_api = SimpleNamespace(aio=SimpleNamespace(models=SimpleNamespace(generate_content=generate_content)))
    async with await connect(stripe) as agent:
        ask = [{"role": "user", "parts": [{"text": "Credit 5 dollars."}]}]
        assert "done" == await names_of(FRAMEWORKS, "gemini")["answer"](agent, model_api, ask, "ticket-812")
    assert 1 == len(await ledger(stripe, customer))


async def test_langchain_example_runs_calls(stripe: Sandbox, customer: str) -> None:
    """As a model's message has them."""
    pytest.importorskip("langchain_core")
    call = {"type": "tool_call", "id": "c", "name": TOOL, "args": order(customer)}
    async with await connect(stripe) as agent:
        (message,) = await names_of(FRAMEWORKS, "langchain")["run_calls"](agent, [call], "ticket-812")
    assert "success" == message.status


async def test_mcp_example_lists_and_calls(stripe: Sandbox, customer: str) -> None:
    """As an MCP client asks."""
    names = names_of(FRAMEWORKS, "mcp")
    async with await connect(stripe) as agent:
        tool = names["list_tools"]()["tools"][0]["name"]
        result = await names["call_tool"](agent, {"name": tool, "arguments": order(customer)})
    assert not result["isError"]


async def test_mcp_host_example_starts_a_server(stripe: Sandbox, customer: str, tmp_path: Path) -> None:
    """As a host does, with the page's policy: what it shows is asked about, and counts."""
    pytest.importorskip("mcp")
    from mcp import Client, StdioServerParameters  # noqa: PLC0415  of an extra
    from mcp_host import facts, saying  # noqa: PLC0415  as above

    asked: list[str] = []
    (tmp_path / "policy.toml").write_text(block(DOCS / "mcp.md", "mcp-policy"))
    (host,) = json.loads(block(DOCS / "mcp.md", "mcp-host"))["mcpServers"].values()
    real = {"STRIPE_API_BASE": stripe.url, "STRIPE_SECRET_KEY": stripe.api_key}
    assert set(real) == set(host["env"])
    more = {"OCP_STRIPE_POLICY": str(tmp_path / "policy.toml"), "PATH": str(folder())}
    started = StdioServerParameters(**{**host, "env": {**real, **more}})
    async with Client(started, elicitation_callback=saying(asked)) as mcp_client:
        assert 3 == len((await mcp_client.list_tools()).tools)
        result = await mcp_client.call_tool("create_balance_transaction", order(customer, -2500))
    assert "succeeded" == facts(result)["outcome"]
    assert 1 == len(asked)


def anchors(page: Path) -> set[str]:
    """
    The names of a page's headings, as GitHub and the site make them.
    """
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading of it."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert DOCS in path.parents or page.parent != DOCS, f"{target} is not in the site"
        assert not anchor or anchor in anchors(path), target
