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


REVISED: dict[str, Any] = {
    "revisions": {"better": ("chosen", "rejected"), "same": ("rejected", "rejected"), "worse": ("rejected", "chosen")},
    "revision_prompt": "{prompt} {response} x",
}


def test_a_revision_stands_behind_a_prompt_that_quotes_a_response(tokenizer: Any) -> None:
    """Its ids are those of such a prompt; the earlier turns stay, and what is put in is not looked at again."""
    encoder = PreferenceEncoder(tokenizer, 99, **REVISED)
    whole = pair(rejected="b{prompt}b", prompt=(*TURNS[:2], {"role": "user", "content": "copy {response}"}))
    row = encoder.encode(whole)
    assert row is not None
    batch = encoder.collate([row, row])
    assert batch["pairs"].tolist() == [0, 1] * 5
    demonstrations = DemonstrationEncoder(tokenizer, 99)
    asked = {"chosen": "copy {response} a x", "rejected": "copy {response} b{prompt}b x"}
    for number, (response, quoted) in enumerate(REVISED["revisions"].values(), 2):
        turns = (*TURNS[:2], {"role": "user", "content": asked[quoted]})
        shown = demonstrations.encode(Demonstration(turns, getattr(whole, response)))
        assert shown is not None
        ids, attention, loss = (batch[key][2 * number] for key in ("input_ids", "attention_mask", "loss_mask"))
        assert ids[attention].tolist() == shown["ids"]
        assert int(loss.sum()) == shown["num_response"]
        assert len(shown["ids"]) <= row["length"] == batch["input_ids"].shape[1]
    assert encoder.id_columns == [
        "prompt",
        "prompt.rejected",
        "prompt.chosen",
        "chosen",
        "rejected",
        *REVISED["revisions"],
    ]


def test_a_prompt_that_quotes_is_cut_for_all_responses_behind_it_and_no_others(tokenizer: Any) -> None:
    whole = PreferenceEncoder(tokenizer, 99, **REVISED).encode(pair())
    assert whole is not None
    longest = len(whole["prompt.rejected"]) + len(whole["rejected"])
    assert longest == whole["length"]
    row = PreferenceEncoder(tokenizer, longest - 1, "truncate", **REVISED).encode(pair())
    assert row is not None
    assert len(row["prompt.rejected"]) < len(whole["prompt.rejected"])
    for name in ("prompt", "chosen", "rejected", "better", "same", "worse"):
        assert row[name] == whole[name]
    assert PreferenceEncoder(tokenizer, longest - 1, "skip", **REVISED).encode(pair()) is None
    with pytest.raises(TooLongError):
        PreferenceEncoder(tokenizer, longest - 1, **REVISED).encode(pair())


LISTS = {"answers": ("worth", "age"), "drafts": ()}
LISTED = [
    {"answers": [" a ", "dcab", "x"], "worth": [1, "-0.5", 2.5], "age": [3, 2, 1], "drafts": ["bb"]},
    {"answers": ["c"], "worth": [4], "age": [0], "drafts": ["b", "dd"]},
]


def test_lists_come_with_the_rows_as_long_as_they_are(tokenizer: Any) -> None:
    encoder = PreferenceEncoder(tokenizer, 64, lists=LISTS)
    assert encoder.declared == ["answers", "worth", "age", "drafts"]
    rows = [encoder.encode(pair(extra=extra)) for extra in LISTED]
    batch = encoder.collate([row for row in rows if row is not None])
    assert batch["pairs"].tolist() == [0, 1, 0, 1, *[0, 0, 0, 1], *[0, 1, 1]]
    assert (batch["count.answers"].tolist(), batch["count.drafts"].tolist()) == ([3, 1], [1, 2])
    texts = [tokenizer.decode(ids[loss][:-1]) for ids, loss in zip(batch["input_ids"], batch["loss_mask"], strict=True)]
    assert texts == ["a", "a", "bb", "bb", *["a", "dcab", "x", "c"], *["bb", "b", "dd"]]
    for ids, mask, loss in zip(batch["input_ids"], batch["attention_mask"], batch["loss_mask"], strict=True):
        assert rows[0] is not None
        assert ids[mask & ~loss].tolist() == rows[0]["prompt"]
    assert batch["column.worth"].tolist() == [[1.0, -0.5, 2.5], [4.0, 0.0, 0.0]]
    assert batch["column.age"].tolist() == [[3.0, 2.0, 1.0], [0.0, 0.0, 0.0]]


