"""Bradley-Terry: the probability that one response beats another is the sigmoid of a margin."""

import torch
from torch import Tensor

from prl.objectives.logistic import check_smoothing, smooth, soft_logistic
from prl.objectives.reward.base import PairBatch, RewardObjective


def bradley_terry_loss(batch: PairBatch, target: Tensor) -> Tensor:
    """Average -t log sigma(z) - (1 - t) log sigma(-z) over the readings of each pair: [B].

    Args:
        batch: pairs with their margins z.
        target: [B] probability t that chosen is better.
    """
    readings = zip(batch.margin, batch.of_first(target), strict=True)
    return torch.stack([soft_logistic(margin, first) for margin, first in readings]).mean(0)


class BradleyTerry(RewardObjective):
    """-log sigma(r(x, y_w) - r(x, y_l)), the logistic loss on the margin (Ouyang et al. 2022, 2203.02155, equation 1).

    Args:
        label_smoothing: share e of the labels that are taken to be wrong: a target t becomes (1 - e) t + e (1 - t).

    Raises:
        ValueError: for a share outside of 0 to 1/2.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        check_smoothing("BradleyTerry", label_smoothing)
        self.label_smoothing = label_smoothing

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        return bradley_terry_loss(batch, smooth(batch.target, self.label_smoothing))
