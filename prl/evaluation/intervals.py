"""Bootstrap intervals by prompt: responses to one prompt are not independent."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

PICKS_AT_ONCE = 4_000_000
"""Draws held in memory at a time."""


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of `values` with a 95 % percentile interval over resampled groups (prompts).

    Args:
        values: one number per response or pair.
        groups: the prompt of each; every value is its own group when None.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: when there are no values.
    """
    if len(values) == 0:
        raise ValueError("no values to average")
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(group, len(numbers)) for group in (groups or range(len(values)))]
    sums = np.bincount(index, weights=np.asarray(values, dtype=float))
    counts = np.bincount(index)
    generator = np.random.default_rng(seed)
    rows = max(1, PICKS_AT_ONCE // len(sums))  # the draws are those of one large table, which may not fit in memory
    means = np.concatenate(
        [
            sums[picks].sum(1) / counts[picks].sum(1)
            for start in range(0, resamples, rows)
            for picks in [generator.integers(0, len(sums), (min(rows, resamples - start), len(sums)))]
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high))
