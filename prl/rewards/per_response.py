"""Base of rewards that a model gives each response by itself: a number of the text, without an anchor."""

import json
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from prl.data.encoding import ConversationEncoder
from prl.rewards.base import RewardSource, scores_from_values
from prl.types import Conversation, Rollout, Scores


class PerResponseReward(RewardSource):
    """Rewards each response by r(x, y). Anchors, where rows have any, serve the logged win rate only."""

    needs_anchors = False
    batch_size: int
    """Responses per forward pass."""
    encoder: ConversationEncoder | None = None
    """Encodes prompt and response; None until `load`."""

    def score(self, rollout: Rollout) -> Scores:
        """Reward each response by its number."""
        prompts = rollout.batch.prompts
        return scores_from_values(rollout, lambda rows, texts: self.rewards([prompts[row] for row in rows], texts))

    def truncated_fraction(self) -> float:
        """Return the share of responses so far that were longer than the model's `max_length`."""
        return self.encoder.counts.truncated_fraction if self.encoder is not None else 0.0

    def counters(self) -> list[Any]:
        """Return the counts of texts."""
        return [] if self.encoder is None else [self.encoder.counts]

    def rewards(self, prompts: list[Conversation], responses: list[str]) -> Tensor:
        """Compute r(x, y) of each response: [N] float32."""
        return self.values(prompts, responses)

    @torch.no_grad()
    def values(self, prompts: list[Conversation], responses: list[str]) -> Tensor:
        """Compute what the model says of each response, equal ones once: [N], or [N, H] of H heads, float32."""
        assert self.encoder is not None, "call load() first"
        texts = [(json.dumps(prompt), text) for prompt, text in zip(prompts, responses, strict=True)]
        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = [self.encoder.encode_response(json.loads(prompt), text) for prompt, text in index]
        values = self._values([row for row in rows if row])
        return values[torch.tensor([index[text] for text in texts], dtype=torch.long, device=values.device)]

    def _values(self, rows: list[dict[str, Any]]) -> Tensor:
        device = next(self.parameters()).device
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["ids"]))
        values = torch.empty(len(rows), *self._shape(), dtype=torch.float32, device=device)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            values[torch.tensor(batch, device=device)] = self._read([rows[i] for i in batch], device)
        return values

    def _shape(self) -> tuple[int, ...]:
        """Return the shape of what the model says of a response: that of one number by default."""
        return ()

    @abstractmethod
    def _read(self, rows: list[dict[str, Any]], device: torch.device) -> Tensor:
        """Compute the rewards of encoded rows in one pass, or what they are made of: [N, *shape] float32."""
