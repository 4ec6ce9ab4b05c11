"""Scale at equal lengths: Bradley-Terry with a term of the length (length-controlled AlpacaEval, 2404.04475)."""

from typing import NamedTuple

import torch
from torch import Tensor

from prl.evaluation.arena.bradley_terry import fit_bradley_terry
from prl.evaluation.arena.games import Games, Outcome
from prl.evaluation.arena.intervals import NORMAL, RESAMPLES, resampled_prompts
from prl.evaluation.policy.length_control import scaled_difference


class EqualLengths(NamedTuple):
    """A scale without the effect of length."""

    scores: Tensor
    """[K] log-odds at equal lengths, of mean zero."""
    low: Tensor
    """[K] lower ends of the 95 % intervals over prompts."""
    high: Tensor
    """[K] upper ends."""
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
    error = NORMAL * found.std(0)
    signs = torch.zeros(games.num_players, 3, dtype=torch.bool)  # columns: shorter, equal, longer
    sign = difference.sign().long() + 1
    signs[games.first, sign], signs[games.second, 2 - sign] = True, True
    extrapolated = signs.sum(1) == 1
    extrapolated &= ~signs[:, 1]
    return EqualLengths(scores[0], scores[0] - error, scores[0] + error, float(gamma[0]), extrapolated)
