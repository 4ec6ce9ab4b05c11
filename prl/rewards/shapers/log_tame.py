"""PaCo-GRPO's sum of rewards, in which rewards that vary much are tamed by a logarithm."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from prl.distributed import global_sum
from prl.masking import wide_float
from prl.rewards.shapers.base import RewardShaper
from prl.types import Rollout, Scores


class LogTame(RewardShaper):
    """sum_k w_k R_k with log(1 + R_k) for R_k where h_k = std(R_k) / mean(R_k) > delta (PaCo-GRPO, 2512.04784, 3.2).

    Mean and deviation are those of the batch over all processes, the deviation that of the population. Rewards that are
    added must be above -1. The authors' code uses the sum as an advantage without dividing by the group's deviation;
    the paper normalises it, as the advantage estimator does here.

    Args:
        weights: weight of each reward by its name in the reward source; those without one do not count.
        delta: largest variation that is left as it is; the mean of all h_k when null.

    Raises:
        ValueError: for no weights, or a delta below 0.
    """

    def __init__(self, weights: dict[str, float], delta: float | None = None) -> None:
        if not weights:
            raise ValueError("LogTame.weights is empty; expected a weight for each reward, by its name")
        if delta is not None and not delta >= 0:
            raise ValueError(f"LogTame.delta is {delta}; expected null or 0 or more")
        self.weights, self.delta = dict(weights), delta

    def check(self, components: Collection[str] | None) -> None:
        """Refuse a reward source without these components. Raises ValueError."""
        if components is not None and (missing := sorted(self.weights.keys() - set(components))):
            raise ValueError(f"LogTame.weights names {missing[0]!r}; the rewards are {', '.join(components) or 'one'}")

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Replace the rewards by the tamed sum. Raises ValueError for a missing reward, or one of -1 or less."""
        self.check(scores.components)
        parts = {name: scores.components[name].to(wide_float(scores.rewards.device)) for name in self.weights}
        variations = {name: _variation(part, scores.failed) for name, part in parts.items()}
        limit = self.delta if self.delta is not None else float(torch.stack(list(variations.values())).mean())
        tamed = {name: part.log1p() if variations[name] > limit else part for name, part in parts.items()}
        self._check(parts, variations, limit, scores.failed)
        total = torch.stack([self.weights[name] * part for name, part in tamed.items()]).sum(0)
        return replace(scores, rewards=torch.where(scores.failed, scores.rewards, total.to(scores.rewards)))

    def _check(
        self, parts: Mapping[str, Tensor], variations: Mapping[str, Tensor], limit: float, failed: Tensor
    ) -> None:
        for name, part in parts.items():
            if variations[name] > limit and bool(((part <= -1) & ~failed).any()):
                lowest = float(part[~failed].min())
                raise ValueError(
                    f"LogTame takes log(1 + {name}), and {name} goes down to {lowest:.4g}; expected rewards above -1. "
                    "Scale it, or raise delta"
                )


def _variation(part: Tensor, failed: Tensor) -> Tensor:
    """Compute the deviation of the rewards of all processes as a share of their mean."""
    kept = part[~failed]
    sums = torch.stack([kept.new_tensor(len(kept)), kept.sum(), kept.square().sum()])
    count, total, squares = global_sum(sums)
    mean = total / count.clamp(min=1)
    return (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt() / mean.abs().clamp(min=1e-12)
