"""Other readings of a judge's verdict than the debiased win probability, which a judge gives by itself."""

import math

from prl.rewards.shaping import RewardShaper, comparisons, mean_per_row
from prl.types import Rollout, Scores


class MeanProbability(RewardShaper):
    """Average the probabilities of both orders, instead of their log-odds: (p(a, b) + 1 - p(b, a)) / 2."""

    needs_anchors = True

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Reward each response by its mean over anchors."""
        verdict, rows = comparisons(scores, self)
        return scores.with_rewards(mean_per_row(verdict.mean_prob, rows, len(rollout)))


class CenteredProbability(RewardShaper):
    """Take 1/2 off the win probability: zero at parity with the anchor."""

    needs_anchors = True

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Reward each response by its mean over anchors."""
        verdict, rows = comparisons(scores, self)
        return scores.with_rewards(mean_per_row(verdict.win_prob - 0.5, rows, len(rollout)))


class LogOdds(RewardShaper):
    """Reward the debiased log-odds of a win, clipped.

    Args:
        clip: largest absolute value.

    Raises:
        ValueError: for a clip that is not positive.
    """

    needs_anchors = True

    def __init__(self, clip: float = 5.0) -> None:
        if not 0 < clip < math.inf:
            raise ValueError(f"LogOdds.clip is {clip}; expected a positive number")
        self.clip = clip

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Reward each response by its mean over anchors."""
        verdict, rows = comparisons(scores, self)
        return scores.with_rewards(mean_per_row(verdict.win_logit.clamp(-self.clip, self.clip), rows, len(rollout)))
