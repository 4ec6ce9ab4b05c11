"""Rewards of single responses in the place of a judge: p(u > v) = sigma(r(u) - r(v))."""

import torch
from torch import Tensor

from prl.data.encoding import encode_prompt
from prl.judge.base import Comparison, PairwiseJudge
from prl.rewards.per_response import PerResponseReward
from prl.types import Conversation


class DifferenceJudge(PairwiseJudge, PerResponseReward):
    """Margins from rewards: antisymmetric by construction, and independent of the other response."""

    needs_anchors = True
    antisymmetric = True

    def check(self, prompt: Conversation) -> None:
        """Raise RowError for a prompt that the chat template refuses."""
        assert self.encoder is not None, "call load() first"
        encode_prompt(self.encoder.tokenizer, prompt)

    @torch.no_grad()
    def margins(self, comparisons: list[Comparison]) -> Tensor:
        """Compute r(u) - r(v) of each comparison; every response is scored once."""
        prompts = [prompt for prompt, _, _ in comparisons for _ in range(2)]
        scores = self.rewards(prompts, [text for _, first, second in comparisons for text in (first, second)])
        return scores[0::2] - scores[1::2]
