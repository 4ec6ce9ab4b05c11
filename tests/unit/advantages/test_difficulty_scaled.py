from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prl.advantages.base import TokenRewards
from prl.advantages.difficulty_scaled import DifficultyScaled
from prl.advantages.group import GroupNormalized
from prl.types import Scores
from prl.verdict import Verdict
from tests.helpers.groups import advantages, in_groups
from tests.helpers.records import ragged_mask
from tests.helpers.two_processes import in_two_processes

REWARDS = st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6)


def scaled(
    rewards: list[float],
    gaps: list[float] | None = None,
    hardness: list[Any] | None = None,
    mask: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """Advantages of groups of three, [B]; gaps of responses, and hardness of prompts, as far as they are given."""
    mask = torch.ones(len(rewards), 1, dtype=torch.bool) if mask is None else mask
    verdict = None if gaps is None else Verdict(-torch.tensor(gaps), torch.tensor(gaps))
    scores = Scores(torch.tensor(rewards), verdict, None if gaps is None else torch.arange(len(gaps)))
    zeros = torch.zeros(mask.shape)
    signal = TokenRewards(scores.rewards, None, zeros, zeros, mask, 0.0, "k1")
    rollout = in_groups(mask, 3, hardness and [{"hardness": each} for each in hardness])
    estimator = DifficultyScaled(responsiveness=gaps is not None, hardness=hardness is not None, **settings)
    return estimator(signal, scores, rollout, None).advantages[:, 0]


def test_the_figures() -> None:
    rewards = [1.0, 0.0, 0.5, 3.0, -1.0, 2.0]
    plain = advantages(GroupNormalized(), rewards, 3)[:, 0]
    # hardness 0.7 where the mean is 0.5; gaps 0.4 where the mean is 1.2
    hard = scaled(rewards, hardness=[0.7, 0.3])
    assert (hard / plain)[[0, 1]].tolist() == pytest.approx([1.073464] * 2, abs=1e-6)
    behind = scaled(rewards, gaps=[0.4, 0.4, 0.4, 2.0, 2.0, 2.0])
    assert (behind / plain)[[0, 1]].tolist() == pytest.approx([0.779009] * 2, abs=1e-6)
    both = scaled(rewards, [0.4, 0.3, 0.5, 2.0, 1.0, 3.0], [0.7, 0.3])
    assert (both / plain)[[0, 1]].tolist() == pytest.approx([0.836238] * 2, abs=1e-6)
    assert torch.equal(both.sign(), plain.sign())


@given(rewards=REWARDS, lengths=st.lists(st.integers(0, 2), min_size=6, max_size=6), level=st.floats(-3, 3, width=16))
def test_prompts_of_one_difficulty_are_grpo_to_the_bit(rewards: list[float], lengths: list[int], level: float) -> None:
    mask = ragged_mask(lengths, 2)
    grpo = advantages(GroupNormalized(), rewards, 3, mask)[:, 0]
    assert torch.equal(scaled(rewards, mask=mask), grpo)  # neither factor
    assert torch.equal(scaled(rewards, [level] * 6, [level] * 2, mask), grpo)


@given(rewards=REWARDS, factor=st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_scaling_the_reward_before_the_normalisation_would_cancel(rewards: list[float], factor: float) -> None:
    if min(torch.tensor(rewards).view(2, 3).std(1)) < 1e-3:
        return
    of_all = advantages(GroupNormalized(epsilon=0.0), rewards, 3)
    assert torch.equal(advantages(GroupNormalized(epsilon=0.0), [factor * each for each in rewards], 3), of_all)


def test_outliers_and_what_has_no_gap_are_in_no_gap_of_a_prompt() -> None:
    rewards = [1.0, 0.0, 0.5, 3.0, -1.0, 2.0]
    plain = advantages(GroupNormalized(), rewards, 3)[:, 0]
    # mean 1, deviation sqrt(5): 6 is further than 2 of them
    gaps = torch.tensor([0.0, 0.0, 6.0, 0.0, 0.0, 0.0])
    found = scaled(rewards, gaps.tolist(), outlier=2.0) / plain
    assert found[0] == pytest.approx(0.5 / 0.731059, abs=1e-6)
    kept = scaled(rewards, gaps.tolist(), outlier=3.0) / plain
    assert kept[0] == pytest.approx(0.880797 / 0.731059, abs=1e-6)  # sigma(2)
    # of the first prompt only the second response has a gap
    mask = ragged_mask([0, 1, 1, 1, 1, 1], 1)
    nan = float("nan")
    found = scaled(rewards, [9.0, 0.4, nan, 2.0, nan, nan], mask=mask)
    grpo = advantages(GroupNormalized(), rewards, 3, mask)[:, 0]
    assert (found / grpo)[1:3].tolist() == pytest.approx([0.779009] * 2, abs=1e-6)  # gap 0.4 where the mean is 1.2
    alone = scaled(rewards, [9.0, 0.4, nan, nan, nan, nan], mask=mask)
    assert torch.equal(alone, grpo)  # its gap is the mean of all, and the other prompt has none
    lost = scaled(rewards, [nan] * 6)
    assert torch.equal(lost, plain)


def test_a_policy_far_ahead_gives_no_prompt_an_endless_weight() -> None:
    rewards, gaps = [1.0, 0.0, 2.0] * 2, [-2000.0] * 3 + [5.0] * 3
    plain = advantages(GroupNormalized(), rewards, 3)[:, 0]
    found = scaled(rewards, gaps)
    assert found[3:].tolist() == pytest.approx((100 * plain[3:]).tolist())
    assert found.isfinite().all()


def test_outliers_alone_are_kept() -> None:
    rewards = [1.0, 0.0, 0.5] * 3
    found = scaled(rewards, [3.0] * 3 + [0.0] * 6, outlier=0.1)  # the mean is 1, and all are further away
    plain = advantages(GroupNormalized(), rewards, 3)[:, 0]
    assert found[0] / plain[0] == pytest.approx(0.952574 / 0.731059, abs=1e-6)


def everything() -> tuple[list[float], list[float], list[float]]:
    generator = torch.Generator().manual_seed(0)
    rewards, gaps = torch.randn(2, 15, generator=generator).tolist()
    return rewards, gaps, torch.rand(5, generator=generator).tolist()


def shared(process: int) -> Tensor:
    rewards, gaps, hardness = everything()
    if process == 0:
        return scaled(rewards[:6], gaps[:6], hardness[:2], outlier=1.5)
    return scaled(rewards[6:], gaps[6:], hardness[2:], outlier=1.5)


def test_means_are_those_of_all_processes(tmp_path: Path) -> None:
    assert torch.equal(torch.cat(in_two_processes(shared, tmp_path)), scaled(*everything(), outlier=1.5))


@pytest.mark.parametrize("value", [None, "hard", True, float("nan")])
def test_a_row_without_a_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"reads the column 'hardness', a finite number in each row, and found"):
        scaled([1.0, 0.0, 0.5], hardness=[value])


def test_what_cannot_be_is_refused() -> None:
    rollout, zeros = in_groups(torch.ones(3, 1, dtype=torch.bool), 3), torch.zeros(3, 1)
    signal = TokenRewards(torch.zeros(3), None, zeros, zeros, rollout.response_mask, 0.0, "k1")
    with pytest.raises(ValueError, match="reads comparisons with demonstrations, and the reward source made none"):
        DifficultyScaled(hardness=False)(signal, Scores(torch.zeros(3)), rollout, None)
    with pytest.raises(ValueError, match=r"found None among the columns \[\]"):
        DifficultyScaled()(signal, Scores(torch.zeros(3)), rollout, None)
    with pytest.raises(ValueError, match="DifficultyScaled.outlier is 0.0; expected a positive number"):
        DifficultyScaled(outlier=0.0)
    with pytest.raises(ValueError, match="GroupNormalized.epsilon is -1.0"):
        DifficultyScaled(epsilon=-1.0)
