"""Length-controlled win rates (Dubois et al. 2024, 2404.04475)."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from prl.evaluation.bootstrap import Interval, resampled_groups

RIDGE = 1e-6
"""Penalty on gamma, in pairs: it matters only for data that a length rule separates without an error."""
_STEPS = 40
_RESAMPLES_AT_ONCE = 100


def length_controlled_rate(
    prob: Sequence[float],
    difference: Sequence[float],
    groups: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Fit logit p(win) = theta + gamma * tanh(difference / std), and return sigmoid(theta): the rate at equal lengths.

    The 95 % interval is over groups; std is the standard deviation of the differences. Without an effect of length the
    rate is the mean of `prob`; a judge of lengths alone gets 1/2. Source: length-controlled AlpacaEval (2404.04475).

    Args:
        prob: [N] probability that the response beats its anchor.
        difference: [N] length of the response minus that of the anchor, characters.
        groups: prompt of each pair.
        weights: weight of each pair; one when None.
        resamples: bootstrap samples of whole groups.
        seed: seed of the resampling.
    """
    target = torch.tensor(prob, dtype=torch.float64)
    x = scaled_difference(torch.tensor(difference, dtype=torch.float64))
    weight = torch.ones_like(target) if weights is None else torch.tensor(weights, dtype=torch.float64)
    best = fit_length_effect(target, x, weight[None])
    index, picks = resampled_groups(groups, resamples=resamples, seed=seed)
    thetas = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        counts = [np.bincount(drawn, minlength=picks.shape[1]) for drawn in picks[start : start + _RESAMPLES_AT_ONCE]]
        drawn_weights = torch.from_numpy(np.stack(counts)[:, index]) * weight
        thetas.append(fit_length_effect(target, x, drawn_weights, start=best)[:, 0])
    low, high = np.quantile(torch.cat(thetas).sigmoid().numpy(), [0.025, 0.975])
    return Interval(float(best[0, 0].sigmoid()), float(low), float(high))


def scaled_difference(difference: Tensor) -> Tensor:
    """Compute tanh(difference / its standard deviation), zero where all pairs have one difference: [N] -> [N]."""
    scale = difference.std(correction=0)
    return torch.tanh(difference / scale) if scale > 0 else torch.zeros_like(difference)


def fit_length_effect(target: Tensor, x: Tensor, weights: Tensor, start: Tensor | None = None) -> Tensor:
    """Fit (theta, gamma) of maximum likelihood under each row of weights, by Newton's method: [R, 2] float64.

    The likelihood is concave and steps are bounded, so data with wins only end in a large theta.

    Args:
        target: [N] probability to fit; may be soft.
        x: [N] scaled length difference.
        weights: [R, N].
        start: [1, 2] start values; zeros when None.
    """
    found = torch.zeros(len(weights), 2, dtype=torch.float64) if start is None else start.repeat(len(weights), 1)
    for _ in range(_STEPS):
        prob = torch.sigmoid(found[:, :1] + found[:, 1:] * x)
        left = weights * (target - prob)
        gradient = torch.stack([left.sum(1), (left * x).sum(1) - RIDGE * found[:, 1]], dim=1)
        curve = weights * prob * (1 - prob)
        a, b = curve.sum(1) + 1e-9, (curve * x).sum(1)
        c = (curve * x * x).sum(1) + RIDGE
        determinant = (a * c - b * b).clamp(min=1e-18)
        step = torch.stack(
            [c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], dim=1
        ) / determinant.unsqueeze(1)
        step = step.clamp(-1.0, 1.0)
        found = found + step
        if bool((step.abs() < 1e-10).all()):
            break
    return found
