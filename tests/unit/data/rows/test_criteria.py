"""The column of criteria: what it may hold, and what is said of what it may not."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules import PromptDataModule
from prl.data import AnchoredPrompt, DataError, DataSource
from prl.data.encoding import PromptEncoder
from prl.data.rows.criteria import Criterion, read_criteria
from prl.data.rows.row_errors import RowError
from prl.rewards import RuleRubric
from tests.helpers.tiny import tiny_tokenizer

GOOD = {"criterion": " is short ", "weight": 2, "factual": False}


def test_criteria_are_read_with_what_else_they_have() -> None:
    row = {"rubric": [GOOD, {"criterion": "is right", "weight": 0.5, "factual": True, "source": "me"}]}
    assert read_criteria(row, "rubric") == (Criterion("is short", 2.0, False), Criterion("is right", 0.5, True))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "field 'rubric': found None .*Add the column 'rubric'"),
        ("text", "field 'rubric': found 'text' .not a list.*jsonl or .parquet"),
        ([], "field 'rubric': found .. .empty list"),
        (["text"], r"field 'rubric\[0\]': found 'text' .no criterion"),
        ([GOOD, {"criterion": "x", "weight": 1}], r"field 'rubric\[1\]'.*'factual': true or false"),
        ([{**GOOD, "criterion": " "}], r"field 'rubric\[0\].criterion': found ' ' .no text"),
        ([{**GOOD, "criterion": 3}], r"rubric\[0\].criterion"),
        ([{**GOOD, "weight": 0}], r"field 'rubric\[0\].weight': found 0 .*a finite number above 0"),
        ([{**GOOD, "weight": float("inf")}], r"rubric\[0\].weight"),
        ([{**GOOD, "weight": float("nan")}], r"rubric\[0\].weight"),
        ([{**GOOD, "weight": True}], r"rubric\[0\].weight"),
        ([{**GOOD, "weight": "1"}], r"rubric\[0\].weight"),
        ([{**GOOD, "factual": 1}], r"field 'rubric\[0\].factual': found 1 .*true or false"),
        ([{**GOOD, "factual": None}], r"rubric\[0\].factual"),
    ],
)
def test_what_is_no_list_of_criteria_is_named(value: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        read_criteria({"rubric": value}, "rubric")


def test_a_missing_column_is_named_with_those_there_are() -> None:
    with pytest.raises(RowError, match="found further columns 'rubrics' .*columns: {rubric: NAME}"):
        read_criteria({"rubrics": [GOOD]}, "rubric")


def encoder(*criteria: str) -> PromptEncoder:
    readers = [RuleRubric(lambda *_: True, column=column) for column in criteria]
    return PromptEncoder(tiny_tokenizer(), 40, needs_anchors=False, readers=readers)


def test_the_encoder_refuses_rows_without_criteria_and_keeps_them_apart_in_the_cache() -> None:
    record = AnchoredPrompt(({"role": "user", "content": "q"},), extra={"rubric": [GOOD]})
    row = encoder("rubric").encode(record)
    assert row is not None
    assert row == encoder().encode(record)
    with pytest.raises(RowError, match="Add the column 'other'"):
        encoder("rubric", "other").encode(record)
    plain = PromptEncoder(tiny_tokenizer(), 40, needs_anchors=False).fingerprint
    assert encoder().fingerprint == plain
    assert len({plain, encoder("rubric").fingerprint, encoder("other").fingerprint}) == 3


def test_a_bad_row_is_named_with_file_and_row_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"q{n}", "items": [GOOD if n != 1 else {**GOOD, "weight": -1}]} for n in range(3)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = DataSource(str(path), columns={"rubric": "items"})
    data: Any = PromptDataModule(source, source, batch_size=1, cache=False)
    data.encoder = encoder("rubric")
    with pytest.raises(DataError, match=r"prompts.jsonl, row 2, field 'rubric\[0\].weight': found -1"):
        data._encode("train", source, {})
