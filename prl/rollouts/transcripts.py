"""Responses in the making, of which the policy makes some tokens and reads others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prl.data.tokens import left_pad, right_pad
from prl.rollouts.generate import decode
from prl.types import PromptBatch, Rollout


@dataclass
class Transcript:
    """Tokens behind one prompt so far."""

    ids: list[int] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    """Whether the policy made each of them."""
    finished: bool = False
    """Whether the last one is an end token of the policy."""

    def add(self, ids: Sequence[int], *, own: bool, finished: bool = False) -> None:
        """Append tokens."""
        self.ids += ids
        self.own += [own] * len(ids)
        self.finished = finished


def continued(batch: PromptBatch, transcripts: Sequence[Transcript], pad_id: int) -> PromptBatch:
    """Put the tokens so far behind the prompts, for the policy to go on from there; everything else stays.

    Args:
        batch: B prompts.
        transcripts: tokens behind each.
        pad_id: id of padding.
    """
    rows = zip(batch.prompt_ids.cpu(), batch.prompt_mask.cpu(), transcripts, strict=True)
    ids, mask = left_pad([[*ids[mask].tolist(), *each.ids] for ids, mask, each in rows], pad_id)
    device = batch.prompt_ids.device
    return PromptBatch(ids.to(device), mask.to(device), batch.prompts, batch.anchors, batch.extras, batch.group)


def add_own(transcripts: Sequence[Transcript], rollout: Rollout) -> None:
    """Append what the policy said to each transcript."""
    said = (rollout.response_ids.cpu(), rollout.response_mask.cpu(), rollout.finished.tolist())
    rows = zip(transcripts, *said, strict=True)
    for each, ids, mask, finished in rows:
        each.add(ids[mask].tolist(), own=True, finished=finished)


def to_rollout(batch: PromptBatch, transcripts: Sequence[Transcript], tokenizer: Any, max_new_tokens: int) -> Rollout:
    """Make the rollout of finished transcripts; texts are those of all tokens, whoever made them.

    Args:
        batch: B prompts.
        transcripts: tokens behind each.
        tokenizer: the policy's.
        max_new_tokens: length limit of a response with all its tokens.
    """
    device = batch.prompt_ids.device
    ids, context = right_pad([each.ids for each in transcripts], int(tokenizer.pad_token_id))
    own = torch.zeros_like(context)
    own[context] = torch.tensor([own for each in transcripts for own in each.own], dtype=torch.bool)
    finished = torch.tensor([each.finished for each in transcripts])
    texts = decode(tokenizer, ids, context, finished)
    ids, own, finished, context = (each.to(device) for each in (ids.long(), own, finished, context))
    return Rollout(batch, ids, own, finished, texts, max_new_tokens, context_mask=context)
