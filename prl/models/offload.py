"""Offload of frozen models to the CPU between their phases, which frees the device's memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

CPU = torch.device("cpu")


class Offload:
    """Moves models to the CPU between their phases.

    Args:
        enabled: off, models stay where they are.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._working: set[int] = set()

    def to_cpu(self, *models: Any) -> None:
        """Take models off their device; None is no model, and one at home stays there."""
        for model in models:
            if self.enabled and model is not None:
                model.to(CPU)

    @contextmanager
    def on_device(self, model: Any, device: torch.device) -> Iterator[None]:
        """Keep a model on the device for as long as the outermost such block of it runs."""
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
