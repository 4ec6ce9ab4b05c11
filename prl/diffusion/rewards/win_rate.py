"""Pref-GRPO's reward: the share of the other pictures of its prompt that a picture beats."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prl.diffusion.rewards.base import ImageJudge, ImageReward
from prl.types import Scores
from prl.verdict import Verdict, mean_per_row, wins


class WinRate(ImageReward):
    """w_i = (wins of picture i over the others of its prompt) / (G - 1) by a judge (2508.20751, equation 12).

    A tie is half a win. A comparison that failed counts for neither picture; one without any has no reward. Pictures of
    different prompts are never compared. Advantages of win rates do not depend on how
    far apart the judge's numbers are, unlike those of rewards, whose smallest differences a group's deviation blows up.
    The paper asks once for each pair, in one order.

    Args:
        judge: compares two pictures.
        both_orders: ask for both orders of each pair, and average the log-odds, where a bias for the first picture
            cancels.
    """

    compares = True

    def __init__(self, judge: ImageJudge, both_orders: bool = True) -> None:
        super().__init__()
        self.judge, self.both_orders = judge, both_orders

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Refuse pictures without a group. Raises ValueError."""
        raise ValueError(
            "WinRate compares the pictures of a prompt, so a single one has no reward; measure another one"
        )

    @torch.no_grad()
    def scores(self, images: Tensor, prompts: Sequence[str], group: Tensor) -> Scores:
        """Compare every two pictures of a prompt. Raises ValueError for a prompt with a single picture."""
        alike = (group[:, None] == group) & ~torch.eye(len(group), dtype=torch.bool, device=group.device)
        if not bool(alike.any(1).all()):
            raise ValueError("WinRate needs at least two pictures of each prompt; raise sampling.per_prompt")
        first, second = alike.triu().nonzero().unbind(1)
        texts = [prompts[number] for number in first.tolist()]
        forth = self.judge.compare(images[first], images[second], texts).float()
        back = self.judge.compare(images[second], images[first], texts).float() if self.both_orders else -forth
        # Each pair is a comparison of either of its pictures with the other.
        verdict = Verdict(torch.cat([forth, back]), torch.cat([back, forth]))
        index = torch.cat([first, second])
        return Scores(mean_per_row(wins(verdict.win_logit), index, len(images)), verdict, index)


class RewardDifference(ImageJudge):
    """The difference of two rewards as log-odds.

    Args:
        reward: reward of a picture.
        scale: what the difference is multiplied by.
    """

    def __init__(self, reward: ImageReward, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"RewardDifference.scale is {scale}; expected a number above 0")
        self.reward, self.scale = reward, scale

    def compare(self, first: Tensor, second: Tensor, prompts: Sequence[str]) -> Tensor:
        """Subtract the rewards: [N]."""
        return self.scale * (self.reward.score(first, prompts) - self.reward.score(second, prompts))
