"""Labels: any accepted form as the probability that the first response is better; a ranked list as pairs."""

import ctypes
import math
from itertools import combinations
from typing import Any

from prl.data.rows.row_errors import LABELS, RowError, both_given, shown
from prl.data.rows.row_reader import RowReader, checked_number
from prl.types import Conversation

NO_LABEL = "none, chosen is better"
"""Name, in reports, of rows whose columns alone give the label."""

MARGIN = "margin, as log-odds"
"""Name, in reports, of rows with a margin, which other trainers read differently."""

MAX_COMPLETIONS = 128
"""Longest ranked list: it gives 8,128 pairs, and each holds two texts."""

_WINNERS = {"a": 1.0, "model_a": 1.0, "b": 0.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}


def read_preference(row: RowReader, default: float | None, usual: str) -> float:
    """Read the probability that the first response is better. Raises RowError.

    Args:
        row: the row.
        default: the probability without a label; None where a row must have a label. With a default, the columns alone
            decide which response is better, and a margin may not contradict them.
        usual: the label that an error suggests.
    """
    given = [name for name in LABELS if name in row]
    if len(given) > 1:
        raise both_given(given[:1], given[1:2], "label")
    if not given:
        if default is None:
            raise row.missing(usual)
        # Beside `chosen`, `winner` carries no information, so an empty cell belongs to the file's other rows.
        if empty := next((name for name in LABELS if name != "winner" and row.is_null(name)), None):
            raise row.missing(empty)
        row.label = NO_LABEL
        return default
    [row.label] = given
    if row.label == "winner":
        value = row.take("winner")
        if not isinstance(value, str) or value.strip().lower() not in _WINNERS:
            raise RowError("unknown winner", "winner", shown(value))
        return _WINNERS[value.strip().lower()]
    if row.label == "margin":
        row.label = MARGIN
        margin = row.number("margin", "invalid margin")
        if default is not None and margin <= 0:
            raise RowError("ambiguous margin", "margin", shown(margin))
        return (1 + math.tanh(margin / 2)) / 2  # sigma in the form that cannot overflow
    return row.number(row.label, f"invalid {row.label}", lambda number: 0 <= number <= 1)


def read_annotation(value: Any, where: str) -> float:
    """Read one annotation of a list of them as the probability that the first response is better. Raises RowError.

    Args:
        value: a number from 0 to 1, or a word that the column `winner` takes.
        where: its place in the row, for the error.
    """
    if not isinstance(value, str):
        return checked_number(value, where, "unknown annotation", lambda number: 0 <= number <= 1)
    if (word := value.strip().lower()) not in _WINNERS:
        raise RowError("unknown annotation", where, shown(value))
    return _WINNERS[word]


def read_weight(row: RowReader, num_pairs: int = 1) -> float:
    """Read the weight of each pair of a row; 1 where the row has none. Raises RowError.

    Args:
        row: the row.
        num_pairs: how many pairs share the row's weight.
    """
    weight = 1.0
    if "weight" in row:
        weight = row.number("weight", "invalid weight", lambda number: 0 < number < math.inf)
    share = weight / num_pairs
    if not 0 < ctypes.c_float(share).value < math.inf:  # training computes in float32, where it would be infinite or 0
        raise RowError("weight beyond float32", "weight", shown(weight))
    return share


def read_ranking(row: RowReader, order: str, prompt: Conversation) -> list[tuple[tuple[str, str], tuple[int, int]]]:
    """List all pairs (better, worse) of a ranked list, each with the characters stripped from both responses.

    Pairs of equal rank are left out and counted. Raises RowError.

    Args:
        row: the row, with `completions`.
        order: the column that ranks them: `rank` (1 is the best) or `scores` (the higher the better).
        prompt: prompt of the responses.
    """
    if label := next((name for name in LABELS if name in row), None):
        raise both_given((order,), (label,), "label")
    if not isinstance(row.take("completions"), list):
        raise RowError("not a list", "completions", shown(row.take("completions")), expected="a list of responses")
    if len(row.take("completions")) > MAX_COMPLETIONS:
        found = f"{len(row.take('completions'))} of them"
        raise RowError("too many completions", "completions", found, expected=f"at most {MAX_COMPLETIONS}")
    completions = row.responses("completions", prompt)
    if len(completions) < 2:
        raise RowError("wrong number of entries", "completions", str(len(completions)))
    numbers = row.numbers(order, f"invalid {order.removesuffix('s')}", len(completions))
    row.label = order
    pairs = []
    for one, other in combinations(range(len(completions)), 2):
        if numbers[one] == numbers[other]:
            row.num_ties += 1
            continue
        if completions[one] == completions[other]:
            found = f"{shown(completions[one])}, as completions[{one}] too"
            raise RowError("same text ranked twice", f"completions[{other}]", found)
        first_is_better = (numbers[one] < numbers[other]) == (order == "rank")
        better, worse = (one, other) if first_is_better else (other, one)
        lost = (row.stripped[f"completions[{better}]"], row.stripped[f"completions[{worse}]"])
        pairs.append(((completions[better], completions[worse]), lost))
    return pairs
