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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import escaped, moment
from ocp_stripe_balance._text.secrets import redact

if TYPE_CHECKING:
    from ocp_stripe_balance.errors import ToolError
    from ocp_stripe_balance.models import CustomerBalanceTransaction, DryRun, ToolResult


def show_result(result: ToolResult, *, as_json: bool) -> None:
    if as_json:
        print_json(result.to_dict())
    else:
        print(f"{result.outcome}: {printable(result.describe())}")
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
        print(f"request          {printable(str(result.request_id))}")
    for warning in result.warnings:
        say(f"warning: {warning}")


def sentence_of(result: ToolResult) -> str:
    """
    What was done, for when the output of `show_result` cannot be written.
    """
    return f"{result.outcome}: {result.describe()} (idempotency key {result.idempotency_key})"


def _show_entries(entries: list[CustomerBalanceTransaction]) -> None:
    rows = [("created", "transaction", "effect", "balance after", "description")]
    for entry in entries:
        created = moment(entry.created)
        balance = money.to_text(entry.ending_balance, entry.currency)
        rows.append((created, entry.id, entry.effect, balance, entry.description or ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print(printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))


def show_dry_run(done: DryRun, *, as_json: bool) -> int:
    """
    Print what would be sent and whether it would be; the exit code.
    """
    if as_json:
        print_json(done.to_dict())
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
    tell(json.dumps(error.to_dict(), indent=2) if as_json else printable(f"{error.outcome}: {error}", keep="\n"))


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
