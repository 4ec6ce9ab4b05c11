"""Thoughts rewarded by the verdict after them, the plain objective of a judge that thinks."""

import math
from typing import Literal, get_args

from torch import Tensor

from prl.objectives.logistic import soft_logistic
from prl.objectives.reward.base import PairBatch, RewardObjective
from prl.verdict import wins

Reward = Literal["right", "log_prob"]


class VerdictReward(RewardObjective):
    """Reinforce thoughts by the verdict after them: REINFORCE with a leave-one-out baseline (RLOO, 2402.14740).

    Of n thoughts of a reading, c_i has the reward r_i and the advantage r_i less the mean reward of the others. The
    verdict itself learns by its cross-entropy after each thought. With `log_prob` and a `verdict_coef` of 1 the
    gradient is that of E_c[log p(l | x, c)], a lower bound of the likelihood of `ThoughtLikelihood`.

    Args:
        reward: right, 1 where the verdict is right, else 0, by the side on which the label is, and 1/2 for a tie of
            either; log_prob, the log-probability of the label after the thought.
        verdict_coef: weight of the cross-entropy of the verdict.

    Raises:
        ValueError: for an unknown reward, or a weight that is not a finite number of at least 0.
    """

    needs_thoughts = 2

    def __init__(self, reward: Reward = "right", verdict_coef: float = 1.0) -> None:
        if reward not in get_args(Reward):
            raise ValueError(f"VerdictReward.reward is {reward!r}; expected one of {', '.join(get_args(Reward))}")
        if not 0 <= verdict_coef < math.inf:
            raise ValueError(f"VerdictReward.verdict_coef is {verdict_coef}; expected a finite number of at least 0")
        self.reward, self.verdict_coef = reward, verdict_coef

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute a loss of each pair with that gradient, mean over its readings: [B]."""
        margins, logprobs = batch.thoughts()
        target = batch.of_first(batch.target).expand(margins.shape)
        entropy = soft_logistic(margins, target)
        side = wins(target - 0.5)
        rewards = -entropy if self.reward == "log_prob" else 1 - (wins(margins) - side).abs()
        others = (rewards.sum(0) - rewards) / (len(margins) - 1)
        advantage = (rewards - others).detach()
        return (self.verdict_coef * entropy - advantage * logprobs).mean(0).mean(0)
