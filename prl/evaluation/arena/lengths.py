"""Scale at equal lengths: Bradley-Terry with a term of the length (length-controlled AlpacaEval, 2404.04475)."""

from typing import NamedTuple

import torch
from torch import Tensor

from prl.evaluation.arena.bradley_terry import centred, covariance, fit_bradley_terry, open_ends
from prl.evaluation.arena.games import Games, Outcome, pairs_of, sums_by_prompt
from prl.evaluation.arena.intervals import RESAMPLES, interval, resampled_prompts
from prl.evaluation.policy.length_control import scaled_difference


class EqualLengths(NamedTuple):
    """A scale without the effect of length."""

    scores: Tensor
    """[K] log-odds at equal lengths, of mean zero."""
    low: Tensor
    """[K] lower ends of the 95 % intervals over prompts; minus infinity where the comparisons set none."""
    high: Tensor
    """[K] upper ends; infinity where the comparisons set none."""
    length_effect: float
    """gamma: log-odds of a response that is one standard deviation or more longer, up to a factor of tanh(1)."""
    extrapolated: Tensor
    """[K] True for a player all of whose responses are longer than those they met, or all shorter."""


def at_equal_lengths(
    games: Games, difference: Tensor, outcome: Outcome, *, resamples: int = RESAMPLES, seed: int = 0
) -> EqualLengths:
    """Fit logit p = s_first - s_second + gamma tanh(difference / std), with 1.96 bootstrap errors over prompts.

    Args:
        games: N comparisons.
        difference: [N] length of the first player's response less that of the second's, characters.
        outcome: what a comparison counts.
        resamples: bootstrap samples of whole prompts.
        seed: of the resampling.
    """
    x, points = scaled_difference(difference.double()), games.points(outcome)

    def fit(weights: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return fit_bradley_terry(
            games.first, games.second, weights * points, weights, games.num_players, length=x, start=start
        )

    scores, gamma = fit(torch.ones(1, len(games), dtype=torch.float64))
    start = torch.cat([scores, gamma[:, None]], dim=1)
    drawn = resampled_prompts(games.num_prompts, resamples, seed)
    found = torch.cat([fit(weights[:, games.prompt], start)[0] for weights in drawn])
    one = torch.ones(len(games), dtype=torch.float64)
    stated = centred(covariance(scores[0], games.first, games.second, one, length=x, gamma=float(gamma[0])))
    # A direction in which the likelihood has no maximum is none that the effect of length changes.
    won, counts = (each.sum(0) for each in sums_by_prompt(games, outcome))
    ends = open_ends(*pairs_of(games.num_players), won, counts, games.num_players)
    low, high = interval(scores[0], found.std(0), stated, *ends)
    signs = torch.zeros(games.num_players, 3, dtype=torch.bool)  # columns: shorter, equal, longer
    sign = difference.sign().long() + 1
    signs[games.first, sign], signs[games.second, 2 - sign] = True, True
    extrapolated = signs.sum(1) == 1
    extrapolated &= ~signs[:, 1]
    return EqualLengths(scores[0], low, high, float(gamma[0]), extrapolated)
