"""Advantages of 1 and -1 from one comparison, without a critic."""

import math

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, Advantages, TokenRewards
from prl.masking import wide_float
from prl.types import Rollout, Scores


class BRPO(AdvantageEstimator):
    """A_i = 1 where a response beats the reference drawn from its own group, -1 where it loses: BRPO (2506.00103).

    The reference is the anchor that `prl.anchors.GroupReference` draws; a tie, such as that of the reference with
    itself, has advantage 0. Over all draws the advantages of a group add up to 0, though those of one draw do not, and
    there is no deviation to divide by. Prompts of which nearly all responses win or lose are left out by
    `prl.rollouts.filters.DropSkewedGroups`. Formula and reference are from a public implementation of the paper's
    section on BRPO, not from its authors' code, which is not public.

    A win is a reward above `parity`, so that shapers count: a response that `MissingEOS` takes 1 from has lost. A KL
    and dense rewards beside the reward are added after subtraction of the prompt's mean. Every token of a response has
    the advantage of its response.

    Args:
        parity: the reward of a tie: 1/2 for win probabilities, 0 for `CenteredProbability` and `LogOdds`.

    Raises:
        ValueError: for a parity that is not finite.
    """

    min_per_prompt = 2

    def __init__(self, parity: float = 0.5) -> None:
        if not math.isfinite(parity):
            raise ValueError(f"BRPO.parity is {parity}; expected a finite number")
        self.parity = parity

    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Read each reward as a win or a defeat."""
        counted, group, wide = rewards.mask.any(1), rollout.group, wide_float(rollout.group.device)
        beside = (rewards.per_response() - rewards.rewards).to(wide)
        number = torch.bincount(group, weights=counted.to(wide)).clamp(min=1)
        beside = beside - (torch.bincount(group, weights=beside) / number)[group]
        won = (rewards.rewards - self.parity).sign() + beside
        return Advantages((won[:, None] * rewards.mask).to(rewards.logprobs.dtype), None)
