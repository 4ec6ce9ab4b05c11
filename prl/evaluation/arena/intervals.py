"""How sure a scale is: over other prompts, and without any one of the players."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prl.evaluation.arena.bradley_terry import centred, covariance, fit_bradley_terry, open_ends
from prl.evaluation.arena.games import Games, Outcome, pairs_of, sums_by_prompt

RESAMPLES = 500
NORMAL = 1.96
"""Standard errors on each side of a 95 % interval."""
_AT_ONCE = 250


class Scale(NamedTuple):
    """A fitted scale, with what the bootstrap over prompts found."""

    scores: Tensor
    """[K] log-odds, of mean zero."""
    resampled: Tensor
    """[R, K] scores of the bootstrap samples of whole prompts."""
    low: Tensor
    """[K] lower ends of the 95 % intervals; minus infinity where the comparisons set none."""
    high: Tensor
    """[K] upper ends; infinity where the comparisons set none."""
    stated: Tensor
    """[K, K] covariance of the scores that the Fisher information states."""

    @property
    def widest(self) -> float:
        """Width of the widest interval."""
        return float((self.high - self.low).max())


def scale_of(games: Games, outcome: Outcome, *, resamples: int = RESAMPLES, seed: int = 0) -> Scale:
    """Fit the scale, and its intervals over resampled prompts: 1.96 bootstrap standard errors on each side.

    In simulations of 100 prompts they cover more often than percentiles do. The end that no comparison bounds
    (`open_ends`) is infinite. The error is then at least that of the Fisher information, since a player who won
    everything does so in each bootstrap sample too.

    Args:
        games: N comparisons.
        outcome: what a comparison counts.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: for no comparison.
    """
    if not len(games):
        raise ValueError("the arena has no comparison; every one failed, or none was made")
    first, second = pairs_of(games.num_players)
    by_prompt, counts_by_prompt = sums_by_prompt(games, outcome)
    points, counts = by_prompt.sum(0), counts_by_prompt.sum(0)
    scores, _ = fit_bradley_terry(first, second, points[None], counts[None], games.num_players)
    found = []
    for weights in resampled_prompts(games.num_prompts, resamples, seed):
        drawn = weights @ by_prompt, weights @ counts_by_prompt
        found.append(fit_bradley_terry(first, second, *drawn, games.num_players, start=scores)[0])
    resampled = torch.cat(found)
    open_low, open_high = open_ends(first, second, points, counts, games.num_players)
    stated = centred(covariance(scores[0], first, second, counts))
    low, high = interval(scores[0], resampled.std(0), stated, open_low, open_high)
    return Scale(scores[0], resampled, low, high, stated)


def interval(
    scores: Tensor, error: Tensor, stated: Tensor, open_low: Tensor, open_high: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute 1.96 errors on each side of scores, with infinity at open ends: [K], [K].

    Args:
        scores: [K].
        error: [K] bootstrap errors.
        stated: [K, K] covariance of the Fisher information, whose error is the least of a player with an open end.
        open_low: [K] bool.
        open_high: [K] bool.
    """
    at_least = stated.diagonal().sqrt().masked_fill(~(open_low | open_high), 0)
    error = NORMAL * torch.maximum(error, at_least)
    return (scores - error).masked_fill(open_low, -torch.inf), (scores + error).masked_fill(open_high, torch.inf)


def difference(scale: Scale, above: int, below: int) -> tuple[float, float, float]:
    """Compute how far one player stands above another, and the 95 % interval over prompts; open ends are infinite."""
    found = float(scale.scores[above] - scale.scores[below])
    error = float((scale.resampled[:, above] - scale.resampled[:, below]).std())
    if any(bool(end[player].isinf()) for end in (scale.low, scale.high) for player in (above, below)):
        stated = scale.stated  # who won everything does so in each bootstrap sample too
        error = max(error, math.sqrt(stated[above, above] + stated[below, below] - 2 * stated[above, below]))
    error *= NORMAL
    low_is_open = bool(scale.low[above].isinf() & ~scale.low[below].isinf())
    low_is_open |= bool(scale.high[below].isinf() & ~scale.high[above].isinf())
    high_is_open = bool(scale.high[above].isinf() & ~scale.high[below].isinf())
    high_is_open |= bool(scale.low[below].isinf() & ~scale.low[above].isinf())
    return found, -math.inf if low_is_open else found - error, math.inf if high_is_open else found + error


def resampled_prompts(num_prompts: int, resamples: int, seed: int) -> list[Tensor]:
    """Draw bootstrap samples of prompts, and count how often each has a prompt: [R, P] in parts, float64."""
    generator = np.random.default_rng(seed)
    uniform = np.full(num_prompts, 1 / num_prompts)
    sizes = [min(_AT_ONCE, resamples - start) for start in range(0, resamples, _AT_ONCE)]
    return [torch.from_numpy(generator.multinomial(num_prompts, uniform, size).astype(np.float64)) for size in sizes]


def without_each(games: Games, outcome: Outcome, scores: Tensor) -> tuple[Tensor, Tensor] | None:
    """Find between which scores each player moves when any one other player is left out: [K], [K].

    Each scale without a player is shifted so that the others keep their mean. A Bradley-Terry scale that holds for all
    pairs moves by sampling alone; one that hides a circle moves with the player that makes it.

    Args:
        games: N comparisons of K players.
        outcome: what a comparison counts.
        scores: [K] scale of all.

    Returns:
        Lowest and highest score of each player; None for fewer than three players.
    """
    if games.num_players < 3:
        return None
    first, second = pairs_of(games.num_players)
    points, counts = (each.sum(0) for each in sums_by_prompt(games, outcome))
    left_out = torch.arange(games.num_players)[:, None]
    kept = ((first != left_out) & (second != left_out)).double()  # [K, E]
    found, _ = fit_bradley_terry(first, second, points * kept, counts * kept, games.num_players)
    others = 1 - torch.eye(games.num_players, dtype=torch.float64)
    shift = ((scores - found) * others).sum(1, keepdim=True) / others.sum(1, keepdim=True)
    moved = found + shift
    own = torch.eye(games.num_players, dtype=torch.bool)
    return moved.masked_fill(own, torch.inf).amin(0), moved.masked_fill(own, -torch.inf).amax(0)
