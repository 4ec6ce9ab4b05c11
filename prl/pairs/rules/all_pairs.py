"""Every two candidates of a prompt."""

import torch

from prl.pairs.base import Choice, PairRule
from prl.pairs.candidates import Candidates


class AllPairs(PairRule):
    """K (K - 1) / 2 pairs of each prompt, the winner of each comparison chosen; ties are left to the checks."""

    def choose(self, candidates: Candidates, generator: torch.Generator) -> list[Choice]:
        """Choose the pairs."""
        margin, count = candidates.margin, len(candidates)
        pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
        return [Choice(a, b) if margin[a, b] > 0 else Choice(b, a) for a, b in pairs]
