"""Sharded models, used by processes with unequal amounts of input."""

from typing import Any

import torch
from torch import nn

from prl.distributed import global_max


class CollectiveForward(nn.Module):
    """A model with collective forward passes: a process that has finished joins the others' passes with dummy input.

    Args:
        model: a model with sharded weights.
        device: device of the messages between processes.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self._device = device

    def __getattr__(self, name: str) -> Any:
        """Forward other attributes to the model, such as config and embeddings."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def forward(self, *args: Any, announce: bool = True, **kwargs: Any) -> Any:
        """Run a pass in which all processes take part; announce it, unless another process did."""
        if announce:
            self._anyone_reads(True)
        return self.model(*args, **kwargs)

    @torch.no_grad()
    def finish(self) -> None:
        """Join the passes of other processes until all have called `finish`."""
        nothing = torch.zeros(1, 1, dtype=torch.long, device=self._device)
        while self._anyone_reads(False):
            self(
                input_ids=nothing, use_cache=False, announce=False
            )  # through the same modules, whose order DeepSpeed compares

    def _anyone_reads(self, reads: bool) -> bool:
        return bool(global_max(torch.tensor(int(reads), device=self._device)))


def gathers_weights(module: nn.Module) -> bool:
    """Return whether a call of a module gathers its weights from all processes, as in ZeRO-3.

    FSDP2 gathers a language head with the whole model, and a model whose weights are gathered beforehand has no such
    hooks for the time being.
    """
    hooks = (hook for each in module.modules() for hook in each._forward_pre_hooks.values())
    return any(str(hook.__module__).startswith("deepspeed") for hook in hooks)
