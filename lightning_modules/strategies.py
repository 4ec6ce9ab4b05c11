"""The only place that asks how the model is spread over devices."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from prl.distributed import rank
from prl.memory import layer_names
from prl.models.adapters import is_adapted
from prl.models.critic import ValueHead


class FSDP2Strategy(ModelParallelStrategy):
    """Weights, gradients and optimizer state in shards over all processes, by torch's `fully_shard`.

    A checkpoint is one file with whole tensors, as every other strategy writes it: a run may continue under another
    strategy or number of processes, and `prl export` needs neither.

    Args:
        process_group_backend: gloo for CPU processes; chosen by the device when null.
        timeout: how long a process waits for the others before it gives up.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = default_pg_timeout) -> None:
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend, timeout=timeout)

    def setup_environment(self) -> None:
        """All processes are one group of data parallelism."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimizer's state comes with the checkpoint that Lightning reads."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors on the CPU of the first process; the others take part and keep nothing."""
        module: Any = self.lightning_module
        settle(module)
        frozen = module.frozen_names()
        state = module.state_dict(keep_vars=True)  # tied weights are then one object, on every process alike
        return _whole({name: value for name, value in state.items() if name not in frozen}, {})

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The same for the optimizer, numbered like that of one process."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        return _whole(optimizer.state_dict(), {})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """One file, by the first process."""
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The file, as every process reads it."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each process takes its shards."""
        assert self.lightning_module is not None
        settle(self.lightning_module)
        named = dict(self.lightning_module.state_dict())
        state = {name: like(value, named.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its shards."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            sharded = {
                number: {name: like(value, parameters[number]) for name, value in entries.items()}
                for number, entries in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": sharded})


StrategyRegistry.register("fsdp2", FSDP2Strategy, "weights in shards over all processes (torch fully_shard)")


def _whole(value: Any, known: dict[int, Tensor]) -> Any:
    """A state with its shards put together on the CPU of the first process; the others get empty tensors.

    What is there twice, as tied weights are, is put together once (`known`, by id) and stays one tensor.
    """
    if isinstance(value, Mapping):
        return {key: _whole(each, known) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each, known) for each in value]
    if not isinstance(value, Tensor):
        return value
    if id(value) not in known:
        full = (value.full_tensor() if isinstance(value, DTensor) else value).detach()
        known[id(value)] = full.cpu() if rank() == 0 else full.new_empty(0, device="cpu")
    return known[id(value)]


def whole_copy(parameter: Tensor) -> Tensor:
    """A copy of a weight, whole on every process; of a sharded one in the CPU's memory."""
    kept = parameter.detach()
    return kept.full_tensor().cpu() if isinstance(kept, DTensor) else kept.clone()


def like(value: Any, owner: Any) -> Any:
    """A whole tensor in the shards of its owner, when it has its shape; anything else as it is."""
    if not isinstance(owner, DTensor) or not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if value.shape != owner.shape:
        return value  # the number of steps; a wrong shape is for load_state_dict to tell
    device = owner.to_local().device
    return distribute_tensor(value.to(device), owner.device_mesh, owner.placements, src_data_rank=None)


def spread(model: Any, trainer: Any) -> Any:
    """Shard a model that was just read, where the strategy leaves that to us; otherwise it stays as it is.

    Every decoder layer is gathered for itself while it works; what is left (embeddings, norm, head) is one group, which
    stays whole from a forward pass to the end of the backward pass, because the head also works outside of it.
    """
    if trainer is None or not isinstance(trainer.strategy, FSDP2Strategy) or model is None:
        return model
    mesh = trainer.strategy.device_mesh["data_parallel"]
    names = layer_names(model)
    # Sampling enters a model with adapters below them, so the root is the model that they are in.
    root = model.get_base_model() if is_adapted(model) else model
    for module in list(root.modules()):
        # A value head is float32 whatever the backbone is, and a group has one type.
        if module is not root and (type(module).__name__ in names or isinstance(module, ValueHead)):
            fully_shard(module, mesh=mesh)
    fully_shard(root, mesh=mesh, reshard_after_forward=False)
    return model


def shards_weights(strategy: Any) -> bool:
    """Whether a setting of `trainer.strategy` means shards, before there is a trainer."""
    name = strategy["class_path"] if isinstance(strategy, Mapping) else str(strategy)
    return name == "fsdp2" or name.endswith(FSDP2Strategy.__name__)


def is_sharded(trainer: Any) -> bool:
    """Whether no process has the whole model."""
    return isinstance(trainer.strategy, FSDP2Strategy)


def settle(model: nn.Module) -> None:
    """Back to shards after forward passes without a backward pass: only then are parameters what an optimizer knows."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the gradient norm over all parameters together and return what it was.

    torch's own function, which knows plain and sharded (DTensor) parameters; Lightning refuses
    `Trainer(gradient_clip_val)` under manual optimisation and its own helper does not say the norm.
    """
    norm = torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
