"""The best candidate alone, to be imitated."""

import torch

from prl.pairs.base import DemonstrationRule, ranked
from prl.pairs.candidates import Candidates


class BestOfN(DemonstrationRule):
    """The candidate of the highest reward, to be imitated: rejection-sampling fine-tuning, or RAFT (2304.06767).

    The reward is the source's number of a response, or under a judge the mean log-odds against the other candidates.

    Args:
        keep: how many of the best candidates of each prompt become demonstrations.

    Raises:
        ValueError: for none to keep.
    """

    def __init__(self, keep: int = 1) -> None:
        if keep < 1:
            raise ValueError(f"BestOfN.keep is {keep}; expected at least 1")
        self.keep_best = keep

    def keep(self, candidates: Candidates, generator: torch.Generator) -> list[int]:
        """Choose the best."""
        return ranked(candidates.worth, candidates.texts)[: self.keep_best]
