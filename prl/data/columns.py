"""Columns of the data that an objective declares: a number for each row of preference pairs, or a list in each row.

A list column holds K texts in a row, where K may differ from row to row; other columns hold a number for each of these.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prl.data.rows.image_records import CaptionedImage
from prl.data.rows.records import PreferencePair
from prl.data.rows.row_errors import RowError, shown

COLUMN = "column."
"""How the key of a number of a row begins, so that no column has the name of something else."""
_READ = ", which the objective reads"


def read_numbers(
    record: PreferencePair | CaptionedImage,
    names: Sequence[str],
    probabilities: Sequence[str] = (),
    classes: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, float]:
    """Read the numbers of a row that an objective declares, for its encoded row.

    Args:
        record: the row.
        names: columns that hold a number.
        probabilities: those of them that hold one from 0 to 1.
        classes: those of them that hold one of n classes, a whole number from 0 to n - 1, with n.

    Raises:
        RowError: for a column that is missing, or holds no finite number, or no probability or class.
    """
    found = {name: _number(record, name, name in probabilities) for name in names}
    for name, count in classes.items():
        if found[name] not in range(count):
            expected = f"a whole number from 0 to {count - 1}" + _READ
            fix = "Correct the row, or the objective's number of classes."
            raise RowError("no class", name, shown(record.extra[name]), expected=expected, fix=fix)
    return {COLUMN + name: number for name, number in found.items()}


def read_optional(record: PreferencePair, names: Sequence[str]) -> dict[str, float]:
    """Read the numbers of a row that an objective can do without, for its encoded row; NaN where there is none.

    Raises:
        RowError: for a column that holds something else than a finite number, or a row without any of them.
    """
    here = [name for name in names if record.extra.get(name) is not None]
    if names and not here:
        found, fix = _columns(record), "Label the row, remove it, or choose an objective that does not read labels."
        expected = f"a finite number in one of {', '.join(map(repr, names))} at least" + _READ
        raise RowError("missing column", names[0], found, expected=expected, fix=fix)
    numbers = {name: _finite(record.extra[name], name, "a finite number" + _READ) for name in here}
    return {COLUMN + name: numbers.get(name, math.nan) for name in names}


def read_texts(record: PreferencePair, name: str) -> list[str]:
    """Read a list of texts of a row, stripped.

    Raises:
        RowError: for a column that is missing, holds no list or an empty one, or something else than text in it.
    """
    entries = _list(record, name, "a list of at least one text in every row")
    for number, entry in enumerate(entries):
        if not isinstance(entry, str) or not entry.strip():
            fix = "Take the entry out of all lists of the row, or remove the row."
            raise RowError("no text", f"{name}[{number}]", shown(entry), expected="non-empty text" + _READ, fix=fix)
    return [entry.strip() for entry in entries]


def read_user(record: PreferencePair) -> str:
    """Read the user of a comparison from the column `user`: text or a whole number. Raises RowError without one."""
    value = record.extra.get("user")
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise missing_column(record, "user", "the name or number of a user in every row")
    return str(value).strip()


def read_number_lists(record: PreferencePair, names: Sequence[str], texts: str, count: int) -> dict[str, list[float]]:
    """Read columns with a number for each text of a list, for the encoded row.

    Args:
        record: the row.
        names: the columns.
        texts: column of the list.
        count: its length.

    Raises:
        RowError: for a column that is missing, holds no list or one of another length, or no finite number in it.
    """
    found = {}
    for name in names:
        entries = _list(record, name, f"a list with a number for each text of {texts!r} in every row")
        if len(entries) != count:
            expected = f"{count}, as many as {texts!r} has texts"
            fix = "Correct the lists or remove the row."
            raise RowError("wrong length", name, f"{len(entries)} numbers", expected=expected, fix=fix)
        expected = "a finite number" + _READ
        found[COLUMN + name] = [_finite(entry, f"{name}[{n}]", expected) for n, entry in enumerate(entries)]
    return found


def number_tensors(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Tensor]:
    """Collate the numbers of encoded rows: one tensor [B] for each column, [B, K] padded with 0 for lists."""
    found = {}
    for name in names:
        values = [row[COLUMN + name] for row in rows]
        if isinstance(values[0], list):
            found[COLUMN + name] = pad_sequence([torch.tensor(each) for each in values], batch_first=True)
        else:
            found[COLUMN + name] = torch.tensor(values)
    return found


def numbers_of(batch: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Take the numbers out of a batch, by the names that the objective declares: [B] each, [B, K] of lists."""
    return {name: batch[COLUMN + name] for name in names}


def _number(record: PreferencePair | CaptionedImage, name: str, is_probability: bool) -> float:
    value = record.extra.get(name)
    expected = "a probability from 0 to 1 in every row" if is_probability else "a finite number in every row"
    if value is None:
        raise missing_column(record, name, expected)
    number = _finite(value, name, expected + _READ)
    if is_probability and not 0 <= number <= 1:
        fix = "Write shares, not percent, or correct the row."
        raise RowError("no probability", name, shown(value), expected=expected + _READ, fix=fix)
    return number


def _finite(value: Any, field: str, expected: str) -> float:
    try:  # cells of .csv files hold text alone
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError("no number", field, shown(value), expected=expected, fix="Correct it or remove the row.")
    return number


def _list(record: PreferencePair, name: str, expected: str) -> list[Any]:
    value = record.extra.get(name)
    if value is None:
        raise missing_column(record, name, expected)
    if not isinstance(value, list):
        fix = "Write the file as .jsonl or .parquet, whose cells can hold lists."
        raise RowError("not a list", name, shown(value), expected=expected + _READ, fix=fix)
    if not value:
        raise RowError("empty list", name, "[]", expected=expected + _READ, fix="Fill the list or remove the row.")
    return value


def missing_column(record: PreferencePair | CaptionedImage, name: str, expected: str) -> RowError:
    """Build the error of a row without a column that the objective declares."""
    found = shown(record.extra[name]) if name in record.extra else _columns(record)
    fix = f"Add the column {name!r} to the data, or choose an objective that does not read it."
    return RowError("missing column", name, found, expected=expected + _READ, fix=fix)


def _columns(record: PreferencePair | CaptionedImage) -> str:
    return "further columns " + (", ".join(map(repr, record.extra)) or "none")
