"""Log-probabilities and values of every response token under policy, critic and reference, [B, T] each."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from prl.models.critic import Critic, ValueHead, critic_states
from prl.models.frozen_layers import FrozenLayers
from prl.models.logprobs import hidden_states, placed_values, response_hidden, response_logprobs
from prl.models.prefix_sharing.rollouts import PromptRow, PromptSharing, shared_logprobs
from prl.models.prefix_sharing.tree_attention import SharingMode
from prl.types import Rollout


class Sharing(NamedTuple):
    """Decides for each model whether responses are read behind one copy of their prompt."""

    policy: PromptSharing
    """Also of a critic by adapters, and of a reference that is the policy with its adapters off."""
    critic: PromptSharing
    """Of a `Critic`."""
    reference: PromptSharing

    @classmethod
    def of(cls, mode: SharingMode) -> "Sharing":
        """Decide by a mode: auto, on or off."""
        return cls(PromptSharing(mode), PromptSharing(mode, critic_states), PromptSharing(mode))


OFF = Sharing.of("off")


def _inputs(rollout: Rollout) -> tuple[Tensor, Tensor, int]:
    return rollout.input_ids, rollout.attention_mask, rollout.response_ids.shape[1]


def frozen_layers_of(policy: Any, critic: Any) -> list[FrozenLayers]:
    """Find the frozen lower layers of a policy, and of a critic's own backbone; a model without any is left out."""
    models = [policy, critic.backbone] if isinstance(critic, Critic) else [policy]
    return [each for each in map(FrozenLayers, models) if len(each)]


def evaluate(
    policy: Any,
    critic: Any,
    rollout: Rollout,
    *,
    temperature: float,
    with_entropy: bool = False,
    sharing: Sharing = OFF,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute log-probabilities, values (with a critic) and entropy (`with_entropy`).

    Args:
        policy: causal language model.
        critic: a `Critic`, or a `ValueHead` on the policy's own backbone; None for none.
        rollout: B responses.
        temperature: temperature of the sampling.
        with_entropy: compute the entropy as well.
        sharing: decides whether responses are read behind one copy of their prompt.
    """
    row = sharing.policy.row(policy, rollout)
    options: Any = {"temperature": temperature, "with_entropy": with_entropy}
    logprobs, entropy, hidden = _read(policy, rollout, row, **options)
    if critic is None:
        return logprobs, None, entropy
    if not isinstance(critic, ValueHead):
        return logprobs, _values(critic, rollout, row, sharing), entropy
    return logprobs, _placed(critic(hidden), rollout, row), entropy


def _read(model: Any, rollout: Rollout, row: PromptRow | None, **options: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """Compute log-probabilities, entropies and hidden states: [B, T, D], of a row [M, D]."""
    if row is not None:
        return shared_logprobs(model, rollout, row, **options)
    inputs = (rollout.input_ids, rollout.attention_mask, rollout.response_ids, rollout.response_mask)
    return response_logprobs(model, *inputs, **options)


def _values(critic: Any, rollout: Rollout, row: PromptRow | None, sharing: Sharing) -> Tensor:
    """Compute values of a critic that is no head on the policy's states; `row` is the policy's."""
    if isinstance(critic, Critic):
        row = sharing.critic.row(critic, rollout)
    return _placed(critic(*_inputs(rollout), row), rollout, row)


def _placed(values: Tensor, rollout: Rollout, row: PromptRow | None) -> Tensor:
    """Put values [B, T], or [M] of a row, where tokens count: [B, T], zero elsewhere."""
    mask = rollout.response_mask
    return values.masked_fill(~mask, 0) if row is None else placed_values(values, mask)


def evaluate_critic(policy: Any, critic: Any, rollout: Rollout, sharing: Sharing = OFF) -> Tensor:
    """Compute values for a step that does not train the policy: on a shared backbone only the head learns."""
    row = None if isinstance(critic, Critic) else sharing.policy.row(policy, rollout)
    if not isinstance(critic, ValueHead):
        return _values(critic, rollout, row, sharing)
    with torch.no_grad():
        if row is None:
            hidden = response_hidden(policy, *_inputs(rollout))
        else:
            hidden = row.states(hidden_states(policy, row.inputs(policy)))
    return _placed(critic(hidden), rollout, row)


@torch.no_grad()
def evaluate_frozen(
    model: Any, rollout: Rollout, *, temperature: float, sharing: PromptSharing = OFF.reference
) -> Tensor:
    """Compute log-probabilities of every response token under a frozen model."""
    return _read(model, rollout, sharing.row(model, rollout), temperature=temperature)[0]
