"""Responses to prompts in groups, and what an advantage estimator makes of their rewards."""

from typing import Any

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, TokenRewards
from prl.types import PromptBatch, Rollout, Scores


def in_groups(mask: Tensor, per_prompt: int, extras: list[dict[str, Any]] | None = None) -> Rollout:
    """Responses to prompts, as many to each, in adjacent rows.

    Args:
        mask: [B, T] tokens that count.
        per_prompt: responses of a prompt.
        extras: further columns of each prompt.
    """
    rows = len(mask)
    ids = torch.ones(rows // per_prompt, 1, dtype=torch.long)
    batch = PromptBatch(ids, ids.bool(), [()] * len(ids), [()] * len(ids), extras or []).repeat(per_prompt)
    return Rollout(batch, mask.long(), mask, torch.ones(rows, dtype=torch.bool), [""] * rows, mask.shape[1])


def advantages(
    estimator: AdvantageEstimator,
    rewards: list[float],
    per_prompt: int,
    mask: Tensor | None = None,
    extras: list[dict[str, Any]] | None = None,
) -> Tensor:
    """Estimate the advantages of rewards without KL: [B, T], three tokens each unless a mask says otherwise."""
    mask = torch.ones(len(rewards), 3, dtype=torch.bool) if mask is None else mask
    zeros, given = torch.zeros(mask.shape), torch.tensor(rewards)
    signal = TokenRewards(given, None, zeros, zeros, mask, 0.0, "k1")
    return estimator(signal, Scores(given), in_groups(mask, per_prompt, extras), None).advantages
