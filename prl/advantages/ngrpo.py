"""Advantages within a prompt as if one more response to it had the largest reward there is, without a critic."""

import math

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, Advantages, TokenRewards
from prl.masking import wide_float
from prl.types import Rollout, Scores


class NGRPO(AdvantageEstimator):
    """A_i = (r_i - mean) / (std + epsilon) with m copies of the largest reward in mean and std: NGRPO (2509.18851).

    The formula is that of the authors' code: `virtual` responses with the reward `max_reward` enter mean and unbiased
    deviation, and have no tokens. So a prompt whose responses are all wrong pushes every one of them down, where GRPO
    learns nothing; one whose responses all have `max_reward` has advantage 0; and mixed prompts shift down too. With
    `virtual` 0 it is `GroupNormalized`, to the bit.

    Every token of a response has the advantage of its response, and a response without a reward is left out of mean
    and deviation. Rewards above `max_reward`, and a KL or dense rewards beside it, are not capped. The paper clips
    negative advantages more narrowly (`clip_range` 0.16 and `clip_range_high` 0.24 of `prl.objectives.policy.PPO`).

    Args:
        virtual: copies of the largest reward (m).
        max_reward: the largest reward that a response can have.
        epsilon: added to the deviation.

    Raises:
        ValueError: for a negative number of copies, a reward that is not finite, or a negative epsilon.
    """

    min_per_prompt = 2

    def __init__(self, virtual: int = 1, max_reward: float = 1.0, epsilon: float = 1e-6) -> None:
        if virtual < 0:
            raise ValueError(f"NGRPO.virtual is {virtual}; expected 0 or more")
        if not math.isfinite(max_reward):
            raise ValueError(f"NGRPO.max_reward is {max_reward}; expected a finite number")
        if not epsilon >= 0:
            raise ValueError(f"NGRPO.epsilon is {epsilon}; expected 0 or more")
        self.virtual, self.max_reward, self.epsilon = virtual, max_reward, epsilon

    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Compare the responses of each prompt, and the virtual ones."""
        counted, group = rewards.mask.any(1), rollout.group
        total = rewards.per_response().to(wide_float(group.device))
        counts = (torch.bincount(group, weights=counted.to(total)) + self.virtual).clamp(min=1)
        sums = torch.bincount(group, weights=total * counted) + self.virtual * self.max_reward
        mean = sums / counts
        centred = total - mean[group]
        squares = torch.bincount(group, weights=centred.square() * counted)
        variance = (squares + self.virtual * (self.max_reward - mean).square()) / (counts - 1).clamp(min=1)
        scale = variance.sqrt() + self.epsilon
        scaled = centred / scale.where(scale > 0, 1.0)[group]  # equal rewards give 0, whatever epsilon is
        return Advantages((scaled[:, None] * rewards.mask).to(rewards.logprobs.dtype), None)
