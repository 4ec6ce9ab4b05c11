"""An upper bound of the reward."""

import math

from prl.rewards.shapers.base import RewardShaper
from prl.types import Rollout, Scores


class Ceiling(RewardShaper):
    """min(r, limit): a baseline of PAR (2502.18770, authors' code), which bounds the reward from above alone.

    Args:
        limit: the largest reward.

    Raises:
        ValueError: for a limit that is not finite.
    """

    def __init__(self, limit: float) -> None:
        if not math.isfinite(limit):
            raise ValueError(f"Ceiling.limit is {limit}; expected a finite number")
        self.limit = limit

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Lower the rewards above the limit."""
        return scores.with_rewards(scores.rewards.clamp(max=self.limit))
