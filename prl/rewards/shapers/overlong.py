"""A penalty that rises towards the length limit."""

import math

from prl.rewards.shapers.base import RewardShaper
from prl.types import Rollout, Scores


class Overlong(RewardShaper):
    """Lower the reward of a response near the length limit.

    The penalty is 0 up to `sampling.max_new_tokens - buffer` tokens and rises linearly to `penalty` at the limit (DAPO,
    2503.14476, eq. 13).

    Args:
        penalty: reward to subtract at the limit.
        buffer: tokens before the limit over which the penalty rises.

    Raises:
        ValueError: for a penalty or a buffer that is not positive.
    """

    def __init__(self, penalty: float = 1.0, buffer: int = 16) -> None:
        if not 0 < penalty < math.inf:
            raise ValueError(f"Overlong.penalty is {penalty}; expected a positive number")
        if buffer < 1:
            raise ValueError(f"Overlong.buffer is {buffer}; expected at least 1")
        self.penalty, self.buffer = penalty, buffer

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Subtract the penalty of its length from each reward."""
        beyond = rollout.read_mask.sum(1) - (rollout.max_new_tokens - self.buffer)
        return scores.with_rewards(scores.rewards - self.penalty * (beyond / self.buffer).clamp(0, 1))
