"""Rows of CSV files. Cells stay text: no type is guessed, and an empty cell is no value."""

import codecs
import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from prl.data.rows.row_errors import DataError, RawRow, RowError, bad_byte

_LONGEST_CELL = 2**31 - 1
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_TOLD = re.compile(r"sep=([,;\t])\r?\n?")


def csv_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    """Yield each row by heading with its number, from 1 for the first row below the headings; blank lines have none.

    Raises:
        DataError: for headings that make no sense, and for broken quotes, which leave the ends of cells unknown.
    """
    csv.field_size_limit(_LONGEST_CELL)  # Python's own limit is a text of 131,072 characters
    with path.open("rb") as start:
        if start.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{path} is text in UTF-16; write the file again as UTF-8")
    # Keep line ends: they may be part of a cell.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from _rows(path, file)


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, RawRow]]:
    reader, number = _reader(file), 0
    try:
        names = next((_checked(path, cells) for cells in reader if cells), [])
        for cells in reader:
            if cells:
                number += 1
                yield number, _row(names, cells, reader.line_num)
    except csv.Error as error:
        place = f"row {number + 1} (line {reader.line_num})" if number or reader.line_num > 1 else "the headings"
        raise DataError(
            f"{path}, {place}: {error} (broken quotes); expected quotes around a cell with quotes, separators or "
            'line breaks in it, and each quote inside it twice: "He said ""no""."'
        ) from None


def _reader(file: TextIO) -> Any:
    """Build a reader: `;` or tabs separate cells where the headings have no comma, or a first line says so."""
    first = next(file, "")
    while first and not first.strip("\r\n"):
        first = next(file, "")
    if told := _TOLD.fullmatch(first):
        return csv.reader(file, delimiter=told[1], strict=True)
    bare = _QUOTED.sub("", first)
    delimiter = next((mark for mark in (",", ";", "\t") if mark in bare), ",")
    return csv.reader(chain([first], file), delimiter=delimiter, strict=True)


def _checked(path: Path, names: list[str]) -> list[str]:
    """Check the headings. An unnamed first one belongs to the row numbers that pandas writes."""
    for name in names:
        if wrong := bad_byte(name):
            raise DataError(f"{path} has a heading with {wrong}, which is no UTF-8; write the file again as UTF-8")
        if name and names.count(name) > 1:
            raise DataError(f"{path} has the heading {name!r} twice; rename or remove one of the columns")
    return names if names[0] else ["Unnamed: 0", *names[1:]]


def _row(names: list[str], cells: list[str], line: int) -> RawRow:
    if len(cells) != len(names):
        found = f"{len(cells)} cells under {len(names)} headings, up to line {line}"
        return RowError("wrong number of cells", None, found)
    row: dict[str, str | None] = {}
    for place, (name, cell) in enumerate(zip(names, cells, strict=True), start=1):
        if not name:
            if cell:
                return RowError("cell without a heading", None, f"{cell[:40]!r} in column {place}")
        elif not cell.isascii() and (wrong := bad_byte(cell)):
            return RowError("undecodable text", name, wrong)
        else:
            row[name] = cell or None
    return row
