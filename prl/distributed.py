"""Counts agreed across ranks, over torch.distributed or alone. Knows nothing of strategies."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def collective_device(device: torch.device) -> torch.device:
    """Where a tensor must be for the processes to exchange it: NCCL knows GPUs only."""
    if world_size() > 1 and device.type == "cpu" and "nccl" in dist.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def global_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all ranks, on every rank; a new tensor without gradient."""
    total = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def global_max(value: Tensor) -> Tensor:
    """The largest `value` over all ranks, on every rank; a new tensor without gradient."""
    largest = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def gathered(value: Any) -> list[Any]:
    """A plain object of every rank, in their order, on every rank."""
    values = [value]
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)
    return values
