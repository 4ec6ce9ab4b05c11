"""Offload of frozen models to the CPU between their phases, which frees the device's memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

CPU = torch.device("cpu")


class Offload:
    """Moves models to the CPU between their phases.

    Args:
        enabled: move models; otherwise they stay in place.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._working: set[int] = set()

    def to_cpu(self, *models: Any) -> None:
        """Move models to the CPU; None and models on the CPU are passed over."""
        for model in models:
            if self.enabled and model is not None:
                model.to(CPU)

    @contextmanager
    def on_device(self, model: Any, device: torch.device) -> Iterator[None]:
        """Keep a model on the device until its outermost block ends."""
        if not self.enabled or model is None or id(model) in self._working:
            yield
            return
        self._working.add(id(model))
        model.to(device)
        try:
            yield
        finally:
            self._working.discard(id(model))
            self.to_cpu(model)
