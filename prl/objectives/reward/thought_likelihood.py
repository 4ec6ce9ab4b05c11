"""The likelihood of labels under a judge that thinks, by a Monte-Carlo gradient."""

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from prl.objectives.logistic import check_smoothing, smooth
from prl.objectives.reward.base import PairBatch, RewardObjective


class ThoughtLikelihood(RewardObjective):
    """Maximise log E_c[p(l | x, c)], the likelihood of a label l over thoughts c ~ pi(. | x) that nobody has labelled.

    The judge of a reading x gives the label the probability P = E_c[p(l | x, c)], an expectation over its thoughts.
    With n thoughts c_i and w_i = p(l | x, c_i) / sum_j p(l | x, c_j), the gradient of log P is estimated by

        sum_i (w_i - 1/n) grad log pi(c_i | x)  +  sum_i w_i grad log p(l | x, c_i).

    The estimate is consistent in n: both terms are ratios of means over thoughts. Subtracting 1/n changes no
    expectation, since that of grad log pi is 0, and takes away the noise of thoughts that all serve alike. It is
    REINFORCE with the probability of the label as reward, its mean as baseline, divided by that mean: a thought counts
    by how much better than the others it explains the label, not by whether the verdict is right.

    That the likelihood of a judge that thinks is one of expectations over thoughts, with a consistent Monte-Carlo
    gradient, is of 2510.15242 (its abstract, version 3; there a ratio of two expectations). Here the verdict after a
    thought is normalised over its two tokens, so the two expectations of the denominator sum to 1. The formulas are
    derived from that, and held against enumeration in `tests/unit/objectives/reward/test_thoughts.py`.

    A soft label t averages the gradients of both labels, by t and 1 - t.

    Args:
        label_smoothing: share e of the labels that are taken to be wrong: a target t becomes (1 - e) t + e (1 - t).

    Raises:
        ValueError: for a share outside of 0 to 1/2.
    """

    needs_thoughts = 2

    def __init__(self, label_smoothing: float = 0.0) -> None:
        check_smoothing("ThoughtLikelihood", label_smoothing)
        self.label_smoothing = label_smoothing

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute a loss of each pair with the gradient above, mean over its readings: [B]."""
        margins, logprobs = batch.thoughts()
        target = batch.of_first(smooth(batch.target, self.label_smoothing)).to(margins.dtype)
        first, second = logsigmoid(margins), logsigmoid(-margins)
        likelihood = target * first.logsumexp(0) + (1 - target) * second.logsumexp(0) - math.log(len(margins))
        weights = target * first.softmax(0) + (1 - target) * second.softmax(0)
        advantage = (weights - 1 / len(margins)).detach()
        return -(likelihood + (advantage * logprobs).sum(0)).mean(0)
