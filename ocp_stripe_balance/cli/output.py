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
from typing import TYPE_CHECKING, Any, TextIO

from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import escaped, local
from ocp_stripe_balance._text.secrets import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ocp_stripe_balance.cli.running import Run
    from ocp_stripe_balance.errors import ToolError
    from ocp_stripe_balance.models import Customer, CustomerBalanceTransaction, DryRun, ToolResult

_CODES = {"green": "32", "red": "31", "bold": "1", "bold red": "1;31"}
_STYLES = {"succeeded": "green", "approved": "green", "unknown": "bold red", "rejected": "red", "denied": "red"}
_PAGE, _BELOW = 100, "  "
FACT_INDENT = " " * 12
_GOING_ON = {"to_find_out": "To find out without moving money", "to_finish": "To finish it"}


def show_result(result: ToolResult, run: Run) -> None:
    if run.as_json:
        run.print_facts(result.to_dict())
    else:
        print(_headline(result.outcome, printable(result.describe()), "green", sys.stdout))
        if result.transactions:
            _show_entries(result.transactions)
        if result.customers:
            _show_customers(result.customers)
        if result.data.get("object") == "balance_calls":
            _show_record(result.data)
        if result.customer is not None and result.customer.email:
            show_fact("email", result.customer.email)
        if result.moved:
            show_fact("transaction", str(result.data.get("id")))
        if result.idempotency_key is not None:
            show_fact("key", result.idempotency_key)
        if result.request_id is not None:
            show_fact("request", result.request_id)
    for warning in result.warnings:
        say(f"warning: {warning}")


def sentence_of(result: ToolResult) -> str:
    """
    What was done, for when the output of `show_result` cannot be written.
    """
    return f"{result.outcome}: {result.describe()} (idempotency key {result.idempotency_key})"


def _show_customers(customers: list[Customer]) -> None:
    rows = []
    for each in customers:
        balance = money.to_text(each.balance or 0, each.currency) if each.currency else "none"
        rows.append((each.id, balance, each.email or "", each.name or ""))
    show_table(("customer", "balance", "e-mail", "name"), rows)


def _show_entries(entries: list[CustomerBalanceTransaction]) -> None:
    rows = []
    for entry in entries:
        balance = money.to_text(entry.ending_balance, entry.currency)
        rows.append((local(entry.created), entry.id, entry.effect, balance, entry.description or ""))
    show_table(("time", "entry", "effect", "balance after", "description"), rows)


_COLUMNS_OF_RECORD = {
    "calls": ("at", "outcome", "effect", "customer", "key"),
    "proposals": ("id", "state", "effect", "customer", "asked_at", "reference"),
    "refusals": ("at", "rule", "effect", "customer", "key"),
}


def _show_record(data: dict[str, Any]) -> None:
    """
    What a look into the journal found, and what the policy leaves.
    """
    for name, columns in _COLUMNS_OF_RECORD.items():
        if data[name]:
            print(f"\n{name}")
        show_table(columns, [[str(each.get(column, "")) for column in columns] for each in data[name]])
    print()
    for rule in data["policy"]["rules"]:
        show_text(rule)


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """
    Aligned columns, on a terminal under a heading; those that do not fit beside each other go below, whole.
    """
    room = _columns(sys.stdout)
    width_of: Callable[[str], int] = len
    table = [[printable(cell) for cell in row] for row in rows]
    if not table:
        return
    if room is not None:
        from rich.cells import cell_len  # only a terminal needs it

        width_of = cell_len
        table.insert(0, [*headers])
    widths = [max(map(width_of, column)) for column in zip(*table, strict=True)]
    below, used = set(), 0
    for number, width in enumerate(widths):
        if room is not None and used and used + width > room:
            below.add(number)
            used = len(_BELOW)
        used += width + 2
    for row in table:
        line = ""
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            line += f"\n{_BELOW}" if number in below else "  " if number else ""
            style = "bold" if room and row is table[0] else _STYLES.get(cell, "")
            text = _filled(cell, (room or sys.maxsize) - len(_BELOW), "", _BELOW)
            line += painted(text, style, sys.stdout) + " " * (width - width_of(cell))
        print("\n".join(each.rstrip() for each in line.split("\n") if not each.isspace()))


def show_fact(name: str, text: str) -> None:
    """
    A line with the fact's name before it.
    """
    show_text(f"{name:<11} {text}", FACT_INDENT)


def show_text(text: str, indent: str = _BELOW, *, keep: str = "") -> None:
    """
    Text on standard output, as it fits.
    """
    print(fitted(printable(text, keep=keep), sys.stdout, indent))


