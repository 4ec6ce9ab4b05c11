"""Advantages of thoughts, runs of steps that are all right or all wrong, beside that of the response."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, Advantages, TokenRewards
from prl.advantages.group import Deviation, GroupNormalized, group_normalized
from prl.masking import wide_float
from prl.types import Rollout, Scores


class Thoughts(NamedTuple):
    """Runs of tokens with one mark, in the order of rows and tokens: each token that counts is in exactly one."""

    number: Tensor
    """[N] run of each of the N tokens that count."""
    row: Tensor
    """[U] response of each run."""
    mark: Tensor
    """[U] mark of each run: 1 right, 0 wrong, NaN for a run without a mark, which is no thought."""


def thoughts(marks: Tensor, mask: Tensor) -> Thoughts:
    """Merge the steps of each response that follow each other and have one mark.

    Args:
        marks: [B, T] mark of the step that each token is in.
        mask: [B, T] True on tokens that count; the others are passed over, and end no run.
    """
    rows = torch.arange(len(mask), device=mask.device)[:, None].expand(mask.shape)[mask]
    found = marks[mask]
    told = found.nan_to_num(-1.0)
    begins = torch.ones_like(rows, dtype=torch.bool)
    begins[1:] = (rows[1:] != rows[:-1]) | (told[1:] != told[:-1])
    return Thoughts(begins.cumsum(0) - 1, rows[begins], found[begins])


class ThoughtLevel(AdvantageEstimator):
    """A_t = A_outcome + eta (r_u - mean) / (std + epsilon), u the thought of token t; after TP-GRPO (2507.23317).

    A_outcome is that of `GroupNormalized`. Steps of a response that follow each other and are all right, or all wrong,
    are one thought u, and r_u is 1 or -1. Mean and standard deviation are over all thoughts of the prompt's responses,
    each counted once, however long. A wrong thought in a correct response counts -p in place of -1, p the share of the
    prompt's responses that are correct: where few are, a detour that led to the answer costs little. A token without
    a mark has A_outcome alone, as all tokens have with eta = 0 or where all thoughts of a prompt are alike.

    Of the paper the abstract was at hand: that steps are judged by a generative model, merged to thoughts, and
    rewarded by how well the policy does on the prompt. The formula is ours, as are all defaults; its off-policy part
    is left out. Marks come from `prl.rewards.RuleMarks` or `prl.judge.ThoughtProcessJudge`.

    Args:
        eta: weight of the thoughts.
        correct_above: rewards above it, after shaping, are those of correct responses.
        deviation: as for `GroupNormalized`, of rewards and thoughts.
        epsilon: as for `GroupNormalized`.

    Raises:
        ValueError: for a negative eta, a limit that is not finite, or a setting that `GroupNormalized` refuses.
    """

    min_per_prompt = 2
    needs_marks = True

    def __init__(
        self,
        eta: float = 0.5,
        correct_above: float = 0.5,
        deviation: Deviation = "unbiased",
        epsilon: float = 1e-4,
    ) -> None:
        if not 0 <= eta < math.inf:
            raise ValueError(f"ThoughtLevel.eta is {eta}; expected a finite number of at least 0")
        if not math.isfinite(correct_above):
            raise ValueError(f"ThoughtLevel.correct_above is {correct_above}; expected a finite number")
        self.eta, self.correct_above = eta, correct_above
        self.normalized = GroupNormalized(deviation, epsilon)

    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Add the advantages of thoughts to those of responses. Raises ValueError where nobody marked steps."""
        if scores.step_marks is None:
            raise ValueError(
                "ThoughtLevel reads marks of steps, and the reward source gives none; put it into "
                "prl.rewards.RuleMarks or prl.judge.ThoughtProcessJudge"
            )
        plain = self.normalized(rewards, scores, rollout, values).advantages
        mask, group, wide = rewards.mask, rollout.group, wide_float(plain.device)
        found = thoughts(scores.step_marks.to(plain.device), mask)
        correct = mask.any(1) & (rewards.rewards > self.correct_above)
        share = group_share(correct, mask.any(1), group)
        penalty = torch.where(correct, share, 1.0)[found.row]
        reward = torch.where(found.mark == 1, 1.0, -penalty).to(wide)
        marked = ~found.mark.isnan()
        how = self.normalized.deviation, self.normalized.epsilon
        level = group_normalized(reward, marked, group[found.row], *how).masked_fill(~marked, 0)
        added = torch.zeros_like(plain).masked_scatter(mask, (self.eta * level)[found.number].to(plain.dtype))
        return Advantages(plain + added, None)


def group_share(chosen: Tensor, counted: Tensor, group: Tensor) -> Tensor:
    """Compute the share of the counted responses of each prompt that are chosen, told to each response: [B]."""
    wide = wide_float(group.device)
    number = torch.bincount(group, weights=counted.to(wide)).clamp(min=1)
    return (torch.bincount(group, weights=chosen.to(wide)) / number)[group]
