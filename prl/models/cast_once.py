"""Weights cast once for many forward passes: what mixed precision otherwise does in every pass, so for every token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def cast_once(model: Any) -> Iterator[None]:
    """Keep the weights of a model as mixed precision casts them, for passes without gradients inside the block.

    Lightning has autocast forget every cast, because weights change within a training step. While a response is
    sampled they do not. The copies, half the bytes of the weights, are dropped at the end. The numbers are the same.
    Without mixed precision nothing happens.

    Args:
        model: its weights are whole, not shards.
    """
    kind = next(model.parameters()).device.type
    if torch.is_grad_enabled() or not torch.is_autocast_enabled(kind) or torch.is_autocast_cache_enabled():
        yield
        return
    # autocast keeps casts only of what requires a gradient; nothing here computes one.
    frozen = [each for each in model.parameters() if each.is_floating_point() and not each.requires_grad]
    try:
        for each in frozen:
            each.requires_grad_(True)
        with torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=True):
            yield
    finally:
        torch.clear_autocast_cache()
        for each in frozen:
            each.requires_grad_(False)
