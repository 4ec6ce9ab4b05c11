"""Rewards from demonstrations by inverse reinforcement learning, on pairs of a demonstration and a policy's sample."""

import math

from torch import Tensor

from prl.objectives.reward.base import PairBatch, RewardObjective


class IRLReward(RewardObjective):
    """Minimise -(u_w - u_l) + c / 2 (u_w^2 + u_l^2), u = r / beta, y_w a demonstration and y_l a sample of the policy.

    The reward of DR-IRL (2503.18991) is the outer part of max_r min_pi E[(r(x, y) - r(x, y~)) / beta + KL(pi || ref)],
    y a demonstration and y~ of pi. For a policy at hand that is the linear gap, and its gradient, E_demo grad r less
    E_pi grad r, is that of the demonstrations' likelihood where pi is optimal under r. The inner part is PPO or GRPO on
    this reward with beta as the coefficient of the KL. The two alternate.

    For pairs that are fixed the gap has no bound. The squares are this library's: LS-IQ (2303.00599) regularises so, on
    demonstrations and samples alike. Over all functions the optimum for densities p of demonstrations and q of samples
    is u = (p - q) / (c (p + q)), so r lies within beta / c, is 0 where the policy writes as the demonstrations do, and
    has a zero of its own. The loss is then -1 / (2 c) times the chi-square of p - q over p + q. With c = 0 it is the
    gap alone. A label of t gives the gap a factor of 2 t - 1, so that a flipped pair is a swapped one.

    The formula of the problem was read in a copy of the paper; how its authors bound or stop the reward, and how often
    the two parts alternate, was not. They train a reward for each category of harm: here a run for each file.

    Args:
        beta: coefficient of the KL in the policy's training, which sets the scale of the reward.
        regularisation: c; the reward lies within beta / c. 0 is the gap alone, for a few steps between policies.

    Raises:
        ValueError: for a beta that is not a finite number above 0, or a regularisation below 0.
    """

    head_weights = (1.0,)

    def __init__(self, beta: float = 1.0, regularisation: float = 0.5) -> None:
        if not 0 < beta < math.inf:
            raise ValueError(f"IRLReward.beta is {beta}; expected a finite number above 0")
        if not 0 <= regularisation < math.inf:
            raise ValueError(f"IRLReward.regularisation is {regularisation}; expected a finite number of at least 0")
        self.beta, self.regularisation = beta, regularisation

    def loss(self, batch: PairBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        chosen, rejected = (rewards[:, 0] / self.beta for rewards in batch.head_rewards())
        gap = (2 * batch.target - 1) * (chosen - rejected)
        if not self.regularisation:
            return -gap
        return self.regularisation / 2 * (chosen.square() + rejected.square()) - gap
