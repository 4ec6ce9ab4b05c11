"""A frozen sharded model, used by processes with unequal amounts of input."""

from typing import Any

import torch
from torch import nn

from prl.distributed import global_max


class CollectiveForward(nn.Module):
    """A model whose forward passes are collective: a process that has finished joins the others' with empty input.

    Args:
        model: whose weights are in shards.
        device: where the processes agree.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self._device = device

    def __getattr__(self, name: str) -> Any:
        """Forward other attributes to the model: its config, its embeddings."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def forward(self, *args: Any, announce: bool = True, **kwargs: Any) -> Any:
        """Run a pass in which all processes take part; announce it, unless they announced it."""
        if announce:
            self._anyone_reads(True)
        return self.model(*args, **kwargs)

    @torch.no_grad()
    def finish(self) -> None:
        """Take part until no process reads; each calls it once it has read everything."""
        nothing = torch.zeros(1, 1, dtype=torch.long, device=self._device)
        while self._anyone_reads(False):
            self(
                input_ids=nothing, use_cache=False, announce=False
            )  # by the same modules, whose order DeepSpeed compares

    def _anyone_reads(self, reads: bool) -> bool:
        return bool(global_max(torch.tensor(int(reads), device=self._device)))
