"""Pairs of responses that a statistical rejection sampler accepts."""

import math

import torch

from prl.pairs.base import Choice, PairRule
from prl.pairs.candidates import Candidates


class RejectionSampled(PairRule):
    """Candidates accepted as draws from pi_sft(y | x) exp(r(x, y) / beta), two by two (RSO, 2309.06657, algorithm 1).

    Each pass accepts a candidate with probability exp((r - r_max) / beta), r_max over those not accepted yet, until
    `keep` are; accepted ones are paired in the order in which they came, the better one of each pair chosen. The
    reward is the mean log-odds against the other candidates, where the paper has the log-odds against one drawn at
    random: the same on average, with less noise.

    Args:
        beta: the temperature of the reward; towards 0 the best are kept, towards infinity any. The paper has 0.5.
        keep: candidates to accept for each prompt, of 64 sampled in the paper.

    Raises:
        ValueError: for a beta that is not above 0, or less than two to keep.
    """

    def __init__(self, beta: float = 0.5, keep: int = 8) -> None:
        if not 0 < beta < math.inf:
            raise ValueError(f"RejectionSampled.beta is {beta}; expected a finite number above 0")
        if keep < 2:
            raise ValueError(f"RejectionSampled.keep is {keep}; expected at least 2, a pair")
        self.beta, self.keep = beta, keep

    def choose(self, candidates: Candidates, generator: torch.Generator) -> list[Choice]:
        """Accept candidates, and pair them."""
        reward, margin = candidates.reward, candidates.margin
        accepted = accept(reward.tolist(), self.beta, self.keep, generator)
        pairs = zip(accepted[::2], accepted[1::2], strict=False)
        return [Choice(a, b) if margin[a, b] > 0 else Choice(b, a) for a, b in pairs]


def accept(rewards: list[float], beta: float, keep: int, generator: torch.Generator) -> list[int]:
    """Accept candidates by their rewards, and return their numbers in the order of acceptance.

    Args:
        rewards: reward of each candidate.
        beta: temperature.
        keep: accept this many, or all where there are no more.
        generator: for the draws.
    """
    left, accepted = list(range(len(rewards))), list[int]()
    while left and len(accepted) < keep:
        highest = max(rewards[n] for n in left)
        for n in list(left):
            draw = torch.rand((), generator=generator, dtype=torch.float64).item()
            if draw < math.exp((rewards[n] - highest) / beta):
                accepted.append(n)
                left.remove(n)
                if len(accepted) == keep:
                    break
    return accepted
