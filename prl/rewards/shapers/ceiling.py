"""An upper bound of the reward, and a lower one where it is set."""

import math

from prl.rewards.shapers.base import RewardShaper
from prl.types import Rollout, Scores


class Ceiling(RewardShaper):
    """min(r, limit): a baseline of PAR (2502.18770, authors' code), which bounds the reward from above alone.

    With a floor it is min(max(r, floor), limit), as in RTO (2404.18922, authors' code), from -10 to 10.

    Args:
        limit: the largest reward.
        floor: the least reward; none when null.

    Raises:
        ValueError: for a limit that is not finite, or a floor above it.
    """

    def __init__(self, limit: float, floor: float | None = None) -> None:
        if not math.isfinite(limit):
            raise ValueError(f"Ceiling.limit is {limit}; expected a finite number")
        if floor is not None and not -math.inf < floor <= limit:
            raise ValueError(f"Ceiling.floor is {floor}; expected null, or a finite number up to the limit, {limit}")
        self.limit, self.floor = limit, floor

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Bring the rewards within the bounds."""
        return scores.with_rewards(scores.rewards.clamp(self.floor, self.limit))
