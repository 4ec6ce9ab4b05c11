"""A device that no machine has, and a process group that speaks for one kind of device only, as NCCL does for GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map, tree_map_only

ELSEWHERE = torch.device("privateuseone", 0)


class Faraway(Tensor):
    """A tensor on that device; what is computed of it is there too, until it is moved to the CPU."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Faraway":
        made = Tensor._make_wrapper_subclass(cls, here.shape, dtype=here.dtype, device=ELSEWHERE)
        made.here = here
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, module = getattr(func, "__name__", ""), str(getattr(func, "__module__", ""))
        if name == "__get__" or module.startswith(
            "torch.distributed"
        ):  # shape, device and the like are the wrapper's own
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        near = func in (Tensor.cpu, Tensor.to) and "cpu" in map(str, args[1:] or ("cpu",))
        if func is Tensor.copy_ and not isinstance(args[0], Faraway):
            near = True
        found = func(*tree_map_only(Faraway, lambda each: each.here, args), **(kwargs or {}))
        if near:
            return found.clone() if func is not Tensor.copy_ else found
        return args[0] if found is args[0].here else tree_map_only(Tensor, Faraway, found)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} of a tensor that is elsewhere")


class Arrivals(TorchFunctionMode):
    """Moves tensors there, and makes new ones there, which torch itself would need a driver for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device or not any(map(_names_it, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        args, kwargs = tree_map(lambda each: "cpu" if _names_it(each) else each, (args, kwargs))
        return Faraway(func(*args, **kwargs).clone())


def _names_it(value: Any) -> bool:
    return isinstance(value, str | torch.device) and str(value).startswith(ELSEWHERE.type)


class Twin(dist.ProcessGroup):
    """Two processes of which the other always has what this one has; takes tensors of the device it was told only."""

    def __init__(self, rank: int, size: int, told: str) -> None:
        super().__init__(rank, size)
        self._told, self.calls = told, 0

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device(self._told)]

    def _take(self, tensors: list[Any]) -> list[Tensor]:
        self.calls += 1
        if wrong := {each.device.type for each in tensors} - {self._told}:
            raise RuntimeError(f"no backend for tensors on {', '.join(wrong)}: this group speaks for {self._told}")
        return [each.here if isinstance(each, Faraway) else each for each in tensors]

    def allreduce(self, tensors: Any, options: Any) -> Any:
        for each in self._take(tensors):
            if options.reduceOp == dist.ReduceOp.SUM:
                each.mul_(2)
        return Done()

    reduce = allreduce

    def broadcast(self, tensors: Any, options: Any) -> Any:
        self._take(tensors)
        return Done()

    def allgather(self, outputs: Any, tensors: Any, options: Any) -> Any:
        for room, each in zip(outputs, self._take(tensors), strict=True):
            for place in self._take(room):
                place.copy_(each)
        return Done()


class Done(dist._Work):
    def wait(self, *_: Any) -> bool:
        return True


@contextmanager
def twins(told: str) -> Iterator[Twin]:
    """Make this process the first of two, in a group for one kind of device."""
    dist.Backend.register_backend(
        f"twin_{told}", lambda store, rank, size, timeout: Twin(rank, size, told), devices=[told]
    )
    dist.init_process_group(f"twin_{told}", store=dist.HashStore(), rank=0, world_size=2)
    try:
        with Arrivals():
            yield dist.group.WORLD  # type: ignore[misc]
    finally:
        dist.destroy_process_group()