def fitted(text: str, stream: TextIO, indent: str = _BELOW) -> str:
    """
    The lines broken between words where the terminal is narrower: it would break them anywhere, IDs and keys too.

    What is continued is set in, so that no text of others begins a line.
    """
    room = _columns(stream)
    return text if room is None else "\n".join(_filled(line, room, "", indent) for line in text.split("\n"))


def beside(label: str, text: str) -> str:
    """
    A label and a text that nothing breaks, such as a path; it goes below where the terminal is narrower.
    """
    room = _columns(sys.stdout)
    return label + text if room is None or len(label + text) <= room else f"{label.rstrip()}\n{_BELOW}{text}"


def _filled(line: str, room: int, first: str, further: str) -> str:
    return textwrap.fill(
        line, room, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


def _columns(stream: TextIO) -> int | None:
    """
    How wide a terminal is; None where the stream is none.
    """
    if is_plain(stream):
        return None
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


def is_plain(stream: TextIO) -> bool:
    """
    Whether a stream is no terminal, or one that takes letters only.
    """
    return not stream.isatty() or os.environ.get("TERM") == "dumb"


def painted(text: str, style: str, stream: TextIO) -> str:
    """
    The text in a colour, where the stream shows colours.
    """
    if not style or is_plain(stream) or os.environ.get("NO_COLOR") or os.name == "nt":
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def mark(*, is_good: bool) -> str:
    """
    A tick or a cross, as far as standard output has them.
    """
    is_simple = is_plain(sys.stdout) or (sys.stdout.encoding or "").lower() not in {"utf-8", "utf8"}
    signs = ("ok", "!!") if is_simple else ("✓", "✗")
    return painted(signs[0], "green", sys.stdout) if is_good else painted(signs[1], "red", sys.stdout)


def show_dry_run(done: DryRun, run: Run) -> int:
    """
    Print what would be sent and whether it would be; the exit code.
    """
    if run.as_json:
        run.print_facts(done.to_dict())
    else:
        print(printable(f"{done.verdict}: {done.message}"))
        if done.url:
            print(f"\nThe request, not sent:\n{done.method} {printable(done.url)}")
            for name, value in done.headers.items():
                print(printable(f"{name}: {value}"))
            print(f"\n{printable(done.body)}")
    for warning in done.warnings:
        say(f"warning: {warning}")
    return 0 if done.verdict in {"send", "replay", "resume", "wait"} else 2


def show_error(error: ToolError, commands: Mapping[str, str], *, as_json: bool) -> None:
    """
    Print an error, and the commands that find out what became of the call or finish it, by the names of `_GOING_ON`.
    """
    if as_json:
        tell(json.dumps({"format": 1, **error.to_dict(), **commands}, indent=2))
        return
    # A person needs the commands alone, in whose last word is the key.
    text = str(error.args[0]) if commands else str(error)
    tell(_headline(error.outcome, printable(text, keep="\n"), "red", sys.stderr))
    for name, command in commands.items():
        tell(_folded_for_shell(f"{_GOING_ON[name]}: {command}", sys.stderr))


def _folded_for_shell(line: str, stream: TextIO) -> str:
    """
    A line that ends with a command, whose last word is whole on a terminal; it can be pasted as it is.
    """
    room = _columns(stream)
    if room is None or len(line) <= room or os.name == "nt":
        return line
    return " \\\n  ".join(line.rsplit(" ", 1))


def _headline(outcome: str, text: str, style: str, stream: TextIO) -> str:
    return painted(outcome, style, stream) + fitted(f"{outcome}: {text}", stream)[len(outcome) :]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def say(text: str, indent: str = _BELOW, *, keep: str = "") -> None:
    with contextlib.suppress(OSError, ValueError):  # there is no standard error, and this is no data
        print(fitted(printable(text, keep=keep), sys.stderr, indent), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """
    Print what a person must not miss, or copies: as it is, on stderr, and where that is gone, on stdout.
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


def wrap(text: str, indent: str = "    ", further: str | None = None) -> str:
    """
    Prose in lines no longer than the page, or the terminal.
    """
    room = min(_columns(sys.stdout) or _PAGE, _PAGE)
    return _filled(text, room, indent, indent + "  " if further is None else further)


def printable(text: str, *, keep: str = "") -> str:
    """
    Control characters, line breaks and terminal escapes shown instead of obeyed, keys masked.

    Line breaks of our own are in *keep*, where text of others has none: a customer's name must not add a line.
    """
    return redact(escaped(text, keep=keep))
