"""What is left of a record that is too long: properties over all lengths and turns, and a few worked cases."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.data import AnchoredPrompt, Demonstration, PreferencePair
from prl.data.encoding import DemonstrationEncoder, PromptEncoder, ScalarPairEncoder, encode_prompt
from prl.data.tokens import TooLongError, Truncation
from prl.judge import ComparisonEncoder, JudgeTemplate
from prl.judge.template import render_conversation
from tests.helpers.tiny import tiny_tokenizer
from tests.helpers.tokenizers import STRICT_TEMPLATE, byte_pair_tokenizer

TOKENIZER = tiny_tokenizer()
TOKENIZER.chat_template = STRICT_TEMPLATE
BYTE_PAIR = byte_pair_tokenizer()
TEMPLATE = JudgeTemplate("P[{{ prompt }}][{{ response_a }}][{{ response_b }}]?>", chat=False)
FRAME = len("P[][][]?>")

lengths = st.integers(1, 60)
responses = st.builds(lambda length, end: ("abcdef" * 10)[:length] + end, lengths, st.sampled_from("xy"))
"""Texts that begin alike, so that a cut may well make two of them the same."""


def turns(*contents: str, system: str = "") -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    head = [{"role": "system", "content": system}] if system else []
    return head + [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]


@st.composite
def conversations(draw):
    """Draw a system message or none, then users and assistants in turn, a user last; each turn has its own letter."""
    sizes = draw(st.lists(lengths, min_size=1, max_size=9).map(lambda drawn: drawn[: len(drawn) - 1 | 1]))
    texts = [letter * size for letter, size in zip("ghijklmno", sizes, strict=False)]
    return turns(*texts, system=draw(st.sampled_from(["", "s", "s" * 20])))


def remainders(messages):
    """All that a prompt may be while it begins with a whole turn: the longest first, the system message going last."""
    head = messages[0]["role"] == "system"
    starts = [i for i, message in enumerate(messages) if message["role"] == "user"]
    return [messages, *(messages[:head] + messages[start:] for start in starts[1:]), messages[starts[-1] :]]


def truncations(encoder) -> Truncation:
    found = Truncation(0)
    for each in encoder.counts.by_truncation:
        found |= each
    return found


def check_prompt(shown: str, prompt, render, lost: Truncation, room: int, last_room: int) -> None:
    """Check the rule for one prompt: the most whole turns that fit into `room`; then, for `last_room`, no system
    message; then the end of the last turn, counted."""
    whole = [render(each) for each in remainders(prompt)]
    if lost & Truncation.PROMPT:
        assert len(shown) == last_room < len(whole[-1])
        assert whole[-1].endswith(shown)
        return
    assert shown in whole
    place = whole.index(shown)
    assert bool(lost & Truncation.TURNS) == (place > 0)
    assert place == 0 or len(whole[place - 1]) > (last_room if place == len(whole) - 1 else room)


@given(conversations(), responses, responses, st.integers(FRAME + 12, 160))
def test_a_comparison_keeps_its_frame_and_whole_turns(prompt, u, v, max_length) -> None:
    encoder = ComparisonEncoder(TOKENIZER, TEMPLATE, max_length, "truncate")
    row = None if u == v else encoder.encode(PreferencePair(prompt, u, v))
    lost = truncations(encoder)
    if row is None:
        assert u == v or (lost & Truncation.IDENTICAL and lost & Truncation.RESPONSES and u[0] == v[0])
        return
    room = max_length - FRAME
    both = [TOKENIZER.decode(row[name]) for name in ("chosen_first", "rejected_first")]
    assert both[0] != both[1]
    assert max(map(len, both)) <= max_length
    for text, (first, second) in zip(both, ((u, v), (v, u)), strict=True):
        assert text.startswith("P[")
        assert text.endswith("]?>")  # the verdict slot
        shown, shown_first, shown_second = text[2:-3].split("][")
        assert first.startswith(shown_first)
        assert second.startswith(shown_second)
        cut = (shown_first, shown_second) != (first, second)
        assert cut == bool(lost & Truncation.RESPONSES)
        assert not cut or len(text) >= max_length - 1  # no more than needed
        floors = min(len(u), room // 3) + min(len(v), room // 3)
        check_prompt(shown, prompt, render_conversation, lost, room - len(u) - len(v), room - floors)
        if cut and not lost & Truncation.PROMPT:  # turns give way before responses do
            assert shown in map(render_conversation, remainders(prompt)[-2:])
    assert encoder.counts.cut == bool(lost & Truncation.CUT)


def rendered(messages) -> str:
    text = str(TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return text.replace("<eos>", "$")  # one character, as it is one token


def read(ids) -> str:
    return TOKENIZER.decode(ids).replace("<eos>", "$")


@given(conversations(), responses, st.integers(6, 120))
def test_a_demonstration_keeps_its_end_and_whole_turns(prompt, response, max_length) -> None:
    encoder = DemonstrationEncoder(TOKENIZER, max_length, "truncate")
    row = encoder.encode(Demonstration(prompt, response))
    lost = truncations(encoder)
    ids, num_response = row["ids"], row["num_response"]
    assert row["length"] == len(ids) <= max_length
    shown, learnt = read(ids[:-num_response]), TOKENIZER.decode(ids[-num_response:])
    if lost & Truncation.RESPONSES:  # nobody learns to stop where the text was cut
        assert 0 < len(learnt) < len(response)
        assert response.startswith(learnt)
    else:
        assert learnt == response + TOKENIZER.eos_token
    room = max_length - 1
    check_prompt(shown, prompt, rendered, lost, room - len(response), room - min(len(response), room // 2))


@given(conversations(), st.integers(3, 120))
def test_a_policy_prompt_keeps_its_template_and_whole_turns(prompt, max_length) -> None:
    encoder = PromptEncoder(TOKENIZER, max_length, "truncate")
    row = encoder.encode(AnchoredPrompt(prompt, ("a",)))
    shown = read(row["ids"])
    assert row["length"] == len(row["ids"]) <= max_length
    assert shown.endswith("\n")  # the generation prompt of this template
    check_prompt(shown, prompt, rendered, truncations(encoder), max_length, max_length)
    assert json.loads(row["about"])[0] == list(
        prompt
    )  # the judge reads the whole one, with its own tokenizer and length


@given(conversations(), responses, responses, st.integers(8, 60), st.sampled_from(["skip", "truncate"]))
def test_tokens_of_several_characters_keep_to_the_length_too(prompt, u, v, max_length, on_too_long) -> None:
    """A text is tokenised anew once it is shorter, which may well take more tokens than the cut was for."""
    pair = PreferencePair(prompt, "the theme " + u, "these letters " + v)
    template = JudgeTemplate("{{ prompt }} or {{ response_a }} than {{ response_b }} is ", ("A", "B"), chat=False)
    judge = ComparisonEncoder(BYTE_PAIR, template, max_length + 20, on_too_long)
    row = judge.encode(pair)
    if row is not None:
        assert max(len(row["chosen_first"]), len(row["rejected_first"])) <= max_length + 20
        assert row["chosen_first"][-len(judge.compiled.pieces[-1]) :] == list(judge.compiled.pieces[-1])
        assert row["chosen_first"] != row["rejected_first"]
    scalar = ScalarPairEncoder(BYTE_PAIR, max_length, on_too_long)
    row = scalar.encode(pair)
    if row is not None:
        assert row["chosen"] != row["rejected"]
        for ids in (row["chosen"], row["rejected"]):
            assert len(ids) <= max_length
            assert ids[-1] == BYTE_PAIR.eos_token_id
        if on_too_long == "skip":
            assert row["chosen"][: len(encode_prompt(BYTE_PAIR, prompt))] == encode_prompt(BYTE_PAIR, prompt)


def test_oldest_turns_go_first_and_a_turn_is_never_begun_in_its_middle() -> None:
    encoder = PromptEncoder(TOKENIZER, 12, "truncate")
    row = encoder.encode(AnchoredPrompt(turns("aaaaa", "bbbbb", "cccc", "dd", "eee")))
    assert read(row["ids"]) == "cccc\ndd$eee\n"
    assert encoder.counts.by_truncation == {Truncation.TURNS: 1}


def test_the_system_message_goes_after_all_other_turns() -> None:
    prompt = turns("aaaaa", "bbbbb", "ccc", system="ss")
    shown = {}
    for max_length in (7, 4, 3):
        encoder = PromptEncoder(TOKENIZER, max_length, "truncate")
        shown[max_length] = TOKENIZER.decode(encoder.encode(AnchoredPrompt(prompt))["ids"])
    assert shown == {7: "ss\nccc\n", 4: "ccc\n", 3: "cc\n"}


def test_a_dialogue_of_many_turns_is_tokenised_a_few_times(monkeypatch) -> None:
    prompt = turns(*["ab"] * 1001)
    measured = []
    monkeypatch.setattr(
        PromptEncoder, "_encode_prompt", lambda self, each: measured.append(len(each)) or encode_prompt(TOKENIZER, each)
    )
    PromptEncoder(TOKENIZER, 900, "truncate").encode(AnchoredPrompt(prompt))
    assert len(measured) <= 12
    assert sum(measured) <= 5 * len(prompt)


def test_a_template_that_fills_the_length_is_an_error() -> None:
    with pytest.raises(
        TooLongError, match=r"a prompt has 1 tokens left, and its template takes more; raise max_length"
    ):
        PromptEncoder(TOKENIZER, 1, "truncate").encode(AnchoredPrompt(turns("abc")))


@pytest.mark.parametrize("on_too_long", ["skip", "error"])
def test_nothing_is_cut_unless_asked(on_too_long) -> None:
    long = turns("a" * 30, "b", "c")
    pair, demonstration = PreferencePair(long, "u" * 30, "v" * 30), Demonstration(long, "u" * 30)
    for encoder, record in (
        (ComparisonEncoder(TOKENIZER, TEMPLATE, 60, on_too_long), pair),
        (ScalarPairEncoder(TOKENIZER, 40, on_too_long), pair),
        (DemonstrationEncoder(TOKENIZER, 40, on_too_long), demonstration),
        (PromptEncoder(TOKENIZER, 20, on_too_long), AnchoredPrompt(long)),
    ):
        if on_too_long == "error":
            with pytest.raises(TooLongError):
                encoder.encode(record)
        else:
            assert encoder.encode(record) is None
            assert set(encoder.counts.by_truncation) == {Truncation.TOO_LONG}


def test_a_pair_that_is_one_text_once_it_is_cut_is_left_out_and_counted() -> None:
    encoder = ScalarPairEncoder(TOKENIZER, 30, "truncate")
    turn = [{"role": "user", "content": "q"}]
    assert encoder.encode(PreferencePair(turn, "a" * 99, "a" * 98 + "b")) is None
    assert encoder.counts.by_truncation[Truncation.IDENTICAL] == 1
    assert encoder.encode(PreferencePair(turn, "a" * 9, "a" * 8 + "b")) is not None
    assert encoder.counts.by_truncation[Truncation.IDENTICAL] == 1


def test_of_a_batch_of_pairs_the_chosen_rows_come_first() -> None:
    encoder = ScalarPairEncoder(TOKENIZER, 30)
    turn = [{"role": "user", "content": "q"}]
    batch = encoder.collate([encoder.encode(PreferencePair(turn, *pair)) for pair in (("abc", "d"), ("e", "fg"))])
    shown = [TOKENIZER.decode(ids) for ids in batch["input_ids"]]
    assert [next(word for word in ("abc", "d", "e", "fg") if f"{word}<eos>" in text) for text in shown] == [
        *("abc", "e", "d", "fg")
    ]


def test_what_changes_rows_changes_the_fingerprint_of_their_encoder() -> None:
    other = tiny_tokenizer()
    other.chat_template = STRICT_TEMPLATE + " "
    encoders = [ScalarPairEncoder(TOKENIZER, length, "truncate") for length in (30, 31)]
    encoders += [ScalarPairEncoder(TOKENIZER, 30, "skip"), ScalarPairEncoder(other, 30, "truncate")]
    encoders += [PromptEncoder(TOKENIZER, 30, needs_anchors=needed) for needed in (True, False)]
    assert len({encoder.fingerprint for encoder in encoders}) == len(encoders)
