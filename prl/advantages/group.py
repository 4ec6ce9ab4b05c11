"""Advantages within the responses of one prompt, without a critic."""

from typing import Literal

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, Advantages, TokenRewards
from prl.masking import wide_float
from prl.types import Rollout, Scores

Deviation = Literal["unbiased", "biased", "none"]


def group_normalized(values: Tensor, counted: Tensor, group: Tensor, deviation: Deviation, epsilon: float) -> Tensor:
    """Subtract the mean of its group from each value, and divide by the deviation of the group plus epsilon: [N].

    Equal values give 0, whatever epsilon is.

    Args:
        values: [N] numbers, in a wide type.
        counted: [N] True on values that are in means and deviations.
        group: [N] number of the group of each value.
        deviation: as of `GroupNormalized`.
        epsilon: as of `GroupNormalized`.
    """
    counts = torch.bincount(group, weights=counted.to(values)).clamp(min=1)
    centred = values - (torch.bincount(group, weights=values * counted) / counts)[group]
    if deviation == "none":
        return centred
    squares = torch.bincount(group, weights=centred.square() * counted)
    variance = squares / (counts - int(deviation == "unbiased")).clamp(min=1)
    scale = variance.sqrt() + epsilon
    return centred / scale.where(scale > 0, 1.0)[group]


class GroupNormalized(AdvantageEstimator):
    """A_i = (r_i - mean of r) / (std of r + epsilon) over the responses of a prompt: GRPO (2402.03300, section 4.1.2).

    Every token of a response has the advantage of its response. A response without a reward is left out of the means,
    and a prompt with a single rewarded response has advantage 0.

    Args:
        deviation: unbiased (divides by n - 1, as TRL and verl do), biased (by n), or none (Dr. GRPO, 2503.20783).
        epsilon: added to the deviation.

    Raises:
        ValueError: for a negative epsilon.
    """

    min_per_prompt = 2

    def __init__(self, deviation: Deviation = "unbiased", epsilon: float = 1e-4) -> None:
        if not epsilon >= 0:
            raise ValueError(f"GroupNormalized.epsilon is {epsilon}; expected 0 or more")
        self.deviation, self.epsilon = deviation, epsilon

    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Compare the responses of each prompt."""
        counted, group = rewards.mask.any(1), rollout.group
        total = rewards.per_response().to(wide_float(group.device))
        centred = group_normalized(total, counted, group, self.deviation, self.epsilon)
        return Advantages((centred[:, None] * rewards.mask).to(rewards.logprobs.dtype), None)
