"""
The rows of a file as they stand in it, one at a time: CSV, TSV, JSON lines, or a spreadsheet.

Nothing is guessed: the separator, the encoding and the decimal sign are what the caller says, and what does not fit is
a mistake that says what to say instead. A file that cannot be read to its end ends there, with a mistake.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ocp_stripe_balance._text.parsing import parsed
from ocp_stripe_balance._text.plain import kind_of, nearest, shown
from ocp_stripe_balance.errors import InvalidFileError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal
    from pathlib import Path
    from typing import BinaryIO

    from ocp_stripe_balance.bulk.mistakes import Mistakes

    Cell = str | Decimal
    """Text, or a number of a spreadsheet."""
    Cells = dict[str, Cell]
    """By column, those that are empty left out."""

COLUMNS = ("customer", "amount", "currency", "direction", "reference", "key", "description")
METADATA = "metadata."
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_LINES = {".jsonl", ".ndjson"}
_NAMES_OF = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_MAX_CELL = 10_000  # characters: the longest that any column takes is 500
_MAX_COLUMNS = 1000
_MAX_LINE = 1_000_000  # bytes
_SAVE_AS = "in the spreadsheet, save it as 'CSV UTF-8'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """
    How a file is written.
    """

    separator: str | None = None
    """Between the cells of a line; by default a comma in .csv and a tab in .tsv."""
    encoding: Literal["utf-8", "windows-1252"] = "utf-8"
    decimal: Literal["point", "comma"] = "point"
    """What stands before the decimals of an amount."""
    sheet: str | None = None
    """Which one of a spreadsheet that has several."""
    ignored: frozenset[str] = frozenset()
    """Columns that mean nothing here."""


def rows_of(path: Path, form: Form, mistakes: Mistakes) -> Iterator[tuple[int, Cells]]:
    """
    The rows of a file, each with the number of its line, and its cells by column; empty lines are left out.

    Raises:
        InvalidFileError: there is no such file, or it is of no known kind.
    """
    kind = path.suffix.lower()
    try:
        with path.open("rb") as file:
            beginning = file.read(8)
            _refuse_other_kind(kind, beginning)
            file.seek(0)
            if kind == ".xlsx":
                from ocp_stripe_balance.bulk.spreadsheet import lines_of  # of an extra

                yield from _by_column(lines_of(file, form, mistakes), form, mistakes)
            elif kind in _JSON_LINES:
                yield from _objects(_texts(file, form, mistakes), form, mistakes)
            else:
                separator = form.separator or _SEPARATORS[kind]
                yield from _by_column(_separated(_texts(file, form, mistakes), separator, mistakes), form, mistakes)
    except OSError as error:
        raise unusable(f"cannot be read: {error.strerror or error}", "pass the path of a file") from None


def unusable(message: str, hint: str) -> InvalidFileError:
    """
    The error of a list of which nothing can be read.
    """
    return InvalidFileError([Problem(path="list", message=message, hint=hint)])


def _refuse_other_kind(kind: str, beginning: bytes) -> None:
    """
    Look whether the file is what its name says.
    """
    known = [*_SEPARATORS, *sorted(_JSON_LINES), ".xlsx"]
    if kind not in known:
        raise unusable(f"is of no known kind: {shown(kind)}", f"its name ends with one of {', '.join(known)}")
    if not beginning:
        raise unusable("is empty", "the first line names the columns, such as customer,amount,currency")
    if beginning.startswith(b"\xd0\xcf\x11\xe0"):
        message = "is an old .xls, or a spreadsheet with a password"
        raise unusable(message, "save it as .xlsx without a password, or as CSV UTF-8")
    if beginning.startswith(b"PK") != (kind == ".xlsx"):
        is_zip = beginning.startswith(b"PK")
        message = f"is {'a spreadsheet or an archive' if is_zip else 'no spreadsheet'}, whatever its name says"
        raise unusable(message, "save it as .xlsx" if is_zip else "give it the ending of what it is, such as .csv")
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise unusable("is UTF-16, which some spreadsheets call Unicode text", _SAVE_AS)
    if kind != ".xlsx" and b"\0" in beginning:
        raise unusable("has bytes of zero, as UTF-16 has, and files that are no text", _SAVE_AS)


def _texts(file: BinaryIO, form: Form, mistakes: Mistakes) -> Iterator[str]:
    """
    The lines of a text file with their ends, up to the first that cannot be read.
    """
    number = 0
    while line := file.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            hint = "a quotation mark may lack its other, or the file have line ends that are no line feeds"
            mistakes.note(number, "", f"has more than {_MAX_LINE:,} bytes", hint)
            return
        try:
            text = line.decode("utf-8-sig" if number == 1 and form.encoding == "utf-8" else form.encoding)
        except UnicodeDecodeError as error:
            byte, name = line[error.start], form.encoding.replace("utf", "UTF").replace("windows", "Windows")
            hint = f"{_SAVE_AS}, or pass --encoding windows-1252 where that is what it is"
            mistakes.note(number, "", f"has the byte 0x{byte:02x}, which is not {name}", hint)
            return
        yield text


def _separated(texts: Iterator[str], separator: str, mistakes: Mistakes) -> Iterator[tuple[int, list[Cell]]]:
    """
    The cells of each line, which may go over several where a text in quotation marks does.
    """
    csv.field_size_limit(_MAX_LINE)
    reader = csv.reader(texts, delimiter=separator, strict=True)
    begins = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            message, hint = _of_csv(str(error), separator)
            mistakes.note(begins, "", message, hint)
            return
        yield begins, list(cells)
        begins = reader.line_num + 1


def _of_csv(said: str, separator: str) -> tuple[str, str]:
    """
    What Python's reader says, in words for whoever has the file in a spreadsheet.
    """
    if "expected after" in said:
        hint = f"a quotation mark within a text is written twice, and {_NAMES_OF.get(separator, separator)} follows it"
        return "has text behind a quotation mark that ends a cell", hint
    if "unexpected end" in said:
        return "begins a text in quotation marks that never ends", "put the other quotation mark where the text ends"
    if "new-line" in said:
        return "has line ends of old Macs", _SAVE_AS
    if "field limit" in said:
        return f"has a cell of more than {_MAX_LINE:,} characters", "a quotation mark may lack its other"
    return f"cannot be read ({said})", _SAVE_AS


def _by_column(lines: Iterator[tuple[int, list[Cell]]], form: Form, mistakes: Mistakes) -> Iterator[tuple[int, Cells]]:
    """
    Each line's cells by the columns that the first line names.
    """
    columns: list[str] | None = None
    for line, cells in lines:
        values = [each.strip(" \t") if isinstance(each, str) else each for each in cells]
        if not any(each != "" for each in values):
            continue
        if columns is None:
            columns = _columns(line, [str(each) for each in values], form, mistakes)
            if columns is None:
                return
            continue
        if len(values) != len(columns):
            _note_length(line, len(values), len(columns), form, mistakes)
            continue
        named = {name: value for name, value in zip(columns, values, strict=True) if name and value != ""}
        if _is_readable(line, named, mistakes):
            yield line, named
    if columns is None:
        mistakes.note(0, "", "has only empty lines", "the first line names the columns")


def _note_length(line: int, has: int, wanted: int, form: Form, mistakes: Mistakes) -> None:
    hint = "each line has as many cells as the first"
    if has > wanted:
        hint = "put a text with a separator in it in quotation marks"
        if form.decimal == "comma":
            hint += "; where amounts have a decimal comma, cells are best parted by semicolons: --separator ';'"
    mistakes.note(line, "", f"has {has} cells, and the first line {wanted}", hint)


def _columns(line: int, names: Sequence[str], form: Form, mistakes: Mistakes) -> list[str] | None:
    """
    The columns' names in our spelling, the ignored ones empty; None where a line cannot be read by them.
    """
    before = mistakes.number
    spelt = [_spelt(name) for name in names]
    if spelt[0].startswith("sep="):
        mistakes.note(line, "", "is no line of names: it tells a spreadsheet how cells are parted", "take it out")
        return None
    if len(spelt) == 1 and (other := next((each for each in _NAMES_OF if each in names[0]), None)):
        option = "$'\\t'" if other == "\t" else f"'{other}'"
        mistakes.note(line, "", f"is one cell, parted by {_NAMES_OF[other]}", f"pass --separator {option}")
        return None
    if len(spelt) > _MAX_COLUMNS:
        mistakes.note(
            line, "", f"has {len(spelt):,} cells", "it names the columns, one a cell: keep those that are needed"
        )
        return None
    _note_twice(line, spelt, mistakes)
    columns = []
    for name in spelt:
        columns.append("" if name in form.ignored else name)
        if columns[-1]:
            _check_column(line, name, mistakes)
    missing = [name for name in ("customer", "amount") if name not in columns]
    for name in missing:
        mistakes.note(line, name, "is no column", f"name one of the columns {name}")
    for number, name in enumerate(spelt, 1):
        if not name:
            mistakes.note(line, "", f"column {number} has no name", "give it one, or take it out of the file")
    return None if mistakes.number > before else columns


def _note_twice(line: int, names: Sequence[str], mistakes: Mistakes) -> None:
    for name, times in Counter(names).items():
        if times > 1 and name:
            mistakes.note(line, name, f"is the name of {times} columns", "name each column once")


def _spelt(name: str) -> str:
    """
    A column's name in our spelling: ``Customer ID`` is ``customer``; a key of metadata keeps its case.
    """
    plain = re.sub(r"[ _-]+", "_", name.strip()).lower()
    if plain.startswith(METADATA):
        return METADATA + name.strip()[len(METADATA) :]
    return {"customer_id": "customer", "email": "customer", "e_mail": "customer"}.get(plain, plain)


def _check_column(line: int, name: str, mistakes: Mistakes) -> None:
    if name in COLUMNS or (name.startswith(METADATA) and len(name) > len(METADATA)):
        return
    near = nearest(name, COLUMNS)
    known = f"did you mean {near[0]}? Else" if near else f"the columns are {', '.join(COLUMNS)} and metadata.NAME;"
    hint = f"{known} pass --ignore {name} where it means nothing here"
    mistakes.note(line, name, "is no column that is known", hint)


def _objects(texts: Iterator[str], form: Form, mistakes: Mistakes) -> Iterator[tuple[int, Cells]]:
    """
    The rows of JSON lines: an object a line, metadata an object in it.
    """
    for line, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            found = parsed(text)
        except (ValueError, RecursionError) as error:
            mistakes.note(line, "", f"is not JSON ({error})", "write one object a line, on one line each")
            continue
        if not isinstance(found, dict):
            message = f"is {kind_of(found)}, not an object"
            mistakes.note(line, "", message, 'write {"customer": "cus_…", "amount": "5.00", "currency": "usd"}')
            continue
        metadata = found.pop("metadata") if isinstance(found.get("metadata"), dict) else {}
        values = [*found.items(), *((f"{METADATA}{name}", value) for name, value in metadata.items())]
        named = [(_spelt(name), value) for name, value in values if value not in (None, "")]
        before = mistakes.number
        _note_twice(line, [name for name, _ in named], mistakes)
        cells = {name: value for name, value in named if name not in form.ignored}
        for name, value in cells.items():
            _check_column(line, name, mistakes)
            if not isinstance(value, str):
                mistakes.note(line, name, f"is {kind_of(value)}", 'write it as a text, such as "5.00"')
        if mistakes.number == before and _is_readable(line, cells, mistakes):
            yield line, cells


def _is_readable(line: int, cells: dict[str, Any], mistakes: Mistakes) -> bool:
    """
    Whether every text is one that a person can read, and that no spreadsheet takes for a formula.
    """
    before = mistakes.number
    for name, text in cells.items():
        if not isinstance(text, str):
            continue
        if len(text) > _MAX_CELL:
            hint = "a quotation mark may lack its other"
            mistakes.note(line, name, f"has {len(text):,} characters", hint)
        elif not text.isprintable() and (
            hidden := re.search(r"[^\S\n\r\t ]|[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text)
        ):
            code = f"U+{ord(hidden[0]):04X}"
            mistakes.note(line, name, f"has a character that is not seen ({code})", "type the cell anew")
        elif name not in {"amount", "customer"} and text[0] in "=+-@\t\r":
            hint = "a spreadsheet would take it for a formula, also in the report: begin it with a letter or a number"
            mistakes.note(line, name, f"begins with {text[0]!r}", hint)
    return mistakes.number == before
