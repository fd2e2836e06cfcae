"""
The settings, read from the environment once, where an agent or the command line starts.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import posixpath
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, SupportsIndex
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ocp_stripe_balance._policy import Policy, load_policy
from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._text.database_url import DatabaseURL, check_database_url, is_database_url
from ocp_stripe_balance._text.meant import as_meant, full_path, is_service_variable, what_is_no_key
from ocp_stripe_balance._text.plain import nearest
from ocp_stripe_balance._text.secrets import holds_key
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.fields import FieldInfo

_PREFIX = "OCP_STRIPE_"
_GUARDS = {"api_key", "journal", "policy"}  # without which another key, file or policy would be taken
_KEY_VARIABLES = ("STRIPE_SECRET_KEY", "STRIPE_API_KEY")
_THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}
_MIN_RATE, _MAX_RATE = 0.01, 10_000.0

Mode = Literal["test", "live"]


class Settings(BaseSettings):
    """
    All settings of one agent; every field is also an argument, and arguments win over the environment.

    Raises:
        ConfigurationError: naming the setting that is misspelt or impossible.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    api_key: SecretStr | None = Field(None, validation_alias=AliasChoices(*_KEY_VARIABLES))
    """Secret or restricted key. Both variables set and different is an error."""
    api_base: str = Field(load_manifest().base_url, validation_alias="STRIPE_API_BASE")
    """Where Stripe answers: https, or http to loopback; without Stripe's own path (``/v1``)."""
    account: str | None = Field(None, validation_alias="STRIPE_ACCOUNT")
    """Connected account to act on (``acct_…``), sent as Stripe-Account."""
    api_version: str = load_manifest().version
    """Stripe-Version to pin. https://docs.stripe.com/api/versioning"""
    timeout: float = Field(60.0, gt=0, le=3600, allow_inf_nan=False)
    """Seconds one call may take, with all it reads, waits and retries; a reversal has one more to mark the entry."""
    max_attempts: int = Field(4, ge=1, le=20)
    """How often one call may be sent, always under one idempotency key."""
    rate_limit: float | Literal["auto", "off"] = "auto"
    """Requests per second, in all and to each endpoint; ``auto`` for Stripe's own limits, or ``off``."""
    journal: str | SecretStr | None = None
    """Full path of the journal, URL of a PostgreSQL database (``postgresql://user:password@host/name``), or ``off``:
    each agent remembers in its own memory, until its process ends. By default ``journal.sqlite3`` in the user's state
    directory."""
    tag_calls: bool = True
    """Whether an entry's metadata names its call (``ocp_call``), so that it can be found in the ledger later."""
    share_context: bool = False
    """Whether OCP-User, OCP-Workspace and OCP-Current-Goal go to Stripe as headers."""
    proxy: SecretStr | None = None
    """HTTP proxy to Stripe, such as ``http://proxy.example:3128``; never used to loopback."""
    ca_file: str | None = None
    """Full path of a PEM file of the certificates to trust, instead of the usual ones."""
    trust_env: bool = False
    """Whether HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR are used."""
    trace_details: bool = False
    """Whether spans tell parameters, and IDs in URLs."""
    allow_live: bool = False
    """Whether live-mode keys may be used."""
    policy: Policy | str | dict[str, Any] | None = None
    """Full path of a TOML file of guardrails; in code also a `Policy` or a dict. By default those that protect."""
    customer_check: Literal["on", "off"] = "on"
    """Whether a customer is read before the first call for it, to compare its currency."""
    oidc_issuer: str | None = None
    """OpenID provider that people of the console sign in with: its issuer, as it writes it itself."""
    oidc_client_id: str | None = None
    """What that provider calls this console."""
    oidc_client_secret: SecretStr | None = None
    """Secret of that client, where it has one."""
    oidc_claim: str = "sub"
    """Claim of the ID token that says who it is; ``email`` counts only where the provider has verified it."""

    def __init__(self, **values: Any) -> None:
        """
        Read what *values* leaves out from the environment.
        """
        try:
            _refuse_unclear([field for field in Settings.model_fields if field not in values])
            if "api_key" not in values:
                _refuse_two_keys()
            elif isinstance(values["api_key"], str):
                values["api_key"] = SecretStr(values["api_key"])
            _refuse_misspelt()
            super().__init__(**values)
        except ValidationError as error:
            wrong = ConfigurationError(_explain(error), hint="Mend the setting and start again.")
        except ConfigurationError as error:
            wrong = error
        else:
            return
        values.clear()  # out here, no frame of the traceback has the key
        raise wrong.with_traceback(None) from None

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """
        Not pickled: a pickle would hold the key. Read the settings where they are used.
        """
        message = "Settings hold an API key and are not pickled; read them in the process that uses them"
        raise TypeError(message)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """
        Arguments, then the environment as it was meant.
        """
        del env_settings, dotenv_settings, file_secret_settings
        return init_settings, _Environment(settings_cls)

    @field_validator("api_key")
    @classmethod
    def _check_api_key(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(check_api_key(value.get_secret_value()))

    @field_validator("api_base")
    @classmethod
    def _check_api_base(cls, value: str) -> str:
        return check_api_base(value)

    @field_validator("proxy", mode="before")
    @classmethod
    def _check_proxy(cls, value: object) -> object:
        url = value.get_secret_value() if isinstance(value, SecretStr) else value
        try:
            parts = urlsplit(url) if isinstance(url, str) else None
            is_possible = parts is not None and parts.scheme in {"http", "https"} and bool(parts.hostname)
            is_possible = is_possible and parts is not None and parts.path in {"", "/"} and parts.port != 0
        except ValueError:
            is_possible = False
        if value is not None and not is_possible:
            msg = "it is the URL of a proxy, such as http://proxy.example:3128"
            raise ValueError(msg)
        return value

    @field_validator("ca_file")
    @classmethod
    def _check_ca_file(cls, value: str | None) -> str | None:
        if value is None:
            return None
        with no_fork:
            import ssl  # OpenSSL, which only few need here

        path = full_path(value, "/etc/ssl/company.pem")
        try:
            ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as error:  # among them ssl.SSLError
            why = getattr(error, "strerror", None) or "it has no certificates in PEM form"
            msg = f"{path} cannot be used as a file of certificates: {why}"
            raise ValueError(msg) from None
        return path

    @field_validator("oidc_issuer")
    @classmethod
    def _check_issuer(cls, value: str | None) -> str | None:
        if value is not None:  # compared letter by letter, so nothing is mended
            is_plain = re.fullmatch(r"https?://[A-Za-z0-9.:\[\]_-]+[A-Za-z0-9._~/-]*", value)
            if not is_plain or not (value.startswith("https:") or is_loopback(urlsplit(value).hostname or "")):
                msg = "an issuer is an https:// address (http:// to loopback) without user, query and fragment"
                raise ValueError(msg)
        return value

    @field_validator("rate_limit", mode="before")
    @classmethod
    def _check_rate_limit(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() in {"auto", "off"}:
            return value.lower()
        try:
            per_s = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type] # which is tried
        except (ValueError, TypeError):
            per_s = math.nan
        if not _MIN_RATE <= per_s <= _MAX_RATE:
            msg = f"it is auto, off, or a number of requests per second from {_MIN_RATE:g} to {_MAX_RATE:g}"
            raise ValueError(msg)
        return per_s

    @field_validator("journal")
    @classmethod
    def _check_journal(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None and is_database_url(value):
            return SecretStr(check_database_url(value))
        if value is None or value.lower() == "off":
            return value and value.lower()
        if value.startswith((":", "file:")) or value.endswith(("/", os.sep)) or "\0" in value or _is_no_file(value):
            msg = "it is the path of a file, the URL of a PostgreSQL server, or off to keep the record in memory only"
            raise ValueError(msg)
        return full_path(value, "/var/lib/ocp/journal.sqlite3, or off to keep the record in memory only")

    @field_validator("customer_check", mode="before")
    @classmethod
    def _check_switch(cls, value: object) -> object:
        try:
            return ("off", "on")[TypeAdapter(bool).validate_python(value)]
        except ValidationError:
            return value  # which is refused

    @field_validator("policy", mode="before")
    @classmethod
    def _check_policy(cls, value: object) -> object:
        if value is not None and not isinstance(value, Policy | str | dict | Path):
            msg = "it is the path of a TOML file, or a Policy"
            raise ValueError(msg)
        if isinstance(value, str | Path):  # another folder's policy would be another policy
            value = full_path(str(value), "/etc/ocp/policy.toml")
        return None if value is None else load_policy(value)

    @field_validator("account", "api_version")
    @classmethod
    def _check_header(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else check_header(str(info.field_name), value)

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: object) -> object:
        # The last of the validators, because of those that run before the types are checked, the last is the first.
        if isinstance(value, SecretStr):
            return SecretStr(as_meant(value.get_secret_value()))
        return as_meant(value) if isinstance(value, str) else value

    def key_source(self) -> str | None:
        """
        The environment variable the API key came from, ``argument``, or None where there is no key.
        """
        if self.api_key is None:
            return None
        secret, environment = self.api_key.get_secret_value(), _environment()
        return next((name for name in _KEY_VARIABLES if environment.get(name) == secret), "argument")

    def policy_source(self) -> str | None:
        """
        The path that the environment names the policy by, ``argument``, or None where there is no policy.
        """
        return None if self.policy is None else _environment().get(f"{_PREFIX}POLICY", "argument")

    @property
    def policy_in_force(self) -> Policy:
        """
        The policy, or the defaults that protect.
        """
        return self.policy if isinstance(self.policy, Policy) else Policy()

    @property
    def journal_place(self) -> Path | DatabaseURL | None:
        """
        The journal's file or server, or None where it is kept in memory only.

        Raises:
            ConfigurationError: no setting names it, and there is no home folder to keep it in.
        """
        if isinstance(self.journal, SecretStr):
            return DatabaseURL(self.journal.get_secret_value())
        if self.journal == "off":
            return None
        return self.state_folder / "journal.sqlite3" if self.journal is None else Path(self.journal)

    @property
    def state_folder(self) -> Path:
        """
        The folder of the journal's file, or of what is kept beside a journal that is on a server.

        Raises:
            ConfigurationError: there is no home folder for it.
        """
        if isinstance(self.journal, str):
            return Path(self.journal).parent
        with no_fork:
            import platformdirs  # only a call needs it

        with contextlib.suppress(RuntimeError, KeyError, OSError):  # as each version of it says that there is no home
            folder = platformdirs.user_state_path("ocp-stripe-balance", appauthor=False)
            if folder.is_absolute():  # some take "~" for a folder's name
                return folder
        message = "There is no home folder to keep the journal in, and no setting says where else."
        hint = (
            "A person must set OCP_STRIPE_JOURNAL to the full path of a file in a folder that lasts (in a container, "
            "on a volume), such as /var/lib/ocp/journal.sqlite3."
        )
        raise ConfigurationError(message, hint=hint)


class _Environment(PydanticBaseSettingsSource):
    """
    The variables of the environment, each setting under its own name.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        """
        Read them.
        """
        super().__init__(settings_cls)
        self._texts = _environment()

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """
        The text of the first of its variables that is set.
        """
        del field
        texts = (self._texts.get(name) for name in _variables(field_name))
        return next((text for text in texts if text is not None), None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """
        The settings that the environment has.
        """
        found = {name: self.get_field_value(field, name)[0] for name, field in Settings.model_fields.items()}
        return {name: text for name, text in found.items() if text is not None}


def _environment() -> dict[str, str]:
    """
    The variables that may be ours, names in upper case; without those that are empty or describe a service.
    """
    ours = {name.upper(): text for name, text in os.environ.items() if name.upper().startswith((_PREFIX, "STRIPE_"))}
    texts = {name: stripped for name, text in ours.items() if (stripped := text.strip())}
    return {name: text for name, text in texts.items() if not is_service_variable(name, text, texts)}


def check_api_key(key: str) -> str:
    """
    The key, if it can be one.

    Raises:
        ValueError: naming what it is instead; the message has no part of it.
    """
    what = what_is_no_key(key)
    if what is not None:
        msg = f"this is {what}; a secret or restricted API key begins with sk_test_, rk_test_, sk_live_ or rk_live_"
        raise ValueError(msg)
    return key


def _is_no_file(text: str) -> bool:
    with contextlib.suppress(OSError):  # where nobody may look, opening it will say so
        return Path(text).exists() and not Path(text).is_file()
    return False


def check_api_base(url: str) -> str:
    """
    The base URL without a slash at its end.

    Raises:
        ValueError: it is not https (http only to loopback), or has more than a host, a port and a path.
    """
    url = as_meant(url)
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:  # such as a bracket without its other
        parts, port_is_valid = urlsplit(""), False
    if parts.scheme not in {"https", "http"} or not parts.hostname or not port_is_valid:
        msg = "a base URL begins with https:// (or http:// to loopback), such as https://api.stripe.com"
        raise ValueError(msg)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        msg = "plain http is for loopback (127.0.0.1, localhost) only; use https"
        raise ValueError(msg)
    if not re.fullmatch(r"\w+://[A-Za-z0-9.:\[\]_-]+[A-Za-z0-9._~/-]*", url):
        msg = "a base URL has a host, perhaps a port and a path, but no user, password, query or fragment"
        raise ValueError(msg)
    if not _is_host(parts.hostname):
        msg = f"{parts.hostname} cannot be a host's name"
        raise ValueError(msg)
    # One spelling, because keys in the journal belong to a base URL.
    port = parts.port if parts.port != {"https": 443, "http": 80}[parts.scheme] else None
    path = posixpath.normpath("/" + parts.path.lstrip("/"))
    is_stripes = re.search(r"\bstripe\.com\.?$", parts.hostname) is not None
    if (is_stripes and path != "/") or re.search(r"(?i)/v[12](/|$)", path):
        before = "" if is_stripes else re.split(r"(?i)/v[12](?:/|$)", path)[0]
        msg = f"the tool adds the path of the API itself; write {parts.scheme}://{parts.netloc.lower()}{before}"
        raise ValueError(msg)
    return _joined(parts.scheme, parts.hostname.removesuffix("."), port, path)


def server_of(base_url: str) -> str:
    """
    The one name of the server that a valid base URL leads to; keys and budgets belong to it.

    This machine has many names: ``localhost``, ``127.0.0.1`` and ``::1`` are one, or each would have a budget. At other
    addresses of loopback, other servers may listen.
    """
    parts = urlsplit(base_url)
    host = str(parts.hostname)
    return _joined(parts.scheme, "127.0.0.1" if host in _THIS_MACHINE else host, parts.port, parts.path)


def _joined(scheme: str, host: str, port: int | None, path: str) -> str:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        host = str(getattr(address, "ipv4_mapped", None) or address)
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}{'' if port is None else f':{port}'}{path}".rstrip("/")


def check_header(name: str, value: str) -> str:
    """
    The value, if it can stand in an HTTP header.

    Raises:
        ValueError: it is empty, has a character that is not printable ASCII, or an API key in it.
    """
    if not re.fullmatch(r"[!-~]{1,255}", value):
        msg = f"{name} is 1 to 255 printable ASCII characters without spaces"
        raise ValueError(msg)
    if holds_key(value, None):
        msg = f"{name} has what looks like an API key in it"
        raise ValueError(msg)
    return value


def mode_of(api_key: str) -> Mode:
    """
    Test or live, by the key's prefix; a key that does not say test is taken for a live one.
    """
    return "test" if re.match(r"[srp]k_test_", api_key) else "live"


def _is_host(host: str) -> bool:
    """
    Whether it is an IP address or a DNS name: labels of 1 to 63 characters, the last one no number.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        is_name = all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label) for label in labels)
        is_number = re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1])  # what some would read as an address
        return is_name and not is_number and not any(label.startswith("xn--") for label in labels)
    return True


