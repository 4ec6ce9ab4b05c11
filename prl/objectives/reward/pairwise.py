"""The loss of the generative pairwise judge (Pairwise-RL, 2504.04950), with terms beside it."""

import math

import torch
from torch import Tensor

from prl.objectives.logistic import check_smoothing, smooth
from prl.objectives.reward.base import PairBatch, RewardObjective
from prl.objectives.reward.bradley_terry import bradley_terry_loss


def language_loss(logits: Tensor, verdict_ids: Tensor, target: Tensor) -> Tensor:
    """Compute the cross-entropy of the verdict token over the whole vocabulary, for each reading: [..., V] -> [...].

    It is the cross-entropy between the two verdict tokens plus -log of their mass together. That mass has no target, so
    soft labels and ties mean the same in both.

    Args:
        logits: [..., V] logits of the verdict.
        verdict_ids: [2] token ids of "first is better" and "second is better".
        target: [...] probability that the response shown first is better.
    """
    logprobs = logits.float().log_softmax(-1)[..., verdict_ids]
    return -(target * logprobs[..., 0] + (1 - target) * logprobs[..., 1])


class Pairwise(RewardObjective):
    """Cross-entropy of the verdict on both orders of a pair, 1/2 [BCE(sigma(z(w, l)), t) + BCE(sigma(z(l, w)), 1 - t)].

    z(w, l) is the margin with chosen shown first (Pairwise-RL, 2504.04950). Where a pair is read in one order it is the
    cross-entropy of that reading. Terms with a weight are added to it.

    Args:
        label_smoothing: share e of the labels that are taken to be wrong: a target t becomes (1 - e) t + e (1 - t).
        verdict_coef: weight of the cross-entropy between the two verdict tokens.
        language_coef: weight of the cross-entropy over the whole vocabulary, which also learns to say one of the two
            tokens. With a verdict_coef of 0 it is the loss. Either way a margin is read from the two.
        consistency_coef: weight of what the order changes in probability, (p(w, l) + p(l, w) - 1)^2. It is at most 1,
            and flat where both readings are sure. Needs both orders.
        logit_consistency_coef: weight of what the order changes in log-odds, (z(w, l) + z(l, w))^2. It pulls as hard on
            sure pairs as on unsure ones, so it is to be much smaller. Needs both orders.

    Raises:
        ValueError: for a share outside of 0 to 1/2, a weight that is not a finite number of at least 0, or a loss that
            learns no verdict.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        verdict_coef: float = 1.0,
        language_coef: float = 0.0,
        consistency_coef: float = 0.0,
        logit_consistency_coef: float = 0.0,
    ) -> None:
        check_smoothing("Pairwise", label_smoothing)
        weights = {"verdict_coef": verdict_coef, "language_coef": language_coef, "consistency_coef": consistency_coef}
        weights["logit_consistency_coef"] = logit_consistency_coef
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"Pairwise.{name} is {weight}; expected a finite number of at least 0")
        if not verdict_coef + language_coef:
            raise ValueError("Pairwise.verdict_coef and language_coef are 0, so no verdict is learnt; raise one")
        self.label_smoothing, self.verdict_coef, self.language_coef = label_smoothing, verdict_coef, language_coef
        self.consistency_coef, self.logit_consistency_coef = consistency_coef, logit_consistency_coef
        self.needs_logits = language_coef > 0
        self.needs_both_orders = consistency_coef + logit_consistency_coef > 0

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        target = smooth(batch.target, self.label_smoothing)
        loss = self.verdict_coef * bradley_terry_loss(batch, target)
        if self.consistency_coef:
            gap = torch.sigmoid(batch.margin[0]) + torch.sigmoid(batch.margin[1]) - 1
            loss = loss + self.consistency_coef * gap.square()
        if self.logit_consistency_coef:
            loss = loss + self.logit_consistency_coef * (batch.margin[0] + batch.margin[1]).square()
        if self.language_coef:
            loss = loss + self.language_coef * language_loss(*batch.verdict_logits(), batch.of_first(target)).mean(0)
        return loss
