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
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, SupportsIndex
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ocp_stripe_balance._policy import Policy, load_policy
from ocp_stripe_balance._text.plain import nearest
from ocp_stripe_balance._text.secrets import holds_key
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.errors import ConfigurationError

_PREFIX = "OCP_STRIPE_"
_KEY_VARIABLES = ("STRIPE_SECRET_KEY", "STRIPE_API_KEY")
_MIN_RATE, _MAX_RATE = 0.01, 10_000.0

Mode = Literal["test", "live"]


class Settings(BaseSettings):
    """
    All settings of one agent; every field is also an argument, and arguments win over the environment.

    Raises:
        ConfigurationError: naming the setting that is misspelt or impossible.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    api_key: SecretStr | None = Field(None, validation_alias=AliasChoices(*_KEY_VARIABLES))
    """Secret or restricted key. ``STRIPE_SECRET_KEY``, else ``STRIPE_API_KEY``."""
    api_base: str = Field(load_manifest().base_url, validation_alias="STRIPE_API_BASE")
    """Where Stripe answers. https, or http to loopback only."""
    account: str | None = Field(None, validation_alias="STRIPE_ACCOUNT")
    """Connected account to act on (``acct_…``), sent as Stripe-Account."""
    api_version: str = load_manifest().version
    """Stripe-Version to pin. https://docs.stripe.com/api/versioning"""
    timeout: float = Field(60.0, gt=0, le=3600, allow_inf_nan=False)
    """Seconds one call may take, waiting and retries included."""
    max_attempts: int = Field(4, ge=1, le=20)
    """How often one call may be sent, always under one idempotency key."""
    rate_limit: float | Literal["auto", "off"] = "auto"
    """Requests per second, in all and to each endpoint; ``auto`` for Stripe's own limits, or ``off``."""
    journal: str | None = None
    """Path of the durable record of calls, or ``off``; by default in the user's state directory."""
    tag_calls: bool = True
    """Whether an entry's metadata names its call (``ocp_call``), so that it can be found in the ledger later."""
    share_context: bool = False
    """Whether OCP-User, OCP-Workspace and OCP-Current-Goal go to Stripe as headers."""
    proxy: SecretStr | None = None
    """HTTP proxy to Stripe, such as ``http://proxy.example:3128``; never used to loopback."""
    ca_file: str | None = None
    """PEM file of the certificates to trust, instead of the usual ones."""
    trust_env: bool = False
    """Whether HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR are used."""
    trace_details: bool = False
    """Whether spans tell parameters, and IDs in URLs."""
    allow_live: bool = False
    """Whether live-mode keys may be used."""
    policy: Annotated[Policy | str | dict[str, Any] | None, NoDecode] = None
    """Path of a TOML file of guardrails, or its keys; by default those that protect."""
    customer_check: Literal["on", "off"] = "on"
    """Whether a customer is read before the first call for it, to compare its currency."""

    def __init__(self, **values: Any) -> None:
        """
        Read what *values* leaves out from the environment.
        """
        try:
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
        parts = urlsplit(url) if isinstance(url, str) else None
        try:
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
        import ssl  # OpenSSL, which only few need here

        try:
            ssl.create_default_context(cafile=value)
        except (OSError, ValueError) as error:  # among them ssl.SSLError
            why = getattr(error, "strerror", None) or "it has no certificates in PEM form"
            msg = f"{value} cannot be used as a file of certificates: {why}"
            raise ValueError(msg) from None
        return value

    @field_validator("rate_limit", mode="before")
    @classmethod
    def _check_rate_limit(cls, value: object) -> object:
        if isinstance(value, str) and value in {"auto", "off"}:
            return value
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
    def _check_journal(cls, value: str | None) -> str | None:
        if value is None or value == "off":
            return value
        if value.startswith((":", "file:")) or "\0" in value or Path(value).is_dir():
            msg = "it is the path of a file, or off to keep the record in memory only"
            raise ValueError(msg)
        try:
            return str(Path(value).expanduser())
        except RuntimeError:
            msg = "there is no such home folder"
            raise ValueError(msg) from None

    @field_validator("policy", mode="before")
    @classmethod
    def _check_policy(cls, value: object) -> object:
        if value is not None and not isinstance(value, Policy | str | dict | Path):
            msg = "it is the path of a TOML file, or a Policy"
            raise ValueError(msg)
        return None if value is None else load_policy(value)

    @field_validator("account", "api_version")
    @classmethod
    def _check_header(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else check_header(str(info.field_name), value)

    def key_source(self) -> str | None:
        """
        The environment variable the API key came from, ``argument``, or None where there is no key.
        """
        if self.api_key is None:
            return None
        secret = self.api_key.get_secret_value()
        return next((name for name in _KEY_VARIABLES if os.environ.get(name) == secret), "argument")

    @property
    def policy_in_force(self) -> Policy:
        """
        The policy, or the defaults that protect.
        """
        return self.policy if isinstance(self.policy, Policy) else Policy()

    @property
    def journal_path(self) -> Path | None:
        """
        The journal's file, or None where it is kept in memory only.
        """
        if self.journal == "off":
            return None
        if self.journal is not None:
            return Path(self.journal)
        import platformdirs  # only a call needs it

        return platformdirs.user_state_path("ocp-stripe-balance", appauthor=False) / "journal.sqlite3"


def check_api_key(key: str) -> str:
    """
    The key, if it can be one.

    Raises:
        ValueError: it is a publishable key, or has characters no key has; the message has no part of it.
    """
    if not re.fullmatch(r"[!-~]+", key):
        msg = "the API key is empty, or has a space, a line break or a character that is not printable ASCII"
        raise ValueError(msg)
    if key.startswith("pk_"):
        msg = "this is a publishable key (pk_…), which cannot change balances; use a secret or restricted key"
        raise ValueError(msg)
    return key


def check_api_base(url: str) -> str:
    """
    The base URL without a slash at its end.

    Raises:
        ValueError: it is not https (http only to loopback), or has more than a host, a port and a path.
    """
    parts = urlsplit(url)
    try:
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        port_is_valid = False
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
    return _joined(parts.scheme, parts.hostname.removesuffix("."), port, path)


def server_of(base_url: str) -> str:
    """
    The one name of the server that a valid base URL leads to; keys and budgets belong to it.

    This machine has many names: ``localhost``, ``127.0.0.1`` and ``::1`` are one, or each would have a budget.
    """
    parts = urlsplit(base_url)
    host = str(parts.hostname)
    return _joined(parts.scheme, "127.0.0.1" if is_loopback(host) else host, parts.port, parts.path)


def _joined(scheme: str, host: str, port: int | None, path: str) -> str:
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
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


def is_loopback(host: str) -> bool:
    """
    Whether a host is this machine, by its address or as ``localhost``.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.removesuffix(".") == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _refuse_two_keys() -> None:
    if len({os.environ[name] for name in _KEY_VARIABLES if os.environ.get(name)}) > 1:
        message = f"{' and '.join(_KEY_VARIABLES)} are both set, to different keys."
        raise ConfigurationError(message, hint="Unset one of them.")


def _refuse_misspelt() -> None:
    known = [_variable(name).removeprefix(_PREFIX) for name in Settings.model_fields]
    known = [name for name in known if not name.startswith("STRIPE_")]
    for name in os.environ:
        if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) not in known:
            near = nearest(name.removeprefix(_PREFIX), known)
            ours = ", ".join(_PREFIX + variable for variable in known)
            hint = f"Did you mean {_PREFIX}{near[0]}?" if near else f"The settings are {ours}."
            message = f"{name} is not a setting."
            raise ConfigurationError(message, hint=hint)


def _variable(field: str) -> str:
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return alias if isinstance(alias, str) else (_PREFIX + field).upper()


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        name = str(problem["loc"][0])
        if problem["type"] == "extra_forbidden":
            near = nearest(name, Settings.model_fields)
            lines.append(f"{name} is not a setting" + (f" (did you mean {near[0]}?)" if near else ""))
        else:
            variable = _variable(name) if name in Settings.model_fields else name
            lines.append(f"{variable}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines) + "."
