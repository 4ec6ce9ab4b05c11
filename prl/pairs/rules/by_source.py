"""The best response of one source against the worst of another: mixes of generators."""

import torch

from prl.pairs.base import Choice, PairRule, ranked
from prl.pairs.candidates import Candidates
from prl.pairs.writers import POOL, SELF


class BySource(PairRule):
    """Take chosen from one policy and rejected from another, by win rate among all candidates (2504.02193).

    Where the rejected response is the better one after all, the pair is left out, as for every rule.

    Args:
        chosen: `self`, the name of another policy, or `pool` for all of them.
        rejected: the same.
    """

    def __init__(self, chosen: str = POOL, rejected: str = POOL) -> None:
        self.chosen, self.rejected = chosen, rejected
        self.sources = tuple(dict.fromkeys(name for name in (chosen, rejected) if name != POOL))

    def choose(self, candidates: Candidates, generator: torch.Generator) -> list[Choice]:
        """Choose the best of one side and the worst of the other, and ties by their text."""
        writers = candidates.sources or ((SELF,),) * len(candidates)
        order = ranked(candidates.win_rate, candidates.texts)

        def of(name: str) -> list[int]:
            return [n for n in order if name == POOL or name in writers[n]]

        best, worst = of(self.chosen)[:1], of(self.rejected)[-1:]
        if not best or not worst or best == worst:
            return []
        named = (None if name == POOL else name for name in (self.chosen, self.rejected))
        return [Choice(best[0], worst[0], *named)]
