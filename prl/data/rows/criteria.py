"""Criteria of a rubric: a column that lists, in each row, what a response to the prompt should do."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from prl.data.rows.row_errors import RowError, shown

_READ = ", which the reward reads"
_SHAPE = "{'criterion': text, 'weight': number above 0, 'factual': true or false}"


class Criterion(NamedTuple):
    """One criterion of a response."""

    text: str
    """What the response should do, stripped."""
    weight: float
    factual: bool
    """Whether the criterion is about facts; where all of these hold, the response has the full reward."""


def read_criteria(row: Mapping[str, Any], column: str) -> tuple[Criterion, ...]:
    """Read the criteria of a row: a list of {criterion, weight, factual}; further keys are for the grader.

    Args:
        row: further columns of the row by name.
        column: the column.

    Raises:
        RowError: for a column that is missing, holds no list or an empty one, or an entry that is no criterion.
    """
    value = row.get(column)
    expected = "a list of criteria in every row" + _READ
    if value is None:
        found = shown(value) if column in row else "further columns " + (", ".join(map(repr, row)) or "none")
        fix = f"Add the column {column!r} to the data, map it (columns: {{{column}: NAME}}), or name another one."
        raise RowError("missing column", column, found, expected=expected, fix=fix)
    if not isinstance(value, list):
        fix = "Write the file as .jsonl or .parquet, whose cells can hold lists."
        raise RowError("not a list", column, shown(value), expected=expected, fix=fix)
    if not value:
        raise RowError("empty list", column, "[]", expected=expected, fix="Add criteria or remove the row.")
    return tuple(_criterion(entry, f"{column}[{number}]") for number, entry in enumerate(value))


def _criterion(entry: Any, where: str) -> Criterion:
    if not isinstance(entry, Mapping) or not {"criterion", "weight", "factual"} <= entry.keys():
        fix = "Add the missing keys, or remove the entry."
        raise RowError("no criterion", where, shown(entry), expected=_SHAPE + _READ, fix=fix)
    text, weight, factual = entry["criterion"], entry["weight"], entry["factual"]
    if not isinstance(text, str) or not text.strip():
        fix = "Write the criterion, or remove the entry."
        raise RowError("no text", f"{where}.criterion", shown(text), expected="non-empty text" + _READ, fix=fix)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        fix = "Correct the weight; a criterion that should not count is left out of the list."
        expected = "a finite number above 0" + _READ
        raise RowError("invalid weight of a criterion", f"{where}.weight", shown(weight), expected=expected, fix=fix)
    if not isinstance(factual, bool):
        expected = "true or false" + _READ
        raise RowError("no truth value", f"{where}.factual", shown(factual), expected=expected, fix="Correct it.")
    return Criterion(text.strip(), float(weight), factual)
