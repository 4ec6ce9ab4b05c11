"""Rewards on the scale of all rewards of the run so far: the running baselines of PAR (2502.18770, authors' code)."""

import math
from abc import abstractmethod
from typing import Any

from torch import Tensor

from prl.distributed import gathered
from prl.rewards.shapers.base import RewardShaper
from prl.types import Rollout, Scores


class RunningShaper(RewardShaper):
    """Change rewards by the mean, deviation and range of all finite rewards so far, those of this batch included.

    The statistics are those of all processes. Sums are rounded once, so that they do not depend, to the last bit, on
    how a batch lies over processes. They are in checkpoints. A response without a reward is in none of them.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.smallest, self.largest = math.inf, -math.inf

    @property
    def std(self) -> float:
        """Standard deviation of the rewards so far (population); 0 without any."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    @abstractmethod
    def change(self, rewards: Tensor) -> Tensor:
        """Change rewards by the statistics: [B]; NaN stays NaN."""

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Take the rewards of this batch on all processes into the statistics, then change those of this process."""
        self._observe([each for own in gathered(scores.rewards.tolist()) for each in own if math.isfinite(each)])
        return scores.with_rewards(self.change(scores.rewards)) if self.count else scores

    def _observe(self, rewards: list[float]) -> None:
        """Merge the mean and the squared deviations of a batch with those so far (Welford, Chan et al. 1979)."""
        if not rewards:
            return
        number, mean = len(rewards), math.fsum(rewards) / len(rewards)
        total, ahead = self.count + number, mean - self.mean
        self.squares += math.fsum((each - mean) ** 2 for each in rewards) + ahead**2 * self.count * number / total
        self.mean += ahead * number / total
        self.count = total
        self.smallest, self.largest = min(self.smallest, *rewards), max(self.largest, *rewards)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with saved statistics."""
        vars(self).update(state)


class RunningMeanStd(RunningShaper):
    """(r - mean) / std of all rewards so far; without a deviation the reward is centred alone."""

    def change(self, rewards: Tensor) -> Tensor:
        """Normalise rewards: [B]."""
        return (rewards - self.mean) / (self.std or 1.0)


class RunningClip(RunningShaper):
    """Clip to mean - std ... mean + std of all rewards so far."""

    def change(self, rewards: Tensor) -> Tensor:
        """Clip rewards: [B]."""
        return rewards.clamp(self.mean - self.std, self.mean + self.std)


class RunningMinMax(RunningShaper):
    """(r - smallest) / (largest - smallest) of all rewards so far: in [0, 1], and 0 while all have been equal."""

    def change(self, rewards: Tensor) -> Tensor:
        """Scale rewards to the range so far: [B]."""
        return (rewards - self.smallest) / ((self.largest - self.smallest) or 1.0)
