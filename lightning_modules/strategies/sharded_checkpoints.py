"""Checkpoints of a strategy that shards tensors: one file of full tensors, or a folder of shards."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from prl.checkpoints import sharded as sharded_files
from prl.checkpoints.sharded import FOLDER, Part

LocalShard = Part | Tensor
"""The part of a value on one process; a whole tensor where the value is not sharded."""


def gather_full(shards: Mapping[str, LocalShard]) -> dict[str, Tensor]:
    """Gather shards into full tensors on the CPU of the first process, empty ones on the others.

    Every process must call it.
    """
    known: dict[int, Tensor] = {}  # tied weights are gathered once, and stay tied
    for value in shards.values():
        if id(value) not in known:
            known[id(value)] = value.whole() if isinstance(value, Part) else value.detach().cpu()
    return {name: known[id(value)] for name, value in shards.items()}


class ShardedCheckpoints(ParallelStrategy):
    """Mixin that saves and loads a strategy's shards; any strategy and number of processes reads both kinds.

    It stands before the strategy among the bases.
    """

    sharded_checkpoints = False
    """Whether each process writes its own shards, so that nothing is gathered; `RunCheckpoint` sets it."""

    @abstractmethod
    def _weights(self) -> dict[str, LocalShard]:
        """Return this process's shards of trained weights and buffers, as views of the memory in use."""

    @abstractmethod
    def _moments(self) -> dict[int, dict[str, LocalShard]]:
        """Return this process's shards of the optimizer's state, numbered as on a single process."""

    @abstractmethod
    def _param_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups, numbered as on a single process."""

    @abstractmethod
    def _restart(self, state: Mapping[str, Any]) -> None:
        """Load an optimizer's groups and step counts, and allocate its moments."""

    def _filled(self) -> None:
        """Update state that depends on the weights, after they were replaced in place."""

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning restores the optimizer: its state is in the checkpoint."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return shards, or full tensors on the CPU of the first process and empty ones on the others."""
        return self._saved(self._weights())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state as shards, or full on the first process."""
        state = {number: self._saved(entries) for number, entries in self._moments().items()}
        return {"state": state, "param_groups": self._param_groups()}

    def _saved(self, shard: Mapping[str, LocalShard]) -> dict[str, Any]:
        return dict(shard) if self.sharded_checkpoints else gather_full(shard)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one file by the first process, or a folder by all."""
        if self.sharded_checkpoints:
            sharded_files.write(checkpoint, Path(filepath))
        else:
            ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file on every process, or the part of a folder that is not sharded."""
        if Path(checkpoint_path).is_dir():
            return sharded_files.read_rest(Path(checkpoint_path))
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load each process's shards of the weights.

        Raises:
            ValueError: for weights of other names or shapes.
        """
        module: Any = self.lightning_module
        shard, given = self._weights(), checkpoint["state_dict"]
        if wrong := shard.keys() ^ (given.keys() - module.frozen_names()):
            raise ValueError(f"checkpoint and model differ in weights: {', '.join(sorted(wrong))}")
        self._fill([(name, value, given[name]) for name, value in shard.items()], checkpoint)
        self._filled()

    @torch.no_grad()
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load each process's shards of the optimizer's state.

        Raises:
            ValueError: for a state of other shapes.
        """
        (state,) = checkpoint["optimizer_states"]
        self._restart(state)
        shard = [
            (f"{name} of parameter {number}", value, state["state"][number][name])
            for number, entries in self._moments().items()
            if number in state["state"]
            for name, value in entries.items()
            if name != "step"
        ]
        self._fill(shard, checkpoint)

    def _fill(self, pairs: Iterable[tuple[str, LocalShard, Any]], checkpoint: Mapping[str, Any]) -> None:
        from_files = []
        for name, shard, given in pairs:
            elsewhere = sharded_files.is_elsewhere(given)
            shape, found = (tuple(each) for each in (shard.shape, given["shape"] if elsewhere else given.shape))
            if shape != found:
                raise ValueError(f"{name} has shape {found} in the checkpoint, here it is {shape}")
            part = shard if isinstance(shard, Part) else Part(shard.view(-1), 0, shard.shape)
            if elsewhere:
                from_files.append((given, part))
            else:
                part.take(given)
        if from_files:
            sharded_files.read_parts(Path(checkpoint[FOLDER]), from_files)
