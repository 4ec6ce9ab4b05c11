"""Generalised advantage estimation in plain torch: the specification that any faster kernel is tested against."""

import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    gae_lambda: float | Tensor = 0.95,
    critic_lambda: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns over the tokens that count.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}, return_t = V_t + A_t with the critic's
    lambda. t + 1 is the next token that counts: masked tokens inside a row are skipped, not treated as ends; after the
    last one V and A are zero. Sources: Schulman et al. 2015 (1506.02438), eq. 16; decoupled lambda: VC-PPO
    (2503.01491).

    Args:
        rewards: [B, T] token rewards.
        values: [B, T] value of the state before each token.
        mask: [B, T] bool, True on tokens that count.
        gamma: discount in [0, 1].
        gae_lambda: trace decay of the advantages: one number, or [B] one per row (length-adaptive, VAPO 2504.05118).
        critic_lambda: trace decay of the returns; the same as `gae_lambda` when None.

    Returns:
        advantages, returns: [B, T] float32, zero outside the mask. Constants: no gradient flows.

    Raises:
        ValueError: when shapes differ or the mask is not bool.
    """
    if rewards.dim() != 2 or rewards.shape != values.shape or rewards.shape != mask.shape:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, values {tuple(values.shape)} and mask {tuple(mask.shape)} must share one "
            "shape [B, T]"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}, expected torch.bool (True = counts)")
    with torch.no_grad():
        rewards, values = rewards.float(), values.float()
        advantages = _scan(rewards, values, mask, gamma, gae_lambda)
        traces = advantages if critic_lambda is None else _scan(rewards, values, mask, gamma, critic_lambda)
        return advantages, (traces + values).masked_fill(~mask, 0)


def _scan(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, trace_decay: float | Tensor) -> Tensor:
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        counts = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * trace_decay * next_advantage
        advantages[:, t] = torch.where(counts, advantage, 0)
        next_advantage = torch.where(counts, advantage, next_advantage)
        next_value = torch.where(counts, values[:, t], next_value)
    return advantages


def length_adaptive_lambda(lengths: Tensor, alpha: float) -> Tensor:
    """Trace decay 1 - 1 / (alpha l), not below 0, for responses of length l: [B] -> [B]. Source: VAPO (2504.05118)."""
    return (1 - 1 / (alpha * lengths.float())).clamp(min=0)
