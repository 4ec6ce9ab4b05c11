"""What the loop asks of a language model: log-probabilities of response tokens, hidden states, verdict logits."""

from typing import Any

import torch
from torch import Tensor


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens only, so that padding on either side changes nothing: [B, S] -> [B, S]."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def model_inputs(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
    """Arguments of one plain forward pass without a cache."""
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask.long(),
        "position_ids": position_ids(attention_mask),
        "use_cache": False,
    }


def response_logits(model: Any, input_ids: Tensor, attention_mask: Tensor, num_response_tokens: int) -> Tensor:
    """Logits that predict the last `num_response_tokens` positions: [B, S] -> [B, T, V].

    The language head runs on these positions only; prompts cost no vocabulary-sized row.
    """
    inputs = model_inputs(input_ids, attention_mask)
    logits = model(**inputs, logits_to_keep=num_response_tokens + 1).logits
    return logits[:, :-1]


def token_logprobs(logits: Tensor, token_ids: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token: logits [B, T, V], ids [B, T] -> [B, T] float32, zero outside the mask."""
    logits = logits.float() / temperature
    chosen = logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return (chosen - logits.logsumexp(-1)).masked_fill(~mask, 0)


def verdict_logits(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Logits of the token after the last real one, whichever side the padding is on: [N, S] -> [N, V] float32."""
    inputs = model_inputs(input_ids, attention_mask)
    if bool(attention_mask[:, -1].all()):
        return model(**inputs, logits_to_keep=1).logits[:, -1].float()
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask.long() * positions).argmax(-1)
    return model(**inputs).logits[torch.arange(len(last)), last].float()


def verdict_margins(logits: Tensor, verdict_ids: Tensor) -> Tensor:
    """logit[first better] - logit[second better]: [N, V] -> [N]."""
    return logits[:, verdict_ids[0]] - logits[:, verdict_ids[1]]
