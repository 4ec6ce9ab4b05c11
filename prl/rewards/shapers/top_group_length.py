"""A reward for short correct responses, to the prompts that are mostly answered correctly."""

import math

import torch

from prl.distributed import gathered, rank
from prl.rewards.shapers.base import RewardShaper
from prl.types import Rollout, Scores


class TopGroupLength(RewardShaper):
    """Take alpha * sigma((length - mean) / std) off the reward of correct responses to the best answered prompts.

    The length version of GRPO-lambda (2505.18086), whose wrong responses have the reward 0, correct ones 1. Prompts of
    all processes are ranked by the share of their responses that are correct, and only the first floor(fraction *
    prompts) of them are shaped: elsewhere length would cost accuracy. Mean and standard deviation (population) are
    those of the lengths of the prompt's correct responses, in tokens. Correct responses of one length, or a single
    one, lose alpha / 2. Wrong responses keep their reward, however short. Of prompts with equal shares those on
    earlier processes come first, and there those at the front of the batch. A response without a reward is in no
    share, and a prompt without any rewarded response is not ranked.

    Args:
        fraction: share of the prompts whose correct responses are shaped (lambda).
        alpha: largest reward to subtract.
        correct_above: rewards above it are those of correct responses.

    Raises:
        ValueError: for a fraction outside [0, 1], a negative alpha, or a limit that is not finite.
    """

    def __init__(self, fraction: float = 0.2, alpha: float = 0.6, correct_above: float = 0.5) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"TopGroupLength.fraction is {fraction}; expected a number in [0, 1]")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"TopGroupLength.alpha is {alpha}; expected 0 or more")
        if not math.isfinite(correct_above):
            raise ValueError(f"TopGroupLength.correct_above is {correct_above}; expected a finite number")
        self.fraction, self.alpha, self.correct_above = fraction, alpha, correct_above

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Lower the rewards of long correct responses where most are correct."""
        correct, group = scores.rewards > self.correct_above, rollout.group  # NaN is not above
        rewarded, number = (
            torch.bincount(group, weights=(~scores.failed).float()),
            torch.bincount(group, correct.float()),
        )
        top = self._best_answered((number / rewarded).tolist())
        lengths = rollout.response_mask.sum(1).float()
        count = number.clamp(min=1)
        away = lengths - (torch.bincount(group, lengths * correct) / count)[group]
        std = (torch.bincount(group, away.square() * correct) / count).sqrt()[group]
        penalty = self.alpha * torch.sigmoid(torch.where(std > 0, away / std, 0.0))
        shaped = correct & torch.tensor(top, device=group.device)[group]
        return scores.with_rewards(torch.where(shaped, scores.rewards - penalty, scores.rewards))

    def _best_answered(self, shares: list[float]) -> list[bool]:
        """Tell which prompts of this process are among the best answered ones of all; shares of NaN are left out."""
        everywhere = gathered(shares)
        places = [(-share, process, n) for process, own in enumerate(everywhere) for n, share in enumerate(own)]
        ranked = sorted(place for place in places if place[0] == place[0])
        # The product of a fraction and a count may lie a rounding below the whole number that is meant.
        best = {place[1:] for place in ranked[: math.floor(self.fraction * len(ranked) + 1e-9)]}
        return [(rank(), n) in best for n in range(len(shares))]
