"""Transitivity: whether pairwise verdicts fit one scale, which a pairwise judge can violate and a scalar one cannot.

All figures are of round robins, in which a judge compared k responses to one prompt all with all.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from prl.evaluation.bootstrap import bootstrap_mean, bootstrap_ratio


class RoundRobin(NamedTuple):
    """Verdicts on all pairs of k responses to one prompt."""

    win_logit: Tensor
    """[k, k] debiased log-odds that the row's response beats the column's; antisymmetric, float64."""
    best: int | None
    """Response that is labelled better than each of the others; None without one."""


def cyclic_triples(win_logit: Tensor) -> tuple[int, int]:
    """Count the cyclic triples of k responses (a beats b beats c beats a), and all triples.

    A tie is no win, so a triple with a tie is not cyclic.

    Args:
        win_logit: [k, k] debiased log-odds that the row's response beats the column's.
    """
    beats = (win_logit > 0).long()
    cycles = int(torch.linalg.matrix_power(beats.double(), 3).trace()) // 3  # each cycle is found three times
    return cycles, len(list(combinations(range(len(beats)), 3)))


def scale_deviance(win_logit: Tensor) -> tuple[float, float]:
    """Compute the deviance of the best Bradley-Terry scale from a judge's probabilities, and that of a coin, in nats.

    The scale gives every response a number s, and maximises the likelihood of p(u > v) = sigmoid(s_u - s_v). Deviance
    is the Kullback-Leibler divergence from the judge's own p, summed over pairs: zero for verdicts that add up.

    Args:
        win_logit: [k, k] debiased log-odds that the row's response beats the column's.
    """
    i, j = torch.triu_indices(len(win_logit), len(win_logit), offset=1)
    stated = win_logit[i, j].double()

    def deviance(logit: Tensor) -> Tensor:
        prob = stated.sigmoid()
        loss = binary_cross_entropy_with_logits(logit, prob, reduction="none")
        return (loss - binary_cross_entropy_with_logits(stated, prob, reduction="none")).clamp(min=0).sum()

    scale = win_logit.double().mean(1)  # for consistent verdicts these start values are the scale, up to rounding
    scale.requires_grad_()
    optimizer = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = deviance(scale[i] - scale[j])
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(step)
    return float(deviance((scale[i] - scale[j]).detach())), float(deviance(torch.zeros_like(stated)))


def anchor_agreement(win_logit: Tensor) -> float | None:
    """Compute the mean Kendall's tau-b between the orders that two anchors give to the other responses.

    None with fewer than four responses, where two anchors leave fewer than two others, or where all margins to an
    anchor are equal.

    Args:
        win_logit: [k, k] debiased log-odds that the row's response beats the column's.
    """
    found = []
    for anchors in combinations(range(len(win_logit)), 2):
        rest = [row for row in range(len(win_logit)) if row not in anchors]
        one, other = (win_logit[rest, anchor] for anchor in anchors)
        one, other = (one[:, None] - one).sign(), (other[:, None] - other).sign()
        seen = float(one.square().sum() * other.square().sum()) ** 0.5
        found += [float((one * other).sum()) / seen] if seen else []
    return sum(found) / len(found) if found else None


def best_chosen(robin: RoundRobin) -> float | None:
    """Score 1 where the response of highest mean win probability is the one labelled best; ties share the score."""
    if robin.best is None:
        return None
    others = ~torch.eye(len(robin.win_logit), dtype=torch.bool)
    wins = (robin.win_logit.sigmoid() * others).sum(1)
    favourites = wins >= wins.max() - 1e-12
    return float(favourites[robin.best]) / int(favourites.sum())


def transitivity_report(robins: Sequence[RoundRobin]) -> dict[str, Any]:
    """Compute the round-robin figures of docs/judge.md: name -> {mean, low, high, num}, or None without a case.

    Intervals are over prompts. `num` counts triples for cyclic_triples, else prompts.
    """
    counts = [cyclic_triples(robin.win_logit) for robin in robins]
    deviances = [scale_deviance(robin.win_logit) for robin in robins]
    cyclic = [1.0 * (n < found) for found, triples in counts for n in range(triples)]
    names = [name for name, (_, triples) in enumerate(counts) for _ in range(triples)]
    fit = None
    if any(coin for _, coin in deviances):
        left = bootstrap_ratio([rest for rest, _ in deviances], [coin for _, coin in deviances])
        fit = {"mean": 1 - left.mean, "low": 1 - left.high, "high": 1 - left.low, "num": len(robins)}
    return {
        "cyclic_triples": _mean(cyclic, names),
        "scale_fit": fit,
        "anchor_tau": _over_prompts(lambda robin: anchor_agreement(robin.win_logit), robins),
        "best_of_n": _over_prompts(best_chosen, robins),
        "baseline_best_of_n": _over_prompts(
            lambda robin: None if robin.best is None else 1 / len(robin.win_logit), robins
        ),
    }


def _over_prompts(figure: Callable[[RoundRobin], float | None], robins: Sequence[RoundRobin]) -> dict[str, Any] | None:
    found = [value for robin in robins if (value := figure(robin)) is not None]
    return _mean(found, range(len(found)))


def _mean(values: Sequence[float], groups: Sequence[int]) -> dict[str, Any] | None:
    if not values:
        return None
    interval = bootstrap_mean(values, groups)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "num": len(values)}
