"""TreePO: the scored responses of a tree or list, ranked as a whole and not by one pair."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.logistic import check_beta
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


class TreePO(PreferenceObjective):
    """sum over v_i > v_j of -lambda_ij log sigma(s_i - s_j), the LiPO-lambda loss on a list (TPO, 2410.12854).

    s = beta rho is the implicit reward of a response, v its number in `rewards`, beside the text list `responses`.
    lambda_ij = |2^v_i - 2^v_j| |1 / log(1 + t_i) - 1 / log(1 + t_j)|, with t the rank by s, 1 the highest, gets no
    gradient: what matters most is to have the top right. Among equal s the higher v ranks first, as at the start, where
    all s are 0. Equal v say nothing. Of the pair itself nothing is learnt, nor of its label.

    Not built: the paper's adaptive step reward, which weighs the steps of two responses by how alike their last hidden
    states are; rows do not say where steps are. That the paper takes lambda from LiPO as it is was not read in
    its text.

    Args:
        beta: how strongly the policy is held to the reference; 0.5 in the authors' script.
        scale: by what the rewards are divided before 2^v; rewards of the paper reach from -100 to 95.

    Raises:
        ValueError: for a beta or scale that is not above 0, or rewards too large for 2^v.
    """

    lists = {"responses": ("rewards",)}

    def __init__(self, beta: float = 0.5, scale: float = 1.0) -> None:
        check_beta("TreePO", beta)
        if not 0 < scale < math.inf:
            raise ValueError(f"TreePO.scale is {scale}; expected a finite number above 0")
        self.beta, self.scale = beta, scale

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        present, rewards = batch.present("responses"), batch.columns["rewards"] / self.scale
        scores = self.reward(batch.views["responses"]).view(present.shape)
        gains = torch.exp2(rewards)
        if not bool(gains.isfinite().all()):
            raise ValueError(f"TreePO: 2^(reward / scale) is too large for rewards / {self.scale:g}; raise scale")
        discounts = 1 / (1 + _ranks(scores.detach().masked_fill(~present, -math.inf), rewards)).log()
        above = (rewards[:, :, None] > rewards[:, None, :]) & present[:, :, None] & present[:, None, :]
        weights = (gains[:, :, None] - gains[:, None, :]).abs() * (discounts[:, :, None] - discounts[:, None, :]).abs()
        return (weights.masked_fill(~above, 0) * softplus(scores[:, None, :] - scores[:, :, None])).sum((1, 2))


def _ranks(scores: Tensor, rewards: Tensor) -> Tensor:
    """Rank the places of each row from the highest score, 1, and among equal ones from the highest reward: [B, K]."""
    by_reward = rewards.argsort(dim=1, descending=True, stable=True)
    order = by_reward.gather(1, scores.gather(1, by_reward).argsort(dim=1, descending=True, stable=True))
    return order.argsort(1).to(scores.dtype) + 1
