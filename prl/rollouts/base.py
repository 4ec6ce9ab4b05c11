"""Who samples responses, and which of them count: choices that are classes in the configuration."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from prl.config import Sampling
from prl.types import PromptBatch, Rollout, Scores


class PolicyHandle(Protocol):
    """What a sampler may ask of the policy that learns."""

    sampling: Sampling
    """Length limit and temperature."""
    tokenizer: Any
    end_ids: list[int]
    """Ids that end a response."""
    version: int
    """Changes with each update."""

    def generate(self, batch: PromptBatch) -> Rollout:
        """Sample one response to each prompt in this process."""

    def publish(self, receive: Callable[[Callable[[Path], None]], None]) -> None:
        """Hand the policy over as a folder; every process has to call this.

        Args:
            receive: called on the first process, while the others wait, with a function that fills a folder.
        """


class Sampler(ABC):
    """Samples the policy's responses. Its constructor's arguments are its settings."""

    takes_weights: ClassVar[bool] = False
    """Whether it works on a copy of the policy's weights, which `publish` gives."""

    def check(self, start: str | None, read: list[str]) -> None:
        """Refuse settings that would harm a run, before models are read; nothing by default.

        Args:
            start: the policy's start folder, or a hub id.
            read: paths of other models that the run reads.

        Raises:
            ValueError: naming the setting.
        """
        return

    @abstractmethod
    def sample(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt, from softmax(logits / temperature) of the policy, nothing cut off.

        Log-probabilities are computed over the sampled ids afterwards, by the policy itself.

        Args:
            batch: B prompts; a prompt with several responses is there several times.
            policy: the policy that learns.
        """


class LocalSampler(Sampler):
    """Let the policy sample in the process that trains it."""

    def sample(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt."""
        return policy.generate(batch)


class RolloutFilter(ABC):
    """Decides how much each response counts in the update. Its constructor's arguments are its settings.

    A filter with a state has `state_dict` and `load_state_dict`; the run finds and saves it.
    """

    min_per_prompt: ClassVar[int] = 1
    """Responses to one prompt that it compares, at least."""

    @abstractmethod
    def weights(self, rollout: Rollout, scores: Scores) -> Tensor:
        """Weigh the responses: [B], not negative. 0 leaves a response out of losses, whitening and KL.

        Args:
            rollout: B responses.
            scores: their rewards, shaped; NaN where there is none, which is left out anyway.
        """
