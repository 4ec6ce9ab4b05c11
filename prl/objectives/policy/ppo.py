"""Proximal policy optimisation: the clipped surrogate."""

import torch
from torch import Tensor

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.objectives.policy.clipped import clipped_policy_loss
from prl.objectives.policy.statistics import moved
from prl.types import Experience


class PPO(PolicyObjective):
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), minus an entropy bonus (1707.06347, eq. 7 and 9).

    Args:
        clip_range: lower clip width of the ratio rho, and the upper one unless clip_range_high is set.
        clip_range_high: upper clip width (clip-higher, DAPO 2503.14476); clip_range when null.
        dual_clip: bound of the loss for negative advantages, above 1 (1912.09729); off when null.
        entropy_coef: weight of the entropy bonus.

    Raises:
        ValueError: for a setting out of its range.
    """

    reads_reference = False

    def __init__(
        self,
        clip_range: float = 0.2,
        clip_range_high: float | None = None,
        dual_clip: float | None = None,
        entropy_coef: float = 0.0,
    ) -> None:
        if not 0 < clip_range < 1:
            raise ValueError(f"PPO.clip_range is {clip_range}; expected a number in (0, 1)")
        if clip_range_high is not None and not clip_range_high > 0:
            raise ValueError(f"PPO.clip_range_high is {clip_range_high}; expected null or a positive number")
        if dual_clip is not None and not dual_clip > 1:
            raise ValueError(f"PPO.dual_clip is {dual_clip}; expected null or above 1")
        if not entropy_coef >= 0:
            raise ValueError(f"PPO.entropy_coef is {entropy_coef}; expected 0 or more")
        self.clip_range, self.clip_range_high = clip_range, clip_range_high
        self.dual_clip, self.entropy_coef = dual_clip, entropy_coef
        self.needs_entropy = entropy_coef > 0

    def __call__(self, new: PolicyOutputs, experience: Experience, weights: Tensor) -> LossOutput:
        """Average the clipped surrogate over tokens."""
        per_token = clipped_policy_loss(
            *(new.logprobs, experience.old_logprobs, experience.advantages),
            clip_range=self.clip_range,
            clip_range_high=self.clip_range_high,
            dual_clip=self.dual_clip,
        )
        policy_loss = (per_token * weights).sum()
        stats = {"policy_loss": policy_loss, **self._ratio_stats(new.logprobs, experience, weights)}
        if new.entropy is None or not self.entropy_coef:
            return LossOutput(policy_loss, stats)
        stats["entropy"] = (new.entropy * weights).sum()
        return LossOutput(policy_loss - self.entropy_coef * stats["entropy"], stats)

    @torch.no_grad()
    def _ratio_stats(self, logprobs: Tensor, experience: Experience, weights: Tensor) -> dict[str, Tensor]:
        """Measure how far the policy has moved from the sampling policy, and how often the ratio was clipped."""
        ratio, advantages = (logprobs - experience.old_logprobs).exp(), experience.advantages
        high = self.clip_range if self.clip_range_high is None else self.clip_range_high
        clipped_low = (ratio < 1 - self.clip_range) & (advantages < 0)
        clipped_high = (ratio > 1 + high) & (advantages > 0)
        return {
            **moved(logprobs, experience, weights),
            "clip_frac_low": (clipped_low.float() * weights).sum(),
            "clip_frac_high": (clipped_high.float() * weights).sum(),
        }
