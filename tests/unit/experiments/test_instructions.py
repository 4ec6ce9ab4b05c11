"""Instructions whose fulfilment code computes: grades, prompts, splits, and the pairs made of responses."""

import re
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import real_model_inputs as inputs
from experiments.instructions import (
    CATEGORIES,
    CONDITIONS,
    GRADES,
    REPEATED,
    TOPICS,
    UNSEEN,
    Check,
    Instruction,
    instructions,
    probability,
    quality,
)

FILLER = "green leaf above two warm yellow stones beside our slow river"
"""Words that no check asks for or forbids, more than any check counts."""

EXAMPLES = [
    (Check("words", 4), "Cats sleep all day.", 1.0),
    (Check("words", 4), "Cats don't sleep.", 0.75),
    (Check("words", 4), "a well-known cat sleeps here - now", 0.5625),
    (Check("lower"), "cats sleep all day.", 1.0),
    (Check("lower"), "Cats sleep in Rome.", 0.25),
    (Check("lower"), "1, 2", 0.0),
    (Check("begin", "today"), '"Today" we rest.', 1.0),
    (Check("begin", "today"), "And so today we rest.", 0.49),
    (Check("begin", "today"), "Yesterday we rested.", 0.0),
    (Check("contain", "old"), "An OLD cat.", 1.0),
    (Check("contain", "old"), "A golden cat.", 0.0),
    (Check("avoid", "the"), "Their cat.", 1.0),
    (Check("avoid", "the"), "The cat and the dog.", 0.25),
    (Check("end", "!"), "A cat!\n", 1.0),
    (Check("end", "!"), "Oh! A cat.", 0.3),
    (Check("end", "?"), "A cat.", 0.0),
    (Check("items", 3), "red, dark blue, green.", 1.0),
    (Check("items", 3), "red, blue", 0.75),
    (Check("items", 3), "1. red\n2. blue\n3. green", 0.5),
    (Check("items", 3), "Here are three nice ones: red, blue, green", 2 / 3),
    (Check("times", "3 yes"), "Yes, yes, yes!", 1.0),
    (Check("times", "3 yes"), "yes yes", 0.75),
    (Check("times", "3 yes"), "Sure: yes yes yes", 0.75),
]


def right_answer(instruction: Instruction) -> str:
    """Write a response that does what the prompt's text asks, from the meaning of each check."""
    asked = {check.kind: check.value for check in instruction.checks}
    if "times" in asked:
        count, word = str(asked["times"]).split()
        text = ", ".join([word] * int(count))
    elif "items" in asked:
        text = ", ".join(FILLER.split()[: int(str(asked["items"]))])
    else:
        words = FILLER.split()
        words[1:1] = [str(asked["contain"])] if "contain" in asked else []
        words[0:0] = [str(asked["begin"])] if "begin" in asked else []
        text = " ".join(words[: int(str(asked.get("words", len(words))))])
    return text + str(asked.get("end", "."))


def broken(response: str, check: Check) -> str:
    """Break one check of a right response."""
    mark = response[-1]
    return {
        "words": f"{response[:-1]} more{mark}",
        "lower": response.capitalize(),
        "begin": f"now {response}",
        "contain": response.replace(str(check.value), "thing"),
        "avoid": f"{response[:-1]} {check.value}{mark}",
        "end": response[:-1],
        "items": f"{response[:-1]}, more{mark}",
        "times": f"{response[:-1]} more{mark}",
    }[check.kind]


@pytest.mark.parametrize(("check", "response", "expected"), EXAMPLES)
def test_grades_of_examples_by_hand(check, response, expected) -> None:
    assert GRADES[check.kind](response, check.value) == pytest.approx(expected)
    assert quality([check], response) == pytest.approx(expected)


def test_quality_is_the_mean_of_checks_and_nothing_without_a_word() -> None:
    checks = [Check("lower"), Check("end", "!")]
    assert quality(checks, "Cats!") == pytest.approx(0.75)
    assert quality([Check("avoid", "the")], " ... ") == 0


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), split=st.sampled_from(["train", "validation", "unseen"]))
def test_what_is_asked_for_has_quality_one_and_less_where_one_check_is_broken(seed, split) -> None:
    (drawn,) = instructions(str(seed), split, 1)
    answer = right_answer(drawn)
    assert quality(drawn.checks, answer) == 1, (drawn, answer)
    for check in drawn.checks:
        assert quality(drawn.checks, broken(answer, check)) < 1, (drawn, check)


