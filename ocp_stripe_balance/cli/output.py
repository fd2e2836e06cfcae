"""
What the commands print: data on stdout, everything else on stderr.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import escaped, moment
from ocp_stripe_balance._text.secrets import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocp_stripe_balance.cli.running import Run
    from ocp_stripe_balance.errors import ToolError
    from ocp_stripe_balance.models import CustomerBalanceTransaction, DryRun, ToolResult

_CODES = {"green": "32", "red": "31"}
_STYLES = {"succeeded": "green", "approved": "green", "unknown": "bold red", "rejected": "red", "denied": "red"}


def show_result(result: ToolResult, run: Run) -> None:
    if run.as_json:
        run.print_facts(result.to_dict())
    else:
        print(f"{painted(result.outcome, 'green', sys.stdout)}: {printable(result.describe())}")
        if result.transactions:
            _show_entries(result.transactions)
        for customer in result.customers or ():
            print(printable(f"{customer.describe()}{f', {customer.email}' if customer.email else ''}"))
        if result.customer is not None and result.customer.email:
            print(f"email            {printable(result.customer.email)}")
        if result.moved:
            print(f"transaction      {printable(str(result.data.get('id')))}")
        if result.idempotency_key is not None:
            print(f"idempotency key  {printable(result.idempotency_key)}")
        if result.request_id is not None:
            print(f"request          {printable(result.request_id)}")
    for warning in result.warnings:
        say(f"warning: {warning}")


def sentence_of(result: ToolResult) -> str:
    """
    What was done, for when the output of `show_result` cannot be written.
    """
    return f"{result.outcome}: {result.describe()} (idempotency key {result.idempotency_key})"


def _show_entries(entries: list[CustomerBalanceTransaction]) -> None:
    rows = []
    for entry in entries:
        balance = money.to_text(entry.ending_balance, entry.currency)
        rows.append((local(entry.created), entry.id, entry.effect, balance, entry.description or ""))
    show_table(("time", "entry", "effect", "balance after", "description"), rows)


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """
    A table on a terminal; elsewhere aligned columns without a heading. Of cells that are too wide, the last is folded.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells:
        return
    if is_plain(sys.stdout):
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich import box  # only a terminal needs it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # which is no markup

    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    for row in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)


def is_plain(stream: TextIO) -> bool:
    """
    Whether a stream is no terminal, or one that takes letters only.
    """
    return not stream.isatty() or os.environ.get("TERM") == "dumb"


def painted(text: str, style: str, stream: TextIO) -> str:
    """
    The text in a colour, where the stream shows colours.
    """
    if is_plain(stream) or os.environ.get("NO_COLOR") or os.name == "nt":
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def mark(*, is_good: bool) -> str:
    """
    A tick or a cross, as far as standard output has them.
    """
    is_simple = is_plain(sys.stdout) or (sys.stdout.encoding or "").lower() not in {"utf-8", "utf8"}
    signs = ("ok", "!!") if is_simple else ("✓", "✗")
    return painted(signs[0], "green", sys.stdout) if is_good else painted(signs[1], "red", sys.stdout)


def local(seconds: float) -> str:
    """
    A time for people: local, with its zone.
    """
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return moment(seconds)


def show_dry_run(done: DryRun, run: Run) -> int:
    """
    Print what would be sent and whether it would be; the exit code.
    """
    if run.as_json:
        run.print_facts(done.to_dict())
    else:
        print(printable(f"{done.verdict}: {done.message}"))
        print(f"\nThe request, not sent:\n{done.method} {printable(done.url)}")
        for name, value in done.headers.items():
            print(printable(f"{name}: {value}"))
        print(f"\n{printable(done.body)}")
    for warning in done.warnings:
        say(f"warning: {warning}")
    return 0 if done.verdict in {"send", "replay", "resume", "wait"} else 2


def show_error(error: ToolError, *, as_json: bool) -> None:
    if as_json:
        tell(json.dumps({"format": 1, **error.to_dict()}, indent=2))
    else:
        tell(f"{painted(error.outcome, 'red', sys.stderr)}: {printable(str(error), keep=chr(10))}")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def say(text: str, *, keep: str = "") -> None:
    with contextlib.suppress(OSError, ValueError):  # there is no standard error, and this is no data
        print(printable(text, keep=keep), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """
    Print what a person must not miss: on stderr, and where that is gone, on stdout.
    """
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(OSError, ValueError):
            print(text, file=stream, flush=True)
            return


def prepare_streams() -> None:
    """
    Let the three standard streams be there, and take any text; one that is closed fails when it is used.

    Else the next file that is opened, the journal say, would take a closed stream's number, and what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number else os.O_WRONLY)  # takes the lowest number that is free
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def finished(code: int) -> int:
    """
    The exit code, once all is written.

    Raises:
        OSError: standard output takes no more, and the code does not say so: any but 0 says something else.
    """
    try:
        sys.stdout.flush()
    except OSError:
        if code == 0:
            raise
    return code


def silence_streams() -> None:
    """
    Give up what could not be written, or Python complains once more, with an exit code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def read_text(source: str) -> str:
    """
    The text of a file, or of standard input where it is ``-``: UTF-8 whatever the locale, as JSON is.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    return data.decode("utf-8-sig")


def wrap(text: str, indent: str = "    ", further: str | None = None) -> str:
    further = indent + "  " if further is None else further
    return textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False)


def printable(text: str, *, keep: str = "") -> str:
    """
    Control characters, line breaks and terminal escapes shown instead of obeyed, keys masked.

    Line breaks of our own are in *keep*, where text of others has none: a customer's name must not add a line.
    """
    return redact(escaped(text, keep=keep))
