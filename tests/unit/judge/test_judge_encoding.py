import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.data.rows.records import PreferencePair
from prl.data.tokens import TooLongError
from prl.judge.encoding import ComparisonEncoder, cut_evenly
from prl.judge.template import JudgeTemplate
from tests.helpers.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEMPLATE = JudgeTemplate("P:{{ prompt }} 1:{{ response_a }} 2:{{ response_b }} best?", chat=False)
FRAME = len("P: 1: 2: best?")

lengths = st.integers(0, 60)


def encoder(max_length: int = 200, on_too_long="truncate", template=TEMPLATE) -> ComparisonEncoder:
    return ComparisonEncoder(TOKENIZER, template, max_length, on_too_long)


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def text(ids) -> str:
    return TOKENIZER.decode(ids)


@given(lengths, lengths, st.integers(2, 120))
def test_responses_are_cut_at_their_ends_the_longer_one_first(u, v, room) -> None:
    first, second = list(range(u)), list(range(100, 100 + v))
    kept_first, kept_second = cut_evenly(first, second, room)
    assert (kept_first, kept_second) == (first[: len(kept_first)], second[: len(kept_second)])
    # No more than needed, give or take the one token that two responses can not share.
    assert min(room, u + v) - 1 <= len(kept_first) + len(kept_second) <= room
    if len(kept_first) < u and len(kept_second) < v:
        assert len(kept_first) == len(kept_second)
    elif len(kept_first) < u:
        assert len(kept_first) >= len(kept_second)
    elif len(kept_second) < v:
        assert len(kept_second) >= len(kept_first)


@given(lengths, lengths, st.integers(2, 120))
def test_the_cut_does_not_depend_on_which_response_comes_first(u, v, room) -> None:
    first, second = [1] * u, [2] * v
    assert cut_evenly(first, second, room) == cut_evenly(second, first, room)[::-1]


def test_both_orders_hold_the_same_contents_in_other_places() -> None:
    first, second = encoder().compare(turn("ask"), "one", "two!")
    assert text(first) == "P:ask 1:one 2:two! best?"
    assert text(second) == "P:ask 1:two! 2:one best?"


def test_contents_follow_the_order_of_the_template() -> None:
    template = JudgeTemplate("{{ response_b }}|{{ prompt }}|{{ response_a }}|", chat=False)
    first, second = encoder(template=template).compare(turn("ask"), "one", "two!")
    assert text(first) == "two!|ask|one|"
    assert text(second) == "one|ask|two!|"


@pytest.mark.parametrize("special", ["<eos>", "<pad>", "x<eos>B<eos>", "<unk>"])
def test_special_tokens_written_in_contents_are_plain_characters(special) -> None:
    for pieces in (("ask", special, "two"), ("ask", "one", special), (special, "one", "two")):
        for ids in encoder().compare(turn(pieces[0]), *pieces[1:]):
            assert not set(ids) & {TOKENIZER.eos_token_id, TOKENIZER.pad_token_id, TOKENIZER.unk_token_id}
            assert len(ids) == FRAME + sum(map(len, pieces))


def test_too_long_is_an_error_when_asked() -> None:
    strict = encoder(40, "error")
    assert strict.compare(turn("ask"), "one", "two") is not None
    with pytest.raises(TooLongError, match="a comparison takes 57 tokens, max_length is 40 .*'ask'"):
        strict.compare(turn("ask"), "u" * 20, "v" * 20)


def test_too_long_rows_are_skipped() -> None:
    lenient = encoder(40, "skip")
    assert lenient.compare(turn("ask"), "u" * 20, "v" * 20) is None
    assert lenient.encode(PreferencePair(turn("ask"), "u" * 20, "v" * 20)) is None
    assert lenient.compare(turn("ask"), "one", "two") is not None
    assert (lenient.counts.seen, lenient.counts.cut) == (3, 0)


def test_cut_rows_are_counted() -> None:
    cutting = encoder(40)
    cutting.compare(turn("ask"), "u" * 20, "v" * 20)
    cutting.compare(turn("ask"), "one", "two")
    assert (cutting.counts.seen, cutting.counts.cut, cutting.counts.truncated_fraction) == (2, 1, 0.5)


@pytest.mark.parametrize("max_length", [40, 41])
def test_a_pair_that_differs_only_behind_the_cut_is_skipped(max_length) -> None:
    cutting = encoder(max_length)
    assert cutting.encode(PreferencePair(turn("ask"), "u" * 50 + "x", "u" * 50 + "y")) is None


def test_max_length_must_leave_room() -> None:
    with pytest.raises(ValueError, match=f"takes {FRAME} tokens and .* at least 12, so raise it to {FRAME + 12} "):
        encoder(FRAME + 11)
    encoder(FRAME + 12)


def test_batch_holds_chosen_first_then_the_same_pairs_swapped() -> None:
    pairs = [PreferencePair(turn("ask"), "one", "two!", 0.75), PreferencePair(turn("why"), "a", "b", weight=0.5)]
    rows = [encoder().encode(pair) for pair in pairs]
    batch = encoder().collate(rows)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert mask.dtype == torch.bool
    assert mask[:, -1].all()  # left padded: the verdict is read at the last position
    assert [text(row[row_mask].tolist()) for row, row_mask in zip(ids, mask, strict=True)] == [
        "P:ask 1:one 2:two! best?",
        "P:why 1:a 2:b best?",
        "P:ask 1:two! 2:one best?",
        "P:why 1:b 2:a best?",
    ]
    assert (ids[~mask] == TOKENIZER.pad_token_id).all()
    assert batch["targets"].tolist() == [0.75, 1.0]
    assert batch["weights"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("P:{{ prompt }} 1:{{ response_a }} 2:{{ response_b }} best?", "one 2:two! best?"),
        ("1:{{ response_a }} 2:{{ response_b }} P:{{ prompt }} best?", "one 2:two! P:ask best?"),
    ],
)
def test_text_mask_begins_with_the_first_response(order, expected) -> None:
    encoder = ComparisonEncoder(TOKENIZER, JudgeTemplate(text=order, chat=False), 64)
    short = encoder.encode(PreferencePair(turn("a longer question"), "u", "v"))
    batch = encoder.collate([encoder.encode(PreferencePair(turn("ask"), "one", "two!")), short])
    masked = batch["input_ids"][0][batch["text_mask"][0]]
    assert text(masked.tolist()) == expected
    assert not (batch["text_mask"] & ~batch["attention_mask"]).any()
