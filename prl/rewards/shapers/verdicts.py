"""Rewards from a judge's verdict other than the debiased win probability, which is the default."""

import math

from torch import Tensor

from prl.rewards.shapers.base import VerdictReading
from prl.verdict import Verdict


class MeanProbability(VerdictReading):
    """Reward the mean of the probabilities of both orders, not of their log-odds: (p(a, b) + 1 - p(b, a)) / 2."""

    def read(self, verdict: Verdict) -> Tensor:
        """Average the probabilities of both orders: [N]."""
        return verdict.mean_prob


class CenteredProbability(VerdictReading):
    """Reward the win probability minus 1/2: zero at parity with the anchor."""

    def read(self, verdict: Verdict) -> Tensor:
        """Centre the win probability: [N]."""
        return verdict.win_prob - 0.5


class LogOdds(VerdictReading):
    """Reward the debiased log-odds of a win, clipped.

    Args:
        clip: largest absolute value.

    Raises:
        ValueError: for a clip that is not positive.
    """

    def __init__(self, clip: float = 5.0) -> None:
        if not 0 < clip < math.inf:
            raise ValueError(f"LogOdds.clip is {clip}; expected a positive number")
        self.clip = clip

    def read(self, verdict: Verdict) -> Tensor:
        """Clip the log-odds: [N]."""
        return verdict.win_logit.clamp(-self.clip, self.clip)
