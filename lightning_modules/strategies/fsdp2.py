"""FSDP2: shards by torch's `fully_shard`, with checkpoints that any strategy reads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from lightning_modules.strategies.sharded_checkpoints import LocalShard, ShardedCheckpoints
from prl.checkpoints.sharded import Part
from prl.distributed import give_from_first, rank
from prl.models.adapters import is_adapted
from prl.models.critic import ValueHead
from prl.models.memory import layer_names


class FSDP2Strategy(ShardedCheckpoints, ModelParallelStrategy):
    """Shards weights, gradients and optimizer state over all processes, by torch's `fully_shard`.

    Args:
        replicas: groups of processes, each of which has all shards. Weights are gathered within a group, and only sums
            of gradients pass between groups. As many as nodes keeps the heavier traffic within each node.
        process_group_backend: gloo for CPU processes; chosen by the device when null.
        timeout: time that a process waits for the others.
    """

    def __init__(
        self,
        replicas: int = 1,
        process_group_backend: str | None = None,
        timeout: timedelta = default_pg_timeout,
    ) -> None:
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend, timeout=timeout)
        self.replicas = replicas

    def setup_environment(self) -> None:
        """Set up one group of data parallelism over all processes.

        Raises:
            ValueError: when processes are missing, or cannot be divided into `replicas` groups.
        """
        self._data_parallel_size = processes = self.num_nodes * self.num_processes
        check_replicas(self.replicas, processes)
        launcher = self.cluster_environment
        if launcher is not None and launcher.creates_processes_externally and launcher.world_size() != processes:
            raise ValueError(
                f"trainer.num_nodes times trainer.devices is {processes}, but {launcher.world_size()} processes were "
                "started; say how many nodes and devices there are"
            )
        if processes == self.replicas > 1:
            rank_zero_warn(f"each of {processes} processes is a replica, so nothing is cut; have fewer replicas")
        super().setup_environment()

    @cached_property
    def mesh(self) -> DeviceMesh:
        """Device mesh of the shards: with replicas [replicas, shards], the ranks of a replica adjacent."""
        if self.replicas == 1:
            return self.device_mesh["data_parallel"]
        shape = (self.replicas, self.world_size // self.replicas)
        mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicas", "shards"))
        for group in mesh.get_all_groups():
            _set_pg_timeout(self._timeout or default_pg_timeout, group)  # which a mesh leaves at its default
        return mesh

    # ---- checkpoints

    def _weights(self) -> dict[str, LocalShard]:
        module: Any = self.lightning_module
        reshard(module)
        frozen = module.frozen_names()
        known: dict[int, LocalShard] = {}  # tied weights are then one object, on every process alike
        state = module.state_dict(keep_vars=True)
        return {
            name: known.setdefault(id(value), local_shard(value)) for name, value in state.items() if name not in frozen
        }

    def _moments(self) -> dict[int, dict[str, LocalShard]]:
        state = self.optimizers[0].state_dict()["state"]
        return {
            number: {name: local_shard(value) for name, value in entries.items()} for number, entries in state.items()
        }

    def _param_groups(self) -> list[dict[str, Any]]:
        return self.optimizers[0].state_dict()["param_groups"]

    def _restart(self, state: Mapping[str, Any]) -> None:
        (optimizer,) = self.optimizers
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        room = {
            number: {
                name: value if name == "step" else torch.zeros_like(parameters[number], requires_grad=False)
                for name, value in entries.items()
            }
            for number, entries in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": room})


def check_replicas(replicas: int, processes: int) -> None:
    """Check that the replicas divide the processes. Raises ValueError."""
    if replicas < 1 or processes % replicas:
        raise ValueError(
            f"trainer.strategy.init_args.replicas is {replicas}, for {processes} processes; it has to divide them, as "
            "the number of nodes does"
        )


def local_shard(value: Tensor) -> LocalShard:
    """Describe this process's shard as a range of the flattened tensor; shards are whole rows."""
    value = value.detach()
    if not isinstance(value, DTensor):
        return value
    _, (row, *_) = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
    local, at = value.to_local(), value.device_mesh.get_coordinate()
    is_copy = any(each.is_replicate() and place for each, place in zip(value.placements, at or (), strict=True))
    return Part(local.view(-1), row * value.shape[1:].numel() if local.numel() else 0, value.shape, is_copy)


def shard(model: Any, mesh: DeviceMesh, device: torch.device) -> Any:
    """Shard a model in place.

    Every decoder layer is gathered by itself while it computes. The rest (embeddings, norm, head) is one group, which
    stays gathered from a forward pass to the end of the backward pass, because the head also runs outside of it.

    Weights come from the first process; others may hold them on the meta device, so that a node reads a model once.
    """
    whole = {name: each.detach() for name, each in model.named_parameters()}
    names = layer_names(model)
    # Sampling enters a model below its adapters, so the root is the model without them.
    root = model.get_base_model() if is_adapted(model) else model
    layers: set[nn.Module] = set()
    for module in list(root.modules()):
        # A value head is float32 whatever the backbone is, and a group has one type.
        is_layer = type(module).__name__ in names or isinstance(module, ValueHead)
        if module is not root and is_layer and module not in layers:
            layers.update(module.modules())  # a UNet names blocks and what they are made of
            fully_shard(module, mesh=mesh)
    fully_shard(root, mesh=mesh, reshard_after_forward=False)
    _scatter_from_rank0(model, whole, device)
    return model


@torch.no_grad()
def _scatter_from_rank0(model: nn.Module, whole: Mapping[str, Tensor], device: torch.device) -> None:
    """Scatter the first process's weights one by one, and copy its buffers."""
    if any(each.is_meta for each in model.parameters()):
        model.to_empty(device=device)
    each: Any
    for name, each in model.named_parameters():
        full = whole[name].to(device) if rank() == 0 else torch.empty(each.shape, dtype=each.dtype, device=device)
        each.to_local().copy_(distribute_tensor(full, each.device_mesh, each.placements).to_local())
    for buffer in model.buffers():
        give_from_first(buffer)


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Gather all weights for the duration of the block; each process may then make any number of forward passes."""
    root, *layers = (module for module in model.modules() if isinstance(module, FSDPModule))
    for part in (root, *layers):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in (root, *layers):
            part.set_reshard_after_forward(part is not root, recurse=False)
            part.reshard()


def reshard(model: nn.Module) -> None:
    """Reshard after forward passes without a backward pass: an optimizer knows the sharded parameters only."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def reshard_frozen(model: nn.Module) -> None:
    """Reshard a model that never has a backward pass, and drop the state that FSDP2 keeps until one."""
    reshard(model)
    for root in _roots(model):
        with suppress(AttributeError):  # before the first pass, and in a torch that has no such thing
            root.reset_iter_state()


def _roots(model: nn.Module) -> Iterator[FSDPModule]:
    if isinstance(model, FSDPModule):
        yield model
    else:
        for child in model.children():
            yield from _roots(child)
