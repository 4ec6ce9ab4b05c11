"""Socket of samplers: who samples the policy's responses. `generate.py` has how."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from prl.config import Sampling
from prl.types import Critique, PromptBatch, Rollout


class PolicyHandle(Protocol):
    """Interface of the policy for samplers."""

    sampling: Sampling
    """Length limit and temperature."""
    tokenizer: Any
    end_ids: list[int]
    """Ids that end a response."""
    version: int
    """Training batches done when the responses at hand were sampled; changes with each update."""
    max_prompt_length: int
    """Longest prompt, tokens, for which the models of the run have room."""

    def generate(self, batch: PromptBatch, limits: Tensor | None = None) -> Rollout:
        """Sample one response to each prompt in this process.

        Args:
            batch: B prompts.
            limits: [B] most new tokens of each row, 0 for none; `sampling.max_new_tokens` for all when None.
        """

    def critique(self, rollout: Rollout) -> list[Critique]:
        """Ask the reward of the run what each response lacks; every process must call it equally often."""

    def publish(self, receive: Callable[[Callable[[Path], None]], None]) -> None:
        """Hand over the policy as a folder; every process must call it.

        Args:
            receive: called on the first process with a function that fills a folder; the others wait.
        """


class Sampler(ABC):
    """Samples the policy's responses. The arguments of the constructor are the settings."""

    takes_weights: bool = False
    """Whether the sampler works on a copy of the policy's weights, which `publish` gives."""
    needs_anchors: ClassVar[bool] = False
    """Whether the sampler reads an anchor of the data in every row."""

    min_per_prompt: int = 1
    """Fewest responses per prompt in training that the sampler needs."""
    needs_critique: ClassVar[bool] = False
    """Whether the sampler asks for `PolicyHandle.critique`, which few rewards can give."""
    has_environment: ClassVar[bool] = False
    """Whether the sampler lets an environment answer the policy and reward its turns."""
    max_prompt_length: int | None = None
    """Tokens of the longest prompt that the sampler writes itself; None where it writes none."""

    def check(self, start: str | None, read: list[str]) -> None:
        """Refuse settings that would harm a run, before models are loaded; does nothing by default.

        Args:
            start: the policy's start folder, or a hub id.
            read: paths of the other models of the run.

        Raises:
            ValueError: naming the setting.
        """
        return

    def attach_tokenizer(self, tokenizer: Any) -> None:
        """Check the policy's tokenizer before models are loaded; does nothing by default.

        Raises:
            ValueError: naming what the tokenizer lacks.
        """
        return

    @abstractmethod
    def sample(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt from softmax(logits / temperature) of the policy, without truncation.

        The policy computes log-probabilities of the sampled ids afterwards. Tokens of the response that it did not make
        are in `Rollout.context_mask` and not in `response_mask`.

        Args:
            batch: B prompts with the anchors of the data; a prompt with several responses is repeated.
            policy: the policy in training.
        """

    def numbers(self) -> dict[str, float]:
        """Return numbers of the last rollout over all processes, to log by their tags; none by default."""
        return {}

    def answer(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample the responses of validations and predictions; as in training by default.

        A sampler that helps the policy in training leaves it alone here.

        Args:
            batch: B prompts.
            policy: the policy.
        """
        return self.sample(batch, policy)
