"""Random numbers of rows, which do not depend on what other rows a batch has, nor on how many processes read it."""

import hashlib
import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Key = Sequence[int | str]
"""What names a draw: a seed, a purpose, the number of a batch, the number of a row. Equal keys give equal numbers."""


def seed_of_run() -> int:
    """Return `seed_everything`, with which the names of all draws of a run begin."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def generator(key: Key) -> torch.Generator:
    """Seed a generator by a key."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def normal(keys: Iterable[Key], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Draw standard normal numbers for each key: [N, *shape] float32."""
    return torch.stack([torch.randn(tuple(shape), generator=generator(key)) for key in keys]).to(device)


def uniform(keys: Iterable[Key], device: torch.device | str = "cpu") -> Tensor:
    """Draw a number from 0 to 1 for each key: [N] float64."""
    drawn = [torch.rand((), generator=generator(key), dtype=torch.float64) for key in keys]
    return torch.stack(drawn).to(device)
