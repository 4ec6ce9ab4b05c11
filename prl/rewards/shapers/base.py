"""Socket of reward shapers: a list in the configuration, applied in order before advantages are estimated."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

from torch import Tensor

from prl.types import Rollout, Scores
from prl.verdict import Verdict, mean_per_row


class RewardShaper(ABC):
    """Changes rewards. The arguments of the constructor are the settings.

    A shaper with a state has `state_dict` and `load_state_dict`; the run finds and saves the state. All processes call
    a shaper once in an iteration, so that it may read the rewards of others through `prl.distributed`.
    """

    needs_anchors: ClassVar[bool] = False
    """Whether the shaper reads comparisons with anchors, so that every response must have one."""

    def check(self, components: Collection[str] | None) -> None:
        """Refuse a reward source before the run; does nothing by default.

        Args:
            components: names of its components; None where they are known from its models alone.

        Raises:
            ValueError: when one that the shaper reads is missing.
        """
        return

    def numbers(self) -> dict[str, float]:
        """Return what is to be logged of the shaper, by whole tags; nothing by default."""
        return {}

    @abstractmethod
    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Change the rewards.

        Args:
            scores: rewards of B responses; NaN where a response has none, which must stay NaN.
            rollout: the responses, with anchors and extra columns.
        """


def shape(scores: Scores, rollout: Rollout, shapers: Sequence[RewardShaper]) -> Scores:
    """Apply shapers one after the other.

    Raises:
        ValueError: when a shaper gives a reward to a response that had none.
    """
    for shaper in shapers:
        shaped = shaper(scores, rollout)
        if bool((scores.failed & ~shaped.failed).any()):
            raise ValueError(
                f"{type(shaper).__name__} gives a number to a response without a reward; NaN has to stay NaN, so that "
                "the response is left out"
            )
        scores = shaped
    return scores


def logged(shapers: Sequence[RewardShaper]) -> dict[str, float]:
    """Collect what is to be logged of all shapers."""
    return {name: number for each in shapers for name, number in each.numbers().items()}


def comparisons(scores: Scores, shaper: RewardShaper) -> tuple[Verdict, Tensor]:
    """Return the N comparisons behind rewards, and [N] the row of the response of each.

    Raises:
        ValueError: when the reward source made no comparisons.
    """
    if scores.verdict is None or scores.response_index is None:
        raise ValueError(
            f"shaping: {type(shaper).__name__} reads comparisons with anchors, and the reward source made none; use a "
            "judge, or a reward source whose rows all have anchors"
        )
    return scores.verdict, scores.response_index


class VerdictReading(RewardShaper):
    """Reward each response by a function of its verdicts, averaged over its anchors."""

    needs_anchors = True

    @abstractmethod
    def read(self, verdict: Verdict) -> Tensor:
        """Compute one number per comparison: [N]."""

    def __call__(self, scores: Scores, rollout: Rollout) -> Scores:
        """Replace each reward by the mean over anchors."""
        verdict, rows = comparisons(scores, self)
        return scores.with_rewards(mean_per_row(self.read(verdict), rows, len(rollout)))
