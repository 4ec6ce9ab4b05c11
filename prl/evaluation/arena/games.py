"""Comparisons of an arena as arrays, and their sums over the comparisons of each pair of players."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from prl.evaluation.bootstrap import number_groups
from prl.verdict import wins

Outcome = Literal["probability", "wins"]
"""What a comparison counts: the judge's win probability, or 1 for a win, 1/2 for a tie and 0 for a loss."""


@dataclass(frozen=True)
class Games:
    """N comparisons between K players, without those that failed."""

    num_players: int
    first: Tensor
    """[N] number of the first player, which is smaller than that of the second."""
    second: Tensor
    """[N] number of the second player."""
    prompt: Tensor
    """[N] number of the prompt by its content; comparisons of one prompt are resampled together."""
    logit: Tensor
    """[N] debiased log-odds that the first player's response is better, float64."""

    def __len__(self) -> int:
        return len(self.logit)

    def points(self, outcome: Outcome) -> Tensor:
        """Compute what each comparison counts for its first player, in [0, 1]: [N]."""
        return self.logit.sigmoid() if outcome == "probability" else wins(self.logit)

    @property
    def num_prompts(self) -> int:
        """Prompts with a comparison."""
        return int(self.prompt.max()) + 1 if len(self) else 0

    @property
    def pair(self) -> Tensor:
        """[N] number of the pair of players, in the order of `pairs_of`."""
        low, high = self.first, self.second
        return low * (2 * self.num_players - low - 1) // 2 + high - low - 1


def games_of(num_players: int, rows: Sequence[tuple[int, int, int, float]]) -> Games:
    """Build the arrays of comparisons; those whose log-odds are NaN have failed and are left out.

    Args:
        num_players: K.
        rows: first player, second player (a larger number), prompt, and log-odds of each comparison.
    """
    known = [row for row in rows if row[3] == row[3]]
    first, second, prompt, logit = zip(*known, strict=True) if known else ((), (), (), ())
    return Games(
        num_players,
        torch.tensor(first, dtype=torch.long),
        torch.tensor(second, dtype=torch.long),
        torch.from_numpy(number_groups(prompt).astype(np.int64)),
        torch.tensor(logit, dtype=torch.float64),
    )


def pairs_of(num_players: int) -> tuple[Tensor, Tensor]:
    """List the E = K (K - 1) / 2 pairs of players: [E] first, [E] second."""
    pairs = torch.tensor(list(combinations(range(num_players), 2)), dtype=torch.long).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def sums_by_prompt(games: Games, outcome: Outcome) -> tuple[Tensor, Tensor]:
    """Sum points of the first player and count comparisons, for each prompt and pair: [P, E] each, float64."""
    num_pairs = games.num_players * (games.num_players - 1) // 2
    points = torch.zeros(games.num_prompts, num_pairs, dtype=torch.float64)
    counts = torch.zeros_like(points)
    points.index_put_((games.prompt, games.pair), games.points(outcome), accumulate=True)
    counts.index_put_((games.prompt, games.pair), torch.ones(len(games), dtype=torch.float64), accumulate=True)
    return points, counts
