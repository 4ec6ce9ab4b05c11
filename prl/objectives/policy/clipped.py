"""Losses of PPO (1707.06347) as pure functions of tensors, one number per token; the caller averages."""

import torch
from torch import Tensor


def clipped_policy_loss(
    new_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """Compute -min(rho A, clip(rho, 1 - low, 1 + high) A) per token: [B, T] -> [B, T].

    Sources: PPO (1707.06347), eq. 7; a wider upper clip: DAPO (2503.14476); dual clip, which bounds the loss of a
    negative advantage at -dual_clip * A: 1912.09729.
    """
    ratio = torch.exp(new_logprobs - old_logprobs)
    high = clip_range if clip_range_high is None else clip_range_high
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + high))
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)


def clipped_value_loss(
    new_values: Tensor, old_values: Tensor, returns: Tensor, *, value_clip_range: float | None = 0.2
) -> Tensor:
    """Compute half the larger of the unclipped and the clipped squared error per token: [B, T] -> [B, T].

    The clip keeps a new value within `value_clip_range` of the old value; None disables it.
    """
    squared = (new_values - returns).square()
    if value_clip_range is None:
        return squared / 2
    clipped = old_values + (new_values - old_values).clamp(-value_clip_range, value_clip_range)
    return torch.maximum(squared, (clipped - returns).square()) / 2
