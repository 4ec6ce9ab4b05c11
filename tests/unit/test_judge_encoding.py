import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.data.records import PreferencePair
from prl.data.tokens import TooLongError
from prl.judge.encoding import ComparisonEncoder, fit
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


@given(lengths, lengths, lengths, st.integers(12, 70))
def test_fit_keeps_to_the_room(p, u, v, room) -> None:
    prompt, first, second = list(range(p)), list(range(100, 100 + u)), list(range(200, 200 + v))
    kept, kept_first, kept_second = fit(prompt, first, second, room)
    # No more than needed, give or take the one token that two responses of equal length can not share.
    assert min(room, p + u + v) - 1 <= len(kept) + len(kept_first) + len(kept_second) <= room
    assert kept == prompt[p - len(kept) :]  # the tail of the prompt, where the question stands
    assert kept_first == first[: len(kept_first)]
    assert kept_second == second[: len(kept_second)]


@given(lengths, lengths, lengths, st.integers(12, 70))
def test_fit_cuts_the_longer_response_first(p, u, v, room) -> None:
    _, first, second = fit([0] * p, [1] * u, [2] * v, room)
    if len(first) < u and len(second) < v:
        assert abs(len(first) - len(second)) <= 1
    elif len(first) < u:
        assert len(first) >= len(second)
    elif len(second) < v:
        assert len(second) >= len(first)


@given(lengths, lengths, lengths, st.integers(12, 70))
def test_fit_leaves_a_third_of_the_room_to_each_response(p, u, v, room) -> None:
    prompt, first, second = fit([0] * p, [1] * u, [2] * v, room)
    assert len(first) >= min(u, room // 3)
    assert len(second) >= min(v, room // 3)
    if len(prompt) < p:  # the prompt is cut only once the responses are down to their share
        assert max(len(first), len(second)) <= room // 3


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


@given(st.text("ab", max_size=80), st.text("cd", max_size=80), st.text("ef", max_size=80), st.integers(40, 120))
def test_truncation_never_touches_the_frame_or_the_tail_of_the_prompt(prompt, u, v, max_length) -> None:
    both = encoder(max_length).compare(turn(prompt), u, v)
    for ids, (first, second) in zip(both, ((u, v), (v, u)), strict=True):
        assert min(max_length, FRAME + len(prompt) + len(u) + len(v)) - 1 <= len(ids) <= max_length
        shown = text(ids)
        assert shown.startswith("P:")
        assert shown.endswith(" best?")
        body, shown_second = shown[2:-6].rsplit(" 2:", 1)
        shown_prompt, shown_first = body.split(" 1:")
        assert prompt.endswith(shown_prompt)
        assert first.startswith(shown_first)
        assert second.startswith(shown_second)
        assert len(shown_prompt) >= min(len(prompt), (max_length - FRAME) // 3)


def test_the_cut_does_not_depend_on_which_response_comes_first() -> None:
    for u, v in ((40, 40), (41, 40), (60, 30)):
        _, first, second = fit([0] * 10, [1] * u, [2] * v, 31)
        _, swapped_second, swapped_first = fit([0] * 10, [2] * v, [1] * u, 31)
        assert (first, second) == (swapped_first, swapped_second)


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
    assert (cutting.counts.seen, cutting.counts.cut, cutting.counts.cut_share) == (2, 1, 0.5)


@pytest.mark.parametrize("max_length", [40, 41])
def test_a_pair_that_differs_only_behind_the_cut_is_skipped(max_length) -> None:
    cutting = encoder(max_length)
    assert cutting.encode(PreferencePair(turn("ask"), "u" * 50 + "x", "u" * 50 + "y")) is None


def test_max_length_must_leave_room() -> None:
    with pytest.raises(ValueError, match=f"max_length is 20, but the judge's template alone takes {FRAME} tokens"):
        encoder(20)
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
