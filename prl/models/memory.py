"""Memory of a model before it is built, counted on fake tensors, which have shapes and no contents."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


def on_fake_tensors(make: Callable[[], nn.Module], mode: FakeTensorMode) -> Any:
    """Build a model by `make` on fake tensors, with shapes and without contents; call it while the mode is active.

    The model is built on the meta device first, because adapters move their weights and fake tensors cannot be moved.
    """
    with unset_fake_temporarily():
        with torch.device("meta"):
            model = make()
        made: dict[int, Tensor] = {}  # tied weights stay one
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = made.setdefault(id(tensor), _fake(tensor, mode))  # type: ignore[assignment]
    return model


def _fake(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    fake = FakeTensor(mode, tensor.detach(), torch.device("cpu"))
    return nn.Parameter(fake, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


class PeakOfTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside and still alive; `peak` is the maximum.

    Args:
        known: earlier tensors, which do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes = WeakIdKeyDictionary()
        for tensor in known:
            self._sizes[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the results of each operation, unless they are views of known tensors."""
        results = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, results)
        return results

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._sizes:
            self._sizes[storage] = size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, size)
        return tensor

    def _free(self, size: int) -> None:
        self.live -= size


def working_memory(model: nn.Module, work: Callable[[], Any]) -> int:
    """Measure the peak bytes that `work` needs beside the model's weights and gradients; under `FakeTensorMode`."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    held = [*model.parameters(), *model.buffers()]
    with PeakOfTensors([*held, *(each.grad for each in held if each.grad is not None)]) as tracker:
        work()
    return tracker.peak


@dataclass(frozen=True)
class Shards:
    """Parts of a model's memory that a strategy shards, and what it keeps beside the weights."""

    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    master: bool = False
    """Whether the optimizer updates float32 copies of the weights, with its state in float32 (DeepSpeed)."""
    live: int | None = None
    """Most numbers of sharded weights that stay gathered between uses; None for FSDP2, which gathers by layer."""
    replicas: int = 1
    """Groups of processes, each of which has all shards."""


@dataclass(frozen=True)
class ModelMemory:
    """Lasting memory of one model, in bytes, summed over all processes."""

    name: str
    num_parameters: int
    num_trained: int
    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments in the type of the weights; with DeepSpeed in float32, and float32 copies of the weights."""
    gathered: int
    """Most bytes that FSDP2 gathers on a process at one time: weights outside of layers and of two layers, gradients
    outside of layers and of one layer."""

    def on_one_process(self, processes: int, shards: Shards) -> "ModelMemory":
        """Compute the bytes of one process."""
        optimizer = 12 * self.num_trained if shards.master else self.optimizer
        whole = (
            self.gathered
            if shards.live is None
            else min(self.weights, self.weights // max(self.num_parameters, 1) * shards.live)
        )
        found = replace(self, optimizer=optimizer, gathered=whole if shards.weights and processes > 1 else 0)
        cut = [name for name in ("weights", "gradients", "optimizer") if getattr(shards, name)]
        share = processes // shards.replicas
        return replace(found, **{name: -(-getattr(found, name) // share) for name in cut})

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.weights + self.gradients + self.optimizer + self.gathered


def model_memory(name: str, model: nn.Module, *, trained: bool) -> ModelMemory:
    """Count the lasting bytes of a model."""
    parameters = list(model.parameters())
    learning = [each for each in parameters if each.requires_grad] if trained else []
    return ModelMemory(
        name,
        num_parameters=sum(each.numel() for each in parameters),
        num_trained=sum(each.numel() for each in learning),
        weights=_bytes(parameters),
        gradients=_bytes(learning),
        optimizer=2 * _bytes(learning),
        gathered=_gathered(model, parameters, 2) + _gathered(model, learning, 1),
    )


def _gathered(model: nn.Module, parameters: list[nn.Parameter], layers: int) -> int:
    """Count the bytes of the given parameters outside of the decoder layers, plus those of the largest layers."""
    counted = {id(parameter) for parameter in parameters}
    names = layer_names(model)
    inside = [
        _bytes(parameter for parameter in module.parameters() if id(parameter) in counted)
        for module in model.modules()
        if type(module).__name__ in names
    ]
    return _bytes(parameters) - sum(inside) + layers * max(inside, default=0)


def layer_names(model: nn.Module) -> set[str]:
    """Return the class names of the decoder layers, as transformers lists them."""
    return {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in parameters)
