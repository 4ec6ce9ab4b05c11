"""Rows of RewardBench and RewardBench 2."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prl.data import DataSource, RowError, load_records
from prl.data.rows.benchmark_records import BenchmarkRow

# The columns of allenai/reward-bench and of allenai/reward-bench-2, by their dataset cards.
ONE = {
    **{"prompt": "Hi?", "chosen": "Hello.", "chosen_model": "x", "rejected": "Go away.", "rejected_model": "y"},
    **{"subset": "alpacaeval-easy", "id": 30},
}
TWO = {
    **{"id": "7", "prompt": "Hi?", "chosen": ["Hello."], "rejected": ["Go away.", "No.", "What?"], "num_correct": 1},
    **{"num_incorrect": 3, "total_completions": 4, "models": ["x"], "subset": "Focus", "additional_metadata": {}},
}
TIED = {**TWO, "id": "tied:12", "chosen": ["Red.", "Blue."], "num_correct": 2, "subset": "Ties"}
PROMPT = ({"role": "user", "content": "Hi?"},)


def test_one_chosen_and_one_rejected() -> None:
    [row] = BenchmarkRow.parse(ONE)
    assert row == BenchmarkRow(PROMPT, ("Hello.",), ("Go away.",), "alpacaeval-easy", 1)


def test_prior_sets_have_conversations() -> None:
    turns = [
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "No."},
    ]
    [row] = BenchmarkRow.parse({**ONE, "prompt": turns, "subset": "shp"})
    assert row.prompt == tuple(turns)


def test_lists_of_responses() -> None:
    [row] = BenchmarkRow.parse(TWO)
    assert row == BenchmarkRow(PROMPT, ("Hello.",), ("Go away.", "No.", "What?"), "Focus", 2)
    [row] = BenchmarkRow.parse(TIED)
    assert (row.chosen, row.tie, row.version) == (("Red.", "Blue."), ("tied", 12), 2)
    [row] = BenchmarkRow.parse({**TIED, "id": "ref:12", "chosen": ["Red."], "num_correct": 1, "subset": "ties"})
    assert (row.tie, row.subset) == (("ref", 12), "Ties")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**ONE, "subset": None}, "field 'subset': found null (no value)"),
        ({**ONE, "subset": 3}, "field 'subset': found 3 (wrong type); expected the name of a subset"),
        (
            {key: ONE[key] for key in ("prompt", "chosen", "rejected")},
            "expected the columns prompt, chosen, rejected and",
        ),
        (
            {**TWO, "chosen": ["x", "y"]},
            "field 'chosen': found 2 (wrong number of entries); expected one response, as in",
        ),
        ({**TWO, "rejected": []}, "field 'rejected': found none (wrong number of entries)"),
        (
            {**TWO, "num_correct": 2},
            "field 'num_correct': found 2.0 (wrong number of entries); expected 1, as in chosen",
        ),
        ({**TWO, "rejected": ["x", ""]}, "field 'rejected[1]'"),
        ({**TIED, "id": "12"}, "field 'id': found '12' (invalid id); expected ref:NUMBER or tied:NUMBER"),
        ({**TIED, "id": "tied:x"}, "(invalid id)"),
        (
            {**TIED, "id": "ref:12"},
            "found 2 in ref:12 (wrong number of entries); expected one right answer in a row ref",
        ),
    ],
)
def test_what_is_refused(row: dict, told: str) -> None:
    with pytest.raises(RowError, match=re.escape(told)):
        BenchmarkRow.parse(row)


def test_parquet_files_as_the_hub_has_them(tmp_path: Path) -> None:
    text, texts, number = pa.string(), pa.list_(pa.string()), pa.int64()
    details = pa.struct({"category": text, "index": pa.float64(), "models": texts, "instruction_id_list": texts})
    kinds = {"id": text, "prompt": text, "chosen": texts, "rejected": texts, "num_correct": number}
    kinds |= {"num_incorrect": number, "total_completions": number, "models": texts, "subset": text}
    schema = pa.schema(kinds | {"additional_metadata": details})
    rows = [{**row, "additional_metadata": None} for row in (TWO, TIED)]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "two.parquet")
    loaded = load_records(DataSource(str(tmp_path / "two.parquet")), BenchmarkRow)
    assert loaded.records == [*BenchmarkRow.parse(TWO), *BenchmarkRow.parse(TIED)]
    pq.write_table(pa.Table.from_pylist([ONE]), tmp_path / "one.parquet")
    assert load_records(DataSource(str(tmp_path / "one.parquet")), BenchmarkRow).records == BenchmarkRow.parse(ONE)
