"""Random states of a process as numbers and tensors, which a checkpoint can hold as data."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Collect the states of Python, NumPy, torch and every CUDA device, as tensors and numbers."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": list(random.getstate()[1]) + [random.getstate()[2]],
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Continue from `random_states()`."""
    *internal, gauss = states["python"]
    random.setstate((3, tuple(internal), gauss))
    keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Run with torch seeded by `seed` and leave torch's random states as they were.

    Validation samples inside it, with equal draws every time, and does not change training.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
