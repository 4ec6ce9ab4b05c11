"""Labels from a ranked list of cheap signals: the first one that tells two responses apart decides (HERON)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prl.rewards.base import RewardSource
from prl.rewards.named import NamedSources
from prl.types import Rollout, Scores
from prl.verdict import Verdict, mean_per_row

CERTAIN = 1000.0
"""Log-odds of a decided comparison: their sigmoid is 1, and that of their negative 0, to the last bit."""
UNDECIDED = -1
"""Level of a comparison that no signal decides."""


def decide(differences: Tensor, margins: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Walk down the levels until a difference is above its margin.

    Args:
        differences: [S, ...] of S signals from the most to the least important, above 0 where a is the better one.
        margins: of each signal, 0 or more.

    Returns:
        [...] 1 where a wins, -1 where b does, 0 where no signal decides, NaN where one failed before any decided; and
        [...] the number of the level where it ended, from 0, or `UNDECIDED`.
    """
    winner = differences.new_zeros(differences.shape[1:])
    level = torch.full(winner.shape, UNDECIDED, device=differences.device)
    for number, (difference, margin) in enumerate(zip(differences, margins, strict=True)):
        ends = (level == UNDECIDED) & ((difference.abs() > margin) | difference.isnan())
        winner = torch.where(ends, torch.where(difference.isnan(), difference, difference.sign()), winner)
        level = torch.where(ends, number, level)
    return winner, level


def deviation(values: Tensor) -> float:
    """Compute the standard deviation, over N - 1, of the values that are numbers; 0 of fewer than two."""
    known = values[~values.isnan()]
    return float(known.std()) if len(known) > 1 else 0.0


class HERON(NamedSources):
    """Compare two responses by signals in the order of their importance (2309.02632, the authors' code).

    The first signal in which they differ by more than its margin names the winner, by its direction. Two responses that
    no signal tells apart tie, and `prl pairs` leaves them out and counts them. The result is a label and no
    probability, so a win has the probability 1. What one signal is worth in units of another is never asked.

    A margin is an absolute number, or a multiple of the signal's standard deviation. `prl pairs` takes the deviation
    over all candidates of the command, after all are sampled. Elsewhere, as in measurements of rounds, it is that over
    the responses and anchors of one call, as the authors' code has it over one buffer. The defaults are those of their
    script for the mountain car, strict at level 1 and one deviation at level 2; their later script has a multiple at
    each of four levels. The deviation here is over N - 1. With margins above 0 preferences need not be transitive.

    Args:
        sources: reward sources that rate each response by itself, by name: rules or models.
        ranking: the names, the most important first.
        lower_is_better: names of the signals of which less is better, such as a length.
        margins: by name, what a difference has to exceed, in the units of the signal.
        sigma_mults: by name, the same in standard deviations. A signal without either has 0 if it is the first, and one
            standard deviation otherwise.

    Raises:
        ValueError: for names that differ, a source that only compares, or a margin below 0 or given twice.
    """

    needs_anchors = True

    def __init__(
        self,
        sources: dict[str, RewardSource],
        ranking: list[str],
        lower_is_better: list[str] | None = None,
        margins: dict[str, float] | None = None,
        sigma_mults: dict[str, float] | None = None,
    ) -> None:
        super().__init__({name: sources[name] for name in ranking if name in sources})
        if not sources or sorted(ranking) != sorted(sources):
            raise ValueError(
                f"HERON.ranking is {list(ranking)}, but the sources are {sorted(sources)}; expected each of them once"
            )
        if wrong := [name for name in ranking if sources[name].needs_anchors]:
            raise ValueError(
                f"HERON.sources: {wrong[0]} is a {type(sources[wrong[0]]).__name__}, which only compares responses; a "
                "signal is a number of each response, as of RuleReward or ScalarReward"
            )
        self.ranking, self.lower_is_better = tuple(ranking), tuple(lower_is_better or ())
        self.margins, self.sigma_mults = dict(margins or {}), dict(sigma_mults or {})
        given = {"lower_is_better": self.lower_is_better, "margins": self.margins, "sigma_mults": self.sigma_mults}
        for setting, names in given.items():
            if unknown := sorted(set(names) - sources.keys()):
                raise ValueError(f"HERON.{setting} names {unknown[0]!r}, but the sources are {sorted(sources)}")
        for setting, numbers in (("margins", self.margins), ("sigma_mults", self.sigma_mults)):
            for name, number in numbers.items():
                if not 0 <= number < math.inf:
                    raise ValueError(f"HERON.{setting}.{name} is {number}; expected a finite number of at least 0")
        if twice := sorted(self.margins.keys() & self.sigma_mults.keys()):
            raise ValueError(f"HERON.margins and sigma_mults both have {twice[0]!r}; give one of them")
        for place, name in enumerate(self.ranking):
            if name not in self.margins:
                self.sigma_mults.setdefault(name, 1.0 if place else 0.0)

    def signals(self, rollout: Rollout) -> dict[str, Tensor]:
        """Rate each response by every source, whatever its anchors: [B] float64 each, in the order of the ranking."""
        alone = rollout.anchored([()] * len(rollout))
        return {name: source.score(alone).rewards.double().cpu() for name, source in self.named()}

    def thresholds(self, deviations: Mapping[str, float]) -> dict[str, float]:
        """Compute the margin of each signal in its own units, from standard deviations by name."""
        return {
            name: self.margins[name] if name in self.margins else self.sigma_mults[name] * deviations[name]
            for name in self.ranking
        }

    def compare(
        self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], thresholds: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Compare responses by their signals, whose shapes broadcast: log-odds that the first wins, and the level.

        Args:
            first: signals of responses, by name.
            second: of those that they are compared with.
            thresholds: margin of each signal.
        """
        signs = [-1.0 if name in self.lower_is_better else 1.0 for name in self.ranking]
        differences = [sign * (first[name] - second[name]) for sign, name in zip(signs, self.ranking, strict=True)]
        winner, level = decide(torch.stack(differences), [thresholds[name] for name in self.ranking])
        return CERTAIN * winner, level

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by the mean over its anchors of 1 for a win, 0 for a loss and 1/2 for a tie."""
        anchors_of, device = rollout.batch.anchors, rollout.response_ids.device
        row_of = torch.tensor([row for row, some in enumerate(anchors_of) for _ in some], dtype=torch.long)
        first = self.signals(rollout)
        if not len(row_of):
            return Scores(torch.full((len(rollout),), math.nan, device=device), components=self._told(first, device))
        anchors = [anchor for some in anchors_of for anchor in some]
        others = rollout.select(row_of.to(device)).without(torch.ones(len(row_of), dtype=torch.bool, device=device))
        second = self.signals(replace(others, texts=anchors))
        deviations = {name: deviation(torch.cat([first[name], second[name]])) for name in self.ranking}
        chosen = {name: values[row_of] for name, values in first.items()}
        margin = self.compare(chosen, second, self.thresholds(deviations))[0].float().to(device)
        verdict, row_of = Verdict(margin, -margin), row_of.to(device)
        rewards = mean_per_row(verdict.win_prob, row_of, len(rollout))
        return Scores(rewards, verdict, row_of, self._told(first, device))

    def _told(self, signals: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        return {name: values.float().to(device) for name, values in signals.items()}