@settings(max_examples=50, deadline=None)
@given(st.text(), st.integers(0, 200))
def test_quality_of_any_text_is_a_share(response, seed) -> None:
    (drawn,) = instructions(str(seed), "train", 1)
    assert 0 <= quality(drawn.checks, response) <= 1


def test_prompts_state_their_checks() -> None:
    for drawn in instructions("0", "train", 300):
        for check in drawn.checks:
            stated = {"!": "an exclamation mark", "?": "a question mark"}.get(check.value, str(check.value or "c"))
            assert all(part in drawn.text for part in stated.split()), drawn


def test_splits_share_no_topic_and_unseen_combinations_are_asked_for_in_one_alone() -> None:
    train, validation, unseen = (instructions("0", split, 400) for split in ("train", "validation", "unseen"))
    assert not {each.text for each in train} & {each.text for each in [*validation, *unseen]}
    for words in (TOPICS, CATEGORIES, REPEATED):
        assert not {*words[False]} & {*words[True]}
        asked = {word for each in train for word in re.findall(r"\w+", each.text.partition(".")[0])}
        assert not asked & {part for word in words[True] for part in word.split()} - {"the", "animals", "school"}
    assert {each.kinds for each in unseen} == {*UNSEEN}
    assert not {*UNSEEN} & {each.kinds for each in [*train, *validation]}
    seen = {kind for each in train for kind in each.kinds}
    assert seen == {*GRADES}
    assert {kind for kinds in UNSEEN for kind in kinds} <= seen


def test_draws_are_equal_by_seed_varied_and_without_repetition() -> None:
    drawn = instructions("0", "train", 400)
    assert drawn == instructions("0", "train", 400)
    assert drawn[:50] == instructions("0", "train", 50)
    assert len({each.text for each in drawn}) == 400
    assert len({each.text for each in drawn} & {each.text for each in instructions("1", "train", 400)}) < 40
    counts = Counter(kind for each in drawn for kind in each.kinds)
    assert min(counts[kind] for kind in (*CONDITIONS, "items", "times")) >= 20


ROWS = [
    {"prompt": "a", "responses": ["w", "x", "", "y"], "qualities": [0.2, 0.9, 0.0, 0.9]},
    {"prompt": "b", "responses": ["", "z", "v", "u"], "qualities": [0.0, 0.5, 0.5, 1.0]},
]


def test_pairs_compare_different_qualities_of_texts_that_are_not_blank() -> None:
    found = inputs.true_pairs(ROWS)
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in found] == [
        *(("a", "x", "w"), ("a", "y", "w"), ("b", "u", "z"), ("b", "u", "v"))
    ]
    assert found[0]["preference"] == pytest.approx(0.05 + 0.9 * 0.996316, abs=1e-6)  # sigmoid(8 * 0.7)
    drawn = inputs.labelled_pairs(ROWS, "0", 3)
    assert len(drawn) == 3
    assert len(inputs.labelled_pairs(ROWS, "0", 99)) == 4
    everywhere = {(row["prompt"], frozenset((row["chosen"], row["rejected"]))) for row in found}
    assert {(row["prompt"], frozenset((row["chosen"], row["rejected"]))) for row in drawn} <= everywhere
    assert [row["anchor"] for row in inputs.anchored_prompts(ROWS)] == ["w", "z"]


def test_labels_are_wrong_as_often_as_the_law_says() -> None:
    for gap in (0.0, 0.1, 0.7):
        assert probability(gap, 0) + probability(0, gap) == pytest.approx(1)
    rows = [{"prompt": str(n), "responses": ["u", "v"], "qualities": [0.6, 0.4]} for n in range(4000)]
    right = sum(row["chosen"] == "u" for row in inputs.labelled_pairs(rows, "0", 4000)) / 4000
    expected = 0.05 + 0.9 * 0.832018  # sigmoid(1.6)
    assert right == pytest.approx(expected, abs=4 * 0.5 / 4000**0.5)


def test_every_combination_of_two_conditions_is_asked_for_somewhere() -> None:
    train, unseen = (instructions("0", split, 800) for split in ("train", "unseen"))
    asked = {each.kinds for each in [*train, *unseen]}
    assert {frozenset(pair) for pair in combinations(CONDITIONS, 2)} <= asked
