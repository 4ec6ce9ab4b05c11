"""Sampling from a sharded policy: with its weights gathered once per rollout, or in every forward pass."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn

from prl.distributed import global_max, world_size
from prl.rl.sharding import Gather, Sharding

SPARE = 0.8
"""Share of the free memory that weights and caches may take; allocators and sampling need the rest."""


@contextmanager
def sampling_from(sharding: Sharding, model: Any, gather: Gather, *, tokens: int) -> Iterator[bool]:
    """Prepare a sharded model to sample; yield whether processes must take the same number of steps.

    Args:
        sharding: sharding of its weights.
        model: the model that samples.
        gather: gather the weights once: where they fit on all processes (auto), always, or never.
        tokens: rows times their longest length, prompts included.
    """
    if gather == "never" or (gather == "auto" and not _fits(sharding, model, tokens)):
        yield True
        return
    with sharding.unsharded(model):
        yield False


def _fits(sharding: Sharding, model: Any, tokens: int) -> bool:
    """Return whether weights and caches fit on all processes; log each outcome once."""
    weights, free = sharding.full_bytes(model), free_bytes(sharding.device)
    needed = weights + cache_bytes(model, tokens)
    missing = global_max(torch.tensor(float(needed - SPARE * free), device=sharding.device))
    fits = float(missing) <= 0
    if getattr(model, "_prl_gathers", None) is not fits:
        model._prl_gathers = fits
        way = "put together once per rollout" if fits else "gathered in every pass, all processes in step"
        sizes = [f"{size / 2**30:.2f} GiB" for size in (weights, needed - weights, free)]
        rank_zero_info("sampling: weights %s and caches %s, %s free here: weights are %s", *sizes, way)
    return fits


def cache_bytes(model: nn.Module, tokens: int) -> int:
    """Compute the bytes of the keys and values of `tokens` tokens."""
    config: Any = model.config
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * tokens * next(model.parameters()).element_size()


def free_bytes(device: torch.device) -> int:
    """Return the memory in bytes that this process can still allocate; on the CPU an equal share of the free memory."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    import psutil

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or world_size()
    return psutil.virtual_memory().available // processes
