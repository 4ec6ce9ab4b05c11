"""Sampling of responses in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from prl.config import Sampling
from prl.data.turns import end_of_turn
from prl.types import PromptBatch, Rollout


@contextmanager
def plain_sampling(model: Any, generation: GenerationConfig) -> Iterator[None]:
    """Hide the sampling settings of the model folder, and sample in eval mode.

    transformers fills every unset field from `model.generation_config`, so a folder with top_p or a repetition penalty
    would change the distribution behind the recorded log-probabilities. In train mode gradient checkpointing
    disables the cache, and layers would see the newest token only.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, training = inner.generation_config, model.training
    inner.generation_config = generation
    model.eval()
    try:
        yield
    finally:
        inner.generation_config = own
        model.train(training)


class _RowLimits(StoppingCriteria):
    """End each row at a limit of its own.

    Args:
        limits: [B] most new tokens of each row.
        width: tokens of the padded prompts.
    """

    def __init__(self, limits: Tensor, width: int) -> None:
        self.limits, self.width = limits, width

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return input_ids.shape[1] - self.width >= self.limits


@contextmanager
def _limited(model: Any, batch: PromptBatch, limits: Tensor | None) -> Iterator[StoppingCriteriaList | None]:
    """Yield what ends each row at its limit, and keep the positions of rows that have ended while others go on.

    Otherwise a long prompt with few tokens to come would be read at positions beyond those that the model has.
    """
    if limits is None:
        yield None
        return
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    last = (batch.prompt_mask.sum(1) + limits - 1).clamp(min=0)

    def clamp(_: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if (positions := named.get("position_ids")) is not None:
            named = {**named, "position_ids": positions.minimum(last[:, None])}
        return arguments, named

    hook = inner.register_forward_pre_hook(clamp, with_kwargs=True)
    try:
        yield StoppingCriteriaList([_RowLimits(limits, batch.prompt_ids.shape[1])])
    finally:
        hook.remove()


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """List every id that ends a response: of the tokenizer, the chat template and the model folder."""
    named = getattr(model.generation_config, "eos_token_id", None)
    named = [] if named is None else [named] if isinstance(named, int) else list(named)
    return sorted({int(tokenizer.eos_token_id), end_of_turn(tokenizer)[-1], *named})


def keep_end_tokens(model: Any, tokenizer: Any) -> None:
    """Write every id that ends a response into the generation settings, for other programs that sample."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
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
    pad_id = int(tokenizer.pad_token_id)
    most = sampling.max_new_tokens if limits is None else max(1, int(limits.max()))
    generation = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=most,
        eos_token_id=end_ids,
        pad_token_id=pad_id,
        # Changes no finite logit. Others would crash the draw, and the CUDA context with it; scoring finds them.
        remove_invalid_values=True,
    )
    with plain_sampling(model, generation), _limited(model, batch, limits) as stopping:
        sequences = model.generate(
            input_ids=batch.prompt_ids,
            attention_mask=batch.prompt_mask.long(),
            generation_config=generation,
            stopping_criteria=stopping,
            synced_gpus=synced,
        )
    response_ids = sequences[:, batch.prompt_ids.shape[1] :]
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
