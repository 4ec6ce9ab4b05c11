"""Policy, critic and reference read a rollout: log-probabilities and values of every response token, [B, T] each."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from prl.losses.ppo import entropy
from prl.models.critic import ValueHead, response_hidden, shared_forward
from prl.models.policy import response_logits, token_logprobs
from prl.types import Rollout


def _inputs(rollout: Rollout) -> tuple[Tensor, Tensor, int]:
    return rollout.input_ids, rollout.attention_mask, rollout.response_ids.shape[1]


def evaluate(
    policy: Any, critic: Any, rollout: Rollout, *, temperature: float, with_entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probabilities, values and, when asked for, entropy.

    Args:
        policy: causal language model.
        critic: a `Critic`, or a `ValueHead` on the policy's own backbone.
        rollout: B responses.
        temperature: that of the sampling.
        with_entropy: compute the entropy as well.
    """
    if isinstance(critic, ValueHead):
        logits, values = shared_forward(policy, critic, *_inputs(rollout))
    else:
        logits, values = response_logits(policy, *_inputs(rollout)), critic(*_inputs(rollout))
    logprobs = token_logprobs(logits, rollout.response_ids, rollout.response_mask, temperature)
    spread = entropy(logits / temperature) if with_entropy else None
    return logprobs, values.masked_fill(~rollout.response_mask, 0), spread


def evaluate_critic(policy: Any, critic: Any, rollout: Rollout) -> Tensor:
    """Values for a step in which the policy stays frozen: on a shared backbone only the head learns."""
    if isinstance(critic, ValueHead):
        with torch.no_grad():
            hidden = response_hidden(policy, *_inputs(rollout))
        values = critic(hidden)
    else:
        values = critic(*_inputs(rollout))
    return values.masked_fill(~rollout.response_mask, 0)


@torch.no_grad()
def evaluate_reference(policy: Any, reference: Any, rollout: Rollout, *, temperature: float) -> Tensor:
    """Log-probabilities under the frozen start point; `reference` None means the policy with its adapters off."""
    with policy.disable_adapter() if reference is None else nullcontext():
        logits = response_logits(policy if reference is None else reference, *_inputs(rollout))
    return token_logprobs(logits, rollout.response_ids, rollout.response_mask, temperature)
