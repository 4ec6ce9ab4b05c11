"""Which comparison to make next: the pair of players of which the scale learns most, on a prompt that is new to it."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prl.evaluation.arena.bradley_terry import covariance
from prl.evaluation.arena.games import pairs_of

SWEEP_GAMES = 8
"""Comparisons that each player has at least behind the first sweep, in which all pairs are played equally often."""
POWER = 4.0
"""Norm of the variances that a comparison is to reduce: 1 is their sum (A-optimal), infinity the largest alone."""

SLACK = 0.1
"""Pairs whose gain is so near the largest one, as a share, count as equal, and the one played least is taken."""


class Game(NamedTuple):
    """A comparison to make."""

    prompt: int
    first: int
    second: int


class Pairing:
    """Chooses comparisons from what was played and the fitted scale, and from nothing else.

    Args:
        num_players: K.
        num_prompts: P.
        seed: of the order in which equally good prompts and pairs are taken.
        adaptive: behind the first sweep take the pair of the largest gain; else always the one played least.
        of: a player; its pairs alone are chosen. None chooses among all.
    """

    def __init__(
        self, num_players: int, num_prompts: int, *, seed: int = 0, adaptive: bool = True, of: int | None = None
    ) -> None:
        self.num_players, self.adaptive = num_players, adaptive
        self.first, self.second = (each.numpy() for each in pairs_of(num_players))
        generator = np.random.default_rng(seed)
        self._prompt_rank = generator.permutation(num_prompts)
        self._pair_rank = generator.permutation(len(self.first))
        self._number = {pair: n for n, pair in enumerate(zip(self.first.tolist(), self.second.tolist(), strict=True))}
        self._played = np.zeros((num_prompts, len(self.first)), dtype=bool)
        self._of_player = np.zeros((num_prompts, num_players), dtype=np.int64)
        self.counts = np.zeros(len(self.first), dtype=np.int64)
        own = np.full(len(self.first), True) if of is None else (self.first == of) | (self.second == of)
        self._pairs = np.flatnonzero(own)

    @property
    def sweep(self) -> int:
        """Comparisons of each pair in the first sweep, or all prompts."""
        return min(math.ceil(SWEEP_GAMES / (self.num_players - 1)), len(self._played))

    @property
    def sweeping(self) -> bool:
        """Whether the first sweep goes on."""
        return bool(self.counts[self._pairs].min() < self.sweep)

    def add(self, games: Iterable[Game]) -> None:
        """Take note of comparisons."""
        for game in games:
            pair = self._number[game.first, game.second]
            self._played[game.prompt, pair] = True
            self._of_player[game.prompt, [game.first, game.second]] += 1
            self.counts[pair] += 1

    def plan(self, scores: Tensor, number: int) -> list[Game]:
        """Choose the next comparisons, each as if those before it were made, and take note of them.

        Args:
            scores: [K] fitted scale.
            number: how many; fewer come back where all pairs are played on all prompts.
        """
        planned: list[Game] = []
        first, second, counts = (torch.from_numpy(each) for each in (self.first, self.second, self.counts))
        matrix = covariance(scores, first, second, counts.double()).numpy()
        scale = scores.numpy()
        while len(planned) < number and not self._played[:, self._pairs].all():
            pair = self._next_pair(scale, matrix)
            game = Game(self._next_prompt(pair), int(self.first[pair]), int(self.second[pair]))
            self.add([game])
            planned.append(game)
            matrix = _after(matrix, scale, *game[1:])
        return planned

    def _next_pair(self, scores: np.ndarray, matrix: np.ndarray) -> int:
        best = self._pairs[~self._played[:, self._pairs].all(0)]
        if self.adaptive and not self.sweeping:
            worth = gains(scores, matrix, self.first, self.second)[best]
            best = best[worth >= (1 - SLACK) * worth.max()]
        order = np.lexsort((self._pair_rank[best], self.counts[best]))
        return int(best[order[0]])

    def _next_prompt(self, pair: int) -> int:
        """Choose among the prompts on which the pair was not played the one that was used least."""
        free = np.flatnonzero(~self._played[:, pair])
        own = self._of_player[free]
        used = own[:, int(self.first[pair])] + own[:, int(self.second[pair])]
        order = np.lexsort((self._prompt_rank[free], own.sum(1), used))
        return int(free[order[0]])


def gains(scores: np.ndarray, matrix: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute how much one more comparison of each pair reduces the variances of the scores: [E].

    A comparison adds w v v' to the information, with v = e_first - e_second and w = E[p (1 - p)], expected over what is
    not known yet of the difference (probit approximation, MacKay 1992). It reduces the variance of a centred score k by
    w (C v)_k^2 / (1 + w v' C v). These are summed with the weights Var_k^(POWER - 1), the gradient of the norm.

    Args:
        scores: [K].
        matrix: [K, K] covariance of the scores.
        first: [E] first player of each pair.
        second: [E] second player.
    """
    moved = matrix[:, first] - matrix[:, second]  # [K, E]
    spread = moved[first, np.arange(len(first))] - moved[second, np.arange(len(second))]
    weight = _expected_information(scores[first] - scores[second], spread)
    moved = moved - moved.mean(0)
    centre = np.eye(len(scores)) - 1 / len(scores)
    variances = (centre @ matrix @ centre).diagonal()
    importance = (variances / variances.max()) ** (POWER - 1)
    return weight * (importance @ moved**2) / (1 + weight * spread)


def _expected_information(difference: Any, variance: Any) -> Any:
    shrink = 1 / np.sqrt(1 + math.pi / 8 * variance)
    prob = 1 / (1 + np.exp(-shrink * difference))
    return shrink * prob * (1 - prob)


def _after(matrix: np.ndarray, scores: np.ndarray, first: int, second: int) -> np.ndarray:
    """Update the covariance by one comparison (Sherman and Morrison)."""
    moved = matrix[:, first] - matrix[:, second]
    spread = moved[first] - moved[second]
    weight = _expected_information(scores[first] - scores[second], spread)
    return matrix - weight * np.outer(moved, moved) / (1 + weight * spread)
