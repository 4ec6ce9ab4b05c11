"""How weights lie over processes: what the loop asks of a strategy, whichever it is."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

Gather = Literal["auto", "always", "never"]
"""When weights in shards are put together once per rollout; otherwise they are gathered in every forward pass."""


class Sharding:
    """Every process has whole models. A strategy that cuts them overrides what is then different.

    Args:
        strategy: whose `root_device` is where models work on this process; the CPU when None.
    """

    cuts_weights = False
    """Whether no process has a whole model."""
    waits_for_all_gradients = False
    """Whether a backward pass that leaves out a trained parameter never ends."""
    keeps_float32_copies = False
    """Whether steps are taken on float32 copies of the weights that work."""

    def __init__(self, strategy: Any = None) -> None:
        self.strategy = strategy

    @property
    def device(self) -> torch.device:
        """Where models work on this process."""
        return torch.device("cpu") if self.strategy is None else self.strategy.root_device

    # ---- models

    def shard(self, model: Any) -> Any:
        """Cut a model that was just read into shards, in place."""
        return model

    def reshard(self, model: nn.Module) -> None:
        """Go back to shards after forward passes without a backward pass: only those are what an optimizer knows."""

    def reshard_frozen(self, model: nn.Module) -> None:
        """Go back to shards of a model that never has a backward pass, which it may wait for in memory."""

    @contextmanager
    def unsharded(self, model: nn.Module) -> Iterator[None]:
        """Put all weights together for the while; each process then makes as many forward passes as it likes."""
        yield

    def sampling(self, model: nn.Module, gather: Gather, *, tokens: int) -> AbstractContextManager[bool]:
        """Make a model ready to sample so many tokens; gives whether processes must take the same number of steps."""
        return nullcontext(False)

    def full_bytes(self, model: nn.Module) -> int:
        """Count the bytes of a whole model."""
        return sum(each.numel() * each.element_size() for each in model.parameters())

    def full_copy(self, parameter: Tensor) -> Tensor:
        """Copy a weight, whole on every process; one in shards into the memory of the CPU."""
        return parameter.detach().clone()

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Put a model's state together in the CPU's memory of the first process; None where each process has it."""
        return None

    def assign_full(self, parameter: Tensor, value: Tensor) -> None:
        """Give a weight the value of a whole tensor that every process has."""
        parameter.detach().copy_(value)

    # ---- a step by hand, several backward passes long

    def begin_microbatch(self, *, last: bool) -> None:
        """Say that a forward and a backward pass begin, and whether they are the last ones before a step."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Clip the gradient norm over all parameters together and return what it was.

        torch's own function: Lightning refuses `Trainer(gradient_clip_val)` under manual optimisation, and its helper
        does not return the norm.
        """
        return torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)

    def zero_grad(self, optimizer: Any) -> None:
        """Drop what backward passes have left, after a step or instead of one."""
        optimizer.zero_grad()

    # ---- a step that the trainer takes

    def gradient_norm(self, module: nn.Module) -> Tensor | None:
        """Take the norm over all gradients before a step; None where gradients that are not finite are in order."""
        return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])

    def trained_shards(self, module: nn.Module) -> list[Tensor]:
        """List what this process has of the trained weights."""
        return [parameter.detach() for parameter in module.parameters() if parameter.requires_grad]
