"""Seeded groups of rows for the update. Knows nothing of losses."""

from collections.abc import Iterator

import torch
from torch import Tensor

from prl.distributed import global_sum


def split_microbatches(num_rows: int, microbatch_size: int) -> list[Tensor]:
    """Random groups of at most `microbatch_size` rows; each row is in exactly one.

    The groups stay the same for a whole iteration, because a forward pass over the same tensors gives the same bits:
    the ratio of the first update is then exactly one.
    """
    return list(torch.randperm(num_rows).split(microbatch_size))


def check_minibatches(num_microbatches: int, num_minibatches: int) -> None:
    """Raises ValueError when there are fewer micro-batches than minibatches."""
    if num_microbatches < num_minibatches:
        raise ValueError(
            f"ppo.minibatches is {num_minibatches}, but an iteration has only {num_microbatches} micro-batches per "
            "process; lower ppo.minibatches or ppo.microbatch_size, or raise the data batch size"
        )


def schedule_minibatches(microbatches: list[Tensor], num_minibatches: int, epochs: int) -> Iterator[list[Tensor]]:
    """Minibatches of whole micro-batches, dealt anew in every epoch: `num_minibatches` per epoch.

    Raises:
        ValueError: when there are fewer micro-batches than minibatches.
    """
    check_minibatches(len(microbatches), num_minibatches)
    for _ in range(epochs):
        for group in torch.randperm(len(microbatches)).tensor_split(num_minibatches):
            yield [microbatches[i] for i in group.tolist()]


def count_global(mask: Tensor, groups: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Count the tokens of a minibatch that count, and the responses that have any, over all ranks.

    Args:
        mask: [B, T] bool.
        groups: rows of each micro-batch.
    """
    counts = [torch.stack([mask[rows].sum(), mask[rows].any(1).sum()]) for rows in groups]
    tokens, responses = global_sum(torch.stack(counts).sum(0))
    return tokens, responses
