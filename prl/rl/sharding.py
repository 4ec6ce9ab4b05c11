"""Interface to a strategy that may shard weights over processes."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

Gather = Literal["auto", "always", "never"]
"""When sharded weights are gathered once per rollout instead of in every forward pass."""


class Sharding:
    """Full models on every process. Strategies that shard weights override what differs.

    Args:
        strategy: the strategy, whose `root_device` is the device of models on this process; None is the CPU.
    """

    cuts_weights = False
    """Whether no process has a full model."""
    waits_for_all_gradients = False
    """Whether a backward pass without gradients for some trained parameter never ends."""
    takes_any_backward_pass = True
    """True if one optimizer step may take several backward passes, each through a part of the trained weights."""
    keeps_float32_copies = False
    """Whether the optimizer updates float32 copies of the weights."""

    def __init__(self, strategy: Any = None) -> None:
        self.strategy = strategy

    @property
    def device(self) -> torch.device:
        """Device of models on this process."""
        return torch.device("cpu") if self.strategy is None else self.strategy.root_device

    # ---- models

    def shard(self, model: Any) -> Any:
        """Shard a model that was just loaded, in place."""
        return model

    def reshard(self, model: nn.Module) -> None:
        """Reshard after forward passes without a backward pass, because an optimizer knows the sharded weights only."""

    def reshard_frozen(self, model: nn.Module) -> None:
        """Reshard a model without backward passes, which may keep gathered weights until one comes."""

    @contextmanager
    def unsharded(self, model: nn.Module) -> Iterator[None]:
        """Gather all weights inside the block; each process may then make any number of forward passes."""
        yield

    def sampling(self, model: nn.Module, gather: Gather, *, tokens: int) -> AbstractContextManager[bool]:
        """Prepare a model to sample `tokens` tokens; yield whether processes must take the same number of steps."""
        return nullcontext(False)

    def full_bytes(self, model: nn.Module) -> int:
        """Count the bytes of a full model."""
        return sum(each.numel() * each.element_size() for each in model.parameters())

    def full_copy(self, parameter: Tensor) -> Tensor:
        """Copy a weight in full on every process; a sharded one to the CPU."""
        return parameter.detach().clone()

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Gather a model's state on the CPU of the first process; None where every process has it."""
        return None

    def assign_full(self, parameter: Tensor, value: Tensor) -> None:
        """Assign a full tensor, which every process has, to a weight."""
        parameter.detach().copy_(value)

    # ---- a manual step of several backward passes

    def begin_microbatch(self, *, last: bool) -> None:
        """Announce a forward and a backward pass, and whether they are the last before a step."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Clip the gradient norm over all parameters, and return the norm before clipping.

        Lightning refuses `Trainer(gradient_clip_val)` under manual optimisation, and its helper does not return the
        norm, so torch's function is used.
        """
        return torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)

    def zero_grad(self, optimizer: Any) -> None:
        """Drop accumulated gradients, after a step or instead of one."""
        optimizer.zero_grad()

    # ---- a step of the trainer

    def gradient_norm(self, module: nn.Module) -> Tensor | None:
        """Compute the norm of all gradients before a step; None where gradients that are not finite are expected."""
        return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])

    def trained_shards(self, module: nn.Module) -> list[Tensor]:
        """List this process's shards of the trained weights."""
        return [parameter.detach() for parameter in module.parameters() if parameter.requires_grad]
