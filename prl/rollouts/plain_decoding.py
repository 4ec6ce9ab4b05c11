"""Decoding by `model.generate` of transformers, with our own draws: the way for every kind of cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""Chooses the next tokens: logits [N, V], the rows' numbers [N] and the step from 0 -> ids [N]."""


def base_model_of(model: Any) -> Any:
    """Return the model of transformers inside adapters of peft, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Sample in eval mode.

    In train mode gradient checkpointing disables the cache, and layers would see the newest token only.
    """
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def plain_sampling(model: Any, generation: GenerationConfig) -> Iterator[None]:
    """Hide the sampling settings of the model folder, and sample in eval mode.

    transformers fills every unset field from `model.generation_config`, so a folder with top_p or a repetition penalty
    would change the distribution behind the recorded log-probabilities.
    """
    inner = base_model_of(model)
    own = inner.generation_config
    inner.generation_config = generation
    try:
        with eval_mode(model):
            yield
    finally:
        inner.generation_config = own


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


class _Chosen(LogitsProcessor):
    """Leave the chosen token of each row, for a search that takes the likeliest."""

    def __init__(self, choose: Choose, width: int) -> None:
        self.choose, self.width = choose, width

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        rows = torch.arange(len(scores), device=scores.device)
        chosen = self.choose(scores, rows, input_ids.shape[1] - self.width)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


@contextmanager
def _clamped(model: Any, prompt_mask: Tensor, limits: Tensor) -> Iterator[None]:
    """Keep the positions of rows that have ended while others go on.

    Otherwise a long prompt with few tokens to come would be read at positions beyond those that the model has.
    """
    last = (prompt_mask.sum(1) + limits - 1).clamp(min=0)

    def clamp(_: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if (positions := named.get("position_ids")) is not None:
            named = {**named, "position_ids": positions.minimum(last[:, None])}
        return arguments, named

    hook = base_model_of(model).register_forward_pre_hook(clamp, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def decode_plainly(
    model: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    choose: Choose,
    *,
    limits: Tensor,
    end_ids: list[int],
    pad_id: int,
    synced: bool = False,
) -> Tensor:
    """Sample tokens behind prompts; arguments and result are those of `decode_rows`."""
    generation = GenerationConfig(
        do_sample=False, max_new_tokens=max(1, int(limits.max())), eos_token_id=end_ids, pad_token_id=pad_id
    )
    width = prompt_ids.shape[1]
    with plain_sampling(model, generation), _clamped(model, prompt_mask, limits):
        sequences = model.generate(
            input_ids=prompt_ids,
            attention_mask=prompt_mask.long(),
            generation_config=generation,
            logits_processor=LogitsProcessorList([_Chosen(choose, width)]),
            stopping_criteria=StoppingCriteriaList([_RowLimits(limits, width)]),
            synced_gpus=synced,
        )
    return sequences[:, width:]
