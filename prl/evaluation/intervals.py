"""Bootstrap intervals by prompt: responses to one prompt are not independent."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


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
    index, picks = resampled_groups(groups or range(len(values)), resamples=resamples, seed=seed)
    sums = np.bincount(index, weights=np.asarray(values, dtype=float))
    counts = np.bincount(index)
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high))


def resampled_groups(groups: Sequence[Hashable], *, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap samples of whole groups.

    Returns:
        [N] the number of each row's group, and [resamples, G] the numbers of the groups drawn.
    """
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    return index, np.random.default_rng(seed).integers(0, len(numbers), (resamples, len(numbers)))
