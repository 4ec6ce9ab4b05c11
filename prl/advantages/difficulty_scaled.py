"""Group-normalised advantages times a factor for how difficult a prompt is, without a critic."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from prl.advantages.base import AdvantageEstimator, Advantages, TokenRewards
from prl.advantages.group import GroupNormalized
from prl.distributed import gathered
from prl.types import Rollout, Scores
from prl.verdict import mean_per_row

LARGEST = 100.0
"""Largest factor of a prompt. It has no bound of its own where the mean is far below 0: once the policy is ahead of
most demonstrations, a prompt on which it is behind would be all that is learnt."""


class DifficultyScaled(AdvantageEstimator):
    """A_i = a_D a_M (r_i - mean) / (std + epsilon): GRPO-S of DR-IRL (2503.18991, as far as public notes tell it).

    a_D = sigma(hardness) / sigma(mean hardness): `hardness` is a column of the prompts, for example 1 less the
    similarity of the demonstration to what the policy writes. a_M = sigma(gap) / sigma(mean gap): the gap of a prompt
    is the mean of r(demonstration) - r(response) over its responses without outliers, read from the comparisons with
    anchors, which are the demonstrations. Means are over the batch of all processes. So prompts that are hard, and on
    which the policy is far behind, count more; the factor is one number for each prompt and changes no sign. Scaling
    the reward instead would cancel in the normalisation.

    The rule for outliers is ours: responses whose gap is further than `outlier` standard deviations from the mean gap;
    a prompt of outliers alone keeps them. A response without a reward or without a comparison is in no gap, and a
    prompt without any gap has a_M = 1. Either factor is at most 100.

    Args:
        hardness: scale by the column `hardness`, a number in each row.
        responsiveness: scale by the gap to the demonstrations.
        outlier: standard deviations from the mean gap beyond which a response is left out of its prompt's gap.
        deviation: as for `GroupNormalized`.
        epsilon: as for `GroupNormalized`.

    Raises:
        ValueError: for an outlier that is not positive, or a setting that `GroupNormalized` refuses.
    """

    min_per_prompt = 2
    columns = ("hardness",)

    def __init__(
        self,
        hardness: bool = True,
        responsiveness: bool = True,
        outlier: float = 3.0,
        deviation: Literal["unbiased", "biased", "none"] = "unbiased",
        epsilon: float = 1e-4,
    ) -> None:
        if not outlier > 0:
            raise ValueError(f"DifficultyScaled.outlier is {outlier}; expected a positive number")
        self.hardness, self.responsiveness, self.outlier = hardness, responsiveness, outlier
        self.normalized = GroupNormalized(deviation, epsilon)

    def __call__(self, rewards: TokenRewards, scores: Scores, rollout: Rollout, values: Tensor | None) -> Advantages:
        """Scale the normalised advantages of each prompt. Raises ValueError without the column or comparisons."""
        plain = self.normalized(rewards, scores, rollout, values).advantages
        number = int(rollout.group.max()) + 1
        factors = [1.0] * number
        if self.hardness:
            factors = [a * b for a, b in zip(factors, self._from_hardness(rollout, number), strict=True)]
        if self.responsiveness:
            gaps = self._gaps(scores, rewards.mask.any(1))
            found = self._from_gaps(gaps.tolist(), rollout.group.tolist(), number)
            factors = [a * b for a, b in zip(factors, found, strict=True)]
        factor = torch.tensor(factors, dtype=plain.dtype, device=plain.device)[rollout.group]
        return Advantages(plain * factor[:, None], None)

    def _from_hardness(self, rollout: Rollout, number: int) -> list[float]:
        """Compute a_D of each prompt of this process."""
        rows: list[dict[str, Any]] = rollout.batch.extras or [{}] * len(rollout)
        of_prompt = [0.0] * number
        for group, row in zip(rollout.group.tolist(), rows, strict=True):
            of_prompt[group] = _number(row)
        present = sorted(set(rollout.group.tolist()))
        everywhere = [each for own in gathered([of_prompt[group] for group in present]) for each in own]
        mean = math.fsum(everywhere) / len(everywhere)
        return [_ratio(each, mean) for each in of_prompt]

    def _gaps(self, scores: Scores, counted: Tensor) -> Tensor:
        """Compute how far each response is behind its demonstrations: [B]; NaN where there is no comparison."""
        if scores.verdict is None or scores.response_index is None:
            raise ValueError(
                "DifficultyScaled.responsiveness reads comparisons with demonstrations, and the reward source made "
                "none; give the rows anchors, or set it to false"
            )
        behind = -mean_per_row(scores.verdict.win_logit, scores.response_index, len(counted))
        return behind.masked_fill(~counted, torch.nan)

    def _from_gaps(self, gaps: list[float], group: list[int], number: int) -> list[float]:
        """Compute a_M of each prompt of this process."""
        everywhere = [gap for own in gathered(gaps) for gap in own if math.isfinite(gap)]
        if not everywhere:
            return [1.0] * number
        mean = math.fsum(everywhere) / len(everywhere)
        std = math.sqrt(math.fsum((gap - mean) ** 2 for gap in everywhere) / len(everywhere))
        found = []
        for prompt in range(number):
            own = [gap for gap, each in zip(gaps, group, strict=True) if each == prompt and math.isfinite(gap)]
            own = [gap for gap in own if abs(gap - mean) <= self.outlier * std] or own
            found.append(_ratio(math.fsum(own) / len(own), mean) if own else 1.0)
        return found


def _number(row: dict[str, Any]) -> float:
    """Read the hardness of a prompt. Raise ValueError for a row without it."""
    value = row.get("hardness")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(
            f"DifficultyScaled.hardness reads the column 'hardness', a finite number in each row, and found {value!r} "
            f"among the columns {sorted(row)}; add it to the prompts, or set hardness to false"
        )
    return float(value)


def _ratio(value: float, mean: float) -> float:
    """Compute sigma(value) / sigma(mean), at most LARGEST."""
    return math.exp(min(_log_sigmoid(value) - _log_sigmoid(mean), math.log(LARGEST)))


def _log_sigmoid(value: float) -> float:
    return min(value, 0.0) - math.log1p(math.exp(-abs(value)))
