"""Outputs of a language model for training: log-probabilities of response tokens, hidden states, verdict logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def position_ids(attention_mask: Tensor) -> Tensor:
    """Count real tokens only, so that padding on either side changes nothing: [B, S] -> [B, S]."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def model_inputs(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
    """Build the arguments of one plain forward pass without a cache."""
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask.long(),
        "position_ids": position_ids(attention_mask),
        "use_cache": False,
    }


def in_own_type(device: torch.device) -> torch.autocast:
    """Compute in the type of the weights inside the block, also within mixed precision."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def float32_outputs(head: Any, rows: Tensor | None = None) -> Iterator[None]:
    """Compute the outputs of a linear layer in float32, whatever type its inputs and weights have.

    In bfloat16 a logit near 18 is a multiple of 0.125, and two of them are often equal.

    Args:
        head: last layer of a model; layers other than plain linear ones in half precision do not change.
        rows: [K] outputs to compute in float32, the others rounded as before; None is all.
    """
    # Not `head.weight`: DeepSpeed counts that as a use, and gathers the weight with all processes.
    if type(head) is not nn.Linear or next(head.parameters()).dtype == torch.float32:
        yield
        return
    found: list[Tensor] = []

    def compute(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # sharded weights are gathered by then
        weight, bias = (each if rows is None or each is None else each[rows] for each in (head.weight, head.bias))
        found.append(nn.functional.linear(inputs[0].float(), weight.float(), None if bias is None else bias.float()))

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        exact = found.pop()
        return exact if rows is None else output.float().index_copy(-1, rows, exact)

    hooks = [head.register_forward_pre_hook(compute), head.register_forward_hook(replace)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def response_logits(model: Any, input_ids: Tensor, attention_mask: Tensor, num_response_tokens: int) -> Tensor:
    """Compute the logits that predict the last `num_response_tokens` positions: [B, S] -> [B, T, V].

    The language head runs on these positions only, so prompts need no logits.
    """
    inputs = model_inputs(input_ids, attention_mask)
    logits = model(**inputs, logits_to_keep=num_response_tokens + 1).logits
    return logits[:, :-1]


def token_logprobs(logits: Tensor, token_ids: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute token log-probabilities: logits [B, T, V], ids [B, T] -> [B, T] float32, zero outside the mask."""
    logits = logits.float() / temperature
    chosen = logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return (chosen - logits.logsumexp(-1)).masked_fill(~mask, 0)


def verdict_logits(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the logits after the last token that is no padding, on either side: [N, S] -> [N, V] float32."""
    inputs = model_inputs(input_ids, attention_mask)
    if bool(attention_mask[:, -1].all()):
        return model(**inputs, logits_to_keep=1).logits[:, -1].float()
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask.long() * positions).argmax(-1)
    return model(**inputs).logits[torch.arange(len(last)), last].float()


def verdict_margins(logits: Tensor, verdict_ids: Tensor) -> Tensor:
    """Compute logit[first better] - logit[second better]: [N, V] -> [N]."""
    return logits[:, verdict_ids[0]] - logits[:, verdict_ids[1]]
