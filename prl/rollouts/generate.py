"""Sampling of responses in this process."""

from typing import Any

import torch
from torch import Tensor

from prl.config import Sampling
from prl.data.turns import end_of_turn
from prl.rollouts.decoding import decode_rows
from prl.rollouts.drawing import draw_tokens, uniform_table
from prl.rollouts.plain_decoding import base_model_of
from prl.types import PromptBatch, Rollout


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """List every id that ends a response: of the tokenizer, the chat template and the model folder."""
    named = getattr(model.generation_config, "eos_token_id", None)
    named = [] if named is None else [named] if isinstance(named, int) else list(named)
    return sorted({int(tokenizer.eos_token_id), end_of_turn(tokenizer)[-1], *named})


def keep_end_tokens(model: Any, tokenizer: Any) -> None:
    """Write every id that ends a response into the generation settings, for other programs that sample."""
    inner = base_model_of(model)
    ids = end_token_ids(inner, tokenizer)
    if getattr(inner, "generation_config", None) is not None and len(ids) > 1:
        inner.generation_config.eos_token_id = ids


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    batch: PromptBatch,
    sampling: Sampling,
    *,
    end_ids: list[int],
    limits: Tensor | None = None,
    synced: bool = False,
) -> Rollout:
    """Sample one response to each prompt of the batch from softmax(logits / temperature), without truncation.

    The numbers that decide all tokens are drawn first, from torch's generator of the CPU: a row's tokens follow from
    its own numbers, whatever the other rows do.

    Args:
        model: causal language model.
        tokenizer: the model's.
        batch: B prompts, left padded.
        sampling: length limit and temperature.
        end_ids: ids that end a response.
        limits: [B] most new tokens of each row, 0 for none; `sampling.max_new_tokens` for all when None.
        synced: continue until the last process is done, because each holds a shard of the weights.

    Returns:
        B responses of at most `max_new_tokens` tokens, the end token included in the mask.
    """
    pad_id, device = int(tokenizer.pad_token_id), batch.prompt_ids.device
    own = torch.full((len(batch),), sampling.max_new_tokens, device=device) if limits is None else limits
    table = uniform_table(len(batch), max(1, int(own.max()))).to(device)

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        # A NaN must not end the process here: scoring finds it.
        return draw_tokens(logits, sampling.temperature, table[rows, step])

    settings: Any = {"limits": own, "end_ids": end_ids, "pad_id": pad_id, "synced": synced}
    response_ids = decode_rows(model, batch.prompt_ids, batch.prompt_mask, choose, **settings)
    mask, finished = response_mask(response_ids, end_ids)
    if limits is not None:
        finished = finished & (mask.sum(1) <= limits)
        mask = mask & (torch.arange(mask.shape[1], device=mask.device) < limits[:, None])
    texts = decode(tokenizer, response_ids, mask, finished)
    return Rollout(batch, response_ids.masked_fill(~mask, pad_id), mask, finished, texts, sampling.max_new_tokens)


def response_mask(response_ids: Tensor, end_ids: list[int]) -> tuple[Tensor, Tensor]:
    """Mask tokens up to and including the first end token: [B, T] -> mask [B, T] and finished [B], both bool."""
    ends = torch.isin(response_ids, torch.tensor(end_ids, device=response_ids.device))
    before = ends.long().cumsum(1) - ends.long()
    return before == 0, ends.any(1)


def decode(tokenizer: Any, response_ids: Tensor, mask: Tensor, finished: Tensor) -> list[str]:
    """Decode responses without any cleaning up; only the token that ended each is left out.

    A special token within a response is shown: the judge reads it as characters, so a policy cannot write anything that
    its judge does not see.

    Args:
        tokenizer: the policy's.
        response_ids: [B, T].
        mask: [B, T] True on tokens that are not padding.
        finished: [B] True where the last of them is an end token.
    """
    rows = zip(response_ids.tolist(), mask.sum(1).tolist(), finished.tolist(), strict=True)
    ids = [row[: length - ended] for row, length, ended in rows]
    return [tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False) for row in ids]
