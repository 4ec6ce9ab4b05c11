"""Generalised advantage estimation in plain torch, one token at a time: the reference of every kernel."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prl.config import KLEstimator
from prl.kl import token_kl
from prl.masking import moments


@dataclass(frozen=True)
class Decays:
    """Discount and trace decays of one problem. `row_lambda` [B] replaces `gae_lambda` where given."""

    gamma: float
    gae_lambda: float
    critic_lambda: float | None
    row_lambda: Tensor | None

    def actor(self) -> float | Tensor:
        """Return gamma * lambda of the advantages: a number, or [B]."""
        return self.gamma * (self.gae_lambda if self.row_lambda is None else self.row_lambda.float())

    def critic(self) -> float | Tensor:
        """Return gamma * lambda of the returns: the actor's unless the critic has its own."""
        return self.actor() if self.critic_lambda is None else self.gamma * self.critic_lambda


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, scores: Tensor | None, decays: Decays
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute advantages, returns and moments of padded rows.

    Args:
        rewards: [B, T] token rewards.
        values: [B, T] value of the state before each token.
        mask: [B, T] bool, True on tokens that count.
        scores: [B] added to the reward of each row's last token that counts, or None.
        decays: gamma and the lambdas.

    Returns:
        advantages, returns: [B, T] float32, zero outside the mask; moments: [3] float64, the number of tokens that
        count and the sums of their advantages and of the squares.
    """
    rewards, values = rewards.float(), values.float()
    advantages, returns = rewards.new_zeros(rewards.shape), rewards.new_zeros(rewards.shape)
    zeros = rewards.new_zeros(rewards.shape[0])
    next_value = next_advantage = next_trace = zeros
    score = zeros if scores is None else scores.float()
    actor, critic = decays.actor(), decays.critic()
    for t in reversed(range(rewards.shape[1])):
        counts = mask[:, t]
        delta = rewards[:, t] + score + decays.gamma * next_value - values[:, t]
        advantage = delta + actor * next_advantage
        trace = delta + critic * next_trace
        advantages[:, t] = torch.where(counts, advantage, 0)
        returns[:, t] = torch.where(counts, trace + values[:, t], 0)
        next_advantage = torch.where(counts, advantage, next_advantage)
        next_trace = torch.where(counts, trace, next_trace)
        next_value = torch.where(counts, values[:, t], next_value)
        score = torch.where(counts, 0, score)
    return advantages, returns, moments(advantages, mask)


def shaped_rewards(logprobs: Tensor, ref_logprobs: Tensor, kl_coef: float, kl_estimator: KLEstimator) -> Tensor:
    """Compute -kl_coef * KL per token, in float32; zeros, without reading the log-probabilities, when kl_coef is 0."""
    if kl_coef == 0:
        return torch.zeros_like(logprobs, dtype=torch.float32)
    return -kl_coef * token_kl(logprobs.float(), ref_logprobs.float(), kl_estimator)


def pad(packed: Tensor, places: Tensor) -> Tensor:
    """Pad the rows of a packed tensor: [N] -> [B, T]; masked entries repeat the first token."""
    return packed.new_zeros(places.shape) if packed.numel() == 0 else packed[places]


def row_places(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute from [B + 1] row starts the token indices of each row, [B, T] (0 where none), and which are real."""
    lengths = offsets.diff()
    steps = torch.arange(int(lengths.max()) if lengths.numel() else 0, device=offsets.device)
    real = steps < lengths[:, None]
    return torch.where(real, offsets[:-1, None] + steps, 0), real
