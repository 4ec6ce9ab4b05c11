"""Leave out prompts whose responses nearly all win, or nearly all lose."""

import math

import torch
from torch import Tensor

from prl.rollouts.filters.base import RolloutFilter
from prl.types import Rollout, Scores


class DropSkewedGroups(RolloutFilter):
    """Leave out the responses of a prompt with |wins - defeats| / responses above a limit: the filter of BRPO.

    With a reference from the group itself (`prl.anchors.GroupReference`), nearly all responses win or lose where the
    draw was of a very bad or very good one, which says more of the reference than of them (2506.00103; the form of the
    skew is that of a public implementation). It is a filter and no advantage of 0: what is left out counts in no mean
    over tokens and in no KL, and other estimators can have it too.

    Args:
        max_skew: largest skew of a prompt that counts.
        parity: the reward of a tie: 1/2 for win probabilities, 0 for `CenteredProbability` and `LogOdds`.

    Raises:
        ValueError: for a limit outside [0, 1], or a parity that is not finite.
    """

    min_per_prompt = 2

    def __init__(self, max_skew: float = 0.6, parity: float = 0.5) -> None:
        if not 0 <= max_skew <= 1:
            raise ValueError(f"DropSkewedGroups.max_skew is {max_skew}; expected a number in [0, 1]")
        if not math.isfinite(parity):
            raise ValueError(f"DropSkewedGroups.parity is {parity}; expected a finite number")
        self.max_skew, self.parity = max_skew, parity

    def weights(self, rollout: Rollout, scores: Scores) -> Tensor:
        """Weigh responses of balanced prompts 1, others 0: [B]."""
        won = (scores.rewards - self.parity).sign().nan_to_num(0.0)
        balance = torch.bincount(rollout.group, weights=won).abs()
        rewarded = torch.bincount(rollout.group, weights=(~scores.failed).float())
        # The sums are whole numbers, and a limit such as 0.6 is none in binary.
        return (balance <= self.max_skew * rewarded + 1e-6)[rollout.group].to(torch.float32)
