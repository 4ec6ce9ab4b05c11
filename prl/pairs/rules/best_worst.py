"""The best candidate against the worst."""

import torch

from prl.pairs.base import Choice, PairRule, ranked
from prl.pairs.candidates import Candidates


class BestWorst(PairRule):
    """One pair of each prompt: the highest win rate over all candidates against the lowest (SPPO, 2405.00675).

    Iterative DPO and the other self-play methods take the same pair.
    """

    def choose(self, candidates: Candidates, generator: torch.Generator) -> list[Choice]:
        """Choose the pair."""
        order = ranked(candidates.win_rate, candidates.texts)
        return [Choice(order[0], order[-1])]
