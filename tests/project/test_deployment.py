"""
docs/deployment.md: what it shows is run, and what it says of settings is so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ocp_stripe_balance import Settings
from ocp_stripe_balance._journal.permissions import hint_of

if TYPE_CHECKING:
    from ocp_stripe_balance.sandbox import Sandbox

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text("utf-8")


def block(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert match
    return match[1]


def test_the_file_of_variables_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As docker hands it over: each line as it stands."""
    for line in block("env-file").splitlines():
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert ("/data/journal.sqlite3", 25.0, 30.0) == (settings.journal, settings.rate_limit, settings.timeout)
    assert "STRIPE_SECRET_KEY" == settings.key_source()


def test_the_units_settings_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are settings, and their paths are full ones."""
    (tmp_path / "policy.toml").write_text("calls_per_minute = 5\n")
    variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", block("unit"), re.MULTILINE))
    assert "/etc/ocp/policy.toml" == variables["OCP_STRIPE_POLICY"]
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("/etc/ocp", str(tmp_path)))
    settings = Settings()
    assert ("/var/lib/ocp/journal.sqlite3", 5) == (settings.journal, settings.policy_in_force.calls_per_minute)


@pytest.fixture
def in_the_environment(stripe_thread: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setenv("STRIPE_SECRET_KEY", stripe_thread.api_key)
    monkeypatch.setenv("STRIPE_API_BASE", stripe_thread.url)
    return stripe_thread


@pytest.mark.parametrize("name", ["lambda", "worker"])
def test_two_machines_that_share_nothing_pay_once(
    name: str, in_the_environment: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the key of the event, or by the reference, as long as Stripe remembers; on one machine by the journal."""
    code: dict[str, Any] = {}
    exec(block(name), code)  # noqa: S102  the page's own code
    customer, told = in_the_environment.create_customer(), []
    for journal in ("one", "one", "two"):
        monkeypatch.setenv("OCP_STRIPE_JOURNAL", str(tmp_path / journal))
        if name == "worker":
            told.append(code["task"](customer, 500, "ticket-812"))
        else:
            parameters = {"customer": customer, "amount": -500, "currency": "usd"}
            told.append(code["handler"]({"id": "event-1", "parameters": parameters}, None))
    assert ["succeeded"] * 3 == [each["outcome"] for each in told]
    assert 1 == len({each["data"]["id"] for each in told})


def test_the_group_is_let_in_as_the_hint_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose command is run with real users in tests/_journal/test_permissions.py."""
    path = Path("/var/lib/ocp/journal.sqlite3")
    monkeypatch.setattr("ocp_stripe_balance._journal.permissions._may_use", lambda _: False)
    monkeypatch.setattr("ocp_stripe_balance._journal.permissions._is_there", lambda _: True)
    command = re.findall("`(.+)`", str(hint_of(path, PermissionError("denied"))))[0]
    assert command.replace("GROUP", "money").split(" && ") == block("group").splitlines()
