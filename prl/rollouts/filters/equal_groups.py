"""Leave out prompts whose responses all have one reward."""

import torch
from torch import Tensor

from prl.rollouts.filters.base import RolloutFilter
from prl.types import Rollout, Scores


class DropEqualGroups(RolloutFilter):
    """Leave out the responses of a prompt whose rewards are all equal: they carry no signal.

    The filter of dynamic sampling (DAPO 2503.14476, eq. 11), without sampling further prompts in their place.

    Args:
        tolerance: largest difference of rewards that counts as equal.

    Raises:
        ValueError: for a negative tolerance.
    """

    min_per_prompt = 2

    def __init__(self, tolerance: float = 0.0) -> None:
        if not tolerance >= 0:
            raise ValueError(f"DropEqualGroups.tolerance is {tolerance}; expected 0 or more")
        self.tolerance = tolerance

    def weights(self, rollout: Rollout, scores: Scores) -> Tensor:
        """Weigh responses of mixed groups 1, others 0: [B]."""
        rewards, group = scores.rewards, rollout.group
        number = int(group.max()) + 1
        known = ~rewards.isnan()
        index = group[known]
        empty = rewards.new_full((number,), -torch.inf)
        largest = empty.scatter_reduce(0, index, rewards[known], "amax")
        smallest = -empty.scatter_reduce(0, index, -rewards[known], "amax")
        return (largest - smallest > self.tolerance)[group].to(torch.float32)
