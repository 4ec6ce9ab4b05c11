"""Preference as reward: a scalar reward passed through a sigmoid centred on reference responses."""

import math

import torch

from prl.rewards.shaping import RewardShaper, comparisons, mean_per_row
from prl.types import Rollout, Scores


class PAR(RewardShaper):
    """mean over m of sigma(scale * (r(x, y) - r(x, y_ref_m))): the reward of PAR (2502.18770, formula as in the
    authors' code).

    The M reference responses are the anchors of the response, for example `prl.anchors.ReferenceSamples(count: M)`. The
    reward lies in (0, 1), is 1/2 at parity, and a shift of all scalars of a prompt does not change it.

    Args:
        scale: k, multiplies the difference of the scalars.

    Raises:
        ValueError: for a scale that is not positive.
    """

    needs_anchors = True

    def __init__(self, scale: float = 1.0) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"PAR.scale is {scale}; expected a positive number")
        self.scale = scale

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Reward each response by its mean over its anchors."""
        verdict, rows = comparisons(scores, self)
        preferred = torch.sigmoid(self.scale * verdict.win_logit)
        return scores.with_rewards(mean_per_row(preferred, rows, len(rollout)))
