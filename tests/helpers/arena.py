"""Arenas of players whose scores are planted: comparisons drawn from their Bradley-Terry probabilities."""

from collections.abc import Sequence

import numpy as np
import torch

from prl.evaluation.arena.bradley_terry import fit_bradley_terry
from prl.evaluation.arena.games import Games, games_of, pairs_of, sums_by_prompt
from prl.evaluation.arena.pairing import Pairing


def round_robin(truth: Sequence[float], num_prompts: int, seed: int = 0, noise: float = 0.0) -> Games:
    """All pairs on all prompts, with log-odds that are the differences of the scores and noise."""
    generator, size = np.random.default_rng(seed), len(truth)
    return games_of(
        size,
        [
            (a, b, prompt, truth[a] - truth[b] + noise * generator.normal())
            for prompt in range(num_prompts)
            for a in range(size)
            for b in range(a + 1, size)
        ],
    )


def played(
    truth: Sequence[float], num_prompts: int, budget: int, seed: int, *, adaptive: bool = True, block: int = 75
) -> Games:
    """Wins and losses, drawn for the comparisons that a pairing plans."""
    generator = np.random.default_rng(seed + 1000)
    pairing = Pairing(len(truth), num_prompts, seed=seed, adaptive=adaptive)
    rows: list[tuple[int, int, int, float]] = []
    scores = torch.zeros(len(truth), dtype=torch.float64)
    while len(rows) < budget:
        for prompt, a, b in pairing.plan(scores, min(block, budget - len(rows))):
            won = generator.random() < 1 / (1 + np.exp(truth[b] - truth[a]))
            rows.append((a, b, prompt, 1.0 if won else -1.0))
        scores = fitted(games_of(len(truth), rows))
    return games_of(len(truth), rows)


def fitted(games: Games, outcome: str = "wins", prior_ties: float = 1.0) -> torch.Tensor:
    """Fit the scale of all comparisons."""
    points, counts = (each.sum(0)[None] for each in sums_by_prompt(games, outcome))
    first, second = pairs_of(games.num_players)
    return fit_bradley_terry(first, second, points, counts, games.num_players, prior_ties=prior_ties)[0][0]
