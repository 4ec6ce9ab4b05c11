"""Diffusion-DRO: experts ranked above the policy's own responses by a margin, without a logistic function."""

from torch import Tensor

from prl.objectives.logistic import expected
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class DiffusionDRO(PreferenceObjective):
    """max(-margin, 2 (rho_l - rho_w)), rho the log-ratio of a response to the reference (2510.18353, algorithm 1).

    Chosen is an expert's response, rejected one of the policy's own. On pictures -2 rho is the error less that of the
    reference. A pair that is apart by more than the margin teaches nothing. With a soft label t the loss is t times
    this one and 1 - t times that of the pair turned round. The authors' code has max(difference + margin, 0), which has
    the same gradient.

    Args:
        margin: how far the errors of a pair are to be apart; the paper's m is -margin. inf leaves every pair in.

    Raises:
        ValueError: for a margin that is not above 0, where a policy at the reference would not learn.
    """

    def __init__(self, margin: float = 0.001) -> None:
        if not margin > 0:
            raise ValueError(f"DiffusionDRO.margin is {margin}; expected a number above 0")
        self.margin = margin

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        difference = 2 * (batch.rejected.log_ratio() - batch.chosen.log_ratio())
        return expected(batch.target, difference.clamp(min=-self.margin), (-difference).clamp(min=-self.margin))
