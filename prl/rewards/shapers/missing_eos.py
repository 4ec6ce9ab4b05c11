"""Reward of a response without an end token."""

import math

from prl.rewards.shapers.base import RewardShaper
from prl.types import Rollout, Scores


class MissingEOS(RewardShaper):
    """Lower the reward of a response that hit the length limit, or replace it.

    Args:
        value: penalty to subtract, or with `replace` the reward itself.
        replace: replace the reward by `value`.

    Raises:
        ValueError: for a value that is not finite.
    """

    def __init__(self, value: float = 1.0, replace: bool = False) -> None:
        if not math.isfinite(value):
            raise ValueError(f"MissingEOS.value is {value}; expected a finite number")
        self.value, self.replace = value, replace

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Change the rewards of responses without an end token."""
        rewards, cut = scores.rewards, ~rollout.finished
        if self.replace:
            return scores.with_rewards(rewards.masked_fill(cut & ~scores.failed, self.value))
        return scores.with_rewards(rewards - self.value * cut.to(rewards.dtype))
