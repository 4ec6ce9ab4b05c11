"""Advantages of thoughts by hand: runs of steps, their place in a group, and what reduces them to GRPO."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.advantages import GroupNormalized, ThoughtLevel
from prl.advantages.base import AdvantageEstimator, TokenRewards
from prl.advantages.thought_level import thoughts
from prl.types import Scores
from tests.helpers.groups import in_groups
from tests.helpers.records import ragged_mask

NAN = float("nan")


def estimated(
    estimator: AdvantageEstimator, rewards: list[float], marks: list[list[float]] | None, per_prompt: int, mask: Tensor
) -> Tensor:
    """Advantages of responses without KL: [B, T]."""
    zeros, given_rewards = torch.zeros(mask.shape), torch.tensor(rewards)
    signal = TokenRewards(given_rewards, None, zeros, zeros, mask, 0.0, "k1")
    scores = Scores(given_rewards)
    if marks is not None:
        width = mask.shape[1]
        scores = replace(scores, step_marks=torch.tensor([[*row, *[NAN] * (width - len(row))] for row in marks]))
    return estimator(signal, scores, in_groups(mask, per_prompt), None).advantages


def test_steps_of_one_mark_are_one_thought() -> None:
    found = thoughts(torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 1.0]]), torch.ones(1, 6, dtype=torch.bool))
    assert found.number.tolist() == [0, 0, 1, 1, 1, 2]
    assert found.mark.tolist() == [1, 0, 1]
    assert found.row.tolist() == [0, 0, 0]


def test_thoughts_end_with_their_response_and_tokens_that_do_not_count_end_none() -> None:
    marks = torch.tensor([[1.0, 1.0, NAN, 1.0], [1.0, NAN, NAN, NAN]])
    mask = torch.tensor([[True, True, False, True], [True, True, False, False]])
    found = thoughts(marks, mask)
    assert found.number.tolist() == [0, 0, 0, 1, 2]
    assert found.row.tolist() == [0, 1, 1]
    assert found.mark[:2].tolist() == [1, 1]
    assert found.mark[2].isnan()


@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), max_size=7), min_size=1, max_size=5),
)
def test_each_token_that_counts_is_in_one_thought_whose_neighbours_differ(rows: list[list[float]]) -> None:
    mask = ragged_mask([len(row) for row in rows], 8)
    marks = torch.tensor([[*row, *[NAN] * (8 - len(row))] for row in rows])
    found = thoughts(marks, mask)
    assert len(found.number) == int(mask.sum())
    assert sorted({*found.number.tolist()}) == list(range(len(found.mark)))
    for token, (row, place) in enumerate(mask.nonzero().tolist()):
        assert found.row[found.number[token]] == row
        mark = marks[row, place]
        torch.testing.assert_close(found.mark[found.number[token]], mark, equal_nan=True)
    told = found.mark.nan_to_num(-1.0).tolist()
    for one, other, before, behind in zip(told, told[1:], found.row.tolist(), found.row.tolist()[1:], strict=False):
        assert one != other or before != behind


REWARDS = [1.0, 0.0, 0.0, 0.0]
MARKS = [[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0], [1.0]]
MASK = ragged_mask([4, 3, 2, 1], 4)


def test_the_advantages_of_a_group_by_hand() -> None:
    """Seven thoughts: 1, -1/4, 1 of the right answer, whose group is right once in four; 1, -1; -1; 1."""
    plain = estimated(GroupNormalized(epsilon=0.0), REWARDS, None, 4, MASK)
    found = estimated(ThoughtLevel(eta=2.0, epsilon=0.0), REWARDS, MARKS, 4, MASK)
    worth = torch.tensor([1.0, -0.25, 1.0, 1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    level = 2.0 * (worth - worth.mean()) / worth.std()
    expected = torch.zeros(4, 4)
    expected[0] = level[[0, 0, 1, 2]]
    expected[1, :3] = level[[3, 4, 4]]
    expected[2, :2] = level[5]
    expected[3, 0] = level[6]
    torch.testing.assert_close(found - plain, expected, atol=1e-6, rtol=0)


def test_the_deviation_and_the_limit_of_correct_ones_are_those_that_are_set() -> None:
    plain = estimated(GroupNormalized("none"), REWARDS, None, 4, MASK)
    found = estimated(ThoughtLevel(eta=1.0, deviation="none", correct_above=2.0), REWARDS, MARKS, 4, MASK)
    worth = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0])  # nothing is correct
    torch.testing.assert_close((found - plain)[3, 0], (worth - worth.mean())[6])
    torch.testing.assert_close((found - plain)[0, 2], (worth - worth.mean())[1])
    biased = estimated(ThoughtLevel(1.0, 2.0, "biased", 0.0), REWARDS, MARKS, 4, MASK)
    plain = estimated(GroupNormalized("biased", 0.0), REWARDS, None, 4, MASK)
    torch.testing.assert_close((biased - plain)[3, 0], (worth[6] - worth.mean()) / worth.std(correction=0))


rewards = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=6, max_size=6)
marks = st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=5, max_size=5), min_size=6, max_size=6)
lengths = st.lists(st.integers(0, 5), min_size=6, max_size=6)


@given(rewards=rewards, marks=marks, lengths=lengths, deviation=st.sampled_from(["unbiased", "biased", "none"]))
def test_without_a_weight_it_is_grpo_to_the_bit(rewards: Any, marks: Any, lengths: Any, deviation: Any) -> None:
    mask = ragged_mask(lengths, 5)
    found = estimated(ThoughtLevel(eta=0.0, deviation=deviation), rewards, marks, 3, mask)
    assert torch.equal(found, estimated(GroupNormalized(deviation), rewards, None, 3, mask))


@given(rewards=rewards, marks=marks, lengths=lengths, epsilon=st.sampled_from([0.0, 1e-4]))
def test_thoughts_of_a_prompt_add_up_to_nothing_and_others_stay_out(
    rewards: Any, marks: Any, lengths: Any, epsilon: float
) -> None:
    mask, both = ragged_mask(lengths, 5), ThoughtLevel(1.0, epsilon=epsilon)
    added = estimated(both, rewards, marks, 3, mask) - estimated(
        GroupNormalized(epsilon=epsilon), rewards, None, 3, mask
    )
    assert torch.equal(added[~mask], torch.zeros(int((~mask).sum())))
    found = thoughts(torch.tensor(marks), mask)
    first = [found.number.tolist().index(run) for run in range(len(found.mark))]
    of_run = added[mask][first]
    assert torch.equal(of_run[found.mark.isnan()], torch.zeros(int(found.mark.isnan().sum())))
    for prompt in range(2):
        torch.testing.assert_close(of_run[found.row // 3 == prompt].sum(), torch.tensor(0.0), atol=1e-4, rtol=0)
    alone = estimated(both, rewards[:3], marks[:3], 3, mask[:3]) if mask[:3].any() else None
    if alone is not None:
        torch.testing.assert_close(alone, estimated(both, rewards, marks, 3, mask)[:3])


@pytest.mark.parametrize("mark", [1.0, 0.0, NAN])
@pytest.mark.parametrize("epsilon", [0.0, 1e-4])
@pytest.mark.parametrize("deviation", ["unbiased", "biased", "none"])
def test_where_all_thoughts_are_alike_nothing_is_added(mark: float, epsilon: float, deviation: Any) -> None:
    mask = ragged_mask([3, 2, 3], 3)
    found = estimated(ThoughtLevel(1.0, 0.5, deviation, epsilon), [1.0] * 3, [[mark] * 3] * 3, 3, mask)
    assert torch.equal(found, torch.zeros(3, 3))  # all are right, or all wrong


def test_a_response_without_a_reward_is_in_no_mean() -> None:
    mask = ragged_mask([2, 2, 2], 2)
    marks = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    left_out = mask & torch.tensor([[True], [True], [False]])
    found = estimated(ThoughtLevel(), [1.0, 0.0, 0.0], marks, 3, left_out)
    assert torch.equal(found[:2], estimated(ThoughtLevel(), [1.0, 0.0], marks[:2], 2, mask[:2]))
    assert torch.equal(found[2], torch.zeros(2))


def test_marks_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"reads marks of steps.*put it into prl.rewards.RuleMarks"):
        estimated(ThoughtLevel(), REWARDS, None, 4, MASK)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eta": -0.1}, "ThoughtLevel.eta is -0.1; expected a finite number of at least 0"),
        ({"eta": float("inf")}, "ThoughtLevel.eta is inf"),
        ({"correct_above": NAN}, "ThoughtLevel.correct_above is nan; expected a finite number"),
        ({"epsilon": -1.0}, "GroupNormalized.epsilon is -1.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ThoughtLevel(**settings)
