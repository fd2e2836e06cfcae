"""
Settings come from arguments and the environment; what is misspelt or impossible is named.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from helpers import order, run

from ocp_stripe_balance import ConfigurationError, OCPAgent, Settings
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.backoffice import BackOffice
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
        ("HTTPS://api.stripe.com", "https://api.stripe.com"),
        (" https://api.stripe.com./\n", "https://api.stripe.com"),
        ("https://api.stripe.com:0443//", "https://api.stripe.com"),
        ("https://gateway.test//stripe/./", "https://gateway.test/stripe"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
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
        "http://[::1]:9",
        "http://[0:0::1]:9",
        "http://[::ffff:127.0.0.1]:9",
    ],
)
def test_a_server_has_one_name(name: str) -> None:
    """Its keys and budgets are one, however the base URL is spelled."""
    assert "http://127.0.0.1:9" == server_of(check_api_base(name))


def test_other_addresses_of_this_machine_are_other_servers() -> None:
    """Two may listen on one port; an IPv4 address written as one of IPv6 is that address."""
    names = ["http://127.0.0.1:9", "http://127.0.0.2:9", "http://[::ffff:127.0.0.2]:9", "http://127.9.9.9:9"]
    assert [names[0], names[1], names[1], names[3]] == [server_of(check_api_base(name)) for name in names]
    assert "https://10.0.0.1/a" == server_of(check_api_base("https://[::ffff:a00:1]/a"))


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
        ("OCP_STRIPE_JOURNAL", ":memory:", "OCP_STRIPE_JOURNAL: it is the path of a file, the URL"),
        ("OCP_STRIPE_JOURNAL", "/", "OCP_STRIPE_JOURNAL: it is the path of a file, the URL"),
        ("OCP_STRIPE_JOURNAL", "/no/such/folder/", "OCP_STRIPE_JOURNAL: it is the path of a file, the URL"),
        ("OCP_STRIPE_JOURNAL", "/dev/null", "OCP_STRIPE_JOURNAL: it is the path of a file, the URL"),
        (
            "OCP_STRIPE_JOURNAL",
            "false",
            "OCP_STRIPE_JOURNAL: it is a full path, such as /var/lib/ocp/journal.sqlite3, or off",
        ),
        ("OCP_STRIPE_CUSTOMER_CHECK", "perhaps", "OCP_STRIPE_CUSTOMER_CHECK"),
        ("OCP_STRIPE_RATE_LIMIT", "fast", "OCP_STRIPE_RATE_LIMIT: it is auto, off, or a number"),
        ("OCP_STRIPE_PROXY", "http://[::1", "OCP_STRIPE_PROXY: it is the URL of a proxy"),
        ("OCP_STRIPE_PROXY_PORT", "3128", "Did you mean OCP_STRIPE_PROXY?"),
        ("ocp_stripe_timeot", "5", "Did you mean OCP_STRIPE_TIMEOUT?"),
        ("STRIPE_API_BASE", "https://[::1", "STRIPE_API_BASE: a base URL begins with https://"),
        (
            "STRIPE_API_BASE",
            "https://api.stripe.com/v1/",
            "adds the path of the API itself; write https://api.stripe.com.",
        ),
        (
            "STRIPE_API_BASE",
            "https://gw.test/s/v1/customers",
            "adds the path of the API itself; write https://gw.test/s.",
        ),
        ("STRIPE_API_KEY", "pk_test_planted0key", "STRIPE_API_KEY: this is a publishable key"),
        ("OCP_STRIPE_JOURNAL", "~nobodyx/j", "OCP_STRIPE_JOURNAL: there is no such home folder"),
        ("OCP_STRIPE_TIMEOT", "5", "Did you mean OCP_STRIPE_TIMEOUT"),
        ("OCP_STRIPE_NONSENSE", "5", "The settings are OCP_STRIPE_API_VERSION"),
        ("STRIPE_API_BASE", "http://api.stripe.com", "STRIPE_API_BASE: plain http is for loopback"),
        ("STRIPE_API_BASE", "nonsense", "STRIPE_API_BASE: a base URL begins with https://"),
        ("STRIPE_API_BASE", "https://h.test:99999", "STRIPE_API_BASE: a base URL begins with https://"),
        ("STRIPE_API_BASE", "http://127.0.0.1.evil.test", "STRIPE_API_BASE: plain http is for loopback"),
        ("STRIPE_ACCOUNT", "acct 1", "STRIPE_ACCOUNT"),
        ("STRIPE_SECRET_KEY", "sk_test_planted0\nkey", "STRIPE_SECRET_KEY: this is a key with something else in"),
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


KUBERNETES = {
    "{}_SERVICE_HOST": "10.0.0.7",
    "{}_SERVICE_PORT": "80",
    "{}_SERVICE_PORT_HTTP": "80",
    "{}_PORT": "tcp://10.0.0.7:80",
    "{}_PORT_80_TCP": "tcp://10.0.0.7:80",
    "{}_PORT_80_TCP_PROTO": "tcp",
    "{}_PORT_80_TCP_PORT": "80",
    "{}_PORT_80_TCP_ADDR": "10.0.0.7",
    "{}_PORT_53_UDP": "udp://10.0.0.7:53",
}
DOCKER = {"{}_PORT": "tcp://172.17.0.2:80", "{}_NAME": "/web/stripe", "{}_ENV_TIMEOUT": "5"}


@pytest.mark.parametrize("variables", [KUBERNETES, DOCKER], ids=["Kubernetes", "Docker"])
@pytest.mark.parametrize(
    "service", ["OCP_STRIPE", "OCP_STRIPE_BALANCE", "OCP_STRIPE_PROXY", "STRIPE_API_BASE", "STRIPE"]
)
def test_variables_of_a_service_are_no_settings(
    monkeypatch: pytest.MonkeyPatch, service: str, variables: dict[str, str]
) -> None:
    """Whatever it is called; what is misspelt beside them still is."""
    for name, value in variables.items():
        monkeypatch.setenv(name.format(service), value)
    assert Settings() == Settings()
    assert "https://api.stripe.com" == Settings().api_base
    monkeypatch.setenv("OCP_STRIPE_JOURNEL", "off")
    with pytest.raises(ConfigurationError, match="Did you mean OCP_STRIPE_JOURNAL"):
        Settings()


def test_what_only_looks_like_a_service_is_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port or a name that a person set, without the rest of a service."""
    for name in ("OCP_STRIPE_PORT", "OCP_STRIPE_NAME", "OCP_STRIPE_ENV_TIMEOUT"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "80")
            with pytest.raises(ConfigurationError, match=name):
                Settings()


