"""
The named statements, read from their ``.sql`` files once.
"""

from __future__ import annotations

import re
import sqlite3
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from ocp_stripe_balance.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HERE = files("ocp_stripe_balance._journal")  # which may lie in a zip
UNFINISHED = 1_000_000
"""Added to the format of a journal that is not wholly copied yet, so that nobody uses it, older versions neither."""


@cache
def statements(file: str = "statements") -> Mapping[str, str]:
    """
    Every statement of ``statements.sql`` or another file by its name; values stand in it as ``:name``.
    """
    _, *parts = re.split(r"^-- (\w+):\n", (_HERE / f"{file}.sql").read_text("utf-8"), flags=re.MULTILINE)
    return {name: _without_comments(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


@cache
def migrations() -> tuple[tuple[str, ...], ...]:
    """
    The statements of every migration, the oldest first; its number is its place, from 1 on, as its name says.
    """
    scripts = {script.name: script for script in (_HERE / "migrations").iterdir() if script.name.endswith(".sql")}
    names = sorted(scripts)
    if [int(name[:3]) for name in names] != list(range(1, len(names) + 1)):
        raise ValueError(f"a migration is missing or has a number twice: {', '.join(names)}")
    return tuple(tuple(_split(_without_comments(scripts[name].read_text("utf-8")))) for name in names)


def is_known(version: int, *, is_copy: bool) -> bool:
    """
    Whether a journal has the format of this version, also where it *is_copy* and not whole yet.
    """
    return version - UNFINISHED * (is_copy and version > UNFINISHED) == len(migrations())


def check_version(version: int, name: str) -> int:
    """
    How many migrations a journal has.

    Raises:
        ConfigurationError: more than this version knows, or not all of it was copied yet.
    """
    if version > UNFINISHED:
        raise ConfigurationError(
            f"The journal at {name} is a copy that is not whole yet.",
            hint="Run 'ocp-stripe-balance calls copy' from the same journal again, with the version that began it; "
            "or set OCP_STRIPE_JOURNAL to another one.",
        )
    if version > len(migrations()):
        raise ConfigurationError(
            f"The journal at {name} was written by a newer version of this package (format {version}, "
            f"known up to {len(migrations())}). Nothing in it was changed.",
            hint="Upgrade this package, or set OCP_STRIPE_JOURNAL to another one.",
        )
    return version


def _without_comments(text: str) -> str:
    return re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).strip()


def _split(script: str) -> Iterator[str]:
    """
    The statements of a script: a trigger is one, though it has semicolons inside.
    """
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
