"""Log-sigmoid of a reward centred on a high percentile of reference responses."""

from statistics import NormalDist

import torch

from prl.rewards.shapers.base import RewardShaper, comparisons
from prl.types import Rollout, Scores
from prl.verdict import mean_per_row


class LogSigmoidCentred(RewardShaper):
    """log sigma(r(x, y) - q), q a percentile of the rewards of reference responses: LSC (2402.00742).

    q is that of a normal distribution with the mean of the references' rewards and their standard deviation plus
    `epsilon`, as PAR's authors compute it for their baseline (2502.18770); which of the deviations LSC's own authors
    take is not verified here. The references are the anchors of the response; those whose comparison failed are left
    out. One reference has no deviation, and q is then its reward, up to `epsilon`.

    Args:
        percentile: of the references' rewards, in (0, 1).
        epsilon: added to the deviation, which is unbiased.

    Raises:
        ValueError: for a percentile outside (0, 1), or a negative epsilon.
    """

    needs_anchors = True

    def __init__(self, percentile: float = 0.85, epsilon: float = 1e-5) -> None:
        if not 0 < percentile < 1:
            raise ValueError(f"LogSigmoidCentred.percentile is {percentile}; expected a number in (0, 1)")
        if not epsilon >= 0:
            raise ValueError(f"LogSigmoidCentred.epsilon is {epsilon}; expected 0 or more")
        self.percentile, self.epsilon = percentile, epsilon

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Replace each reward by that of its differences from the references."""
        verdict, rows = comparisons(scores, self)
        # The references' rewards are r - difference, so their mean and deviation follow from the differences.
        difference = verdict.win_logit
        mean = mean_per_row(difference, rows, len(rollout))
        variance = mean_per_row((difference - mean[rows]).square(), rows, len(rollout))
        number = rows[~difference.isnan()].bincount(minlength=len(rollout))
        std = (variance * number / (number - 1).clamp(min=1)).sqrt()
        above = mean - NormalDist().inv_cdf(self.percentile) * (std + self.epsilon)
        return scores.with_rewards(torch.nn.functional.logsigmoid(above))
