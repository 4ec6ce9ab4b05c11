"""Micro-batches of whole prompts, for objectives that compare the responses of a prompt."""

from dataclasses import replace

import torch
from torch import Tensor

from prl.objectives.policy.base import LossOutput, PolicyObjective, PolicyOutputs
from prl.rl.minibatch_loss import token_weights
from prl.types import Experience
from tests.helpers.records import make_experience, ragged_mask


def of_prompts(
    prompts: list[int],
    lengths: list[int],
    *,
    rewards: list[float] | None = None,
    advantages: list[float] | None = None,
    ref: Tensor | None = None,
    max_new_tokens: int | None = None,
) -> Experience:
    """Make an experience in float64 of responses to numbered prompts, with log-probabilities of 0 under old policies.

    Args:
        prompts: number of each response's prompt.
        lengths: tokens of each response; 0 for one that does not count.
        rewards: of each response; 0 when None.
        advantages: of each response; 0 when None.
        ref: [B, T] log-probabilities under the reference; 0 when None.
        max_new_tokens: limit of sampling; the longest response when None.
    """
    mask = ragged_mask(lengths, max(lengths) if max_new_tokens is None else max_new_tokens)
    given = torch.tensor(advantages or [0.0] * len(lengths), dtype=torch.float64)
    found = make_experience(
        mask,
        old_logprobs=torch.zeros(mask.shape, dtype=torch.float64),
        ref_logprobs=torch.zeros(mask.shape, dtype=torch.float64) if ref is None else ref,
        advantages=given[:, None] * mask,
        rewards=torch.tensor(rewards or [0.0] * len(lengths), dtype=torch.float64),
        weights=torch.ones(len(lengths), dtype=torch.float64),
    )
    batch = replace(found.rollout.batch, group=torch.tensor(prompts))
    return replace(found, rollout=replace(found.rollout, batch=batch))


def spread(totals: list[float], lengths: list[int]) -> Tensor:
    """Share out numbers of whole responses over their tokens, unevenly: [B, T] float64."""
    mask = ragged_mask(lengths)
    parts = (torch.arange(mask.shape[1], dtype=torch.float64) + 1) * mask
    return torch.tensor(totals, dtype=torch.float64)[:, None] * parts / parts.sum(1, keepdim=True).clamp(min=1)


def loss_of(objective: PolicyObjective, experience: Experience, logprobs: Tensor) -> LossOutput:
    """Compute the loss of a whole minibatch, averaged over its responses."""
    mask, counted = experience.rollout.response_mask, experience.counted.sum()
    weights = token_weights(mask, "sequence_mean", mask.sum(), counted, experience.weights)
    return objective(PolicyOutputs(logprobs, None), experience, weights)
