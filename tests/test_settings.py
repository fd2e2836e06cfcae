"""
Settings come from arguments and the environment; what is misspelt or impossible is named.
"""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ocp_stripe_balance import ConfigurationError, Settings
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.settings import check_api_base, mode_of, server_of

SECRET = "sk_test_planted0key"


def test_defaults_are_the_documented_ones() -> None:
    """Nothing set: Stripe itself, the manifest's version, a minute, four attempts, no key."""
    settings = Settings()
    assert (None, "https://api.stripe.com", None, load_manifest().version, 60.0, 4, False, False) == (
        settings.api_key,
        settings.api_base,
        settings.account,
        settings.api_version,
        settings.timeout,
        settings.max_attempts,
        settings.share_context,
        settings.allow_live,
    )


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every documented variable has its effect."""
    variables = {
        "STRIPE_SECRET_KEY": SECRET,
        "STRIPE_API_BASE": "http://localhost:12111/",
        "STRIPE_ACCOUNT": "acct_1",
        "OCP_STRIPE_API_VERSION": "2026-09-30.endive",
        "OCP_STRIPE_TIMEOUT": "2.5",
        "OCP_STRIPE_MAX_ATTEMPTS": "1",
        "OCP_STRIPE_SHARE_CONTEXT": "on",
        "OCP_STRIPE_ALLOW_LIVE": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.api_key is not None
    assert SECRET == settings.api_key.get_secret_value()
    assert ("http://localhost:12111", "acct_1", "2026-09-30.endive", 2.5, 1, True, True) == (
        settings.api_base,
        settings.account,
        settings.api_version,
        settings.timeout,
        settings.max_attempts,
        settings.share_context,
        settings.allow_live,
    )
    assert "STRIPE_SECRET_KEY" == settings.key_source()


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that says something is obeyed."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_env")
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_another")
    monkeypatch.setenv("OCP_STRIPE_TIMEOUT", "5")
    settings = Settings(api_key=SECRET, timeout=7)
    assert "argument" == settings.key_source()
    assert 7.0 == settings.timeout


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://API.Stripe.com:443/", "https://api.stripe.com"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:8080/a/", "http://[::1]:8080/a"),
    ],
)
def test_base_urls_have_one_spelling(given: str, kept: str) -> None:
    """Keys belong to a base URL, so two spellings of one must not be two."""
    assert kept == Settings(api_base=given).api_base


@pytest.mark.parametrize(
    "name",
    [
        "http://localhost:9",
        "http://LOCALHOST:9/",
        "http://localhost.:9//",
        "http://127.0.0.1:9/./",
        "http://127.0.0.1:9/v/..",
        "http://127.9.9.9:9",
        "http://[::1]:9",
        "http://[0:0::1]:9",
        "http://[::ffff:127.0.0.1]:9",
    ],
)
def test_a_server_has_one_name(name: str) -> None:
    """Its keys and budgets are one, however the base URL is spelled."""
    assert "http://127.0.0.1:9" == server_of(check_api_base(name))


@pytest.mark.parametrize(
    "name", ["https://API.Stripe.com.", "https://api.stripe.com:443/", "https://api.stripe.com/a/.."]
)
def test_stripe_has_one_name(name: str) -> None:
    """The final dot of DNS, the usual port and dot segments are no other server."""
    assert "https://api.stripe.com" == server_of(check_api_base(name))


def test_either_key_variable_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """STRIPE_API_KEY alone, and both alike."""
    monkeypatch.setenv("STRIPE_API_KEY", SECRET)
    assert "STRIPE_API_KEY" == Settings().key_source()
    monkeypatch.setenv("STRIPE_SECRET_KEY", SECRET)
    assert "STRIPE_SECRET_KEY" == Settings().key_source()
    monkeypatch.setenv("STRIPE_SECRET_KEY", "")
    assert "STRIPE_API_KEY" == Settings().key_source()


def test_two_different_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which account money moves in is not a matter of precedence."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", SECRET)
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_other0key")
    with pytest.raises(ConfigurationError, match="STRIPE_SECRET_KEY and STRIPE_API_KEY are both set") as caught:
        Settings()
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("name", ["API_KEY", "api_key", "API_BASE", "ACCOUNT", "TIMEOUT"])
def test_variables_of_others_are_not_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A general name in the environment belongs to someone else."""
    monkeypatch.setenv(name, "sk_test_of_another_program")
    assert Settings() == Settings()
    assert Settings().api_key is None


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OCP_STRIPE_TIMEOUT", "soon", "OCP_STRIPE_TIMEOUT"),
        ("OCP_STRIPE_TIMEOUT", "0", "OCP_STRIPE_TIMEOUT"),
        ("OCP_STRIPE_TIMEOUT", "nan", "OCP_STRIPE_TIMEOUT"),
        ("OCP_STRIPE_TIMEOUT", "inf", "OCP_STRIPE_TIMEOUT"),
        ("OCP_STRIPE_MAX_ATTEMPTS", "0", "OCP_STRIPE_MAX_ATTEMPTS"),
        ("OCP_STRIPE_MAX_ATTEMPTS", "2.5", "OCP_STRIPE_MAX_ATTEMPTS"),
        ("OCP_STRIPE_SHARE_CONTEXT", "perhaps", "OCP_STRIPE_SHARE_CONTEXT"),
        ("OCP_STRIPE_ALLOW_LIVE", "2", "OCP_STRIPE_ALLOW_LIVE"),
        ("OCP_STRIPE_API_VERSION", "a b", "OCP_STRIPE_API_VERSION"),
        ("OCP_STRIPE_JOURNAL", ":memory:", "OCP_STRIPE_JOURNAL: it is the path of a file, or off"),
        ("OCP_STRIPE_JOURNAL", "/", "OCP_STRIPE_JOURNAL: it is the path of a file, or off"),
        ("OCP_STRIPE_JOURNAL", "~nobodyx/j", "OCP_STRIPE_JOURNAL: there is no such home folder"),
        ("OCP_STRIPE_TIMEOT", "5", "Did you mean OCP_STRIPE_TIMEOUT"),
        ("OCP_STRIPE_NONSENSE", "5", "The settings are OCP_STRIPE_API_VERSION"),
        ("STRIPE_API_BASE", "http://api.stripe.com", "STRIPE_API_BASE: plain http is for loopback"),
        ("STRIPE_API_BASE", "nonsense", "STRIPE_API_BASE: a base URL begins with https://"),
        ("STRIPE_API_BASE", "https://h.test:99999", "STRIPE_API_BASE: a base URL begins with https://"),
        ("STRIPE_API_BASE", "http://127.0.0.1.evil.test", "STRIPE_API_BASE: plain http is for loopback"),
        ("STRIPE_ACCOUNT", "acct 1", "STRIPE_ACCOUNT"),
        ("STRIPE_SECRET_KEY", "sk_test_planted0key\n", "STRIPE_SECRET_KEY: the API key is empty, or has a space"),
        ("STRIPE_SECRET_KEY", "pk_test_planted0key", "STRIPE_SECRET_KEY: this is a publishable key"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    """The message names the variable and shows no key."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert said in str(caught.value)
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("values", [{"timout": 5}, {"timeout": "x"}, {"api_key": "a b"}, {"api_base": "http://h.test"}])
def test_a_wrong_argument_is_named(values: dict[str, Any]) -> None:
    """Arguments are held to the same rules."""
    with pytest.raises(ConfigurationError):
        Settings(**values)


def test_the_key_is_in_no_repr() -> None:
    """Settings may be logged."""
    settings = Settings(api_key=SECRET)
    assert "planted" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("sk_test_1", "test"),
        ("rk_test_1", "test"),
        ("sk_live_1", "live"),
        ("rk_live_1", "live"),
        ("sk_org_1", "live"),
        ("x", "live"),
    ],
)
def test_what_does_not_say_test_is_live(key: str, mode: str) -> None:
    """The cautious reading of a key we do not know."""
    assert mode == mode_of(key)


def test_errors_of_settings_pickle() -> None:
    """As all our errors do."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(timeout=-1)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))  # noqa: S301  our own bytes
