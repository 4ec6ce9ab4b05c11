"""Comparisons that `prl arena` needs for intervals of one width, chosen adaptively and with all pairs equally often.

Players have planted scores, and each comparison is a win or a loss drawn from their Bradley-Terry probability: no model
is read. The arena ends when the widest 95 % interval of a score is as narrow as asked for. For each field of players
the table has the mean number of comparisons over the seeds, the share saved with a 95 % bootstrap interval over seeds,
and how many of the intervals hold the planted score.

    python benchmarks/arena.py --seeds 10
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from prl.evaluation.arena.bradley_terry import covariance
from prl.evaluation.arena.games import Games, games_of, pairs_of, sums_by_prompt
from prl.evaluation.arena.intervals import Scale, scale_of
from prl.evaluation.arena.pairing import Game, Pairing
from prl.evaluation.bootstrap import bootstrap_ratio

FIELDS = {
    "2 players, 1 apart": (0.0, 1.0),
    "3 equal": (0.0,) * 3,
    "8 equal": (0.0,) * 8,
    "4, 1 apart": tuple(range(4)),
    "8, 0.5 apart": tuple(np.arange(8) / 2),
    "8, 1 apart": tuple(range(8)),
    "12, 0.5 apart": tuple(np.arange(12) / 2),
    "12, 1 apart": tuple(range(12)),
    "pack of 6, one far above, one far below": (-3.0, *np.linspace(-0.3, 0.3, 6), 3.0),
}
"""Planted scores, log-odds."""
PROMPTS = 2000
BLOCK = 32
RESAMPLES = 200


def play(truth: Sequence[float], width: float, seed: int, *, adaptive: bool) -> tuple[int, Scale]:
    """Compare until the widest interval is as narrow as asked for; return the comparisons made and the scale."""
    generator = np.random.default_rng([seed, 1])  # other draws than those of the bootstrap and of the pairing
    pairing = Pairing(len(truth), PROMPTS, seed=seed, adaptive=adaptive)
    rows: list[tuple[int, int, int, float]] = []
    scores = torch.zeros(len(truth), dtype=torch.float64)
    while True:
        rows += [(*game[1:], game.prompt, _drawn(truth, game, generator)) for game in pairing.plan(scores, BLOCK)]
        games = games_of(len(truth), rows)
        near = 3.92 * float(_stated(games, scores)) < 1.5 * width
        scale = scale_of(games, "wins", resamples=RESAMPLES if near else 2)
        scores = scale.scores
        if near and not pairing.sweeping and scale.widest <= width:
            return len(rows), scale


def _drawn(truth: Sequence[float], game: Game, generator: np.random.Generator) -> float:
    won = generator.random() < 1 / (1 + np.exp(truth[game.second] - truth[game.first]))
    return 1.0 if won else -1.0


def _stated(games: Games, scores: torch.Tensor) -> torch.Tensor:
    """Return the largest standard error by the information of the comparisons."""
    counts = sums_by_prompt(games, "wins")[1].sum(0)
    matrix = covariance(scores, *pairs_of(games.num_players), counts)
    centre = torch.eye(games.num_players, dtype=torch.float64) - 1 / games.num_players
    return (centre @ matrix @ centre).diagonal().max().sqrt()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--width", type=float, default=1.0, help="of the widest interval, log-odds (1)")
    options = parser.parse_args()
    print(f"{'players':<42}{'uniform':>9}{'adaptive':>9}{'saved':>8}{'95 %':>18}{'covered':>16}")
    for name, scores in FIELDS.items():
        truth = np.array(scores, dtype=float) - np.mean(scores)
        counts: dict[bool, list[int]] = {False: [], True: []}
        held: dict[bool, list[float]] = {False: [], True: []}
        for seed in range(options.seeds):
            for adaptive in (False, True):
                count, scale = play(truth, options.width, seed, adaptive=adaptive)
                inside = (scale.low.numpy() <= truth) & (truth <= scale.high.numpy())
                counts[adaptive].append(count)
                held[adaptive].append(float(inside.mean()))
        ratio = bootstrap_ratio(counts[True], counts[False])
        saved = f"{1 - ratio.mean:>8.2f}{f'{1 - ratio.high:.2f} to {1 - ratio.low:.2f}':>18}"
        covered = f"{np.mean(held[False]):.3f}, {np.mean(held[True]):.3f}"
        print(f"{name:<42}{np.mean(counts[False]):>9.0f}{np.mean(counts[True]):>9.0f}{saved}{covered:>16}", flush=True)


if __name__ == "__main__":
    main()
