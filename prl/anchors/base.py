"""Socket of anchor sources, which choose the responses that rollouts are compared with.

An anchor source may change its anchors during a run; its state is in the checkpoint.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor

from prl.config import Sampling
from prl.types import Conversation, PromptBatch, Rollout, Scores
from prl.verdict import Verdict

Weights = dict[str, Tensor]
"""Trained weights of a policy by parameter names."""


class Policies(Protocol):
    """Other policies to sample from, and a judge to ask, as a run offers them to anchor sources."""

    def reference_responses(self, batch: PromptBatch) -> list[str]:
        """Sample one response of the reference to each prompt."""

    def weights(self) -> Weights:
        """Copy the policy's current trained weights."""

    def sample_with_weights(self, weights: Weights, batch: PromptBatch) -> list[str]:
        """Sample one response to each prompt from the policy with the given weights."""

    def second_opinion(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Judge pairs in both orders under the held-out judge where the run has one, else under the judge."""


class AnchorSource(ABC):
    """Gives each rollout its anchors. The arguments of the constructor are the settings."""

    reads_column: ClassVar[bool] = False
    """Whether every row of the data must bring an anchor."""
    are_group: ClassVar[bool] = False
    """Whether each response has all other responses to its prompt as anchors, in the order of the rollout."""

    def check(self, sampling: Sampling) -> None:
        """Refuse sampling settings that do not fit. Raises ValueError; does nothing by default."""
        return

    @abstractmethod
    def anchors_for(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """Choose the anchors of each rollout.

        Args:
            batch: P prompts, with the anchors of the data.
            responses: P * n rollouts, those of one prompt in a row.
            policies: other policies to sample from.

        Returns:
            One tuple of anchors for each rollout.
        """

    def update(self, rollout: Rollout, scores: Scores, policies: Policies) -> dict[str, float]:
        """Update the state from an iteration's verdicts; `rollout` has the anchors. Returns numbers to log."""
        return {}

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the last iteration, equal on all ranks: lines for `RUN_DIR/anchors.jsonl`."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        return


def repeated(values: list[Any], num_rollouts: int) -> list[Any]:
    """Repeat one value per prompt to one per rollout."""
    return [value for value in values for _ in range(num_rollouts // len(values))]
