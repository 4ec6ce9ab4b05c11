"""Weak, wrong and strong preferences treated differently, by how strong each of them is (Secrets of RLHF II)."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from prl.objectives.logistic import check_smoothing, smooth
from prl.objectives.reward.base import PairBatch, RewardObjective
from prl.objectives.reward.bradley_terry import bradley_terry_loss


class PreferenceStrength(RewardObjective):
    """-log sigma(d - c m) on labels that may come from m, the mean vote of several reward models (2401.06080).

    d is the margin of a pair, and m its column `strength_mean`, the mean of r(chosen) - r(rejected), as `prl strength`
    writes it. Strong pairs are to be far apart and weak ones need not be. Without a margin and soft labels it is
    `BradleyTerry`, bit for bit. Flipped labels are in the data already. The paper was not at hand: its losses are
    taken from a summary. Its contrastive term is `Contrastive`, its meta-learning `MetaRM`.

    Args:
        margin_coef: c, how much of the mean vote a pair has to be apart (1 in the paper); 0 is no margin.
        soft_labels: take sigma(m) as the label instead of that of the data. With a margin, both count.
        label_smoothing: share a of the labels that are taken to be wrong: a target t becomes (1 - a) t + a (1 - t).

    Raises:
        ValueError: for a margin_coef that is not a finite number of at least 0, or a share outside of 0 to 1/2.
    """

    columns = ("strength_mean",)

    def __init__(self, margin_coef: float = 1.0, soft_labels: bool = False, label_smoothing: float = 0.0) -> None:
        check_smoothing("PreferenceStrength", label_smoothing)
        if not 0 <= margin_coef < math.inf:
            raise ValueError(f"PreferenceStrength.margin_coef is {margin_coef}; expected a finite number of at least 0")
        self.margin_coef, self.soft_labels, self.label_smoothing = margin_coef, soft_labels, label_smoothing

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        mean = batch.columns["strength_mean"]
        target = smooth(mean.sigmoid() if self.soft_labels else batch.target, self.label_smoothing)
        if self.margin_coef:
            of_first = torch.where(batch.chosen_first, mean, -mean)
            batch = replace(batch, margin=batch.margin - self.margin_coef * of_first)
        return bradley_terry_loss(batch, target)