@pytest.mark.parametrize(
    ("variable", "value", "meant"),
    [
        ("OCP_STRIPE_JOURNAL", "OFF", "off"),
        ("OCP_STRIPE_JOURNAL", " Off\n", "off"),
        ("OCP_STRIPE_JOURNAL", " /var/j ", "/var/j"),
        ("OCP_STRIPE_JOURNAL", "~/j", "{home}/j"),
        ("OCP_STRIPE_JOURNAL", "", None),
        ("OCP_STRIPE_RATE_LIMIT", "OFF", "off"),
        ("OCP_STRIPE_RATE_LIMIT", "Auto", "auto"),
        ("OCP_STRIPE_RATE_LIMIT", " 5 ", 5.0),
        ("OCP_STRIPE_CUSTOMER_CHECK", "OFF", "off"),
        ("OCP_STRIPE_CUSTOMER_CHECK", "false", "off"),
        ("OCP_STRIPE_CUSTOMER_CHECK", "TRUE", "on"),
        ("OCP_STRIPE_ALLOW_LIVE", " TRUE ", True),
        ("OCP_STRIPE_ALLOW_LIVE", "Off", False),
        ("OCP_STRIPE_TAG_CALLS", "no", False),
        ("OCP_STRIPE_TIMEOUT", " 5\n", 5.0),
        ("OCP_STRIPE_TIMEOUT", "", 60.0),
        ("ocp_stripe_timeout", "7", 7.0),
        ("STRIPE_ACCOUNT", " acct_1 ", "acct_1"),
        ("STRIPE_ACCOUNT", "  ", None),
    ],
)
def test_a_setting_means_what_its_author_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, meant: object
) -> None:
    """Upper and lower case, and what stands around it, make no difference; nothing is not a value."""
    monkeypatch.setenv(variable, value)
    field = variable.lower().removeprefix("ocp_").removeprefix("stripe_")
    expected = meant.format(home=tmp_path) if isinstance(meant, str) else meant
    assert expected == getattr(Settings(), field)


