"""Bradley-Terry scale: one number of each player, whose differences are log-odds of winning (Biometrika 39, 1952)."""

import math

import torch
from torch import Tensor

PRIOR_TIES = 1.0
"""Ties that each player is taken to have made against a player at zero, so that a player who never lost has a score."""
ELO = 400 / math.log(10)
"""Points of an Elo scale in a unit of log-odds."""
ELO_MEAN = 1000.0
"""Mean of the players on that scale, where only differences mean anything."""
_STEPS = 100
_LARGEST_STEP = 1.0


def fit_bradley_terry(
    first: Tensor,
    second: Tensor,
    points: Tensor,
    counts: Tensor,
    num_players: int,
    *,
    length: Tensor | None = None,
    prior_ties: float = PRIOR_TIES,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fit logit p(first beats second) = s_first - s_second + gamma * length under each of R weightings, by Newton.

    The likelihood is concave. Without `prior_ties` a player who won or lost everything ends at a large number, where
    the steps end.

    Args:
        first: [N] number of the first player of each comparison, or of a pair's comparisons taken together.
        second: [N] number of the second one.
        points: [R, N] what the first one won: between 0 and `counts`.
        counts: [R, N] number of comparisons, or their weight.
        num_players: K.
        length: [N] scaled difference of lengths, first minus second; no such term when None.
        prior_ties: ties of each player against a player at zero, where lengths are equal.
        start: [1, K] or [1, K + 1] start values; zeros when None.

    Returns:
        [R, K] scores of mean zero, and [R] gamma, zero without `length`; float64.
    """
    size = num_players + (length is not None)
    found = torch.zeros(len(points), size, dtype=torch.float64)
    if start is not None:
        found += start
    # Only differences are known from comparisons. Without a prior the gradient of the mean is zero, and this keeps it.
    mean = torch.full((num_players, num_players), (0.0 if prior_ties else 1.0) / num_players, dtype=torch.float64)
    for _ in range(_STEPS):
        prob = _probabilities(found, first, second, length)
        own = found[:, :num_players].sigmoid()
        gradient = _gradient(points - counts * prob, first, second, size, length)
        gradient[:, :num_players] += prior_ties * (0.5 - own)
        curve = _information(counts * prob * (1 - prob), first, second, size, length)
        curve[:, :num_players, :num_players] += torch.diag_embed(prior_ties * own * (1 - own) + 1e-9) + mean
        if length is not None:
            curve[:, -1, -1] += 1e-6  # a gamma of which the data say nothing stays where it is
            gradient[:, -1] -= 1e-6 * found[:, -1]
        step = torch.linalg.solve(curve, gradient.unsqueeze(2)).squeeze(2)
        step = step * (_LARGEST_STEP / step.abs().amax(1, keepdim=True).clamp(min=_LARGEST_STEP))
        found = found + step
        if bool((step.abs() < 1e-10).all()):
            break
    scores = found[:, :num_players]
    gamma = found[:, -1] if length is not None else found.new_zeros(len(found))
    return scores - scores.mean(1, keepdim=True), gamma


def _probabilities(found: Tensor, first: Tensor, second: Tensor, length: Tensor | None) -> Tensor:
    logit = found[:, first] - found[:, second]
    if length is not None:
        logit = logit + found[:, -1:] * length
    return logit.sigmoid()


def _gradient(left: Tensor, first: Tensor, second: Tensor, size: int, length: Tensor | None) -> Tensor:
    """Sum the residuals of the comparisons of each player, and of the length: [R, N] -> [R, size]."""
    found = left.new_zeros(len(left), size).index_add(1, first, left).index_add(1, second, -left)
    if length is not None:
        found[:, -1] = left @ length
    return found


def _information(curve: Tensor, first: Tensor, second: Tensor, size: int, length: Tensor | None) -> Tensor:
    """Sum the Fisher information of the comparisons: [R, N] -> [R, size, size]."""
    found = curve.new_zeros(len(curve), size * size)
    for one, other, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
        found = found.index_add(1, one * size + other, sign * curve)
    found = found.view(-1, size, size)
    if length is not None:
        own = curve * length
        found[:, :, -1] = own.new_zeros(len(own), size).index_add(1, first, own).index_add(1, second, -own)
        found[:, -1, :] = found[:, :, -1]
        found[:, -1, -1] = own @ length
    return found


def covariance(
    scores: Tensor,
    first: Tensor,
    second: Tensor,
    counts: Tensor,
    prior_ties: float = PRIOR_TIES,
    *,
    length: Tensor | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """Compute the inverse of the Fisher information at a scale: [K, K], before the mean is taken out.

    Args:
        scores: [K].
        first: [N] first player of each pair.
        second: [N] second player.
        counts: [N] comparisons of the pair.
        prior_ties: as of `fit_bradley_terry`.
        length: [N] scaled difference of lengths, whose effect is then not known either.
        gamma: that effect.
    """
    size, found = len(scores), scores if length is None else torch.cat([scores, scores.new_tensor([gamma])])
    prob = _probabilities(found[None], first, second, length)
    information = _information(counts * prob * (1 - prob), first, second, len(found), length)[0]
    own = scores.sigmoid()
    prior = torch.full((len(found),), 1e-6, dtype=information.dtype)
    prior[:size] = prior_ties * own * (1 - own) + 1e-9
    return torch.linalg.inv(information + torch.diag(prior))[:size, :size]


def robust_covariance(scores: Tensor, first: Tensor, second: Tensor, points: Tensor, counts: Tensor) -> Tensor:
    """Compute the sandwich covariance of a scale over prompts: [K, K], before the mean is taken out.

    It is to first order what a bootstrap over whole prompts finds (White, 1982; Liang and Zeger, 1986): points between
    0 and 1 vary less than wins and losses of the same mean, for which `covariance` is made.

    Args:
        scores: [K] fitted to the sums over prompts.
        first: [N] first player of each pair.
        second: [N] second player.
        points: [P, N] points of the first player on each prompt.
        counts: [P, N] comparisons.
    """
    left = points - counts * (scores[first] - scores[second]).sigmoid()
    gradient = _gradient(left, first, second, len(scores), None)
    inverse = covariance(scores, first, second, counts.sum(0))
    return inverse @ (gradient.T @ gradient) @ inverse


def centred(matrix: Tensor) -> Tensor:
    """Turn the covariance of scores into that of scores less their mean: [K, K] -> [K, K]."""
    return matrix - matrix.mean(0, keepdim=True) - matrix.mean(1, keepdim=True) + matrix.mean()


def open_ends(first: Tensor, second: Tensor, points: Tensor, counts: Tensor, num_players: int) -> tuple[Tensor, Tensor]:
    """Tell whose score the comparisons bound neither from below nor from above: [K] bool, [K] bool.

    A score is bounded by those of players that took points off each other in a chain. Where nobody took a point off a
    group of players, the likelihood has no maximum: their scores are as high as the prior ties let them be (the
    condition of Ford, 1957).

    Args:
        first: [N] first player of each pair.
        second: [N] second player.
        points: [N] points of the first; each pair stands here once.
        counts: [N] comparisons.
        num_players: K.
    """
    reaches = torch.eye(num_players, dtype=torch.bool)  # [j, k]: j took points off k, directly or in a chain
    reaches[first, second] |= points > 0
    reaches[second, first] |= points < counts
    for middle in range(num_players):
        reaches |= reaches[:, middle, None] & reaches[None, middle, :]
    return ~reaches.all(1), ~reaches.all(0)
