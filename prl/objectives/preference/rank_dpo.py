"""RankDPO: all pairs of a ranked list, weighed by what their order matters at the top."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prl.objectives.logistic import check_beta
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective


def win_shares(scores: Tensor) -> Tensor:
    """Compute the share of comparisons that each of K responses wins: [K] (2410.18013, algorithm 1).

    Args:
        scores: [K, N] score of each response by each model; equal scores are half a win for both.
    """
    wins = (scores[:, None] > scores[None]).double() + 0.5 * (scores[:, None] == scores[None]).double()
    return (wins.sum((1, 2)) - 0.5 * scores.shape[1]) / (scores.shape[1] * (len(scores) - 1))


class RankDPO(PreferenceObjective):
    """sum over phi_i > phi_j of -Delta_ij log sigma(beta (rho_i - rho_j)), DPO on a list (2410.18013, eq. 4 to 7).

    rho is the log-ratio of a response, phi its number in `rewards`, beside the list `responses`: the share of
    comparisons that it wins (`win_shares`). Delta_ij = |2^phi_i - 2^phi_j| |1 / log(1 + t_i) - 1 / log(1 + t_j)|, with
    t the rank by phi, 1 the highest: unlike in `TreePO`, ranks are those of the labels, and do not move. Of the pair
    itself nothing is learnt, nor of its label. On pictures the paper's beta is half of the one here, because its margin
    is that of errors, which are -2 rho.

    The paper names neither beta nor the base of its logarithm, which only scales the loss; it is the natural one here.
    Responses of equal phi rank in the order of the list.

    Args:
        beta: how strongly the policy is held to the reference.

    Raises:
        ValueError: for a beta that is not above 0.
    """

    lists = {"responses": ("rewards",)}

    def __init__(self, beta: float = 0.1) -> None:
        check_beta("RankDPO", beta)
        self.beta = beta

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        present, shares = batch.present("responses"), batch.columns["rewards"]
        scores = self.reward(batch.views["responses"]).view(present.shape)
        order = shares.masked_fill(~present, -torch.inf).argsort(dim=1, descending=True, stable=True)
        discounts = 1 / (2 + order.argsort(1).to(scores.dtype)).log()  # ranks from 1, and log(1 + rank)
        gains = torch.exp2(shares)
        above = (shares[:, :, None] > shares[:, None, :]) & present[:, :, None] & present[:, None, :]
        weights = (gains[:, :, None] - gains[:, None, :]).abs() * (discounts[:, :, None] - discounts[:, None, :]).abs()
        margins = scores[:, :, None] - scores[:, None, :]
        return (weights.masked_fill(~above, 0) * softplus(-margins)).sum((1, 2))
