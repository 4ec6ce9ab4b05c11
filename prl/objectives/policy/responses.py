"""Numbers of whole responses, and which of them answer one prompt, for objectives that look beyond single tokens."""

import torch
from torch import Tensor

from prl.types import Experience


def of_response(values: Tensor, mask: Tensor) -> Tensor:
    """Take what all tokens of a response share, such as its advantage: [B, T] to [B]; 0 for an empty response.

    Args:
        values: [B, T].
        mask: [B, T] bool, the tokens that the policy made; in front of the first one others may stand.
    """
    if not values.shape[1]:
        return values.new_zeros(len(values))
    first = mask.int().argmax(1, keepdim=True)
    return (values.gather(1, first) * mask.gather(1, first))[:, 0]


def sum_over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the tokens of each response: [B, T] to [B]."""
    return values.masked_fill(~mask, 0).sum(1)


def mean_over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """Average over the tokens of each response: [B, T] to [B]; 0 for an empty response."""
    return sum_over_tokens(values, mask) / mask.sum(1).clamp(min=1)


def same_prompt(experience: Experience) -> Tensor:
    """Tell which two different responses that count answer one prompt: [B, B] bool."""
    group, counted = experience.rollout.group, experience.counted
    alike = (group[:, None] == group) & counted[:, None] & counted
    return alike & ~torch.eye(len(group), dtype=torch.bool, device=group.device)


def prompt_weights(experience: Experience, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Tell each of B responses the number of its prompt, [B], and add up the weights of each of P prompts, [P].

    Args:
        experience: B responses.
        weights: [B, T] weight of each token.
    """
    numbers = experience.rollout.group.unique(return_inverse=True)[1]
    prompts = int(numbers.max()) + 1 if len(numbers) else 0
    return numbers, weights.new_zeros(prompts).index_add(0, numbers, weights.sum(1))
