"""Base class of judges: margins of a pair of responses in both orders, read as rewards of a rollout."""

import json
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch

from prl.rewards.base import RewardSource, against_anchors
from prl.types import Conversation, Rollout, Scores
from prl.verdict import Reasons, Verdict, mean_per_row

Comparison = tuple[Conversation, str, str]
"""A prompt, the response shown first, the response shown second."""
Reading = tuple[str, str, str]
"""A comparison whose prompt is JSON, so that equal ones are found."""


def check_as_many(prompts: list[Conversation], a: list[str], b: list[str]) -> None:
    """Refuse lists of unequal lengths. Raises ValueError."""
    if not len(prompts) == len(a) == len(b):
        raise ValueError(f"{len(prompts)} prompts, {len(a)} responses a and {len(b)} responses b; expected as many")


class PairwiseJudge(RewardSource):
    """Compares two responses to a prompt: text in, margins out. Its tokenizer may differ from the policy's."""

    antisymmetric: ClassVar[bool] = False
    """Whether z(u, v) = -z(v, u) by construction, as of rewards of single responses: one order says both."""
    reads_both_orders: ClassVar[bool] = True
    """Whether `compare` always reads both orders."""

    @property
    def verdict_words(self) -> tuple[str, str]:
        """Verdict words for "the response shown first is better" and "the response shown second is better"."""
        return ("A", "B")

    def check(self, prompt: Conversation) -> None:
        """Raise RowError for a prompt that the judge cannot read."""

    def describe(self) -> dict[str, Any] | None:
        """Describe all that decides a margin, for reports; None for a judge that its folder describes."""
        return None

    def reasons_of(self, comparisons: list[Comparison]) -> Reasons | None:
        """Return what each thought led to, of comparisons that the last call judged; None for one without thoughts."""
        return None

    def thoughts_kept(self) -> AbstractContextManager[None]:
        """Have readings that come again within think what they thought at first, of a judge with thoughts."""
        return nullcontext()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the judge as a folder. Raises ValueError for one that has no files."""
        raise ValueError(f"{type(self).__name__} has no weights to write")

    def expect(self, prompts: list[Conversation], anchors: list[str]) -> None:
        """Learn which responses recur in the comparisons to come; for a judge that caches them."""

    @abstractmethod
    def margins(self, comparisons: list[Comparison]) -> torch.Tensor:
        """Compute z(u, v) of each comparison, with u shown first: [N] float32; NaN where a judgement failed."""

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by its debiased win probability, averaged over its anchors.

        Comparisons that failed are left out of the mean. Shapers (`prl.rewards.shapers`) turn verdicts into other
        rewards.
        """
        verdict, row_of = against_anchors(self.compare, rollout)
        return Scores(mean_per_row(verdict.win_prob, row_of, len(rollout)), verdict, row_of)

    @torch.no_grad()
    def compare(self, prompts: list[Conversation], a: list[str], b: list[str]) -> Verdict:
        """Judge every pair in both orders.

        Equal comparisons are read once. That is cheaper, and p(y > y) is 1/2 to the last bit in any batch layout.

        Args:
            prompts: N conversations as messages.
            a: N responses.
            b: N responses to compare them with.

        Raises:
            ValueError: when the three lists differ in length.
        """
        check_as_many(prompts, a, b)
        self.expect(prompts, b)
        keys = [json.dumps(prompt) for prompt in prompts]
        both = self.read([*zip(keys, a, b, strict=True), *zip(keys, b, a, strict=True)])
        return Verdict(both[: len(a)], both[len(a) :])

    def read(self, readings: list[Reading]) -> torch.Tensor:
        """Compute the margin of each reading, of equal ones once: [N]."""
        index = {reading: i for i, reading in enumerate(dict.fromkeys(readings))}
        margins = self.margins([(json.loads(key), first, second) for key, first, second in index])
        return margins[torch.tensor([index[reading] for reading in readings], dtype=torch.long, device=margins.device)]