def test_a_key_may_have_space_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file has a line break at its end; and twice the same is once."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "")
    monkeypatch.setenv("STRIPE_API_KEY", SECRET + "\r\n")
    settings = Settings()
    assert settings.api_key is not None
    assert (SECRET, "STRIPE_API_KEY") == (settings.api_key.get_secret_value(), settings.key_source())
    monkeypatch.setenv("STRIPE_SECRET_KEY", SECRET)
    assert "STRIPE_SECRET_KEY" == Settings().key_source()


@pytest.mark.skipif(os.name == "nt", reason="Windows has each variable once")
@pytest.mark.parametrize(
    ("variable", "one", "other"),
    [
        ("STRIPE_SECRET_KEY", SECRET, SECRET + "2"),
        ("OCP_STRIPE_JOURNAL", "/a/j", "off"),
        ("OCP_STRIPE_TIMEOUT", "1", "2"),
    ],
)
def test_two_spellings_of_one_variable_must_agree(
    monkeypatch: pytest.MonkeyPatch, variable: str, one: str, other: str
) -> None:
    """Else one would be taken and nobody told; the same twice, or an empty one, is once, and an argument wins."""
    monkeypatch.setenv(variable, one)
    monkeypatch.setenv(variable.lower(), other)
    with pytest.raises(ConfigurationError, match=f"{variable} and {variable.lower()} are both set") as caught:
        Settings()
    assert SECRET not in str(caught.value)
    field = {"STRIPE_SECRET_KEY": "api_key"}.get(variable, variable.removeprefix("OCP_STRIPE_").lower())
    Settings(**{field: other})
    monkeypatch.setenv(variable.lower(), f" {one} ")
    taken = getattr(Settings(), field)
    monkeypatch.setenv(variable, "")
    assert taken == getattr(Settings(), field)


@pytest.mark.parametrize(
    "variable", ["STRIPE_SECRET_KEY", "STRIPE_API_KEY", "OCP_STRIPE_JOURNAL", "OCP_STRIPE_POLICY", "ocp_stripe_policy"]
)
def test_white_space_is_no_key_journal_or_policy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """A template had nothing to put there, and silence would take off a guardrail; what is empty is not set."""
    if variable != "STRIPE_SECRET_KEY":
        monkeypatch.setenv("STRIPE_SECRET_KEY", SECRET)
    monkeypatch.setenv(variable, " \n")
    with pytest.raises(ConfigurationError, match=f"{variable} is set to white space only"):
        Settings()
    Settings(api_key=SECRET, journal="off", policy={})
    monkeypatch.setenv(variable, "")
    assert Settings().policy is None


SAMPLES = {
    "STRIPE_SECRET_KEY": SECRET,
    "STRIPE_API_BASE": "https://api.stripe.com",
    "STRIPE_ACCOUNT": "acct_1",
    "OCP_STRIPE_JOURNAL": "/var/lib/j",
    "OCP_STRIPE_POLICY": "/etc/p.toml",
    "OCP_STRIPE_CA_FILE": "/etc/ca.pem",
    "OCP_STRIPE_PROXY": "http://proxy.test:3128",
    "OCP_STRIPE_TIMEOUT": "5",
    "OCP_STRIPE_ALLOW_LIVE": "true",
    "OCP_STRIPE_RATE_LIMIT": "auto",
}


@pytest.mark.parametrize("form", ['"{}"', "'{}'", "\u201c{}\u201d", '"{}', "`{}`"])
@pytest.mark.parametrize("variable", SAMPLES)
def test_quotes_are_named(monkeypatch: pytest.MonkeyPatch, variable: str, form: str) -> None:
    """Files of variables keep them, and then they are part of the value."""
    monkeypatch.setenv(variable, form.format(SAMPLES[variable]))
    with pytest.raises(
        ConfigurationError, match=f"{variable}: it begins or ends with a quote.* write it without"
    ) as caught:
        Settings()
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("text", ["${X}", "$X", "%X%", "{{ x }}", "<your value>", "$(cat x)", "{% x %}"])
@pytest.mark.parametrize("variable", SAMPLES)
def test_what_nobody_replaced_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    """Placeholders of shells, templates and manuals."""
    for form in ("{}", "/home/{}/x", "http://{}:1"):
        monkeypatch.setenv(variable, form.format(text))
        with pytest.raises(ConfigurationError, match=f"{variable}: it has a placeholder"):
            Settings()


def test_a_proxys_password_may_have_any_character() -> None:
    """And a template in its place is still seen."""
    assert Settings(proxy="http://user:p$ss%41%<x>@proxy.test:3128").proxy
    with pytest.raises(ConfigurationError, match="placeholder"):
        Settings(proxy="http://user:${PASSWORD}@proxy.test:3128")


