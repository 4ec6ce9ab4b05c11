"""Sampling of several responses to each prompt of a file, outside of training: for anchors, pairs and rounds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from prl.checkpoints.random_states import forked
from prl.config import ModelSource, Sampling
from prl.data.encoding import PromptEncoder
from prl.data.rows.records import AnchoredPrompt, RowError
from prl.data.thoughts import opens_thoughts, without_thoughts
from prl.data.tokens import TooLongError
from prl.models.limits import check_fits
from prl.models.loading import load_causal_lm, load_tokenizer
from prl.rollouts.generate import end_token_ids, generate
from prl.types import Conversation, PromptBatch, Rollout


class PromptSampler:
    """Samples one policy's responses to the prompts of a file, the same ones whenever it is asked.

    Args:
        source: the policy.
        sampling: length limit, temperature, and responses to each prompt.
        records: all prompts.
        name: of their file, for errors.
        max_prompt_length: longest prompt, tokens.
        seed: of every draw, beside the number of the first prompt of a batch.
        keep_thoughts: keep what stands before `</think>` in the texts.
        shown: prompts that reward sources read in place of those that the policy answers; these when null.

    Raises:
        ValueError: naming the prompt that is too long, or a length that the model cannot read.
    """

    def __init__(
        self,
        source: ModelSource,
        sampling: Sampling,
        records: Sequence[AnchoredPrompt],
        *,
        name: str,
        max_prompt_length: int,
        seed: int,
        keep_thoughts: bool = False,
        shown: Sequence[Conversation] | None = None,
    ) -> None:
        self.records, self.shown = records, shown
        self.sampling, self.seed, self.keep_thoughts = sampling, seed, keep_thoughts
        self.tokenizer, self.encoder, self.rows = encode_prompts(
            source, sampling, records, name=name, max_prompt_length=max_prompt_length
        )
        self.opens_thoughts = opens_thoughts(self.tokenizer)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.policy: Any = load_causal_lm(source).eval().to(self.device)
        self.end_ids = end_token_ids(self.policy, self.tokenizer)

    def sample(self, start: int, number: int) -> Rollout:
        """Sample the responses to some prompts, those to one prompt in adjacent rows; texts are stripped."""
        batch = self.encoder.collate(self.rows[start : start + number]).to(self.device)
        if self.shown is not None:
            batch = replace(batch, prompts=list(self.shown[start : start + number]))
        return self.draw(batch.repeat(self.sampling.per_prompt), self.seed + start)

    def draw(self, batch: PromptBatch, seed: int) -> Rollout:
        """Sample one response to each prompt of a batch on the device, with these draws; texts are stripped."""
        with forked(seed=seed):
            rollout = generate(self.policy, self.tokenizer, batch, self.sampling, end_ids=self.end_ids)
        texts = [text.strip() for text in rollout.texts]
        if not self.keep_thoughts:
            texts = [without_thoughts(text, opened=self.opens_thoughts) for text in texts]
        return replace(rollout, texts=texts)


def encode_prompts(
    source: ModelSource, sampling: Sampling, records: Sequence[AnchoredPrompt], *, name: str, max_prompt_length: int
) -> tuple[Any, PromptEncoder, list[dict[str, Any]]]:
    """Encode all prompts for a policy, whose weights are not read.

    Args:
        source: the policy.
        sampling: length limit.
        records: all prompts.
        name: of their file, for errors.
        max_prompt_length: longest prompt, tokens.

    Returns:
        Tokenizer, encoder, and the rows.

    Raises:
        ValueError: naming the prompt that is too long, or a length that the model cannot read.
    """
    tokenizer = load_tokenizer(source)
    encoder = PromptEncoder(tokenizer, max_prompt_length, needs_anchors=False)
    rows = list(_encoded(encoder, records, name))
    positions = max((row["length"] for row in rows), default=0) + sampling.max_new_tokens
    check_fits(source, tokenizer, positions, role="policy", setting="the longest prompt plus max_new_tokens")
    return tokenizer, encoder, rows


def _encoded(encoder: PromptEncoder, records: Sequence[AnchoredPrompt], name: str) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records, 1):
        try:
            row = encoder.encode(record)
        except (TooLongError, RowError) as error:
            raise ValueError(f"prompt {number} of {name}: {error}") from None
        assert row is not None
        yield row
