"""Which responses the policy is compared with: a choice that is one class in the configuration.

An anchor source may change its mind while a run goes on; what it remembers is in the checkpoint.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor

from prl.config import Sampling
from prl.data.records import Conversation
from prl.types import PromptBatch, Scores, Verdict

Weights = dict[str, Tensor]
"""What training changes in a policy, by parameter names."""


class Policies(Protocol):
    """What a run offers to anchor sources: other policies to sample from, and a judge to ask."""

    def reference_responses(self, batch: PromptBatch) -> list[str]:
        """One response of the reference to each prompt."""

    def weights(self) -> Weights:
        """A copy of the policy's trained weights as they are now."""

    def responses_under(self, weights: Weights, batch: PromptBatch) -> list[str]:
        """One response to each prompt, of the policy as it was with these weights."""

    def confirm(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Both orders under the held-out judge where the run has one, else under the judge."""


class AnchorSource(ABC):
    """Gives each rollout the responses that it is compared with."""

    reads_column: ClassVar[bool] = False
    """Whether every row of the data must bring an anchor."""

    def check(self, sampling: Sampling) -> None:
        """Raises ValueError when the sampling settings do not fit."""
        return

    @abstractmethod
    def place(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """The anchors of each rollout.

        Args:
            batch: P prompts, with the anchors that their rows brought.
            responses: P * n rollouts, those of one prompt in a row.
            policies: where other responses come from.

        Returns:
            One tuple for each rollout.
        """

    def observe(self, batch: PromptBatch, responses: list[str], scores: Scores, policies: Policies) -> dict[str, float]:
        """Learn from an iteration's verdicts; `batch` holds a row and its anchors for each rollout. Numbers to log."""
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


class DatasetAnchors(AnchorSource):
    """The anchors of the data, one or several to a prompt: ground truths, chosen responses, or `prl anchors`'."""

    reads_column = True

    def place(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """The row's own."""
        return repeated(batch.anchors, len(responses))


class ReferenceSamples(AnchorSource):
    """Fresh samples of the reference; the rollouts of a prompt share them.

    Args:
        count: anchors per prompt.
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"anchors.count is {count}; expected at least 1")
        self.count = count

    def place(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """`count` samples to each prompt."""
        drawn = [policies.reference_responses(batch) for _ in range(self.count)]
        return repeated(list(zip(*drawn, strict=True)), len(responses))


class PreviousPolicy(AnchorSource):
    """Samples of the policy as it was up to `every` iterations ago, so that it keeps running against itself.

    Args:
        every: iterations until the anchors come from a newer policy.
    """

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise ValueError(f"anchors.every is {every}; expected at least 1")
        self.every = every
        self._weights: Weights | None = None
        self._age = 0

    def place(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """One sample of the older policy to each prompt."""
        if self._weights is None or self._age >= self.every:
            self._weights, self._age = policies.weights(), 0
        drawn = policies.responses_under(self._weights, batch)
        return repeated([(text,) for text in drawn], len(responses))

    def observe(self, batch: PromptBatch, responses: list[str], scores: Scores, policies: Policies) -> dict[str, float]:
        """Count the iterations."""
        self._age += 1
        return {"anchors/age": float(self._age)}

    def state_dict(self) -> dict[str, Any]:
        """The older policy's trained weights, and how old they are."""
        return {"weights": self._weights, "age": self._age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with them."""
        self._weights, self._age = state["weights"], state["age"]


class RoundRobin(AnchorSource):
    """The other rollouts of the same prompt: a response's reward is how often it beats its siblings.

    Each pair is read once, in both orders, and serves both of its responses.
    """

    def check(self, sampling: Sampling) -> None:
        """One rollout has no siblings."""
        if sampling.per_prompt < 2:
            raise ValueError(
                f"sampling.per_prompt is {sampling.per_prompt}, but RoundRobin compares the rollouts of a prompt with "
                "each other; it needs at least 2"
            )

    def place(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """Every sibling."""
        per_prompt = len(responses) // len(batch)
        anchors = []
        for start in range(0, len(responses), per_prompt):
            texts = [text.strip() for text in responses[start : start + per_prompt]]
            anchors += [(*texts[:i], *texts[i + 1 :]) for i in range(per_prompt)]
        return anchors
