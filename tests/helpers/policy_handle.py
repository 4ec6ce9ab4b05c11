"""The policy as samplers see it: a tiny model in this process."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from prl.config import Sampling
from prl.data.encoding import PromptEncoder
from prl.data.rows.records import AnchoredPrompt
from prl.rollouts.generate import end_token_ids, generate
from prl.types import PromptBatch, Rollout
from tests.helpers.tiny import tiny_model, tiny_tokenizer


class Handle:
    """`PolicyHandle` of a model, which counts its calls."""

    def __init__(self, model: Any = None, **sampling: Any) -> None:
        self.model, self.tokenizer = model or tiny_model(), tiny_tokenizer()
        self.sampling, self.version, self.calls = Sampling(**sampling), 0, 0
        self.end_ids = end_token_ids(self.model, self.tokenizer)

    def generate(self, batch: PromptBatch, limits: Tensor | None = None) -> Rollout:
        self.calls += 1
        return generate(self.model, self.tokenizer, batch, self.sampling, end_ids=self.end_ids, limits=limits)

    def publish(self, receive: Any) -> None:
        raise NotImplementedError


def prompt_batch(prompts: Sequence[str], anchors: Sequence[tuple[str, ...]] = (), extras: Sequence[Any] = ()) -> Any:
    """Encode prompts as a run does."""
    encoder = PromptEncoder(tiny_tokenizer(), 64)
    records = [
        AnchoredPrompt(({"role": "user", "content": text},), own, extra)
        for text, own, extra in zip(prompts, anchors or [()] * len(prompts), extras or [{}] * len(prompts), strict=True)
    ]
    return encoder.collate([encoder.encode(record) for record in records])  # type: ignore[misc]
