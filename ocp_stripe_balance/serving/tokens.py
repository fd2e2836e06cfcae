"""
Bearer tokens of the MCP server over HTTP: each names a caller, and only its hash is kept.

A file for each, in a folder beside the journal. It is read at every request, so that a token is good from the moment it
is made, and for nothing from the moment it is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from typing import TYPE_CHECKING, NamedTuple

from ocp_stripe_balance._text.plain import nearest, shown
from ocp_stripe_balance.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from ocp_stripe_balance.settings import Settings

_FOLDER = "mcp-tokens"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Token(NamedTuple):
    """
    A token that was made and not revoked.
    """

    name: str
    """Of the caller, as policies and budgets see it."""
    created_at: float


class Tokens:
    """
    The tokens of one journal.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Touch nothing yet.

        Raises:
            ConfigurationError: the journal, beside which they are kept, is off or has no home.
        """
        if settings.journal == "off":
            message = "Tokens are kept beside the journal, and the journal is off."
            raise ConfigurationError(message, hint="Set OCP_STRIPE_JOURNAL to a path, or unset it.")
        self.folder: Path = settings.state_folder / _FOLDER

    @property
    def is_used(self) -> bool:
        """
        Whether a token was ever made here. Where all were revoked, nobody is let in, rather than everybody.

        Raises:
            ConfigurationError: nobody can say, because the folder cannot be read.
        """
        try:
            self.folder.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unusable(error) from error
        return True

    def create(self, name: str) -> str:
        """
        A new token for the caller *name*; nobody can read it again.

        Raises:
            ConfigurationError: the name is impossible or taken, or the folder cannot be written.
        """
        if not _NAME.fullmatch(name):
            message = f"{shown(name)} is not 1 to 64 of a to z, 0 to 9, '_' and '-', a letter or digit first."
            raise ConfigurationError(message)
        token = f"{name}.{secrets.token_urlsafe(32)}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            message = f"There is a token named {name} already."
            raise ConfigurationError(message, hint="Choose another name, or revoke that one first.") from None
        except OSError as error:
            raise self._unusable(error) from error
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(_hash(token))
        return token

    def all(self) -> list[Token]:
        """
        Those that are good, by name.

        Raises:
            ConfigurationError: the folder cannot be read.
        """
        try:
            files = sorted(self.folder.iterdir()) if self.is_used else []
            return [Token(each.name, each.stat().st_mtime) for each in files if _NAME.fullmatch(each.name)]
        except OSError as error:
            raise self._unusable(error) from error

    def revoke(self, name: str) -> None:
        """
        Let the token be good for nothing, from now on.

        Raises:
            ConfigurationError: there is none of that name, or the folder cannot be written.
        """
        names = [each.name for each in self.all()]
        if name not in names:
            near = nearest(name, names)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names) or 'none'}."
            raise ConfigurationError(f"There is no token named {shown(name)}.", hint=hint)
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def caller_of(self, token: str) -> str | None:
        """
        Whom a token names; None where it is none of ours.
        """
        name = token.partition(".")[0]
        if not _NAME.fullmatch(name):
            return None
        try:
            kept = (self.folder / name).read_bytes()
        except OSError:
            return None
        return name if hmac.compare_digest(kept, _hash(token).encode()) else None

    def _unusable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"The tokens in {self.folder} cannot be used: {error.strerror or error}.")


def _hash(token: str) -> str:
    # What is drawn from 256 bits needs no slow hash: nobody can try them all.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
