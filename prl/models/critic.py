"""Critics: the value of the state before each response token, on a backbone of their own or on the policy's."""

from typing import Any

import torch
from torch import Tensor, nn

from prl.config import CriticSettings, ModelSource
from prl.masking import masked_var
from prl.models.adapters import adapter_parameters, add_adapters, using_adapters
from prl.models.loading import load_backbone
from prl.models.logprobs import hidden_states, response_hidden
from prl.models.policy import model_inputs
from prl.models.prefix_sharing.rollouts import PromptRow


def hidden_size(model: Any) -> int:
    """Return the width of the last hidden state."""
    return model.config.get_text_config().hidden_size


class LinearHead(nn.Linear):
    """Some numbers per hidden state. Weights start at zero, so that an untrained head says 0 instead of noise."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the numbers of each hidden state: [..., D] -> [..., outputs] float32."""
        return super().forward(hidden.to(self.weight.dtype)).float()


class ValueHead(LinearHead):
    """One value per hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the value of each hidden state: [..., D] -> [...] float32."""
        # Not a view: FSDP2 warns of a view at every step, because it could be changed in place.
        return torch.squeeze_copy(super().forward(hidden), -1)


class Critic(nn.Module):
    """Critic on a backbone of its own. It reads prompt and response, never the anchor (docs/ppo.md)."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = ValueHead(hidden_size(backbone))

    @property
    def config(self) -> Any:
        """Config of the backbone."""
        return self.backbone.config

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's input embeddings."""
        return self.backbone.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        num_response_tokens: int,
        row: PromptRow | None = None,
        *,
        as_states: bool = False,
    ) -> Tensor:
        """Value of the state before each of the last `num_response_tokens` positions: [B, S] -> [B, T].

        Args:
            input_ids: [B, S].
            attention_mask: [B, S] bool.
            num_response_tokens: T.
            row: reads this row instead, for a value of the state before each of its tokens that count: [M].
            as_states: return the states [..., D] themselves.
        """
        if row is None:
            hidden = self.backbone(**model_inputs(input_ids, attention_mask)).last_hidden_state
            states = hidden[:, -num_response_tokens - 1 : -1]
        else:
            states = row.states(self.backbone(**row.inputs(self.backbone)).last_hidden_state)
        return states if as_states else self.head(states)


class AdapterCritic(nn.Module):
    """Critic on the policy's frozen base model, with adapters of its own: it costs the memory of adapters.

    The policy holds the adapters and is no submodule here, so that no parameter has two names.
    """

    NAME = "critic"

    def __init__(self, policy: Any) -> None:
        super().__init__()
        if self.NAME not in policy.peft_config:
            add_adapters(policy, self.NAME)
        self.head = ValueHead(hidden_size(policy))
        self._policy = (policy,)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, num_response_tokens: int, row: PromptRow | None = None
    ) -> Tensor:
        """Value of the state before each of the last `num_response_tokens` positions, as `Critic`."""
        (policy,) = self._policy
        with using_adapters(policy, self.NAME):
            if row is None:
                return self.head(response_hidden(policy, input_ids, attention_mask, num_response_tokens))
            return self.head(row.states(hidden_states(policy, row.inputs(policy))))

    def trained(self) -> list[nn.Parameter]:
        """List the parameters of head and adapters."""
        return [*self.parameters(), *(each for _, each in adapter_parameters(self._policy[0], self.NAME))]


def critic_states(critic: Any, ids: Tensor, mask: Tensor, row: PromptRow | None) -> Tensor:
    """Compute the states of a `Critic`, as `prl.models.prefix_sharing.rollouts.States`."""
    return critic(ids, mask, 1, row, as_states=True).flatten(0, -2)


def check_critic(settings: CriticSettings, policy: ModelSource) -> None:
    """Refuse settings that contradict each other. Raises ValueError."""
    kind = settings.kind
    if kind != "own" and settings.model is not None:
        raise ValueError(f"critic.model is set, but critic.kind: {kind} grows on the policy; drop one of them")
    if kind == "adapter" and policy.lora is None:
        raise ValueError("critic.kind: adapter puts adapters beside the policy's, which has none; set policy.lora")
    if kind == "adapter" and policy.gradient_checkpointing:
        raise ValueError(
            "critic.kind: adapter and policy.gradient_checkpointing exclude each other: activations computed again in "
            "the backward pass would be those under the policy's adapters; switch one off, or take critic.kind: shared"
        )


def build_critic(settings: CriticSettings, policy: Any, source: ModelSource) -> nn.Module:
    """Make a critic to train.

    Args:
        settings: kind of the critic.
        policy: the policy, on which shared critics and critics by adapters are built.
        source: where a backbone of its own is read from.
    """
    if settings.kind == "shared":
        return ValueHead(hidden_size(policy))
    return AdapterCritic(policy) if settings.kind == "adapter" else Critic(load_backbone(source)).train()


def critic_parameters(critic: nn.Module) -> list[nn.Parameter]:
    """List every parameter that a critic trains, its adapters in the policy included."""
    return critic.trained() if isinstance(critic, AdapterCritic) else list(critic.parameters())


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Compute 1 - var(return - value) / var(return) over the tokens that count on all ranks: a scalar, at most 1."""
    total = masked_var(returns, mask)
    return torch.where(total > 0, 1 - masked_var(returns - values, mask) / total.clamp(min=1e-12), torch.zeros(()))
