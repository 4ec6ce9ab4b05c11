"""Rewards, KL and advantages put together, and what filters leave of them."""

import pytest
import torch
from torch import Tensor

from prl.advantages.base import TokenRewards
from prl.advantages.gae import GAE, shaped_gae
from prl.config import KLPenalty
from prl.masking import whiten
from prl.rl.experience import build_experience, filter_weights
from prl.rollouts.filters.base import RolloutFilter
from prl.rollouts.filters.unfinished import DropUnfinished
from prl.types import Experience, Rollout, Scores
from tests.helpers.records import make_rollout, ragged_mask


def token_rewards(scores: Tensor, difference: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Return the rewards inside `shaped_gae`: with gamma 0 and no values, an advantage is the reward of its token."""
    zeros = torch.zeros(mask.shape)
    return shaped_gae(difference, zeros, scores, zeros, mask, kl_coef=kl_coef, gamma=0.0).advantages


def test_the_score_stands_on_the_last_token_that_counts() -> None:
    mask = torch.tensor(
        [
            [True, True, True, True],
            [True, True, False, False],
            [True, False, True, False],  # a hole
            [False, False, False, False],  # nothing to reward
            [False, True, False, False],
        ]
    )
    found = token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.ones(5, 4), mask, 0.5)
    assert found.tolist() == [
        [-0.5, -0.5, -0.5, 0.5],
        [-0.5, 1.5, 0.0, 0.0],
        [-0.5, 0.0, 2.5, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 4.5, 0.0, 0.0],
    ]


def test_without_a_kl_coefficient_the_score_is_all_there_is() -> None:
    mask = ragged_mask([3, 1])
    found = token_rewards(torch.tensor([1.0, 2.0]), torch.randn(2, 3), mask, 0.0)
    assert found.tolist() == [[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]]


def test_the_kl_of_masked_tokens_does_not_matter() -> None:
    mask = ragged_mask([1, 2])
    token_kl = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    found = token_rewards(torch.tensor([1.0, 2.0]), token_kl, mask, 0.5)
    assert found.tolist() == [[0.5, 0.0], [-0.5, 1.0]]


def built(estimator: GAE, kl: KLPenalty = KLPenalty(), token_rewards: Tensor | None = None) -> Experience:  # noqa: B008
    mask = ragged_mask([3, 1])
    old, ref = torch.full((2, 3), -1.0).masked_fill(~mask, 0), torch.full((2, 3), -1.5).masked_fill(~mask, 0)
    return build_experience(
        make_rollout(mask),
        Scores(torch.tensor([1.0, 2.0]), token_rewards=token_rewards),
        torch.ones(2),
        old_logprobs=old,
        ref_logprobs=ref,
        values=torch.full((2, 3), 0.25).masked_fill(~mask, 0),
        microbatches=[],
        estimator=estimator,
        kl=kl,
        kl_coef=0.5,
    )


def test_the_kl_is_taken_off_the_rewards_or_left_to_the_loss() -> None:
    # gamma and lambda 1: a return is the sum of the rewards to go
    sums = GAE(whiten=False, gamma=1.0, gae_lambda=1.0)
    assert built(sums).returns.tolist() == [[0.25, 0.5, 0.75], [1.75, 0.0, 0.0]]
    as_loss = built(sums, KLPenalty(placement="loss", estimator="k2"))
    assert as_loss.returns.tolist() == [[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]]


def test_dense_rewards_are_added_token_by_token() -> None:
    dense = torch.tensor([[0.5, 0.0, -1.0], [4.0, 9.0, 9.0]])  # what lies outside the mask does not count
    found = built(GAE(whiten=False, gamma=1.0, gae_lambda=1.0), token_rewards=dense)
    assert found.returns.tolist() == [[-0.25, -0.5, -0.25], [5.75, 0.0, 0.0]]


def test_settings_of_gae() -> None:
    plain = built(GAE(whiten=False, gae_lambda=0.5))
    # deltas (-0.25, -0.25, 0.5), lambda 0.5
    assert plain.advantages.tolist() == [[-0.25, 0.0, 0.5], [1.5, 0.0, 0.0]]
    assert plain.returns.tolist() == [[0.0, 0.25, 0.75], [1.75, 0.0, 0.0]]
    decoupled = built(GAE(whiten=False, gae_lambda=0.5, critic_lambda=1.0))
    assert decoupled.advantages.tolist() == plain.advantages.tolist()
    assert decoupled.returns.tolist() == [[0.25, 0.5, 0.75], [1.75, 0.0, 0.0]]
    # alpha 2 / 3: lambda = 1 - 1 / (alpha l) is 0.5 for three tokens; the critic keeps gae_lambda
    adaptive = built(GAE(whiten=False, gae_lambda=1.0, length_adaptive_alpha=2 / 3))
    assert adaptive.advantages.flatten().tolist() == pytest.approx(plain.advantages.flatten().tolist(), abs=1e-6)
    assert adaptive.returns.tolist() == decoupled.returns.tolist()
    white = built(GAE(gae_lambda=0.5))
    assert torch.equal(white.advantages, whiten(plain.advantages, ragged_mask([3, 1])))
    assert torch.equal(white.returns, plain.returns)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("dense", [False, True])
def test_rewards_of_tokens_add_up_to_those_of_responses(estimator, dense: bool) -> None:
    mask = ragged_mask([4, 1, 0, 3])
    old, ref, token_rewards = (torch.randn(4, 4) for _ in range(3))
    rewards = torch.tensor([1.0, -2.0, 0.0, 0.5])
    signal = TokenRewards(rewards, token_rewards if dense else None, old, ref, mask, 0.3, estimator)
    torch.testing.assert_close(signal.per_token().sum(1), signal.per_response(), atol=1e-6, rtol=1e-6)
    assert torch.equal(signal.per_token() != 0, mask)
    if not dense:  # the operator that never writes them down: with gamma 0 and no values, an advantage is a reward
        zeros = torch.zeros(4, 4)
        fused = shaped_gae(old, ref, rewards, zeros, mask, kl_coef=0.3, kl_estimator=estimator, gamma=0.0)
        torch.testing.assert_close(fused.advantages, signal.per_token(), atol=1e-6, rtol=1e-6)


class Half(RolloutFilter):
    def weights(self, rollout: Rollout, scores: Scores) -> Tensor:
        return torch.full((len(rollout),), 0.5)


class Negative(RolloutFilter):
    def weights(self, rollout: Rollout, scores: Scores) -> Tensor:
        return -torch.ones(len(rollout))


def test_filters_multiply() -> None:
    rollout, scores = make_rollout(ragged_mask([1, 2])), Scores(torch.zeros(2))
    rollout.finished[:] = torch.tensor([True, False])
    assert filter_weights(rollout, scores, []).tolist() == [1.0, 1.0]
    assert filter_weights(rollout, scores, [Half(), DropUnfinished(), Half()]).tolist() == [0.25, 0.0]
    with pytest.raises(ValueError, match="filters: Negative gives weights that are not 2 finite numbers"):
        filter_weights(rollout, scores, [Negative()])
