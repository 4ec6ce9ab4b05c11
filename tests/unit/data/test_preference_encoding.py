"""Pairs as a policy reads them: the ids of demonstrations, one prompt for all responses, and columns of the rows."""

from typing import Any

import pytest
import torch

from prl.data.encoding import DemonstrationEncoder, ScalarPairEncoder
from prl.data.preference_encoding import PreferenceEncoder
from prl.data.rows.records import Demonstration, PreferencePair
from prl.data.rows.row_errors import RowError
from prl.data.tokens import TooLongError, Truncation

TURNS = (
    {"role": "user", "content": "reverse dcab"},
    {"role": "assistant", "content": "bacd"},
    {"role": "user", "content": "copy a"},
)


def pair(**changes: Any) -> PreferencePair:
    return PreferencePair(**{"prompt": TURNS, "chosen": "a", "rejected": "bb", **changes})


def test_ids_are_those_of_the_other_encoders(tokenizer: Any) -> None:
    row = PreferenceEncoder(tokenizer, 64).encode(pair(preference=0.7, weight=2.0))
    assert row is not None
    demonstrations, scalar = DemonstrationEncoder(tokenizer, 64), ScalarPairEncoder(tokenizer, 64).encode(pair())
    assert scalar is not None
    for name, text in (("chosen", "a"), ("rejected", "bb")):
        shown = demonstrations.encode(Demonstration(TURNS, text))
        assert shown is not None
        assert row["prompt"] + row[name] == shown["ids"] == scalar[name]
        assert len(row[name]) == shown["num_response"]
        assert row[name][-1] == tokenizer.eos_token_id
    assert (row["target"], row["weight"], row["length"]) == (0.7, 2.0, len(row["prompt"]) + 3)


def test_a_batch_has_the_chosen_rows_then_the_rejected_ones(tokenizer: Any) -> None:
    encoder = PreferenceEncoder(tokenizer, 64)
    rows = [encoder.encode(each) for each in (pair(), pair(prompt=TURNS[:1], chosen="abc"))]
    batch = encoder.collate([{**row, "index": n + 5} for n, row in enumerate(rows) if row is not None])
    for number, (row, name) in enumerate((row, name) for name in ("chosen", "rejected") for row in rows if row):
        ids, attention, loss = (batch[key][number] for key in ("input_ids", "attention_mask", "loss_mask"))
        assert ids[attention].tolist() == row["prompt"] + row[name]
        assert ids[loss].tolist() == row[name]
    assert batch["targets"].tolist() == batch["weights"].tolist() == [1.0, 1.0]
    assert batch["index"].tolist() == [5, 6]


def test_a_prompt_that_is_cut_for_one_response_is_cut_for_both(tokenizer: Any) -> None:
    whole = PreferenceEncoder(tokenizer, 99).encode(pair(rejected="b" * 12))
    assert whole is not None
    encoder = PreferenceEncoder(tokenizer, whole["length"] - 1, "truncate")
    row = encoder.encode(pair(rejected="b" * 12))
    assert row is not None
    alone = DemonstrationEncoder(tokenizer, 99).encode(Demonstration(TURNS[2:], "a"))
    assert alone is not None
    assert row["prompt"] + row["chosen"] == alone["ids"]  # which would have had room for the first turns
    assert row["rejected"] == whole["rejected"]
    assert encoder.counts.by_truncation[Truncation.TURNS] == 1


def test_what_does_not_fit(tokenizer: Any) -> None:
    with pytest.raises(TooLongError, match="max_length is 20; raise max_length or set on_too_long"):
        PreferenceEncoder(tokenizer, 20).encode(pair())
    assert PreferenceEncoder(tokenizer, 20, "skip").encode(pair()) is None
    encoder = PreferenceEncoder(tokenizer, 14, "truncate")
    assert encoder.encode(pair(prompt=TURNS[2:], chosen="c" * 30, rejected="c" * 31)) is None
    assert encoder.counts.by_truncation[Truncation.IDENTICAL] == 1


def test_declared_views_and_columns_come_with_the_rows(tokenizer: Any) -> None:
    encoder = PreferenceEncoder(tokenizer, 64, views=("chosen", "rejected", "gold"), columns=("offset", "rate"))
    extras = [{"gold": " dcab ", "offset": 2, "rate": "0.5", "other": [1]}, {"gold": "x", "offset": -1.5, "rate": 1}]
    rows = [encoder.encode(pair(extra=extra)) for extra in extras]
    batch = encoder.collate([row for row in rows if row is not None])
    assert batch["input_ids"].shape[0] == 6
    assert tokenizer.decode(batch["input_ids"][4][batch["loss_mask"][4]][:-1]) == "dcab"
    assert batch["column.offset"].tolist() == [2.0, -1.5]
    assert batch["column.rate"].tolist() == [0.5, 1.0]
    assert batch["column.rate"].dtype == torch.float32


REFUSED = {
    "no column": ({"gold": "x", "score": 1}, "offset", "found further columns 'gold', 'score' .missing column.; expec"),
    "no columns": ({}, "gold", "found further columns none .missing column.; expected non-empty text in every row"),
    "an empty cell": ({"gold": "x", "offset": None}, "offset", "found None"),
    "text": ({"gold": "x", "offset": "high"}, "offset", "found 'high' .no number.; expected a finite number in every"),
    "infinity": ({"gold": "x", "offset": float("inf")}, "offset", "found inf"),
    "a digit too many": ({"gold": "x", "offset": 10**400}, "offset", "found 1000"),
    "a truth value": ({"gold": "x", "offset": True}, "offset", "found True"),
    "a list": ({"gold": ["x"], "offset": 1}, "gold", "Add the column 'gold' to the data, or choose an objective"),
}


@pytest.mark.parametrize(("extra", "field", "message"), REFUSED.values(), ids=REFUSED)
def test_a_row_without_what_is_declared_is_refused(extra: dict, field: str, message: str, tokenizer: Any) -> None:
    encoder = PreferenceEncoder(tokenizer, 64, views=("chosen", "rejected", "gold"), columns=("offset",))
    with pytest.raises(RowError, match=message) as refused:
        encoder.encode(pair(extra=extra))
    assert refused.value.field == field


@pytest.mark.parametrize("value", [-0.01, 1.5, "80"])
def test_a_column_of_probabilities_holds_probabilities(value: Any, tokenizer: Any) -> None:
    encoder = PreferenceEncoder(tokenizer, 64, columns=("rate",), probabilities=("rate",))
    for good in (0, 0.25, "1"):
        assert encoder.encode(pair(extra={"rate": good})) is not None
    with pytest.raises(
        RowError, match="no probability.; expected a probability from 0 to 1 in every row.* not percent"
    ):
        encoder.encode(pair(extra={"rate": value}))


def test_rows_of_other_needs_are_other_rows(tokenizer: Any) -> None:
    needs: list[dict[str, Any]] = [{}, {"views": ("chosen", "rejected", "gold")}, {"columns": ("gold",)}]
    needs += [{"columns": ("offset",)}, {"columns": ("offset",), "probabilities": ("offset",)}]
    assert len({PreferenceEncoder(tokenizer, 64, **each).fingerprint for each in needs}) == len(needs)
