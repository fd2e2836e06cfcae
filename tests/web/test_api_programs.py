"""
Programs in other languages, with nothing but HTTP: those of docs/gateway.md, and clients that others wrote.

A language that is not installed is skipped, and says so. `make test-clients` installs Node's packages; the OCP
JavaScript agent is on no registry, so `OCP_JAVASCRIPT` names a built copy of its repository.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import ledger
from pages import DOCS, block

pytest.importorskip("uvicorn")
from serving import ASKS, approved, served, settings_for

from ocp_stripe_balance import Settings
from ocp_stripe_balance.cli import main
from ocp_stripe_balance.serving.tokens import Tokens

if TYPE_CHECKING:
    from ocp_stripe_balance.sandbox import Sandbox

_ROOT = Path(__file__).parents[2]
_CLIENTS = _ROOT / "build" / "clients"
_OCP_JAVASCRIPT = os.environ.get("OCP_JAVASCRIPT")  # read before a test has an environment without settings
_PAGE = DOCS / "gateway.md"
_LANGUAGES = {
    "typescript": ("node", "credit.mjs", ()),  # it has no types of its own, so it is JavaScript too
    "ruby": ("ruby", "credit.rb", ()),
    "go": ("go", "credit.go", ("run",)),
}


async def ran(*command: str, cwd: Path, **environment: str) -> str:
    """
    What a program printed, which ended well.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert 0 == process.returncode, err.decode()
    return out.decode()


@pytest.mark.parametrize("language", _LANGUAGES)
async def test_a_program_credits_a_customer_and_waits_for_approval(
    stripe: Sandbox, customer: str, tmp_path: Path, language: str
) -> None:
    """The first answer is lost on the way to Stripe, too: the same request again finds out."""
    name, file, words = _LANGUAGES[language]
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed, so the program in {language} did not run")
    (tmp_path / file).write_text(block(_PAGE, language))
    stripe.faults.add("reset", executed=True, path="balance_transactions$")
    token = Tokens(Settings()).create("bot")
    async with served(settings_for(stripe, policy=ASKS, max_attempts=1)) as url:
        running = ran(program, *words, file, customer, "-2500", "ticket-1", cwd=tmp_path, GATEWAY=url, TOKEN=token)
        printed, _ = await asyncio.gather(running, approved())
    assert f"{customer} was credited 25.00 usd" in printed
    assert [-2500] == [entry["amount"] for entry in await ledger(stripe, customer)]


async def test_curl_credits_a_customer(stripe: Sandbox, customer: str, tmp_path: Path) -> None:
    """As the page has it, and says what it prints."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed, so it did not run")
    command, _, answer = block(_PAGE, "curl").removeprefix("$ ").rpartition("\n{")
    token = Tokens(Settings()).create("bot")
    async with served(settings_for(stripe)) as url:
        command = command.replace("http://127.0.0.1:8766", url).replace("cus_…", customer)
        printed = await ran("sh", "-c", command, cwd=tmp_path, TOKEN=token)
    assert printed.startswith("{" + answer.partition("…}")[0].replace("cus_…", customer).partition(", …")[0])


def test_the_commands_of_the_page_make_and_revoke_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text('[limits]\ncredit = { usd = "1.00" }\n')
    for line in block(_PAGE, "tokens").splitlines():
        assert 0 == main(line.removeprefix("$ ocp-stripe-balance ").split())
    printed = capsys.readouterr().out
    assert str(tmp_path / "small.toml") in printed
    assert [] == Tokens(Settings()).all()


async def test_the_ocp_javascript_agent_finds_the_tool_and_credits(
    stripe: Sandbox, customer: str, tmp_path: Path
) -> None:
    """Unmodified, with this server as its registry; the same again is the first entry."""
    node = shutil.which("node")
    if _OCP_JAVASCRIPT is None or node is None:
        pytest.skip("OCP_JAVASCRIPT names no built copy of opencontextprotocol/ocp-javascript, so it did not run")
    packages = tmp_path / "node_modules" / "@opencontextprotocol"
    packages.mkdir(parents=True)
    (packages / "agent").symlink_to(_OCP_JAVASCRIPT)
    (tmp_path / "credit.mjs").write_text(block(_PAGE, "ocp-javascript"))
    token = Tokens(Settings()).create("ocp")
    async with served(settings_for(stripe)) as url:
        command = (node, "credit.mjs", customer, "ticket-1")
        printed = [
            await ran(*command, cwd=tmp_path, GATEWAY=url, TOKEN=token),
            await ran(*command[:3], "ticket-1", cwd=tmp_path, GATEWAY=url, TOKEN=token),
        ]
    assert [True, True] == [
        text.startswith(f"{status} {customer} was credited 5.00 usd")
        for status, text in zip((201, 200), printed, strict=True)
    ]
    assert 1 == len(await ledger(stripe, customer))


@pytest.mark.skipif("TEST_CLIENTS" not in os.environ, reason="run by make test-clients, which installs what it needs")
async def test_a_typescript_client_made_of_the_openapi_document_credits(
    stripe: Sandbox, customer: str, tmp_path: Path
) -> None:
    """Its types are strict: a parameter that there is not, is an error before it runs."""
    packages = _CLIENTS / "node_modules"
    (tmp_path / "node_modules").symlink_to(packages)
    shutil.copy(_ROOT / "tests" / "clients" / "generated.ts", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    node, programs = str(packages / "node" / "bin" / "node"), packages / ".bin"
    token = Tokens(Settings()).create("bot")
    options = ("--strict", "--target", "es2022", "--module", "nodenext", "--types", "node", "generated.ts")
    async with served(settings_for(stripe)) as url:
        document = f"{url}/openapi.json"
        await ran(node, str(programs / "openapi-typescript"), document, "-o", "gateway.ts", cwd=tmp_path)
        await ran(node, str(programs / "tsc"), *options, cwd=tmp_path)
        printed = await ran(node, "generated.js", customer, cwd=tmp_path, GATEWAY=url, TOKEN=token)
    assert f"201 {customer} -500" == printed.strip()
    assert [-500] == [entry["amount"] for entry in await ledger(stripe, customer)]