NO_KEYS = {
    "sk_org_test_abcdefgh1234": "an organization's key",
    "pk_live_planted0key": "a publishable key",
    "whsec_planted0key": "the signing secret of a webhook",
    "acct_planted0key": "an account's ID",
    "ek_test_planted0key": "an ephemeral key",
    "price_planted0key": "an ID or a secret of another kind",
    "cus_planted0key": "an ID or a secret of another kind",
    "planted0key@example.com": "an email address",
    "Bearer sk_test_planted0key": "a whole Authorization header",
    "STRIPE_SECRET_KEY=sk_test_planted0key": "a whole assignment",
    "export STRIPE_API_KEY=sk_live_planted0key": "a whole assignment",
    "op://vault/planted0key": "a reference to a secret",
    "/run/secrets/planted0key": "a path",
    '{"key": "sk_test_planted0key"}': "JSON",
    "sk_test_***planted0key": "masked or cut off",
    "sk_live_...": "masked or cut off",
    "sk_test_": "the beginning of a key alone",
    "sk_test_planted0key, sk_test_2": "a key with something else",
    "planted0key": "no API key of Stripe's",
    "SK_TEST_PLANTED0KEY": "no API key of Stripe's",
}


@pytest.mark.parametrize("text", NO_KEYS)
async def test_what_is_no_key_is_called_what_it_is(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """In the environment and in a header; no word of it is shown, and nobody is told to switch on live mode."""
    monkeypatch.setenv("STRIPE_API_KEY", text)
    with pytest.raises(ConfigurationError) as settings:
        Settings()
    monkeypatch.delenv("STRIPE_API_KEY")
    async with OCPAgent(settings=Settings(journal="off")) as agent:
        with pytest.raises(ConfigurationError) as header:
            await agent.register_api("stripe", headers={"Authorization": f"Bearer {text}"})
    for caught in (settings, header):
        assert NO_KEYS[text] in str(caught.value)
        assert "begins with sk_test_" in str(caught.value)
        assert "planted0key" not in str(caught.value).lower()
        assert "ALLOW_LIVE" not in str(caught.value)
        assert not caught.value.retryable


@pytest.mark.parametrize("field", ["journal", "policy", "ca_file"])
@pytest.mark.parametrize("path", ["x", "./x", "../x", "a/b", "~nobodyx/x"])
def test_nothing_begins_at_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str, path: str
) -> None:
    """Which is another one in each shell and service: a path is a full one, also by way of the home folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigurationError, match=f"OCP_STRIPE_{field.upper()}: (it is a full path|there is no such home)"
    ):
        Settings(**{field: path})
    monkeypatch.setenv("HOME", "here")
    with pytest.raises(ConfigurationError, match="full path"):
        Settings(**{field: "~/x"})
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("said", [RuntimeError("no home"), KeyError("uid"), Path("~/.local/state/ocp-stripe-balance")])
async def test_without_a_home_nothing_is_sent_and_nothing_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: Any
) -> None:
    """A user of a container has none; some versions of platformdirs raise, some take ~ for a folder's name."""

    def user_state_path(*_: object, **__: object) -> Path:
        if isinstance(said, Exception):
            raise said
        return Path(said)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_state_path", user_state_path)
    async with OCPAgent(settings=Settings(api_key=SECRET, api_base="http://127.0.0.1:9")) as agent:
        await agent.register_api("stripe")
        with pytest.raises(ConfigurationError, match="must set OCP_STRIPE_JOURNAL to the full path"):
            await agent.call_tool("create_balance_transaction", {"customer": "cus_1", "amount": -5, "currency": "usd"})
    with pytest.raises(ConfigurationError, match="OCP_STRIPE_JOURNAL"):
        BackOffice()
    assert [] == list(tmp_path.iterdir())


def test_the_policys_source_is_named_in_either_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable counts in lower case too, so whoever explains a call says whose rules these are."""
    (tmp_path / "policy.toml").write_text("calls_per_minute = 5\n")
    monkeypatch.setenv("ocp_stripe_policy", str(tmp_path / "policy.toml"))
    assert str(tmp_path / "policy.toml") == Settings().policy_source()
    done = run("policy", "explain", "-", stdin=json.dumps(order()))
    assert f"By {tmp_path / 'policy.toml'}:" in done.stdout + done.stderr
