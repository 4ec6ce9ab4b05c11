"""Advantages from comparisons of the responses of a prompt with each other, without a critic."""

from typing import Literal

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, Advantages, TokenRewards
from prl.masking import wide_float
from prl.types import Rollout, Scores
from prl.verdict import Verdict


class PairwiseMatrix(AdvantageEstimator):
    """A_i = sum_j d_ij / (sqrt(G / (2 (G - 1)) sum_ij d_ij^2) + G epsilon): pairwise RLHF of Think-RM (2505.16265).

    d_ij is how strongly response i beats response j of the same G, for example under `prl.anchors.RoundRobin` and any
    judge; d_ij = -d_ji, since a verdict is made of both orders. Where d_ij = r_i - r_j this is `GroupNormalized` on r.
    A judge that prefers in circles gives smaller advantages than one that ranks, because the root grows by what no
    ranking explains. A reader's note puts G epsilon inside of the root; outside it agrees with `GroupNormalized`. Which
    of the two the authors compute is not verified.

    A KL and dense rewards beside the reward are part of d_ij, as a difference. Shapers are not read: they change the
    reward, and this reads verdicts (`strength` chooses how). A comparison that failed counts as undecided, for both
    responses. A response without a reward is in no sum, and a prompt with a single rewarded response has advantage 0.

    Args:
        strength: log_odds of a win; probability, less 1/2; or sign, 1 for a win and -1 for a defeat.
        epsilon: added to the deviation, as for `GroupNormalized`.

    Raises:
        ValueError: for a negative epsilon.
    """

    min_per_prompt = 2
    compares_group = True

    def __init__(
        self, strength: Literal["log_odds", "probability", "sign"] = "log_odds", epsilon: float = 1e-4
    ) -> None:
        if not epsilon >= 0:
            raise ValueError(f"PairwiseMatrix.epsilon is {epsilon}; expected 0 or more")
        self.strength, self.epsilon = strength, epsilon

    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Sum the comparisons of each response. Raises ValueError when they are not those within prompts."""
        counted, group = rewards.mask.any(1), rollout.group
        first, second = self._rows_of_pairs(scores, group)
        assert scores.verdict is not None
        wide = wide_float(group.device)
        beside = (rewards.per_response() - rewards.rewards).to(wide)
        matrix = self._read(scores.verdict).to(wide).nan_to_num(0.0) + beside[first] - beside[second]
        matrix = matrix * (counted[first] & counted[second])
        sums = matrix.new_zeros(len(group)).index_add(0, first, matrix)
        squares = matrix.new_zeros(len(group)).index_add(0, group[first], matrix.square())
        number = torch.bincount(group, weights=counted.to(wide), minlength=len(group))
        deviation = (number / (2 * (number - 1).clamp(min=1)) * squares).sqrt() + number * self.epsilon
        scaled = sums / deviation.clamp(min=torch.finfo(wide).tiny)[group]
        return Advantages((scaled[:, None] * rewards.mask).to(rewards.logprobs.dtype), None)

    def _read(self, verdict: Verdict) -> Tensor:
        """Compute how strongly each response beats the other: [N]; NaN where a judgement failed."""
        if self.strength == "log_odds":
            return verdict.win_logit
        return verdict.win_prob - 0.5 if self.strength == "probability" else verdict.win_logit.sign()

    def _rows_of_pairs(self, scores: Scores, group: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of both responses of each comparison, [N] each: each response meets the others in order."""
        index, sizes = scores.response_index, torch.bincount(group)
        if index is None:
            raise ValueError("PairwiseMatrix reads comparisons, and the reward source made none; use a judge")
        met = torch.bincount(index, minlength=len(group))
        if not torch.equal(met, sizes[group] - 1) or not bool((index.diff() >= 0).all()):
            raise ValueError(
                f"PairwiseMatrix reads {int((sizes[group] - 1).sum())} comparisons of the responses of each prompt "
                f"with each other, and there are {len(index)} of another kind; use anchors: prl.anchors.RoundRobin"
            )
        order = group.argsort(stable=True)
        start = (sizes.cumsum(0) - sizes)[group]
        place = order.argsort() - start
        number = torch.arange(len(index), device=group.device) - (met.cumsum(0) - met)[index]
        other = number + (number >= place[index]).long()  # a response does not meet itself
        return index, order[start[index] + other]
