"""All collectives, over torch.distributed or for one process, independent of strategies.

No other file calls a collective: a process group works on the devices it was made for (NCCL on GPUs alone), and here
tensors of other devices are moved there and back.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def collective_timeout() -> float | None:
    """Return the seconds that a process waits for the others in a collective; None without others."""
    if world_size() == 1:
        return None
    device = torch.device("cuda" if "nccl" in dist.get_backend() else "cpu")
    group: Any = dist.group.WORLD
    try:  # there is no public way to ask
        return float(group._get_backend(device).options._timeout.total_seconds())
    except (AttributeError, RuntimeError):
        return dist.constants.default_pg_timeout.total_seconds()


def collective_device(device: torch.device) -> torch.device:
    """Return the device of a tensor, or the one on which the process group can reach it."""
    if world_size() == 1:
        return device
    reached = [entry.partition(":")[0] for entry in dist.get_backend_config().split(",")]  # "cpu:gloo,cuda:nccl"
    return device if device.type in reached else torch.device(reached[0])


def global_sum(value: Tensor) -> Tensor:
    """Sum `value` over all ranks, on every rank; a new tensor without gradient."""
    return _exchanged(value.detach().clone(), dist.all_reduce)


def global_max(value: Tensor) -> Tensor:
    """Compute the maximum of `value` over all ranks, on every rank; a new tensor without gradient."""
    return _exchanged(value.detach().clone(), lambda each: dist.all_reduce(each, op=dist.ReduceOp.MAX))


def sum_on_first(value: Tensor) -> Tensor:
    """Sum `value` over all ranks, in place on the first rank; on the others it is undefined afterwards."""
    return _exchanged(value, lambda each: dist.reduce(each, 0))


def give_from_first(value: Tensor) -> Tensor:
    """Broadcast `value` from the first rank to all, in place."""
    return _exchanged(value, lambda each: dist.broadcast(each, 0))


def gathered(value: Any) -> list[Any]:
    """Gather a picklable object of every rank, in rank order, on every rank; its tensors must be on the CPU."""
    values = [value]
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)  # torch moves the bytes to the group's device by itself
    return values


@torch.no_grad()
def _exchanged(value: Tensor, collective: Callable[[Tensor], Any]) -> Tensor:
    """Apply an in-place collective to `value` on a device that the group can reach."""
    if world_size() > 1:
        there = value.to(collective_device(value.device))
        collective(there)
        if there is not value:
            value.copy_(there)
    return value
