"""Calibration of a judge's probabilities, and the temperature that corrects them."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from prl.evaluation.bootstrap import Interval, resampled_groups

TEMPERATURES = (0.01, 100.0)
"""Search range. A result at either end means that no temperature fits: all pairs right, or worse than a coin."""
NUM_BINS = 15
"""Bins of equal width for stated probabilities."""
_RESAMPLES_AT_ONCE = 50


def calibration_error(prob: Tensor, targets: Tensor) -> float:
    """Compute the expected calibration error of "the response shown as `a` is better", in bins of equal width.

    Every pair counts twice, as (a, b) and as (b, a). In a preference file the better response is always in the same
    place, so every label is 1, and a judge that always answers 1 would look calibrated.

    Args:
        prob: [N] stated probability that a is better.
        targets: [N] probability of the label that a is better. The hit rate of a bin is its mean, so that a judge
            with 0.7 where the labels have 0.7 has no error.

    Returns:
        mean over the readings of the difference between a bin's mean stated probability and its hit rate; NaN without
        readings.
    """
    counts, stated, happened = reliability_bins(prob, targets)
    some = counts > 0
    return float(np.average(np.abs(stated - happened)[some], weights=counts[some])) if some.any() else math.nan


def reliability_bins(prob: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the bins of `calibration_error`, from the same arguments.

    Returns:
        number of readings, their mean stated probability, and their mean target: [NUM_BINS] each; an empty bin has NaN
        for both means.
    """
    stated, happened = (column.double().cpu().numpy() for column in _both_directions(prob, targets))
    index = np.minimum((stated * NUM_BINS).astype(int), NUM_BINS - 1)
    counts, sums, hits = (np.bincount(index, weights, NUM_BINS) for weights in (None, stated, happened))
    with np.errstate(invalid="ignore"):
        return counts, sums / counts, hits / counts


def _both_directions(prob: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([prob, 1 - prob]), torch.cat([targets, 1 - targets])


def fit_temperature(
    logits: Tensor, targets: Tensor, groups: Sequence[Hashable] | None = None, *, resamples: int = 500, seed: int = 0
) -> Interval:
    """Fit the T that minimises the negative log-likelihood of sigmoid(logits / T), with a 95 % interval over groups.

    Above 1 the judge is overconfident, below 1 too careful. For a judge without an opinion T is 1.

    Args:
        logits: [N] log-odds that a is better.
        targets: [N] probability of the label that a is better.
        groups: prompt of each pair; every pair is its own group when None.
        resamples: bootstrap samples.
        seed: seed of the resampling.
    """
    z, t = logits.double().cpu().numpy(), targets.double().cpu().numpy()
    best = best_temperature(logits, targets)
    if not z.any():
        return Interval(best, best, best)
    index, picks = resampled_groups(groups or range(len(z)), resamples=resamples, seed=seed)
    num_groups = picks.shape[1]
    fitted = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        counts = [np.bincount(drawn, minlength=num_groups) for drawn in picks[start : start + _RESAMPLES_AT_ONCE]]
        fitted.append(_best_temperatures(z, t, np.stack(counts)[:, index]))
    low, high = np.quantile(np.concatenate(fitted), [0.025, 0.975])
    return Interval(best, float(low), float(high))


def best_temperature(logits: Tensor, targets: Tensor) -> float:
    """Fit the temperature without its interval, which is the slow part of `fit_temperature`."""
    z, t = logits.double().cpu().numpy(), targets.double().cpu().numpy()
    return float(_best_temperatures(z, t, np.ones((1, len(z))))[0]) if z.any() else 1.0


def is_at_an_end(temperature: float) -> bool:
    """Return whether a fitted temperature stands at either end of the search range, so that none fits."""
    return any(math.isclose(temperature, end, rel_tol=1e-4) for end in TEMPERATURES)


def _best_temperatures(z: np.ndarray, t: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fit the best temperature under each row of weights: [R, N] -> [R].

    The likelihood is convex in 1 / T, so bisection by the sign of its slope finds the one minimum.
    """
    low, high = (np.full(len(weights), np.log(1 / bound)) for bound in reversed(TEMPERATURES))
    for _ in range(24):  # nine nats, halved so often, are below a millionth
        middle = (low + high) / 2
        prob = 0.5 * (1 + np.tanh(0.5 * np.exp(middle)[:, None] * z))
        too_sure = (weights * (z * (prob - t))).sum(1) > 0
        low, high = np.where(too_sure, low, middle), np.where(too_sure, middle, high)
    return np.exp(-(low + high) / 2)
