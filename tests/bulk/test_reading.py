"""
What people are told of files and cells that are wrong: by line and column, with what would be right.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import zipfile
from typing import TYPE_CHECKING, Any

import openpyxl
import pytest

from ocp_stripe_balance.bulk import spreadsheet
from ocp_stripe_balance.bulk.mistakes import Mistakes
from ocp_stripe_balance.bulk.reading import Form, rows_of
from ocp_stripe_balance.bulk.rows import Common, row_of
from ocp_stripe_balance.errors import InvalidFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = "customer,amount,currency,direction,reference\n"
GOOD = "cus_1,5.00,usd,credit,ticket-1\n"


def read(path: Path, *, form: Form | None = None, common: Common | None = None) -> list[dict[str, Any]]:
    mistakes, form = Mistakes(), form or Form()
    common = common or Common(decimal=form.decimal)
    rows = [row_of(line, cells, common, mistakes) for line, cells in rows_of(path, form, mistakes)]
    mistakes.raise_any()
    said = {row.parameters.pop("stated_effect") for row in rows if row is not None}
    assert said <= {"credit 5.00 usd", "credit 1.00 usd", "debit 1.00 eur"}
    return [row.parameters for row in rows if row is not None]


def told(path: Path, **given: Any) -> str:
    with pytest.raises(InvalidFileError) as caught:
        read(path, **given)
    return " | ".join(map(str, caught.value.problems))


def amount(text: str, currency: str = "usd") -> str:
    return f'{HEAD}cus_1,"{text}",{currency},credit,ticket-1\n'


def line(**cells: str) -> str:
    given = {"customer": "cus_1", "amount": "5.00", "currency": "usd", "direction": "credit", "reference": "t-1"}
    return HEAD + ",".join({**given, **cells}.values()) + "\n"


COMMA = Form(decimal="comma", separator=";")
CASES: dict[str, tuple[str | bytes, str, str, Form | None]] = {
    # the file
    "no kind": (HEAD, "in.ods", "is of no known kind: '.ods'; its name ends with one of .csv", None),
    "empty": ("", "in.csv", "list: is empty; the first line names the columns", None),
    "only empty lines": ("\n\n,,,\n", "in.csv", "has only empty lines", None),
    "UTF-16": (HEAD.encode("utf-16"), "in.csv", "is UTF-16, which some spreadsheets call Unicode text", None),
    "Windows-1252": (HEAD.encode() + b"caf\xe9,5", "in.csv", "line 2: has the byte 0xe9, which is not UTF-8", None),
    "not Windows-1252": (b"caf\x81", "in.csv", "0x81, which is not Windows-1252", Form(encoding="windows-1252")),
    "spreadsheet named csv": (b"PK\x03\x04", "in.csv", "is a spreadsheet or an archive, whatever its name", None),
    "csv named spreadsheet": (HEAD, "in.xlsx", "is no spreadsheet, whatever its name says", None),
    "old xls": (b"\xd0\xcf\x11\xe0\xa1\xb1", "in.xlsx", "is an old .xls, or a spreadsheet with a password", None),
    "UTF-16 without a mark": (HEAD.encode("utf-16-le"), "in.csv", "list: has bytes of zero, as UTF-16 has", None),
    "zeros": (bytes(100), "in.jsonl", "list: has bytes of zero", None),
    "gzip": (b"\x1f\x8b\x08\x00", "in.csv", "has bytes of zero, as UTF-16 has, and files that are no text", None),
    "Shift JIS": (HEAD.encode() + "\u8fd4\u91d1".encode("shift_jis"), "in.csv", "line 2: has the byte 0x95", None),
    "old Mac": (HEAD.replace("\n", "\r") + GOOD, "in.csv", "line 1: has line ends of old Macs", None),
    "NUL": (HEAD + "cus_1,5\0.00,usd,credit,t-1", "in.csv", "line 2, amount: has a character that is not seen", None),
    # quotes
    "text behind a quote": (HEAD + 'cus_1,"5"0,usd,credit,t', "in.csv", "line 2: has text behind a quotation", None),
    "quote never ends": (HEAD + 'cus_1,"5.00,usd\n', "in.csv", "line 2: begins a text in quotation marks that", None),
    "quotation mark in an amount": (HEAD + 'cus_1,5"0,usd,credit,t', "in.csv", "amount: '5\"0' is not an amount", None),
    "single quotes": (line(currency="'usd'"), "in.csv", "currency: \"'usd'\" is not a currency", None),
    "10 MB line": (HEAD + "c" * 10_000_000, "in.csv", "line 2: has more than 1,000,000 bytes", None),
    "10 MB cell": (HEAD + '"' + "c\n" * 5_000_000 + '"', "in.csv", "has a cell of more than 1,000,000 char", None),
    "long cell": (line(reference="x" * 10_001), "in.csv", "line 2, reference: has 10,001 characters", None),
    # the columns
    "semicolons": (HEAD.replace(",", ";"), "in.csv", "is one cell, parted by a semicolon; pass --separator ';'", None),
    "tabs": (HEAD.replace(",", "\t"), "in.csv", "is one cell, parted by a tab; pass --separator $'\\t'", None),
    "commas in tsv": (HEAD, "in.tsv", "is one cell, parted by a comma; pass --separator ','", None),
    "bars": (HEAD.replace(",", "|"), "in.csv", "parted by a bar", None),
    "sep=": ("sep=;\ncustomer;amount\n", "in.csv", "line 1: is no line of names: it tells a spreadsheet", None),
    "sep= of its own": ("sep=;\ncustomer;amount\n", "in.csv", "line 1: is no line of names", COMMA),
    "100,000 columns": (",".join(f"c{each}" for each in range(100_000)), "in.csv", "line 1: has 100,000 cells", None),
    "twice in another case": ("customer,amount,Amount \n", "in.csv", "line 1, amount: is the name of 2 columns", None),
    "twice": ("customer,amount,amount\n", "in.csv", "line 1, amount: is the name of 2 columns", None),
    "twice by alias": ("customer,amount,E-mail\n", "in.csv", "line 1, customer: is the name of 2 columns", None),
    "misspelt": ("customer,amuont\n", "in.csv", "amuont: is no column that is known; did you mean amount?", None),
    "unknown": ("customer,amount,Notes\n", "in.csv", "notes: is no column that is known; the columns are", None),
    "no amount": ("customer,currency\n", "in.csv", "line 1, amount: is no column", None),
    "no head": (GOOD, "in.csv", "line 1, customer: is no column", None),
    "no name": ("customer,amount,\n", "in.csv", "line 1: column 3 has no name", None),
    "no metadata name": ("customer,amount,metadata.\n", "in.csv", "metadata.: is no column that is known", None),
    "too few cells": (HEAD + "cus_1,5.00\n", "in.csv", "line 2: has 2 cells, and the first line 5", None),
    "too many cells": (HEAD + "cus_1,5,00,usd,credit,t\n", "in.csv", "line 2: has 6 cells, and the first line 5", None),
    "comma as separator too": (HEAD + "cus_1,5,00,usd,credit,t\n", "in.csv", "are best parted by semi",
                               Form(decimal="comma")),
    # amounts
    "no amount in a line": (line(amount=""), "in.csv", "line 2, amount: is empty; write an amount such as 5.00", None),
    "exponent": (amount("1e3"), "in.csv", "line 2, amount: '1e3' is more than a number", None),
    "thousands": (amount("1.234,56"), "in.csv", "'1.234,56' has more than one separator", None),
    "English thousands": (amount("1,234.56"), "in.csv", "'1,234.56' has more than one separator", None),
    "decimal comma": (amount("5,00"), "in.csv", "may mean 5.00 or 500.00", None),
    "decimal comma, hint": (amount("5,00"), "in.csv", "pass --decimal comma", None),
    "point with decimal comma": (HEAD.replace(",", ";") + "cus_1;5.00;usd;credit;t-1", "in.csv", "'5.00' has a point",
                                 COMMA),
    "thousands with decimal comma": (HEAD.replace(",", ";") + "cus_1;1.234,56;usd;credit;t", "in.csv",
                                     "'1.234,56' has a point", COMMA),
    "minus zero": (amount("-0"), "in.csv", "'-0' has a sign", None),
    "minus": (amount("-5.00"), "in.csv", "'-5.00' has a sign; credit and debit say the direction", None),
    "typographic minus": (amount("\u22125.00"), "in.csv", "has a sign", None),
    "plus": (amount("+5"), "in.csv", "'+5' has a sign", None),
    "in brackets": (amount("(5.00)"), "in.csv", "'(5.00)' is not an amount", None),
    "plus zero": (amount("+0"), "in.csv", "'+0' has a sign", None),
    "minus behind": (amount("5.00-"), "in.csv", "'5.00-' is not an amount", None),
    "accountants' minus": (amount("5.00CR"), "in.csv", "'5.00CR' is more than a number", None),
    "exponent of a spreadsheet": (amount("1.5E+03"), "in.csv", "'1.5E+03' is more than a number", None),
    "hexadecimal": (amount("0x10"), "in.csv", "'0x10' is more than a number", None),
    "underscore": (amount("1_000.00"), "in.csv", "'1_000.00' has more than one separator", None),
    "Swiss thousands": (amount("1'234.56"), "in.csv", "has more than one separator", None),
    "Indian thousands": (amount("1,00,000.00"), "in.csv", "'1,00,000.00' has more than one separator", None),
    "French thousands": (amount("1\u202f234,56"), "in.csv", "has a character that is not seen (U+202F)", None),
    "Arabic separator": (amount("5\u066b00"), "in.csv", "is not an amount", None),
    "wide digits": (amount("\uff15.\uff10\uff10"), "in.csv", "is not an amount", None),
    "a half": (amount("\xbd"), "in.csv", "is not an amount", None),
    "no digit before the point": (amount(".50"), "in.csv", "'.50' is not an amount", None),
    "no digit behind the point": (amount("5."), "in.csv", "'5.' is not an amount", None),
    "a date of a spreadsheet": (amount("29-Nov"), "in.csv", "'29-Nov' is more than a number", None),
    "an American date": (amount("11/29/2026"), "in.csv", "'11/29/2026' is not an amount", None),
    "an error of a spreadsheet": (amount("#N/A"), "in.csv", "'#N/A' is not an amount", None),
    "zero": (amount("0.00"), "in.csv", "'0.00' is no money", None),
    "no-break space": (amount("1\xa0000"), "in.csv", "amount: has a character that is not seen (U+00A0)", None),
    "space": (amount("1 000"), "in.csv", "'1 000' has more than one separator", None),
    "currency sign": (amount("$5.00"), "in.csv", "'$5.00' is more than a number", None),
    "currency beside": (amount("5.00 usd"), "in.csv", "'5.00 usd' is more than a number", None),
    "percent": (amount("5%"), "in.csv", "'5%' is not an amount", None),
    "a date": (amount("2026-11-29"), "in.csv", "'2026-11-29' is not an amount", None),
    "one decimal": (amount("5.5"), "in.csv", "'5.5' may mean 5.05 or 5.50", None),
    "three decimals": (amount("5.005"), "in.csv", "'5.005' has 3 digits after its separator; usd has 2 decimals", None),
    "yen with decimals": (amount("5.00", "jpy"), "in.csv", "jpy has no decimals: write no point", None),
    "dinars too fine": (amount("5.005", "kwd"), "in.csv", "is too fine: in kwd", None),
    "NaN": (amount("NaN"), "in.csv", "'NaN' is not an amount", None),
    "infinity": (amount("inf"), "in.csv", "'inf' is not an amount", None),
    "Arabic digits": (amount("\u0665"), "in.csv", "is not an amount", None),
    "formula as amount": (amount("=2+3"), "in.csv", "'=2+3' is not an amount", None),
    "far too many digits": (amount("1" * 13), "in.csv", "is not an amount", None),
    # other cells
    "no customer": (line(customer=""), "in.csv", "line 2, customer: is empty; write the customer's ID", None),
    "two addresses": (line(customer="a@b.test@c.test"), "in.csv", "is no e-mail address", None),
    "no currency": (line(currency=""), "in.csv", "line 2, currency: is empty; write a currency such as usd", None),
    "currency sign alone": (line(currency="$"), "in.csv", "'$' is not a currency", None),
    "currency in words": (line(currency="dollars"), "in.csv", "'dollars' is not a currency", None),
    "no direction": (line(direction=""), "in.csv", "line 2, direction: is empty; write credit or debit", None),
    "refund": (line(direction="refund"), "in.csv", "'refund' is no direction; write credit, which lowers", None),
    "no reference": (line(reference=""), "in.csv", "line 2, reference: is empty; write the business reason", None),
    "reference n/a": (line(reference="n/a"), "in.csv", "'n/a' is no reason", None),
    "reference of a template": (line(reference="ticket-XXX"), "in.csv", "'ticket-XXX' is no reason", None),
    "formula": (line(reference="=HYPERLINK(1)"), "in.csv", "begins with '='; a spreadsheet would take it", None),
    "at": (line(reference="@SUM(1)"), "in.csv", "line 2, reference: begins with '@'", None),
    "dash": (line(reference="-1+cmd"), "in.csv", "line 2, reference: begins with '-'", None),
    "zero width": (line(reference="t\u200b-1\x07"), "in.csv", "is not seen (U+0007)", None),
    "no-break space in a customer": (line(customer="cus\xa0_1"), "in.csv", "customer: has a character that is", None),
    # JSON lines
    "half a character": ('{"customer": "c", "amount": "5", "key": "\\ud800"}', "in.jsonl",
                         "line 1, key: has a character that is not seen (U+D800)", None),
    "deep": ("[" * 100_000, "in.jsonl", "line 1: is not JSON", None),
    "over several lines": ('[\n{"customer": "c"}]', "in.jsonl", "write one object a line, on one line each", None),
    "NaN as a number": ('{"amount": NaN}', "in.jsonl", "is not JSON (NaN is not a number that JSON has)", None),
    "a number of 5,000 digits": ('{"amount": ' + "9" * 5000 + "}", "in.jsonl", "line 1: is not JSON", None),
    "no JSON": ("{customer: 1}", "in.jsonl", "line 1: is not JSON", None),
    "a list": ("[1]", "in.jsonl", "line 1: is a list, not an object", None),
    "a name twice": ('{"amount": "1", "amount": "2"}', "in.jsonl", "is not JSON ('amount' is given twice)", None),
    "an integer": ('{"customer": "c", "amount": 500}', "in.jsonl", "amount: is an integer; write it as a text", None),
    "a float": ('{"customer": "c", "amount": 5.5}', "in.jsonl", "line 1, amount: is a number", None),
    "metadata of numbers": ('{"customer": "c", "metadata": {"a": 1}}', "in.jsonl", "metadata.a: is an integer", None),
    "metadata that is no object": ('{"customer": "c", "metadata": "a"}', "in.jsonl", "metadata: is no column", None),
    "customer by ID and address": ('{"customer": "c", "email": "a@b.test"}', "in.jsonl",
                                   "line 1, customer: is the name of 2 columns; name each column once", None),
    "metadata twice": ('{"metadata": {"a": "1"}, "metadata.a": "2"}', "in.jsonl", "metadata.a: is the name of 2", None),
    "unknown in JSON": ('{"customer": "c", "amuont": "1"}', "in.jsonl", "amuont: is no column that is known", None),
}  # fmt: skip


@pytest.mark.parametrize(("content", "name", "said", "form"), CASES.values(), ids=CASES)
def test_bad_file_is_refused_with_what_would_be_right(
    content: str | bytes, name: str, said: str, form: Form | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert said in told(path, form=form)


def test_the_table_has_at_least_a_hundred_cases() -> None:
    assert 100 <= len(CASES)


def sheet(change: Callable[[Any], None]) -> bytes:
    """
    A spreadsheet with one good line, changed.
    """
    book: Any = openpyxl.Workbook()
    book.active.append(HEAD.strip().split(","))
    book.active.append(["cus_1", 5, "usd", "credit", "ticket-1"])
    change(book)
    made = io.BytesIO()
    book.save(made)
    return made.getvalue()


def set_cell(name: str, value: Any, form: str | None = None) -> Callable[[Any], None]:
    def change(book: Any) -> None:
        book.active[name] = value
        book.active[name].number_format = form or book.active[name].number_format

    return change


SHEETS: dict[str, tuple[Callable[[Any], None], str]] = {
    "formula": (set_cell("B2", "=2+3"), "line 2, column B: is a formula; copy the column, and paste it as values"),
    "date": (set_cell("B2", dt.date(2026, 11, 29)), "line 2, column B: is a date; write it as a text, or give"),
    "time": (set_cell("B2", dt.time(5)), "line 2, column B: is a date"),
    "date as reference": (set_cell("E2", dt.datetime(2026, 11, 29, 5)), "line 2, column E: is a date"),  # noqa: DTZ001  cells have no zone
    "error": (set_cell("B2", "#DIV/0!"), "line 2, column B: is an error of the spreadsheet; mend the formula"),
    "percentage": (set_cell("B2", 0.05, "0%"), "line 2, column B: is a percentage; write the amount in a currency"),
    "far too much": (set_cell("B2", 1e300), "line 2, amount: 1E+300 is not an amount"),
    "minus zero": (set_cell("B2", -0.0), "line 2, amount: 0 is no money"),
    "decimal comma": (set_cell("B2", "5,00"), "line 2, amount: '5,00' may mean 5.00 or 500.00"),
    "no-break space": (set_cell("B2", "1\xa0000"), "line 2, amount: has a character that is not seen (U+00A0)"),
    "formula as reference": (set_cell("E2", "=HYPERLINK(1)"), "line 2, column E: is a formula"),
    "long cell": (set_cell("E2", "x" * 32_000), "line 2, reference: has 32,000 characters"),
    "twice": (set_cell("C1", "Amount"), "line 1, amount: is the name of 2 columns"),
    "no name": (set_cell("F2", "x"), "line 2: has 6 cells, and the first line 5"),
    "empty": (lambda book: book.active.delete_rows(1, 2), "list: has only empty lines"),
    "true": (set_cell("B2", True), "line 2, column B: is true or false"),  # noqa: FBT003  a cell
    "fraction of a cent": (
        set_cell("B2", 5.005),
        "line 2, amount: 5.005 has more decimals than the 2 of usd",
    ),
    "negative": (set_cell("B2", -5), "line 2, amount: -5 has a sign"),
    "number as reference": (set_cell("E2", 1.5), "line 2, reference: 1.5 is a number"),
    "two sheets": (lambda book: book.create_sheet("Old"), "has 2 sheets: Sheet, Old; say which one: --sheet 'Sheet'"),
}


@pytest.mark.parametrize(("change", "said"), SHEETS.values(), ids=SHEETS)
def test_bad_spreadsheet_is_refused(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    (tmp_path / "in.xlsx").write_bytes(sheet(change))
    assert said in told(tmp_path / "in.xlsx")


def test_spreadsheet_that_is_cut_off_or_no_spreadsheet_is_refused(tmp_path: Path) -> None:
    whole = sheet(lambda _: None)
    for content in (whole[: len(whole) // 2], whole[:100], b"PK\x03\x04" + bytes(100)):
        (tmp_path / "in.xlsx").write_bytes(content)
        assert "is not a whole spreadsheet: it is cut off, or damaged" in told(tmp_path / "in.xlsx")
    with zipfile.ZipFile(tmp_path / "in.xlsx", "w") as archive:
        archive.writestr("readme.txt", "no spreadsheet")
    assert "is not a whole spreadsheet" in told(tmp_path / "in.xlsx")


def marked(content: bytes, at: int, byte: int) -> bytes:
    """
    An archive with a byte of each part's head, in its place and in the list at the end, set to another one.
    """
    made = bytearray(content)
    for begins, place in ((b"PK\x03\x04", at), (b"PK\x01\x02", at + 2)):
        for found in re.finditer(begins, content):
            made[found.start() + place] = byte
    return bytes(made)


def test_spreadsheet_that_is_damaged_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    """Whatever a reader of archives or of XML says: of a password, another packing, of bytes that are lost."""
    whole, refused = sheet(lambda _: None), 0
    lost = [whole[:at] + b"\xa5" * 4 + whole[at + 4 :] for at in range(0, len(whole), 97)]
    for content in (marked(whole, 6, 1), marked(whole, 8, 99), *lost):
        (tmp_path / "in.xlsx").write_bytes(content)
        try:
            read(tmp_path / "in.xlsx")
        except InvalidFileError:
            refused += 1
    assert refused > len(lost) / 4


def test_spreadsheet_of_entities_is_not_unfolded(tmp_path: Path) -> None:
    """Neither those that grow to gigabytes, nor those that are another file."""
    (tmp_path / "secret").write_text("cus_secret")
    growing = [f'<!ENTITY e{each} "{f"&e{each - 1};" * 10 if each else "x" * 100}">' for each in range(9)]
    for entities in (growing, [f'<!ENTITY e8 SYSTEM "{(tmp_path / "secret").as_uri()}">']):
        document = f"<!DOCTYPE x [{''.join(entities)}]>".encode()
        with (
            zipfile.ZipFile(io.BytesIO(sheet(lambda _: None))) as whole,
            zipfile.ZipFile(tmp_path / "in.xlsx", "w") as bad,
        ):
            for part in whole.namelist():
                found = whole.read(part)
                is_sheet = b"cus_1" in found
                bad.writestr(part, document + found.replace(b"cus_1", b"&e8;") if is_sheet else found)
        assert "is not a whole spreadsheet" in told(tmp_path / "in.xlsx")


def test_spreadsheet_that_is_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.xlsx", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("xl/sharedStrings.xml", bytes(60_000_001))
    assert "is far larger unpacked than a list of entries is" in told(tmp_path / "in.xlsx")


def test_spreadsheet_whose_lines_never_end_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a line with a great number, all before it are read too, which are not there."""
    monkeypatch.setattr(spreadsheet, "_MAX_LINES", 1000)
    with zipfile.ZipFile(io.BytesIO(sheet(lambda _: None))) as whole, zipfile.ZipFile(tmp_path / "in.xlsx", "w") as bad:
        for part in whole.namelist():
            bad.writestr(part, whole.read(part).replace(b'<row r="2"', b'<row r="2000000000"'))
    assert "line 1001: is beyond line 1,000" in told(tmp_path / "in.xlsx")


