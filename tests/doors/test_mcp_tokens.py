"""
Tokens of the MCP server over HTTP: who is let in, what is kept, and what is said.
"""

from __future__ import annotations

import hashlib
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from ocp_stripe_balance import ConfigurationError, Settings
from ocp_stripe_balance.cli import main
from ocp_stripe_balance.serving.tokens import Tokens

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(Settings(journal=str(tmp_path / "kept" / "journal.sqlite3")))


def test_a_token_names_its_caller(tokens: Tokens) -> None:
    found = tokens.caller_of(tokens.create("billing-bot"))
    assert found is not None
    assert ("billing-bot", None, None, None) == (found.name, found.policy, found.tools, found.rate)


def test_only_the_hash_is_kept_where_its_owner_alone_reads(tokens: Tokens) -> None:
    token = tokens.create("bot")
    (file,) = tokens.folder.iterdir()
    assert hashlib.sha256(token.encode()).hexdigest() == json.loads(file.read_text())["hash"]
    assert token.partition(".")[2] not in file.read_text()
    assert 0o700 == stat.S_IMODE(tokens.folder.stat().st_mode)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


@pytest.mark.parametrize(
    "forge",
    [
        lambda _: "",
        lambda _: "bot",
        lambda _: "bot.",
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token.upper(),
        lambda token: token.replace("bot", "admin", 1),
        lambda token: token.replace("bot", "other", 1),
        lambda token: token.replace("bot", "../mcp-tokens/bot", 1),
        lambda token: token.replace("bot", "bot\x00", 1),
        lambda token: hashlib.sha256(token.encode()).hexdigest(),
        lambda token: "bot." + hashlib.sha256(token.encode()).hexdigest(),
        lambda token: token + "\ud800",
    ],
)
def test_nothing_else_names_anybody(tokens: Tokens, forge: object) -> None:
    token = tokens.create("bot")
    tokens.create("other")
    assert tokens.caller_of(forge(token)) is None  # type: ignore[operator]  # one of the above


def test_a_file_of_before_there_were_limits_names_its_caller(tokens: Tokens) -> None:
    tokens.create("other")
    (tokens.folder / "bot").write_text(hashlib.sha256(b"bot.secret").hexdigest())
    found = tokens.caller_of("bot.secret")
    assert found is not None
    assert ("bot", None) == (found.name, found.tools)
    assert ["bot", "other"] == [each.name for each in tokens.all()]


@pytest.mark.parametrize(
    "limits", [{"tools": ["get_customers", "refund"]}, {"tools": []}, {"rate": 0}, {"policy": "/none.toml"}]
)
def test_limits_that_cannot_be_held_make_no_token(tokens: Tokens, limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        tokens.create("bot", **limits)
    assert [] == tokens.all()


def test_a_file_that_somebody_emptied_lets_nobody_in(tokens: Tokens) -> None:
    token = tokens.create("bot")
    (tokens.folder / "bot").write_text("")
    assert tokens.caller_of(token) is None
    assert tokens.caller_of("bot.") is None


def test_a_revoked_token_is_good_for_nothing_and_tokens_stay_wanted(tokens: Tokens) -> None:
    assert not tokens.is_used
    token = tokens.create("bot")
    tokens.revoke("bot")
    assert tokens.caller_of(token) is None
    assert [] == tokens.all()
    assert tokens.is_used
    assert tokens.create("bot") != token
    assert tokens.caller_of(token) is None


def test_where_nobody_can_say_whether_there_are_tokens_the_server_does_not_start(tokens: Tokens) -> None:
    tokens.folder.parent.write_text("a file in the folder's place")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        _ = tokens.is_used
    assert tokens.caller_of("bot.secret") is None


def test_a_name_is_one_callers(tokens: Tokens) -> None:
    token = tokens.create("bot")
    with pytest.raises(ConfigurationError, match="token named bot already"):
        tokens.create("bot")
    assert tokens.caller_of(token) is not None


@pytest.mark.parametrize("name", ["", "Bot", "a.b", "a/b", "..", "-x", "x" * 65, "bot\n", "bö"])
def test_a_name_that_no_file_should_have_is_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not 1 to 64"):
        tokens.create(name)
    assert not tokens.folder.exists()


def test_a_misspelt_name_is_not_revoked(tokens: Tokens) -> None:
    tokens.create("billing-bot")
    with pytest.raises(ConfigurationError, match="Did you mean billing-bot"):
        tokens.revoke("biling-bot")


def test_without_a_journal_there_is_no_place_for_tokens() -> None:
    with pytest.raises(ConfigurationError, match="the journal is off"):
        Tokens(Settings(journal="off"))


def test_commands_make_list_and_revoke(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["tokens", "create", "bot"])
    made = capsys.readouterr()
    token = made.out.strip()
    assert token.startswith("bot.")
    assert token not in made.err
    assert 0 == main(["tokens", "list"])
    listed = capsys.readouterr().out
    assert listed.startswith("bot ")
    assert token.partition(".")[2] not in listed
    assert 2 == main(["tokens", "create", "bot"])
    assert 0 == main(["mcp", "tokens", "revoke", "bot"])
    assert 0 == main(["tokens", "list"])
    assert "" == capsys.readouterr().out
