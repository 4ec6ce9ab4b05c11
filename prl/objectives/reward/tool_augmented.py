"""Tool-augmented reward modelling (Themis): learn to write about a response, with calls of tools, and to score it."""

import math

from torch import Tensor

from prl.objectives.logistic import check_smoothing, smooth
from prl.objectives.reward.base import PairBatch, RewardObjective
from prl.objectives.reward.bradley_terry import bradley_terry_loss


class ToolAugmented(RewardObjective):
    """a NLL(traces) + b [-log sigma(r_w - r_l)], where r is read behind the trace (Themis, 2310.01045).

    A trace is what the model writes about a response before it scores it: thoughts, calls of tools, what the tools
    answered, a rationale. NLL is the mean negative log-likelihood of a token that the model writes itself, for each
    trace; that of a pair is the mean over both. What tools answered is read and not learnt, unless
    `learns_observations`. Weights and masks are those of the authors' code; that the mean is over each trace, and not
    over all tokens of a batch, is ours, as is that a response without a trace counts as 0. The paper weighs calls,
    observations and rationales each by itself, which is not here. With a = 0, b = 1 and empty traces it is
    `BradleyTerry`, bit for bit.

    Args:
        language_coef: a, weight of the traces.
        ranking_coef: b, weight of the comparison.
        learns_observations: learn what tools answered too.
        label_smoothing: share e of the labels that are taken to be wrong: a target t becomes (1 - e) t + e (1 - t).

    Raises:
        ValueError: for a weight that is not a finite number of at least 0, or a share outside of 0 to 1/2.
    """

    needs_traces = True

    def __init__(
        self,
        language_coef: float = 1.0,
        ranking_coef: float = 0.5,
        learns_observations: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        check_smoothing("ToolAugmented", label_smoothing)
        for name, value in (("language_coef", language_coef), ("ranking_coef", ranking_coef)):
            if not 0 <= value < math.inf:
                raise ValueError(f"ToolAugmented.{name} is {value}; expected a finite number of at least 0")
        if language_coef + ranking_coef == 0:
            raise ValueError("ToolAugmented.language_coef and ranking_coef are 0, so nothing is learnt; raise one")
        self.language_coef, self.ranking_coef = language_coef, ranking_coef
        self.learns_observations, self.label_smoothing = learns_observations, label_smoothing

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        loss = self.ranking_coef * bradley_terry_loss(batch, smooth(batch.target, self.label_smoothing))
        return loss + self.language_coef * batch.text_nll() if self.language_coef else loss
