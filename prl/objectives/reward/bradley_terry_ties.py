"""Bradley-Terry with ties: three outcomes of a comparison."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.reward.base import PairBatch, RewardObjective


class BradleyTerryTies(RewardObjective):
    """-log P of win, loss or tie, with a tie where neither reward leads by much (VideoReward, 2501.13918, eq. 1 to 3).

    P(a beats b) = e^a / (e^a + k e^b), and P(tie) is what is left: (k² - 1) e^a e^b / ((e^a + k e^b)(k e^a + e^b)), the
    model of Rao and Kupper. A label of 1/2 is a tie, and other labels t weigh win and loss by t and 1 - t. With k = 1
    there are no ties and this is `BradleyTerry`.

    Args:
        k: how far a reward has to lead, log k; 5 in the paper.

    Raises:
        ValueError: for a k below 1.
    """

    def __init__(self, k: float = 5.0) -> None:
        if not 1 <= k < math.inf:
            raise ValueError(f"BradleyTerryTies.k is {k}; expected a finite number of at least 1")
        self.k = k

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        return btt_loss(batch.margin, batch.of_first(batch.target), self.k).mean(0)


def btt_loss(margin: Tensor, target: Tensor, k: float) -> Tensor:
    """Compute -log P of win, loss or tie, elementwise.

    Args:
        margin: difference of the two rewards.
        target: probability that the first is better; 1/2 is a tie.
        k: how far a reward has to lead.
    """
    win, loss = softplus(math.log(k) - margin), softplus(math.log(k) + margin)
    decided = target * win + (1 - target) * loss
    if k == 1:
        return decided
    return torch.where(target == 0.5, win + loss - math.log(k**2 - 1), decided)
