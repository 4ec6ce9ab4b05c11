"""The critic: a value for the state before each response token, on its own backbone or on the policy's."""

from typing import Any

import torch
from torch import Tensor, nn

from prl.masking import masked_var
from prl.models.policy import model_inputs


def hidden_size(model: Any) -> int:
    """Width of the last hidden state."""
    return model.config.get_text_config().hidden_size


class ValueHead(nn.Linear):
    """One number per hidden state; starts at zero, so that an untrained critic predicts parity instead of noise."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [...] float32."""
        return super().forward(hidden.to(self.weight.dtype)).squeeze(-1).float()


class Critic(nn.Module):
    """Values from an own backbone. It reads the prompt and the response, never the anchor (DESIGN 1.2)."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = ValueHead(hidden_size(backbone))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, num_response_tokens: int) -> Tensor:
        """Value of the state before each of the last `num_response_tokens` positions: [B, S] -> [B, T]."""
        hidden = self.backbone(**model_inputs(input_ids, attention_mask)).last_hidden_state
        return self.head(hidden[:, -num_response_tokens - 1 : -1])


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - var(return - value) / var(return) over the tokens that count on all ranks: a scalar, 1 is perfect."""
    spread = masked_var(returns, mask)
    return torch.where(spread > 0, 1 - masked_var(returns - values, mask) / spread.clamp(min=1e-12), torch.zeros(()))
