"""
The lines of a spreadsheet (.xlsx), as far as they are values: no formula, no date.
"""

from __future__ import annotations

import zipfile
import zlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance.bulk.reading import unusable
from ocp_stripe_balance.errors import ConfigurationError, InvalidFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ocp_stripe_balance.bulk.mistakes import Mistakes
    from ocp_stripe_balance.bulk.reading import Cell, Form

# Unpacked: a sheet of a million rows has 200 MB; the texts of all its cells are kept in memory.
_MAX_UNPACKED, _MAX_TEXTS = 500_000_000, 60_000_000
_MAX_LINES = 1 << 20  # of any sheet
_CUT_OFF = "is not a whole spreadsheet: it is cut off, or damaged"
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, LookupError, SyntaxError, ValueError, TypeError, AttributeError),
    RuntimeError,  # a part with a password, or packed in a way that zipfile does not know
)
_NO_VALUES = {
    "f": ("is a formula", "copy the column, and paste it as values"),
    "d": ("is a date", "write it as a text, or give the column the format 'text'"),
    "b": ("is true or false", "write it as a text"),
    "e": ("is an error of the spreadsheet", "mend the formula, then paste the column as values"),
}


def lines_of(file: BinaryIO, form: Form, mistakes: Mistakes) -> Iterator[tuple[int, list[Cell]]]:
    """
    The cells of each line of the sheet.

    Raises:
        InvalidFileError: it is no spreadsheet, or not a whole one.
        ConfigurationError: the extra is not installed.
    """
    try:
        import openpyxl  # of an extra
    except ImportError as error:
        hint = "Install the extra: pip install '.[xlsx]' in a copy of the repository. Or save the file as CSV UTF-8."
        raise ConfigurationError(f"The package that reads spreadsheets is not there: {error}.", hint=hint) from error
    try:
        _refuse_bomb(file)
        book = openpyxl.load_workbook(file, read_only=True, keep_links=False)
        yield from _lines(_sheet(book, form), mistakes)
    except InvalidFileError:  # which says more
        raise
    except _DAMAGED:
        raise unusable(_CUT_OFF, "save it again from the spreadsheet, and copy the whole file") from None


def _refuse_bomb(file: BinaryIO) -> None:
    """
    Look how much is to be unpacked; more than is announced never is.
    """
    parts = zipfile.ZipFile(file).infolist()
    texts = sum(part.file_size for part in parts if part.filename.endswith("sharedStrings.xml"))
    if sum(part.file_size for part in parts) > _MAX_UNPACKED or texts > _MAX_TEXTS:
        hint = "keep only the sheet and the columns that are needed, or save it as CSV UTF-8"
        raise unusable("is far larger unpacked than a list of entries is", hint)
    file.seek(0)


def _sheet(book: Any, form: Form) -> Any:
    names = book.sheetnames
    if form.sheet is not None and form.sheet not in names:
        raise unusable(f"has no sheet {form.sheet!r}", f"its sheets are {', '.join(names)}")
    if form.sheet is None and len(names) > 1:
        raise unusable(f"has {len(names)} sheets: {', '.join(names)}", f"say which one: --sheet {names[0]!r}")
    sheet = book[form.sheet or names[0]]
    sheet.reset_dimensions()  # what the file says of its own size may be wrong
    return sheet


def _lines(sheet: Any, mistakes: Mistakes) -> Iterator[tuple[int, list[Cell]]]:
    width = 0
    for line, row in enumerate(sheet.iter_rows(), 1):
        if line > _MAX_LINES:  # each line that is left out counts, and takes its time
            mistakes.note(line, "", f"is beyond line {_MAX_LINES:,}, and no sheet goes on there", "save it anew")
            return
        cells = [_value(line, cell, mistakes) for cell in row]
        while cells and cells[-1] == "" and (not width or len(cells) > width):
            cells.pop()
        width = width or len(cells)
        cells += [""] * (width - len(cells))
        if None not in cells:
            yield line, [cell for cell in cells if cell is not None]


def _value(line: int, cell: Any, mistakes: Mistakes) -> Cell | None:
    """
    The text or number of a cell, None where it is neither.
    """
    value = cell.value
    if value is None:
        return ""
    if cell.data_type in _NO_VALUES:
        message, hint = _NO_VALUES[cell.data_type]
        mistakes.note(line, f"column {cell.column_letter}", message, hint)
        return None
    if isinstance(value, int | float):
        if "%" in cell.number_format:  # 5 % is 0.05
            mistakes.note(line, f"column {cell.column_letter}", "is a percentage", "write the amount in a currency")
            return None
        return Decimal(repr(value))
    return str(value)