@lru_cache(maxsize=64)  # of every request, and hardly ever another one
def is_loopback(host: str) -> bool:
    """
    Whether a host is this machine, by its address or as ``localhost``.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.removesuffix(".") == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _refuse_unclear(fields: Iterable[str]) -> None:
    """
    Refuse settings that the environment has twice, or has and does not say: silence would take one, or the default.
    """
    known = {name: field for field in fields for name in _variables(field)}
    found = [(upper, each, text) for each, text in os.environ.items() if (upper := each.upper()) in known and text]
    for name, field in known.items():
        texts = {each: text for upper, each, text in found if upper == name}
        blank = [each for each, text in texts.items() if not text.strip()]
        if blank and field in _GUARDS:
            hint = "Unset it, or write the value: a template may have had none to put there."
            raise ConfigurationError(f"{blank[0]} is set to white space only.", hint=hint)
        if len({text.strip() for text in texts.values()} - {""}) > 1:
            message = f"{' and '.join(sorted(texts))} are both set, to different values."
            raise ConfigurationError(message, hint="Unset one of them.")


def _refuse_two_keys() -> None:
    environment = _environment()
    if len({environment[name] for name in _KEY_VARIABLES if name in environment}) > 1:
        message = f"{' and '.join(_KEY_VARIABLES)} are both set, to different keys."
        raise ConfigurationError(message, hint="Unset one of them.")


def _refuse_misspelt() -> None:
    known = [name for field in Settings.model_fields for name in _variables(field) if name.startswith(_PREFIX)]
    for name in _environment():
        if name.startswith(_PREFIX) and name not in known:
            near = nearest(name.removeprefix(_PREFIX), [each.removeprefix(_PREFIX) for each in known])
            hint = f"Did you mean {_PREFIX}{near[0]}?" if near else f"The settings are {', '.join(known)}."
            message = f"{name} is not a setting."
            raise ConfigurationError(message, hint=hint)


@cache
def _variables(field: str) -> tuple[str, ...]:
    """
    The environment variables of a setting, the one that is named to people first.
    """
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(map(str, alias.choices))
    return (alias if isinstance(alias, str) else (_PREFIX + field).upper(),)


def _explain(error: ValidationError) -> str:
    lines, environment = [], _environment().keys()
    for problem in error.errors(include_input=False, include_url=False):
        name = str(problem["loc"][0])
        if problem["type"] == "extra_forbidden":
            near = nearest(name, Settings.model_fields)
            lines.append(f"{name} is not a setting" + (f" (did you mean {near[0]}?)" if near else ""))
        else:
            variables = _variables(name) if name in Settings.model_fields else (name,)
            variable = next((each for each in variables if each in environment), variables[0])
            lines.append(f"{variable}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines) + "."
