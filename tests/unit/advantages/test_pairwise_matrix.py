from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.advantages.base import TokenRewards
from prl.advantages.group import GroupNormalized
from prl.advantages.pairwise_matrix import PairwiseMatrix
from prl.types import Rollout, Scores
from prl.verdict import Verdict
from tests.helpers.groups import advantages, in_groups
from tests.helpers.records import ragged_mask


def compared(margins: Tensor, group: Tensor) -> Scores:
    """Comparisons of each response with the others of its group, in their order, with these log-odds: [B, B]."""
    pairs = [(i, j) for i in range(len(group)) for j in range(len(group)) if i != j and group[i] == group[j]]
    first, second = torch.tensor(pairs).unbind(1)
    # A bias of the first place, which cancels.
    verdict = Verdict(margins[first, second] + 0.75, margins[second, first] + 0.75)
    return Scores(torch.full((len(group),), 0.5), verdict, first)


def found_of(margins: Tensor, rollout: Rollout, signal: TokenRewards | None = None, **settings: Any) -> Tensor:
    mask, zeros = rollout.response_mask, torch.zeros(rollout.response_mask.shape)
    signal = signal or TokenRewards(torch.zeros(len(mask)), None, zeros, zeros, mask, 0.0, "k1")
    return PairwiseMatrix(**settings)(signal, compared(margins, rollout.group), rollout, None).advantages


def differences(rewards: list[float]) -> Tensor:
    values = torch.tensor(rewards, dtype=torch.float64)
    return values[:, None] - values[None, :]


def test_the_figures_of_think_rm() -> None:
    rewards = [1.0, 0.2, -0.5, 0.9]
    found = found_of(differences(rewards), in_groups(torch.ones(4, 3, dtype=torch.bool), 4), epsilon=0.0)
    assert found[:, 0].tolist() == pytest.approx([0.860073, -0.286691, -1.290110, 0.716728], abs=1e-6)
    assert torch.equal(found, found[:, :1].expand(4, 3))


@given(
    rewards=st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6),
    lengths=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    epsilon=st.sampled_from([1e-4, 0.3]),
)
def test_on_differences_of_rewards_it_is_grpo(rewards: list[float], lengths: list[int], epsilon: float) -> None:
    mask = ragged_mask(lengths, 3)
    grpo = advantages(GroupNormalized(epsilon=epsilon), rewards, 3, mask)
    found = found_of(differences(rewards), in_groups(mask, 3), epsilon=epsilon)
    torch.testing.assert_close(found, grpo, atol=2e-5, rtol=2e-5)


def test_the_kl_in_the_reward_is_part_of_a_difference() -> None:
    torch.manual_seed(0)
    mask, rewards = ragged_mask([3, 1, 2], 3), torch.tensor([1.0, 0.25, -0.5])
    old, ref, dense = torch.randn(3, 3, 3).unbind()
    signal = TokenRewards(rewards, dense, old, ref, mask, 0.7, "k1")
    rollout = in_groups(mask, 3)
    grpo = GroupNormalized()(signal, Scores(rewards), rollout, None).advantages
    torch.testing.assert_close(found_of(differences(rewards.tolist()), rollout, signal), grpo, atol=1e-5, rtol=1e-5)


def test_a_circle_of_preferences_by_hand() -> None:
    # 0 beats 1, 1 beats 2 and 2 beats 0 by 2, and 0 has one more against 1: sums 1, -1, 0; squares 2 (9 + 4 + 4).
    matrix = torch.tensor([[0.0, 3.0, -2.0], [-3.0, 0.0, 2.0], [2.0, -2.0, 0.0]])
    rollout = in_groups(torch.ones(3, 1, dtype=torch.bool), 3)
    root = (3 / (2 * 2) * 34) ** 0.5
    assert found_of(matrix, rollout, epsilon=0.0)[:, 0].tolist() == pytest.approx([1 / root, -1 / root, 0.0], abs=1e-6)
    grpo = advantages(GroupNormalized(epsilon=0.0), [1 / 3, -1 / 3, 0.0], 3)[:, 0]
    assert found_of(matrix, rollout)[0, 0] < 0.2 * grpo[0]


def test_strengths_of_a_verdict() -> None:
    matrix = torch.tensor([[0.0, 3.0, -0.5], [-3.0, 0.0, 0.25], [0.5, -0.25, 0.0]])
    rollout = in_groups(torch.ones(3, 1, dtype=torch.bool), 3)
    signs = found_of(matrix, rollout, strength="sign", epsilon=0.0)[:, 0]
    assert signs.tolist() == [0.0, 0.0, 0.0]  # each wins once
    odds = torch.sigmoid(torch.tensor([3.0, 0.5, 0.25], dtype=torch.float64)) - 0.5
    sums = torch.stack([odds[0] - odds[1], odds[2] - odds[0], odds[1] - odds[2]])
    expected = sums / (3 / 4 * 2 * odds.square().sum()).sqrt()
    found = found_of(matrix, rollout, strength="probability", epsilon=0.0)[:, 0]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_failed_comparison_is_undecided_and_sums_stay_zero() -> None:
    matrix = differences([1.0, 0.2, -0.5, 0.9])
    matrix[0, 2] = matrix[2, 0] = torch.nan
    rollout = in_groups(torch.ones(4, 1, dtype=torch.bool), 4)
    known = differences([1.0, 0.2, -0.5, 0.9])
    known[0, 2] = known[2, 0] = 0.0
    found = found_of(matrix, rollout)
    assert torch.equal(found, found_of(known, rollout))
    assert found.sum().abs() < 1e-6


def test_a_response_without_a_reward_is_in_no_sum() -> None:
    rewards = [1.0, 99.0, 0.25, 5.0, -3.0, -3.0]
    found = found_of(differences(rewards), in_groups(ragged_mask([2, 0, 1, 0, 2, 0], 2), 3), epsilon=0.0)
    half = 0.5**0.5
    assert found[:, 0].tolist() == pytest.approx([half, 0.0, -half, 0.0, 0.0, 0.0], abs=1e-6)


def test_comparisons_that_are_not_those_within_prompts_are_refused() -> None:
    rollout = in_groups(torch.ones(4, 1, dtype=torch.bool), 4)
    scores, zeros = compared(torch.zeros(4, 4), rollout.group), torch.zeros(4, 1)
    signal = TokenRewards(torch.zeros(4), None, zeros, zeros, rollout.response_mask, 0.0, "k1")
    with pytest.raises(ValueError, match="PairwiseMatrix reads comparisons, and the reward source made none"):
        PairwiseMatrix()(signal, Scores(torch.zeros(4)), rollout, None)
    assert scores.verdict is not None
    one_each = Scores(scores.rewards, scores.verdict.select(torch.arange(4)), torch.arange(4))
    with pytest.raises(ValueError, match=r"PairwiseMatrix reads 12 comparisons .* 4 of another kind; use anchors"):
        PairwiseMatrix()(signal, one_each, rollout, None)
    with pytest.raises(ValueError, match="PairwiseMatrix.epsilon is -1.0; expected 0 or more"):
        PairwiseMatrix(epsilon=-1.0)
