"""
The command under way: what is known of it when it ends or is ended.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance.cli.output import print_json, say, sentence_of, show_result, show_table

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Sequence

    from ocp_stripe_balance.models import ToolResult


@dataclass(slots=True, kw_only=True)
class Run:
    """
    One command: the words it was started with, and how far it is. Typer hands it to commands as ``ctx.obj``.
    """

    words: Sequence[str]
    is_program: bool
    """Not called from another program, whose signals are its own."""
    is_old_name: bool = False
    """Started as ``journal``, whose JSON keeps the shape it had."""
    calling: asyncio.Future[Any] | None = None
    """A call that may be sent already."""
    cancel: Callable[[], object] | None = None
    """Ends what is under way, once the loop runs."""
    is_over: bool = False
    """It has ended, and how is about to be said."""
    done: str | None = None
    """What was done, for when the output cannot be written."""
    is_shown: bool = False
    """That was written."""

    @property
    def as_json(self) -> bool:
        """
        Whether errors are JSON too.
        """
        return "--json" in self.words

    @property
    def name(self) -> str:
        """
        The first word.
        """
        return self.words[0] if self.words else ""

    async def make(self, call: Coroutine[Any, Any, ToolResult]) -> None:
        """
        Make a call that may move money, and print its result.
        """
        import asyncio  # that --help does not need

        self.calling = asyncio.ensure_future(call)
        result = await self.calling
        self.done = sentence_of(result)
        show_result(result, self)
        self.flush()

    def flush(self) -> None:
        """
        Write what was printed of what was done.
        """
        sys.stdout.flush()
        self.is_shown = True

    def show_list(
        self, name: str, facts: list[Any], headers: Sequence[str], rows: list[tuple[str, ...]], nothing: str
    ) -> None:
        """
        Print a list: as a JSON document, or as a table, and *nothing* where it is empty.
        """
        if self.as_json:
            self.print_list(name, facts)
            return
        show_table(headers, rows)
        if not rows:
            say(nothing)

    def print_list(self, name: str, items: list[Any]) -> None:
        """
        Print a list as a JSON document.
        """
        if self.is_old_name:
            print_json(items)
        else:
            self.print_facts({name: items})

    def print_facts(self, facts: dict[str, Any]) -> None:
        """
        Print facts as a JSON document.
        """
        print_json(facts if self.is_old_name else {"format": 1, **facts})


def command(*words: str) -> str:
    """
    A command of this program as a shell takes it.
    """
    name = re.split(r"[/\\]", sys.argv[0])[-1]
    program = [name if shutil.which(name) == sys.argv[0] else sys.argv[0]]
    if name == "__main__.py":
        program = [sys.executable, "-m", "ocp_stripe_balance"]
    return subprocess.list2cmdline([*program, *words]) if os.name == "nt" else shlex.join([*program, *words])
