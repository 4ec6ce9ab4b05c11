"""Each response against the mean of the other responses to its prompt, without a critic."""

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, Advantages, TokenRewards
from prl.masking import wide_float
from prl.types import Rollout, Scores


class LeaveOneOut(AdvantageEstimator):
    """A_i = r_i - mean of the rewards of the prompt's other responses: RLOO (2402.14740, section 3.3).

    The mean of the others does not depend on the response, so the gradient is unbiased, which a mean with the response
    in it only is up to the factor n / (n - 1). Every token of a response has the advantage of its response. A response
    without a reward is left out of the means, and a prompt with a single rewarded response has advantage 0: there is
    nothing to compare it with.
    """

    min_per_prompt = 2

    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Compare each response with the others to its prompt."""
        counted, group = rewards.mask.any(1), rollout.group
        total = rewards.per_response().to(wide_float(group.device))
        others = torch.bincount(group, weights=counted.to(total))[group] - 1
        sums = torch.bincount(group, weights=total * counted)[group]
        ahead = torch.where(others > 0, total - (sums - total) / others.clamp(min=1), 0.0)
        return Advantages((ahead[:, None] * rewards.mask).to(rewards.logprobs.dtype), None)
