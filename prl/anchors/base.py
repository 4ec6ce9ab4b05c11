"""Which responses the policy is compared with: a choice that is one class in the configuration.

An anchor source may change its mind while a run goes on; what it remembers is in the checkpoint.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor

from prl.config import Sampling
from prl.types import Conversation, PromptBatch, Rollout, Scores, Verdict

Weights = dict[str, Tensor]
"""What training changes in a policy, by parameter names."""


class Policies(Protocol):
    """What a run offers to anchor sources: other policies to sample from, and a judge to ask."""

    def reference_responses(self, batch: PromptBatch) -> list[str]:
        """One response of the reference to each prompt."""

    def weights(self) -> Weights:
        """A copy of the policy's trained weights as they are now."""

    def sample_with_weights(self, weights: Weights, batch: PromptBatch) -> list[str]:
        """One response to each prompt, of the policy as it was with these weights."""

    def second_opinion(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Both orders under the held-out judge where the run has one, else under the judge."""


class AnchorSource(ABC):
    """Gives each rollout the responses that it is compared with."""

    reads_column: ClassVar[bool] = False
    """Whether every row of the data must bring an anchor."""

    def check(self, sampling: Sampling) -> None:
        """Raises ValueError when the sampling settings do not fit."""
        return

    @abstractmethod
    def anchors_for(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """The anchors of each rollout.

        Args:
            batch: P prompts, with the anchors that their rows brought.
            responses: P * n rollouts, those of one prompt in a row.
            policies: where other responses come from.

        Returns:
            One tuple for each rollout.
        """

    def update(self, rollout: Rollout, scores: Scores, policies: Policies) -> dict[str, float]:
        """Learn from an iteration's verdicts; `rollout` has the anchors of each response. Returns numbers to log."""
        return {}

    def events(self) -> list[dict[str, Any]]:
        """What happened to anchors in the last iteration, the same on all ranks: lines for `RUN_DIR/anchors.jsonl`."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        return


def repeated(values: list[Any], num_rollouts: int) -> list[Any]:
    """One value per prompt to one per rollout."""
    return [value for value in values for _ in range(num_rollouts // len(values))]
