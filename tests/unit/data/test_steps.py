"""Steps of responses: where they begin, in tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from prl.data.steps import StepFinder

VOCABULARY = ["<end>", "a", "b", "\n", "\n\n", "a\n", "\nb", "a\nb\na", " "]


def finder(separator: str = "\n") -> StepFinder:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({each: n for n, each in enumerate(VOCABULARY)}, unk_token="a")),
        eos_token="<end>",
    )
    return StepFinder(tokenizer, separator)


def numbers(*pieces: str, separator: str = "\n") -> list[int]:
    return finder(separator).numbers([VOCABULARY.index(each) for each in pieces])


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a", "\n", "b", "<end>"], [0, 0, 1, 1]),
        (["a", "a\n", "b", "<end>"], [0, 0, 1, 1]),
        (["a", "\n\n", "b"], [0, 0, 1]),  # several in a row end one step
        (["a", "\n", "\n", "b"], [0, 0, 0, 1]),
        (["a", "\nb", "\n", "a"], [0, 0, 1, 2]),  # a token that has the separator and text is in the step that ends
        (["a\nb\na", "\n", "b"], [0, 1, 2]),  # a step that begins inside of a token has no token of its own
        (["\n", "a", "\n", "b"], [0, 0, 0, 1]),  # nothing stands before the first
        (["a", "\n", "b", "\n", "<end>"], [0, 0, 1, 1, 1]),  # nor behind the last
        (["a", "\n", " ", "<end>"], [0, 0, 0, 0]),
        (["a", "b", "<end>"], [0, 0, 0]),
        (["<end>"], [0]),
    ],
)
def test_a_step_ends_with_its_separator(pieces: list[str], expected: list[int]) -> None:
    assert numbers(*pieces) == expected


def test_a_separator_may_have_several_tokens() -> None:
    assert numbers("a", "\n", "b", "\n", "\n", "a", separator="\n\n") == [0, 0, 0, 0, 0, 1]


def test_an_empty_separator_is_refused() -> None:
    with pytest.raises(ValueError, match="step_separator is empty; expected the text that ends a step"):
        finder("")


@given(st.lists(st.sampled_from(range(len(VOCABULARY))), min_size=1, max_size=20))
def test_steps_are_numbered_from_0_without_a_gap(ids: list[int]) -> None:
    found = finder().numbers(ids)
    assert len(found) == len(ids)
    assert found[0] == 0
    assert all(0 <= later - earlier <= 1 for earlier, later in zip(found, found[1:], strict=False))
