import pytest
import torch

from prl.rewards.shapers.base import RewardShaper, shape
from prl.rewards.shapers.missing_eos import MissingEOS
from prl.types import Rollout, Scores
from prl.verdict import mean_per_row
from tests.helpers.records import make_rollout, ragged_mask


def test_scores_are_means_over_the_anchors_of_a_response() -> None:
    values = torch.tensor([2.0, 0.5, -1.0])
    assert mean_per_row(values, torch.tensor([1, 0, 1]), 2).tolist() == [0.5, 0.5]
    assert mean_per_row(values, torch.tensor([1, 0, 0]), 2).tolist() == [-0.25, 2.0]


def test_a_failed_comparison_is_left_out_of_the_mean_and_a_row_without_one_has_no_score() -> None:
    values = torch.tensor([2.0, float("nan"), float("nan")])
    found = mean_per_row(values, torch.tensor([0, 0, 1]), 3)
    assert found[0] == 2.0
    assert found[1:].isnan().all()


class Fill(RewardShaper):
    """What a shaper must not do."""

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        return scores.with_rewards(scores.rewards.nan_to_num(0.0))


def test_shapers_are_applied_in_order_and_a_missing_reward_stays_missing() -> None:
    rollout = make_rollout(ragged_mask([2, 1, 2]))
    rollout.finished[:] = torch.tensor([True, False, False])
    scores = Scores(torch.tensor([1.0, 2.0, torch.nan]))
    assert shape(scores, rollout, []) is scores
    shaped = shape(scores, rollout, [MissingEOS(0.5), MissingEOS(3.0, replace=True)])
    assert shaped.rewards[:2].tolist() == [1.0, 3.0]
    assert shape(scores, rollout, [MissingEOS(3.0, replace=True), MissingEOS(0.5)]).rewards[1] == 2.5
    assert shaped.failed.tolist() == [False, False, True]
    with pytest.raises(ValueError, match="Fill gives a number to a response without a reward"):
        shape(scores, rollout, [Fill()])
