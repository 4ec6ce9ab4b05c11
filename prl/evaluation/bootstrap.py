"""Bootstrap intervals by prompt: responses to one prompt are not independent."""

from collections.abc import Callable, Hashable, Sequence
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
    """Average `values`, with a 95 % percentile interval over resampled groups (prompts).

    Args:
        values: one number per response or pair.
        groups: prompt of each value; every value is its own group when None.
        resamples: bootstrap samples.
        seed: seed of the resampling.

    Raises:
        ValueError: when there are no values.
    """
    if len(values) == 0:
        raise ValueError("no values to average")
    index = number_groups(groups or range(len(values)))
    sums = np.bincount(index, weights=np.asarray(values, dtype=float))
    counts = np.bincount(index)
    generator = np.random.default_rng(seed)
    rows = max(1, PICKS_AT_ONCE // len(sums))  # the draws equal those of one large table, which may not fit in memory
    means = np.concatenate(
        [
            sums[picks].sum(1) / counts[picks].sum(1)
            for start in range(0, resamples, rows)
            for picks in [generator.integers(0, len(sums), (min(rows, resamples - start), len(sums)))]
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high))


def bootstrap_ratio(
    above: Sequence[float], below: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Compute sum(above) / sum(below), with a 95 % percentile interval over resampled rows, each a group of its own.

    Resamples whose `below` is zero have no ratio and are left out.

    Raises:
        ValueError: when `below` sums to zero.
    """
    top, bottom = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    if bottom.sum() == 0:
        raise ValueError("the ratio's lower sum is zero")
    _, picks = resampled_groups(range(len(bottom)), resamples=resamples, seed=seed)
    tops, bottoms = top[picks].sum(1), bottom[picks].sum(1)
    low, high = np.quantile(tops[bottoms > 0] / bottoms[bottoms > 0], [0.025, 0.975])
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high))


def bootstrap_statistic(
    features: np.ndarray,
    groups: Sequence[Hashable],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Compute a statistic of sums over rows, with a 95 % percentile interval over resampled groups (prompts).

    Args:
        features: [N, F] what each row adds to the sums.
        groups: N prompts, one of each row.
        statistic: sums [..., F] -> [...]; NaN where it is undefined.
        resamples: bootstrap samples; those whose statistic is undefined are left out.
        seed: seed of the resampling.

    Returns:
        the interval; None without rows, or where the statistic is undefined.
    """
    if len(features) == 0 or np.isnan(found := float(statistic(features.sum(0)))):
        return None
    index = number_groups(groups)
    sums = np.stack([np.bincount(index, weights=column) for column in features.T], axis=1)
    num_groups = len(sums)
    generator = np.random.default_rng(seed)
    rows, drawn = max(1, PICKS_AT_ONCE // num_groups), []
    for start in range(0, resamples, rows):
        picks = generator.integers(0, num_groups, (min(rows, resamples - start), num_groups))
        places = picks + num_groups * np.arange(len(picks))[:, None]
        counts = np.bincount(places.ravel(), minlength=len(picks) * num_groups).reshape(len(picks), num_groups)
        drawn.append(statistic(counts @ sums))
    values = np.concatenate(drawn)
    if not (known := ~np.isnan(values)).any():
        return None
    low, high = np.quantile(values[known], [0.025, 0.975])
    return Interval(found, float(low), float(high))


def number_groups(groups: Sequence[Hashable]) -> np.ndarray:
    """Assign each row the number of its group, in order of first appearance: [N]."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def resampled_groups(groups: Sequence[Hashable], *, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw all bootstrap samples of whole groups at once.

    Returns:
        [N] the number of each row's group, and [resamples, G] the numbers of the groups drawn.
    """
    index = number_groups(groups)
    num_groups = int(index.max()) + 1 if len(index) else 0
    return index, np.random.default_rng(seed).integers(0, num_groups, (resamples, num_groups))