def test_good_spreadsheet_says_the_same_as_text(tmp_path: Path) -> None:
    (tmp_path / "in.xlsx").write_bytes(sheet(lambda book: book.active.append([None, None, None, " "])))
    (tmp_path / "in.csv").write_text(HEAD + GOOD)
    wanted = {"customer": "cus_1", "amount": -500, "currency": "usd", "reference": "ticket-1"}
    assert [wanted] == read(tmp_path / "in.xlsx") == read(tmp_path / "in.csv")


def test_good_text_is_read_however_it_was_written(tmp_path: Path) -> None:
    common = Common(reference="outage", direction="credit", currency="usd")
    wanted = {"customer": "cus_1", "amount": -500, "currency": "usd", "reference": "outage"}
    for name, content in {
        "bom.csv": b"\xef\xbb\xbfCustomer ID,Amount\r\ncus_1,5.00\r\n",
        "quoted.csv": b'"customer","amount"\n"cus_1","5"\n\n',
        "tabs.tsv": b"customer\tamount\n cus_1 \t5.00",
        "bars.csv": b"customer,amount,notes\ncus_1,5.00,caf\xe9\n,,\n",
        "lines.jsonl": b'{"customer": "cus_1", "amount": "5.00", "description": null}\n\n',
    }.items():
        (tmp_path / name).write_bytes(content)
        form = Form(encoding="windows-1252" if b"\xe9" in content else "utf-8", ignored=frozenset({"notes"}))
        assert [wanted] == read(tmp_path / name, form=form, common=common), name
    (tmp_path / "comma.csv").write_text("customer;amount\ncus_1;5,00\n")
    comma = Common(reference="outage", direction="credit", currency="usd", decimal="comma")
    assert [wanted] == read(tmp_path / "comma.csv", form=COMMA, common=comma)


