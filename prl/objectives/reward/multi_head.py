"""Regression of several attributes: a head for each, on scores that annotators gave single responses."""

import re

import torch
from torch import Tensor

from prl.objectives.reward.base import PairBatch, RewardObjective

SIDES = ("chosen", "rejected")


class MultiHeadRegression(RewardObjective):
    """||r_hat(x, y) - r(x, y)||^2 over the attributes of a response that have a score (DPA, 2402.18571, stage 1).

    A row has the scores of attribute A as `chosen_A` and `rejected_A`; one that is missing or null teaches nothing. The
    loss of a pair is half the sum over its two responses, so every score counts alike, and one head whose scores are
    all there is plain mean squared error. Which of two responses is the better one is not learnt.

    Args:
        heads: each attribute with its weight in the reward of the folder, by which pairs are validated; `MultiHead`
            weighs them anew. Heads learn in the units of the scores: scores near 1 learn at the usual rates.

    Raises:
        ValueError: for no head, or a name that is more than letters, digits, _ and -.
    """

    def __init__(self, heads: dict[str, float]) -> None:
        if not heads or not all(re.fullmatch(r"[\w-]+", name) for name in heads):
            raise ValueError(
                f"MultiHeadRegression.heads is {heads}; expected a weight for each attribute, by names of letters, "
                "digits, _ and -"
            )
        self.head_names, self.head_weights = tuple(heads), tuple(heads.values())
        self.optional_columns = tuple(f"{side}_{name}" for side in SIDES for name in heads)

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        losses = []
        for side, rewards in zip(SIDES, batch.head_rewards(), strict=True):
            scores = torch.stack([batch.columns[f"{side}_{name}"] for name in self.head_names], 1)
            there = ~scores.isnan()
            errors = rewards - torch.where(there, scores, 0)
            losses.append((there * errors.square()).sum(1))
        return (losses[0] + losses[1]) / 2