def test_a_response_of_a_list_cuts_the_prompt_of_all_or_leaves_the_row_out(tokenizer: Any) -> None:
    whole = PreferenceEncoder(tokenizer, 99, lists={"drafts": ()}).encode(pair(extra={"drafts": ["a", "b" * 12]}))
    assert whole is not None
    assert whole["length"] == len(whole["prompt"]) + 13
    cut = PreferenceEncoder(tokenizer, whole["length"] - 1, "truncate", lists={"drafts": ()})
    row = cut.encode(pair(extra={"drafts": ["a", "b" * 12]}))
    assert row is not None
    assert len(row["prompt"]) < len(whole["prompt"])
    assert (row["drafts"], row["chosen"]) == (whole["drafts"], whole["chosen"])
    skipping = PreferenceEncoder(tokenizer, whole["length"] - 1, "skip", lists={"drafts": ()})
    assert skipping.encode(pair(extra={"drafts": ["a", "b" * 12]})) is None


REFUSED_LISTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no list": (
        {"answers": None},
        "answers",
        "found None .missing column.; expected a list of at least one text in ev",
    ),
    "no column": (
        {"x": 1},
        "answers",
        "found further columns 'x' .missing column.; .* Add the column 'answers' to the",
    ),
    "text of a table": (
        {"answers": "['a']"},
        "answers",
        "not a list.; expected a list of .* Write the file as .jsonl or",
    ),
    "an empty list": ({"answers": []}, "answers", r"found \[\] .empty list.; expected a list of .* Fill the list or"),
    "a number": (
        {"answers": ["a", 3]},
        "answers[1]",
        "found 3 .no text.; expected non-empty text, which the objective",
    ),
    "an empty text": ({"answers": ["a", " "]}, "answers[1]", "no text.; .* Take the entry out of all lists of the row"),
    "one number too few": (
        {"worth": [1]},
        "worth",
        "found 1 numbers .wrong length.; expected 2, as many as 'answers' h",
    ),
    "a number for all": ({"worth": 1}, "worth", "found 1 .not a list.; expected a list with a number for each text of"),
    "no number": ({"worth": [1, None]}, "worth[1]", "found None .no number.; expected a finite number, which the obj"),
    "text as number": ({"worth": ["high", 1]}, "worth[0]", "found 'high' .no number."),
}


@pytest.mark.parametrize(("extra", "field", "message"), REFUSED_LISTS.values(), ids=REFUSED_LISTS)
def test_a_row_whose_lists_do_not_fit_is_refused(extra: dict, field: str, message: str, tokenizer: Any) -> None:
    encoder = PreferenceEncoder(tokenizer, 64, lists={"answers": ("worth",)})
    good = {} if "x" in extra else {"answers": ["a", "b"], "worth": [1, 2]}
    with pytest.raises(RowError, match=message) as refused:
        encoder.encode(pair(extra={**good, **extra}))
    assert refused.value.field == field


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
    needs += [
        REVISED,
        {**REVISED, "revision_prompt": "{response}"},
        {"lists": {"gold": ()}},
        {"lists": {"gold": ("offset",)}},
    ]
    needs += [{"columns": ("offset",)}, {"columns": ("offset",), "probabilities": ("offset",)}]
    assert len({PreferenceEncoder(tokenizer, 64, **each).fingerprint for each in needs}) == len(needs)