def test_a_row_says_its_own_words_and_the_campaign_those_that_it_lacks(tmp_path: Path) -> None:
    head = "customer,amount,direction,currency,reference,key,description,metadata.Order\n"
    (tmp_path / "in.csv").write_text(f'{head}c1,1,debit,EUR,own,,"a\nb",7\nc2,1,,,,k-2,,\nc3,1,,,,,,\n')
    common = Common(reference="outage", direction="credit", currency="usd", description="sorry")
    first, second, third = read(tmp_path / "in.csv", common=common)
    assert {"customer": "c1", "amount": 100, "currency": "eur", "reference": "own", "description": "a\nb",
            "metadata": {"Order": "7"}} == first  # fmt: skip
    assert ("outage k-2", "outage", "sorry") == (second["reference"], third["reference"], third["description"])


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(HEAD + "cus_1,x,usd,credit,t\n\ncus_2,5,usd,up,t\n" + GOOD + "cus_1,,,,\n")
    with pytest.raises(InvalidFileError) as caught:
        read(tmp_path / "in.csv")
    assert ["line 2, amount", "line 4, direction", "line 6, currency", "line 6, direction", "line 6, reference"] == [
        each.path for each in caught.value.problems
    ]
    assert 5 == caught.value.number == json.loads(json.dumps(caught.value.to_dict()))["number"]


def test_thousands_of_mistakes_are_counted_and_the_first_named(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(HEAD + "cus_1,x,usd,credit,t\n" * 2000)
    with pytest.raises(InvalidFileError) as caught:
        read(tmp_path / "in.csv")
    assert (2000, 501) == (caught.value.number, len(caught.value.problems))
    assert "list: has 1500 more mistakes" == str(caught.value.problems[-1])
