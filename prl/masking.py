"""Reductions over tokens that count. Averages use counts agreed across ranks: averages of averages are wrong."""

from torch import Tensor

from prl.distributed import global_sum


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is True: a scalar, this rank only. Masked values may be anything, NaN included."""
    return values.masked_fill(~mask, 0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of all ranks where `mask` is True: a scalar, 0 when no token counts. No gradient."""
    count = global_sum(mask.sum())
    return global_sum(masked_sum(values.detach().float(), mask)) / count.clamp(min=1)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance over the tokens of all ranks where `mask` is True: a scalar, 0 for fewer than two tokens."""
    count = global_sum(mask.sum())
    centred = values.detach().float() - masked_mean(values, mask)
    return global_sum(masked_sum(centred.square(), mask)) / (count - 1).clamp(min=1)


def whiten(values: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Zero mean and unit variance over the tokens that count on all ranks; zero elsewhere.

    Same formula as TRL 1.9.2's `masked_whiten`: unbiased variance, epsilon inside the root.
    """
    mean, var = masked_mean(values, mask), masked_var(values, mask)
    return ((values - mean) * (var + epsilon).rsqrt()).masked_fill(~mask, 0)
