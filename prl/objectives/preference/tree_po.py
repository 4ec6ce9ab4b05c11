"""TreePO: the scored responses of a tree or list, ranked as a whole and not by one pair."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad, softplus

from prl.objectives.logistic import check_beta
from prl.objectives.preference.base import PreferenceBatch, PreferenceObjective, ScoredResponses


class TreePO(PreferenceObjective):
    """sum over v_i > v_j of -lambda_ij log sigma(s_i - s_j), the LiPO-lambda loss on a list (TPO, 2410.12854).

    s = beta rho is the implicit reward of a response, v its number in `rewards`, beside the text list `responses`.
    lambda_ij = |2^v_i - 2^v_j| |1 / log(1 + t_i) - 1 / log(1 + t_j)|, with t the rank by s, 1 the highest, gets no
    gradient: what matters most is to have the top right. Among equal s the higher v ranks first, as at the start, where
    all s are 0. Equal v say nothing. Of the pair itself nothing is learnt, nor of its label.

    With a `step_separator` the margin s_i - s_j is sum_k (1 + cos(e_ik, e_jk)) (s_ik - s_jk), the adaptive step reward:
    s_ik is s of step k alone, and e_ik the mean of the last hidden states that have read its tokens, without gradient.
    A step that only one of the two responses has counts once.

    Not verified in the paper's text: that lambda is LiPO's as it is; the form of the step reward over two responses,
    for the authors' code compares each with the first of the list; and that steps of one response alone count, which
    that code leaves out.

    Args:
        beta: how strongly the policy is held to the reference; 0.5 in the authors' script.
        scale: by what the rewards are divided before 2^v; rewards of the paper reach from -100 to 95.
        step_separator: text that ends a step, such as a line break; steps are not weighed when null.

    Raises:
        ValueError: for a beta or scale that is not above 0, an empty separator, or rewards too large for 2^v.
    """

    lists = {"responses": ("rewards",)}

    def __init__(self, beta: float = 0.5, scale: float = 1.0, step_separator: str | None = None) -> None:
        check_beta("TreePO", beta)
        if not 0 < scale < math.inf:
            raise ValueError(f"TreePO.scale is {scale}; expected a finite number above 0")
        self.beta, self.scale, self.step_separator = beta, scale, step_separator
        self.needs_hidden = step_separator is not None

    def loss(self, batch: PreferenceBatch) -> Tensor:
        """Compute the loss of each pair: [B]."""
        present, rewards = batch.present("responses"), batch.columns["rewards"] / self.scale
        responses = batch.views["responses"]
        scores = self.reward(responses).view(present.shape)
        margins = scores[:, :, None] - scores[:, None, :]
        if self.step_separator is not None:
            margins = self.beta * _weighed_margins(responses, present)
        gains = torch.exp2(rewards)
        if not bool(gains.isfinite().all()):
            raise ValueError(f"TreePO: 2^(reward / scale) is too large for rewards / {self.scale:g}; raise scale")
        discounts = 1 / (1 + _ranks(scores.detach().masked_fill(~present, -math.inf), rewards)).log()
        above = (rewards[:, :, None] > rewards[:, None, :]) & present[:, :, None] & present[:, None, :]
        weights = (gains[:, :, None] - gains[:, None, :]).abs() * (discounts[:, :, None] - discounts[:, None, :]).abs()
        return (weights.masked_fill(~above, 0) * softplus(-margins)).sum((1, 2))


def _weighed_margins(responses: ScoredResponses, present: Tensor) -> Tensor:
    """Compute sum_k (1 + cos(e_ik, e_jk)) (rho_ik - rho_jk) of any two responses of each list: [B, K, K]."""
    ratios = responses.by_step(responses.log_ratios()).view(*present.shape, -1)
    has_read = pad(responses.mask[:, 1:], (0, 1))  # no state has read the end token
    after = pad(responses.of_states("hidden").detach()[:, 1:], (0, 0, 0, 1))
    sums = responses.by_step(after.masked_fill(~has_read[..., None], 0)).view(*ratios.shape, -1)
    alike = torch.einsum("biks,bjks->bijk", *[normalize(sums, dim=-1)] * 2)  # a mean and a sum have one direction
    return ((1 + alike) * (ratios[:, :, None] - ratios[:, None, :])).sum(-1)


def _ranks(scores: Tensor, rewards: Tensor) -> Tensor:
    """Rank the places of each row from the highest score, 1, and among equal ones from the highest reward: [B, K]."""
    by_reward = rewards.argsort(dim=1, descending=True, stable=True)
    order = by_reward.gather(1, scores.gather(1, by_reward).argsort(dim=1, descending=True, stable=True))
    return order.argsort(1).to(scores.dtype) + 1
