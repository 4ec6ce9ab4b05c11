"""Columns of the data that an objective declares: a number for each row of preference pairs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prl.data.rows.records import PreferencePair
from prl.data.rows.row_errors import RowError, shown

COLUMN = "column."
"""How the key of a number of a row begins, so that no column has the name of something else."""
_READ = ", which the objective reads"


def read_numbers(record: PreferencePair, names: Sequence[str], probabilities: Sequence[str] = ()) -> dict[str, float]:
    """Read the numbers of a row that an objective declares, for its encoded row.

    Args:
        record: the row.
        names: columns that hold a number.
        probabilities: those of them that hold one from 0 to 1.

    Raises:
        RowError: for a column that is missing, or holds no finite number, or no probability.
    """
    return {COLUMN + name: _number(record, name, name in probabilities) for name in names}


def number_tensors(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Tensor]:
    """Collate the numbers of encoded rows: one tensor [B] for each column."""
    return {COLUMN + name: torch.tensor([row[COLUMN + name] for row in rows]) for name in names}


def numbers_of(batch: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Take the numbers out of a batch, by the names that the objective declares: [B] each."""
    return {name: batch[COLUMN + name] for name in names}


def _number(record: PreferencePair, name: str, is_probability: bool) -> float:
    value = record.extra.get(name)
    expected = "a probability from 0 to 1 in every row" if is_probability else "a finite number in every row"
    if value is None:
        raise missing_column(record, name, expected)
    try:  # cells of .csv files hold text alone
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError("no number", name, shown(value), expected=expected + _READ, fix="Correct it or remove the row.")
    if is_probability and not 0 <= number <= 1:
        fix = "Write shares, not percent, or correct the row."
        raise RowError("no probability", name, shown(value), expected=expected + _READ, fix=fix)
    return number


def missing_column(record: PreferencePair, name: str, expected: str) -> RowError:
    """Build the error of a row without a column that the objective declares."""
    found = shown(record.extra[name]) if name in record.extra else _columns(record)
    fix = f"Add the column {name!r} to the data, or choose an objective that does not read it."
    return RowError("missing column", name, found, expected=expected + _READ, fix=fix)


def _columns(record: PreferencePair) -> str:
    return "further columns " + (", ".join(map(repr, record.extra)) or "none")
