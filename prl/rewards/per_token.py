"""Base of sources that say something of single tokens, beside the reward of another source."""

from collections.abc import Iterator
from typing import Any

from prl.rewards.base import RewardSource
from prl.types import Critique, Rollout


class PerTokenSource(RewardSource):
    """Gives responses the rewards of another source, and something to their tokens as well.

    It reads the token ids of a rollout, so it works in training alone: `prl pairs` takes the other source by itself.

    Args:
        reward: source of the reward of each response.
    """

    rewards_tokens = True

    def __init__(self, reward: RewardSource) -> None:
        super().__init__()
        self.reward = reward
        self.needs_anchors, self.compares = reward.needs_anchors, reward.compares
        self.gives_critique, self.component_names = reward.gives_critique, reward.component_names
        self.tokenizer: Any = None
        """Tokenizer of the policy; None until `attach_tokenizer`."""

    def attach_tokenizer(self, tokenizer: Any, length: int) -> None:
        """Keep the policy's tokenizer."""
        self.tokenizer = tokenizer

    def load(self) -> None:
        """Load the other source.

        Raises:
            ValueError: outside of training, where nobody knows the tokenizer.
        """
        if self.tokenizer is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} reads the token ids of the policy in training, which are not known here; give the source in "
                f"{name}.reward by itself"
            )
        self.reward.load()

    def leaves(self) -> Iterator[RewardSource]:
        """Yield the other source, or the sources in it, and then this one."""
        yield from self.reward.leaves()
        yield self

    def per_response(self) -> RewardSource:
        """Return the other source."""
        return self.reward.per_response()

    def critique(self, rollout: Rollout) -> list[Critique]:
        """Ask the other source what each response lacks."""
        return self.reward.critique(rollout)

    def failure(self) -> str | None:
        """Return the reason of the other source's last failed reward."""
        return self.reward.failure()

    def truncated_fraction(self) -> float:
        """Return the truncated share of the other source."""
        return self.reward.truncated_fraction()

    def cached_token_fraction(self) -> float:
        """Return the cached share of the other source."""
        return self.reward.cached_token_fraction()
