"""Seeded micro-batches and minibatches of the update."""

from collections.abc import Iterator

import torch
from torch import Tensor

from prl.distributed import global_sum
from prl.masking import wide_float


def split_microbatches(num_rows: int, microbatch_size: int) -> list[Tensor]:
    """Draw random groups of at most `microbatch_size` rows; each row is in exactly one group.

    The groups stay the same for a whole iteration, because a forward pass over the same tensors gives the same bits:
    the ratio of the first update is then exactly one.
    """
    return list(torch.randperm(num_rows).split(microbatch_size))


def split_prompts(group: Tensor, microbatch_size: int) -> list[Tensor]:
    """Draw random groups of at most `microbatch_size` rows, with all responses of a prompt in one of them.

    Args:
        group: [B] number of the prompt of each row; prompts have equally many rows.
        microbatch_size: at least the rows of a prompt.
    """
    rows = group.cpu().argsort(stable=True).view(len(group.unique()), -1)
    order = torch.randperm(len(rows)).split(max(1, microbatch_size // rows.shape[1]))
    return [rows[prompts].flatten() for prompts in order]


def split_side_by_side(group: Tensor, microbatch_size: int) -> list[Tensor]:
    """Draw random groups of `microbatch_size` rows, with the responses of a prompt side by side.

    There are as many groups as by `split_microbatches`, of as many rows. Where `microbatch_size` is a multiple of the
    responses to a prompt, a group has all of them.

    Args:
        group: [B] number of the prompt of each row.
        microbatch_size: most rows of a group.
    """
    numbers = group.cpu().unique(return_inverse=True)[1]
    order = torch.randperm(int(numbers.max()) + 1)
    return list(order.argsort()[numbers].argsort(stable=True).split(microbatch_size))


def check_minibatches(num_microbatches: int, num_minibatches: int) -> None:
    """Refuse fewer micro-batches than minibatches. Raises ValueError."""
    if num_microbatches < num_minibatches:
        raise ValueError(
            f"update.minibatches is {num_minibatches}, but an iteration has only {num_microbatches} micro-batches per "
            "process; lower update.minibatches or update.microbatch_size, or raise the data batch size"
        )


def schedule_minibatches(microbatches: list[Tensor], num_minibatches: int, epochs: int) -> Iterator[list[Tensor]]:
    """Deal whole micro-batches into `num_minibatches` minibatches, at random in every epoch.

    Raises:
        ValueError: when there are fewer micro-batches than minibatches.
    """
    check_minibatches(len(microbatches), num_minibatches)
    for _ in range(epochs):
        for group in torch.randperm(len(microbatches)).tensor_split(num_minibatches):
            yield [microbatches[i] for i in group.tolist()]


def count_global(mask: Tensor, weights: Tensor, groups: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Sum the weights of a minibatch's tokens, and of its responses with tokens, over all ranks.

    Args:
        mask: [B, T] bool, True on tokens that count.
        weights: [B] weights of the responses.
        groups: rows of each micro-batch.
    """
    rows = torch.cat(groups).to(mask.device)
    # float64, because float32 does not hold whole numbers beyond 2^24.
    wide = weights[rows].to(wide_float(mask.device))
    counts = torch.stack([(mask[rows].sum(1) * wide).sum(), (mask[rows].any(1) * wide).sum()])
    tokens, responses = global_sum(counts).float()
    return tokens, responses
