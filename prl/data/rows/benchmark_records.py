"""Rows of RewardBench (2403.13787) and RewardBench 2 (2506.01937)."""

from dataclasses import dataclass
from typing import ClassVar, Self

from prl.data.rows.records import Record
from prl.data.rows.row_errors import RowError, shown
from prl.data.rows.row_reader import RowReader

TIES = "Ties"
"""Subset of RewardBench 2 whose prompts have many right answers."""
_TIES_ROWS = ("ref", "tied")


@dataclass(frozen=True)
class BenchmarkRow(Record):
    """A prompt with right and wrong responses: one of each in RewardBench, lists of them in RewardBench 2.

    The columns are those of `allenai/reward-bench` (split `filtered`), of `allenai/preference-test-sets` with a column
    `subset`, and of `allenai/reward-bench-2`: `prompt`, `chosen`, `rejected`, `subset`; of the latter also `id` and
    `num_correct`. Equal responses are no error, since the benchmark scores them.
    """

    columns: ClassVar = ("prompt", "chosen", "rejected", "subset", "id", "num_correct")
    shapes: ClassVar = {("prompt", "chosen", "rejected", "subset"): "the columns prompt, chosen, rejected and subset"}

    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    subset: str
    version: int
    """1 or 2."""
    tie: tuple[str, int] | None = None
    """Of the subset Ties: "ref", the prompt with one right answer, or "tied", with several; and the pair's number."""

    @classmethod
    def from_row(cls, row: RowReader) -> list[Self]:
        """Build the record from a row that is being checked. Raises RowError."""
        subset = row.take("subset")
        if not isinstance(subset, str) or not subset.strip():
            raise RowError("wrong type", "subset", shown(subset), expected="the name of a subset")
        subset = subset.strip()
        if _is_list_of_texts(row.take("chosen")) or _is_list_of_texts(row.take("rejected")):
            return [cls._of_lists(row, subset)]
        prompt, _ = row.prompt_of("chosen", "rejected")
        row.shape = "prompt, chosen, rejected, subset"
        chosen, rejected = row.response("chosen", prompt), row.response("rejected", prompt)
        return [cls(prompt, (chosen,), (rejected,), subset, 1)]

    @classmethod
    def _of_lists(cls, row: RowReader, subset: str) -> Self:
        row.shape = "prompt, chosen, rejected, subset (lists)"
        prompt = row.prompt()
        chosen, rejected = row.responses("chosen", prompt), row.responses("rejected", prompt)
        for name, texts in (("chosen", chosen), ("rejected", rejected)):
            if not texts:
                raise RowError("wrong number of entries", name, "none", expected="at least one response")
        is_tie = subset.lower() == TIES.lower()
        if len(chosen) > 1 and not is_tie:
            expected = f"one response, as in all subsets but {TIES}"
            raise RowError("wrong number of entries", "chosen", str(len(chosen)), expected=expected)
        if "num_correct" in row and (number := row.number("num_correct", "wrong number of entries")) != len(chosen):
            raise RowError(
                "wrong number of entries", "num_correct", shown(number), expected=f"{len(chosen)}, as in chosen"
            )
        tie = _tie(row, len(chosen)) if is_tie else None
        return cls(prompt, chosen, rejected, TIES if is_tie else subset, 2, tie)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _tie(row: RowReader, num_chosen: int) -> tuple[str, int]:
    """Read the id of a row of the subset Ties, such as `ref:12`."""
    found = row.take("id")
    kind, _, number = found.partition(":") if isinstance(found, str) else ("", "", "")
    if kind not in _TIES_ROWS or not number.isdecimal():
        raise RowError("invalid id", "id", shown(found))
    if (kind == "ref") != (num_chosen == 1):
        expected = "one right answer in a row ref:NUMBER, several in a row tied:NUMBER"
        raise RowError("wrong number of entries", "chosen", f"{num_chosen} in {found}", expected=expected)
    return kind, int(number)
