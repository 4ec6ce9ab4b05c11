"""Base of judges around another judge: they decide which readings are made, the other one makes them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from prl.config import ModelSource
from prl.judge.base import Comparison, PairwiseJudge
from prl.rewards.base import RewardSource
from prl.types import Conversation


class JudgeWrapper(PairwiseJudge):
    """Passes on to another judge all that has to do with its model: loading, memory, the gate, errors.

    Args:
        judge: the judge that reads.
    """

    def __init__(self, judge: PairwiseJudge) -> None:
        super().__init__()
        self.judge = judge
        self.folder, self.dtype = judge.folder, judge.dtype

    @property
    def verdict_words(self) -> tuple[str, str]:
        """Verdict words of the judge."""
        return self.judge.verdict_words

    def check(self, prompt: Conversation) -> None:
        """Raise RowError for a prompt that the judge cannot read."""
        self.judge.check(prompt)

    def describe(self) -> dict[str, Any] | None:
        """Describe the judge: what is around it changes no margin."""
        return self.judge.describe()

    def described_otherwise(self) -> dict[str, Any]:
        """Return what the judge's settings say in place of its folder."""
        return self.judge.described_otherwise()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the judge as a folder."""
        self.judge.save_pretrained(folder)

    def expect(self, prompts: list[Conversation], anchors: list[str]) -> None:
        """Tell the judge which responses recur."""
        self.judge.expect(prompts, anchors)

    def margins(self, comparisons: list[Comparison]) -> Tensor:
        """Have the judge compute z(u, v) of each comparison: [N]."""
        return self.judge.margins(comparisons)

    def thoughts_kept(self) -> AbstractContextManager[None]:
        """Keep the thoughts of the judge."""
        return self.judge.thoughts_kept()

    def load(self) -> None:
        """Load the judge."""
        self.judge.load()
        self.folder = self.judge.folder  # of a judge on the hub, where its files are

    def leaves(self) -> Iterator[RewardSource]:
        """Yield the judge: gate, devices and hashes of inputs are about its model."""
        yield from self.judge.leaves()

    def model_source(self) -> ModelSource | None:
        """Return the source of the judge's model."""
        return self.judge.model_source()

    def attach_policy(self, policy: Any, policy_path: str | None) -> None:
        """Offer the policy to the judge."""
        self.judge.attach_policy(policy, policy_path)

    def failure(self) -> str | None:
        """Return the reason of the judge's last failed judgement."""
        return self.judge.failure()

    def truncated_fraction(self) -> float:
        """Return the truncated share of what the judge has read."""
        return self.judge.truncated_fraction()

    def cached_token_fraction(self) -> float:
        """Return the cached share of the judge."""
        return self.judge.cached_token_fraction()
