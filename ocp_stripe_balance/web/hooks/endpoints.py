"""
The endpoints that are told: a file for each, in a folder beside the journal, which nobody else can read.

The secret has to be readable, because each message is signed with it.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ocp_stripe_balance._text.plain import nearest, shown
from ocp_stripe_balance.errors import ConfigurationError
from ocp_stripe_balance.settings import is_loopback
from ocp_stripe_balance.web.hooks.events import TYPES

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.settings import Settings

_FOLDER = "webhooks"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """
    Where something is told.
    """

    name: str
    url: str = field(repr=False)
    """Of some services it is a secret itself."""
    secret: str = field(default="", repr=False)
    events: tuple[str, ...] = ()
    """The types it is told; all where there is none."""
    is_slack: bool = False
    """Whether it takes a text, as Slack does."""
    is_private: bool = False
    """Whether its name may lead to an address that is not public."""
    console: str = "http://127.0.0.1:8766"
    """Where the console is, for links."""
    created_at: float = 0.0
    """Seconds since the Unix epoch; of what was before, it is told nothing."""

    @property
    def host(self) -> str:
        """
        The host that it is at, which may be shown.
        """
        return urlsplit(self.url).netloc

    @property
    def key(self) -> bytes:
        """
        What its messages are signed with.
        """
        return base64.b64decode(self.secret.removeprefix(_PREFIX))

    def wants(self, kind: str) -> bool:
        """
        Whether it is told events of that type.
        """
        return not self.events or kind in self.events


class Endpoints:
    """
    The endpoints of one journal.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Touch nothing yet.

        Raises:
            ConfigurationError: the journal, beside which they are kept, is off or has no home.
        """
        if settings.journal == "off":
            message = "Endpoints are kept beside the journal, and the journal is off."
            raise ConfigurationError(message, hint="Set OCP_STRIPE_JOURNAL to a path, or unset it.")
        self.folder: Path = settings.state_folder / _FOLDER

    def add(self, wanted: Endpoint) -> Endpoint:
        """
        A new endpoint, as *wanted*, with a secret of its own.

        Raises:
            ConfigurationError: the name, a URL or an event is impossible, or the folder cannot be written.
        """
        if not _NAME.fullmatch(wanted.name):
            message = f"{shown(wanted.name)} is not 1 to 64 of a to z, 0 to 9, '_' and '-', a letter or digit first."
            raise ConfigurationError(message)
        for each in wanted.events:
            if each not in TYPES:
                near = nearest(each, TYPES)
                hint = f"Did you mean {near[0]}?" if near else f"The events are {', '.join(TYPES)}."
                raise ConfigurationError(f"{shown(each)} is no event.", hint=hint)
        _check(wanted.url)
        _check(wanted.console)
        secret = _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        made = replace(wanted, secret=secret, console=wanted.console.rstrip("/"), created_at=time.time())
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder / made.name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            message = f"There is an endpoint named {made.name} already."
            raise ConfigurationError(message, hint="Choose another name, or remove that one first.") from None
        except OSError as error:
            raise self._unusable(error) from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(made), file)
        return made

    def all(self) -> list[Endpoint]:
        """
        Those that are told, by name.

        Raises:
            ConfigurationError: the folder or a file cannot be read.
        """
        try:
            files = sorted(self.folder.iterdir()) if self.folder.exists() else []
            return [_read(each.read_text("utf-8")) for each in files if _NAME.fullmatch(each.name)]
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise self._unusable(error) from error

    def one(self, name: str) -> Endpoint:
        """
        The endpoint of that name.

        Raises:
            ConfigurationError: there is none.
        """
        found = {each.name: each for each in self.all()}
        if name not in found:
            near = nearest(name, list(found))
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(found) or 'none'}."
            raise ConfigurationError(f"There is no endpoint named {shown(name)}.", hint=hint)
        return found[name]

    def remove(self, name: str) -> None:
        """
        Let it be told nothing more.

        Raises:
            ConfigurationError: there is none of that name, or the folder cannot be written.
        """
        self.one(name)
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ConfigurationError:
        why = getattr(error, "strerror", None) or type(error).__name__
        return ConfigurationError(f"The endpoints in {self.folder} cannot be used: {why}.")


def _read(text: str) -> Endpoint:
    values = json.loads(text)
    return Endpoint(**{**values, "events": tuple(values["events"])})


def _check(url: str) -> None:
    """
    Refuse a URL that nothing may be sent to.

    Raises:
        ConfigurationError: it is neither https, nor http to this machine.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if not host or not is_plain or parts.username is not None or parts.fragment:
        raise ConfigurationError("The URL is none that can be sent to: https://host/path.")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ConfigurationError("The URL begins with https://, or with http:// where it is this machine.")


def is_public(address: str) -> bool:
    """
    Whether an IP address is one of the internet's.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_global
