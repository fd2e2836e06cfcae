"""
Bearer tokens of agents that come over HTTP: each names a caller and what it may do, and only its hash is kept.

A file for each, in a folder beside the journal. It is looked at in every request, so that a token is good from the
moment it is made, and for nothing from the moment it is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from ocp_stripe_balance._policy import load_policy
from ocp_stripe_balance._text.plain import nearest, shown
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ocp_stripe_balance.settings import Settings

_FOLDER = "mcp-tokens"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Token(NamedTuple):
    """
    A caller, and what it may do.
    """

    name: str
    """As policies and budgets see it."""
    created_at: float = 0.0
    policy: str | None = None
    """The full path of a policy of its own, in place of the server's."""
    tools: tuple[str, ...] | None = None
    """The only ones that it may call."""
    rate: int | None = None
    """How many calls it may make within a minute."""


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
        self._read: dict[str, tuple[tuple[int, ...], tuple[str, Token] | None]] = {}

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

    def create(
        self, name: str, *, policy: str | None = None, tools: Sequence[str] | None = None, rate: int | None = None
    ) -> str:
        """
        A new token for the caller *name*; nobody can read it again.

        Args:
            name: of the caller.
            policy: the full path of a policy of its own, in place of the server's.
            tools: the only ones that it may call, by their names, short or long.
            rate: how many calls it may make within a minute.

        Raises:
            ConfigurationError: the name is impossible or taken, a limit is impossible, or the folder cannot be written.
        """
        if not _NAME.fullmatch(name):
            message = f"{shown(name)} is not 1 to 64 of a to z, 0 to 9, '_' and '-', a letter or digit first."
            raise ConfigurationError(message)
        if policy is not None:
            load_policy(policy)
        if rate is not None and rate < 1:
            raise ConfigurationError("A token makes at least 1 call within a minute.")
        token = f"{name}.{secrets.token_urlsafe(32)}"
        limits = {"policy": policy, "tools": _known(tools), "rate": rate}
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            message = f"There is a token named {name} already."
            raise ConfigurationError(message, hint="Choose another name, or revoke that one first.") from None
        except OSError as error:
            raise self._unusable(error) from error
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump({"hash": _hash(token), **limits}, file)
        return token

    def all(self) -> list[Token]:
        """
        Those that are good, by name.

        Raises:
            ConfigurationError: the folder cannot be read.
        """
        try:
            kept = [self._kept(name) for name in self._names()]
        except OSError as error:
            raise self._unusable(error) from error
        return [found[1] for found in kept if found is not None]

    def revoke(self, name: str) -> None:
        """
        Let the token be good for nothing, from now on.

        Raises:
            ConfigurationError: there is none of that name, or the folder cannot be written.
        """
        names = self._names()
        if name not in names:
            near = nearest(name, names)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names) or 'none'}."
            raise ConfigurationError(f"There is no token named {shown(name)}.", hint=hint)
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def caller_of(self, token: str) -> Token | None:
        """
        Whom a token names, and what it may do; None where it is none of ours.
        """
        name = token.partition(".")[0]
        if not _NAME.fullmatch(name):
            return None
        try:
            kept = self._kept(name)
        except OSError:
            return None
        return kept[1] if kept is not None and hmac.compare_digest(kept[0], _hash(token)) else None

    def _names(self) -> list[str]:
        """
        Of the tokens, sorted.

        Raises:
            ConfigurationError: the folder cannot be read.
        """
        try:
            names = sorted(each.name for each in self.folder.iterdir()) if self.is_used else []
        except OSError as error:
            raise self._unusable(error) from error
        return [name for name in names if _NAME.fullmatch(name)]

    def _kept(self, name: str) -> tuple[str, Token] | None:
        """
        The hash of a token, and the token; None where the file is not one of ours.

        Raises:
            OSError: there is no such file.
        """
        path = self.folder / name
        found = path.stat()  # which tells whether the file is the one that was read
        seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if name not in self._read or self._read[name][0] != seen:
            self._read[name] = (seen, _parsed(name, path.read_bytes(), found.st_mtime))
        return self._read[name][1]

    def _unusable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"The tokens in {self.folder} cannot be used: {error.strerror or error}.")


def _parsed(name: str, text: bytes, made_at: float) -> tuple[str, Token] | None:
    """
    What the file of a token says; None where it is not one of ours.
    """
    try:
        # Before there were limits, the hash was all there is.
        facts: dict[str, Any] = json.loads(text) if text.startswith(b"{") else {"hash": text.decode("ascii")}
        tools = facts.get("tools")
        token = Token(name, made_at, facts.get("policy"), None if tools is None else tuple(tools), facts.get("rate"))
        return str(facts["hash"]).encode("ascii").decode(), token
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _hash(token: str) -> str:
    # What is drawn from 256 bits needs no slow hash: nobody can try them all.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _known(tools: Sequence[str] | None) -> list[str] | None:
    """
    The full names of some tools.

    Raises:
        ConfigurationError: there is none, or one is that of no tool.
    """
    if tools is None:
        return None
    if not tools:
        raise ConfigurationError("A token may call at least one tool.")
    names = {name: tool.name for tool in load_manifest().tools for name in tool.names}
    for name in tools:
        if name not in names:
            near = nearest(name, names)
            hint = f"Did you mean {near[0]}?" if near else f"The tools are {', '.join(sorted(set(names.values())))}."
            raise ConfigurationError(f"{shown(name)} is not a tool.", hint=hint)
    return sorted({names[name] for name in tools})
