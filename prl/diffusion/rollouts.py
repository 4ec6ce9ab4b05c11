"""Trajectories in the shape that advantages, shapers and objectives of rollouts read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prl.types import Conversation, PromptBatch, Rollout


def as_rollout(prompts: Sequence[str], group: Tensor, steps: int) -> Rollout:
    """Make a rollout of pictures: a picture is a response whose tokens are the noisy steps of its sampler.

    Nothing but the numbers of prompts and steps is read of it; ids and texts of responses are empty.

    Args:
        prompts: N texts.
        group: [N] number of the prompt of each picture.
        steps: noisy steps of each trajectory.
    """
    count, device = len(prompts), group.device
    ids = torch.zeros(count, 1, dtype=torch.long, device=device)
    turns: list[Conversation] = [({"role": "user", "content": prompt},) for prompt in prompts]
    batch = PromptBatch(ids, torch.ones_like(ids, dtype=torch.bool), turns, [()] * count, group=group)
    tokens = torch.zeros(count, steps, dtype=torch.long, device=device)
    made = torch.ones_like(tokens, dtype=torch.bool)
    return Rollout(batch, tokens, made, made.any(1), [""] * count, steps)
