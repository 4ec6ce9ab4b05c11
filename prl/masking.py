"""Reductions over what counts: tokens under a mask, pairs with a weight.

Means use counts summed over ranks: means of means are wrong.
"""

import torch
from torch import Tensor

from prl.distributed import global_max, global_sum, world_size


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum `values` where `mask` is True: a scalar, on this rank only. Masked values may be anything, NaN included."""
    return values.masked_fill(~mask, 0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average the tokens of all ranks where `mask` is True: a scalar, 0 when no token counts. No gradient."""
    count = global_sum(mask.sum())
    return global_sum(masked_sum(values.detach().float(), mask)) / count.clamp(min=1)


def weighted_mean(values: Tensor, weights: Tensor, of_step: Tensor | None = None, num_batches: int = 1) -> Tensor:
    """Compute this rank's part of the weighted mean over all ranks: its mean over ranks is the weighted mean.

    Weights of 1 give `values.mean()` to the last bit. Gradient flows into `values`.

    Args:
        values: [N], with the same N on every rank.
        weights: [N], above zero.
        of_step: [M] weights of all batches of a step on this rank, if there are several: the mean over batches and
            ranks is then the weighted mean.
        num_batches: number of these batches.
    """
    of_step = weights if of_step is None else of_step
    # Sums of large weights overflow, and sums of small ones underflow to zero by zero.
    largest = global_max(of_step.to(values.dtype).max())
    total = global_sum((of_step.to(values.dtype) / largest).sum())
    mean_weight = total / (len(weights) * world_size() * num_batches)
    return (values * (weights.to(values.dtype) / largest / mean_weight)).mean()


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Compute the unbiased variance over the tokens of all ranks where `mask` is True: a scalar, 0 below two tokens."""
    count = global_sum(mask.sum())
    centred = values.detach().float() - masked_mean(values, mask)
    return global_sum(masked_sum(centred.square(), mask)) / (count - 1).clamp(min=1)


def wide_float(device: torch.device) -> torch.dtype:
    """Choose the type for exact sums over a batch: float64, which MPS lacks."""
    return torch.float32 if device.type == "mps" else torch.float64


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """Compute count, sum and sum of squares over the tokens of this rank: [3] float64, without gradient."""
    # float64 allows sums of squares before the mean is known.
    wide = values.detach().masked_fill(~mask, 0).to(wide_float(values.device))
    return torch.stack([mask.sum().to(wide.dtype), wide.sum(), wide.square().sum()])


def whiten(values: Tensor, mask: Tensor, sums: Tensor | None = None, *, epsilon: float = 1e-8) -> Tensor:
    """Whiten to zero mean and unit variance over the tokens that count on all ranks; zero elsewhere.

    The formula is that of TRL 1.9.2's `masked_whiten`: unbiased variance, epsilon inside the root.

    Args:
        values: [B, T].
        mask: [B, T] bool.
        sums: [3] `moments` of this rank's values, if known.
        epsilon: added to the variance.
    """
    count, total, squares = global_sum(moments(values, mask) if sums is None else sums).unbind()
    mean = total / count.clamp(min=1)
    var = (squares - total * mean).clamp(min=0) / (count - 1).clamp(min=1)
    scale = (var + epsilon).rsqrt()
    return ((values - mean.to(values.dtype)) * scale.to(values.dtype)).masked_fill(~mask, 0)
