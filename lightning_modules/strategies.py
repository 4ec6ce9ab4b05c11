"""The only place that asks how the model is spread over devices."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the gradient norm over all parameters together and return what it was.

    torch's own function, which knows plain and sharded (DTensor) parameters; Lightning refuses
    `Trainer(gradient_clip_val)` under manual optimisation and its own helper does not say the norm.
    """
    return torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
