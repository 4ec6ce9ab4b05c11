"""Anchors from the data, the reference, earlier policies, or the rollouts themselves."""

from typing import Any

from prl.anchors.base import AnchorSource, Policies, Weights, repeated
from prl.config import Sampling
from prl.types import PromptBatch, Rollout, Scores


class DatasetAnchors(AnchorSource):
    """Anchors of the data, one or several per prompt: ground truths, chosen responses, or those of `prl anchors`."""

    reads_column = True

    def anchors_for(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """Take the anchors of the rows."""
        return repeated(batch.anchors, len(responses))


class ReferenceSamples(AnchorSource):
    """Fresh samples of the reference, shared by the rollouts of a prompt.

    Args:
        count: anchors per prompt.
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"anchors.count is {count}; expected at least 1")
        self.count = count

    def anchors_for(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """Sample `count` responses of the reference to each prompt."""
        drawn = [policies.reference_responses(batch) for _ in range(self.count)]
        return repeated(list(zip(*drawn, strict=True)), len(responses))


class PreviousPolicy(AnchorSource):
    """Samples of the policy as it was up to `every` iterations ago: self-play.

    Args:
        every: iterations until the anchors come from a newer policy.
    """

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise ValueError(f"anchors.every is {every}; expected at least 1")
        self.every = every
        self._weights: Weights | None = None
        self._age = 0

    def anchors_for(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """Sample one response of the older policy to each prompt."""
        if self._weights is None or self._age >= self.every:
            self._weights, self._age = policies.weights(), 0
        drawn = policies.sample_with_weights(self._weights, batch)
        return repeated([(text,) for text in drawn], len(responses))

    def update(self, rollout: Rollout, scores: Scores, policies: Policies) -> dict[str, float]:
        """Count the iterations."""
        self._age += 1
        return {"anchors/age": float(self._age)}

    def state_dict(self) -> dict[str, Any]:
        """Return the older policy's trained weights, and their age in iterations."""
        return {"weights": self._weights, "age": self._age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with saved weights."""
        self._weights, self._age = state["weights"], state["age"]


class RoundRobin(AnchorSource):
    """The other rollouts of the same prompt: a response is rewarded by how often it beats the others.

    Each pair is judged once, in both orders, for both of its responses.
    """

    are_group = True

    def check(self, sampling: Sampling) -> None:
        """Refuse a single rollout per prompt. Raises ValueError."""
        if sampling.per_prompt < 2:
            raise ValueError(
                f"sampling.per_prompt is {sampling.per_prompt}, but RoundRobin compares the rollouts of a prompt with "
                "each other; it needs at least 2"
            )

    def anchors_for(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """Take the other rollouts of each prompt."""
        per_prompt = len(responses) // len(batch)
        anchors = []
        for start in range(0, len(responses), per_prompt):
            texts = [text.strip() for text in responses[start : start + per_prompt]]
            anchors += [(*texts[:i], *texts[i + 1 :]) for i in range(per_prompt)]
        return anchors
