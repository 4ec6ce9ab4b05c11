"""Log-probabilities and values of every response token under policy, critic and reference, [B, T] each."""

from typing import Any

import torch
from torch import Tensor

from prl.models.critic import ValueHead
from prl.models.logprobs import response_hidden, response_logprobs
from prl.types import Rollout


def _inputs(rollout: Rollout) -> tuple[Tensor, Tensor, int]:
    return rollout.input_ids, rollout.attention_mask, rollout.response_ids.shape[1]


def evaluate(
    policy: Any, critic: Any, rollout: Rollout, *, temperature: float, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute log-probabilities, values (with a critic) and entropy (`with_entropy`).

    Args:
        policy: causal language model.
        critic: a `Critic`, or a `ValueHead` on the policy's own backbone; None for none.
        rollout: B responses.
        temperature: temperature of the sampling.
        with_entropy: compute the entropy as well.
    """
    logprobs, entropy, hidden = response_logprobs(
        policy,
        *(rollout.input_ids, rollout.attention_mask, rollout.response_ids, rollout.response_mask),
        temperature=temperature,
        with_entropy=with_entropy,
    )
    if critic is None:
        return logprobs, None, entropy
    values = critic(hidden) if isinstance(critic, ValueHead) else critic(*_inputs(rollout))
    return logprobs, values.masked_fill(~rollout.response_mask, 0), entropy


def evaluate_critic(policy: Any, critic: Any, rollout: Rollout) -> Tensor:
    """Compute values for a step that does not train the policy: on a shared backbone only the head learns."""
    if isinstance(critic, ValueHead):
        with torch.no_grad():
            hidden = response_hidden(policy, *_inputs(rollout))
        values = critic(hidden)
    else:
        values = critic(*_inputs(rollout))
    return values.masked_fill(~rollout.response_mask, 0)


@torch.no_grad()
def evaluate_frozen(model: Any, rollout: Rollout, *, temperature: float) -> Tensor:
    """Compute log-probabilities of every response token under a frozen model."""
    logprobs, _, _ = response_logprobs(
        model,
        *(rollout.input_ids, rollout.attention_mask, rollout.response_ids, rollout.response_mask),
        temperature=temperature,
    )
    return logprobs
