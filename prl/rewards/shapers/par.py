"""Preference as reward: a scalar reward passed through a sigmoid centred on reference responses."""

import math

import torch
from torch import Tensor

from prl.rewards.shapers.base import VerdictReading
from prl.verdict import Verdict


class PAR(VerdictReading):
    """mean over m of sigma(scale * (r(x, y) - r(x, y_ref_m))): the reward of PAR (2502.18770, formula as in the
    authors' code).

    The M reference responses are the anchors of the response, for example `prl.anchors.ReferenceSamples(count: M)`. The
    reward lies in (0, 1), is 1/2 at parity, and a shift of all scalars of a prompt does not change it.

    Args:
        scale: k, multiplies the difference of the scalars.

    Raises:
        ValueError: for a scale that is not positive.
    """

    def __init__(self, scale: float = 1.0) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"PAR.scale is {scale}; expected a positive number")
        self.scale = scale

    def read(self, verdict: Verdict) -> Tensor:
        """Squash the difference of the scalars: [N]."""
        return torch.sigmoid(self.scale * verdict.win_logit)
