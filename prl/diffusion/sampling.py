"""Samplers: from noise to pictures, with or without a record of the steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prl.diffusion.base import NoiseProcess
from prl.diffusion.denoisers.base import Condition, Denoiser

Predict = Callable[[Tensor, Tensor], Tensor]
"""Predicts for noisy latents [N, ...] at times [N]."""


class Guide(ABC):
    """Guidance of a sampler by another model, without training the generator; `guides.py` has them.

    Args:
        path: folder of the other model.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def around(self, predict: Predict, denoiser: Denoiser, prompts: Sequence[str], device: torch.device) -> Predict:
        """Put guidance around predictions for N prompts.

        Args:
            predict: the model with these prompts.
            denoiser: its frozen parts.
            prompts: N texts.
            device: device of the latents.
        """


@dataclass(frozen=True)
class ImageSampling:
    """Settings of a sampler. Raises ValueError if a field makes no sense."""

    steps: int = 20
    """Calls of the network, twice as many with guidance."""
    guidance: float = 1.0
    """Scale g of classifier-free guidance (2207.12598): the prediction is null + g (prompted - null), and 1 is none."""
    guide: Guide | None = None
    """Guidance by another model, a class of `prl.diffusion.guides`; none when null."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling.steps is {self.steps}; expected at least 1")
        if not self.guidance >= 0:
            raise ValueError(f"sampling.guidance is {self.guidance}; expected 0 or more")


class Prompted:
    """A network with the prompts of a batch: what it predicts for noisy latents.

    Args:
        denoiser: the frozen parts of the pipeline.
        network: the network.
        condition: encoded prompts, N rows.
        null: encoded empty prompts, N rows; needed with guidance.
        guidance: scale of classifier-free guidance.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        network: Any,
        condition: Condition,
        null: Condition | None = None,
        guidance: float = 1.0,
    ) -> None:
        if guidance != 1 and null is None:
            raise ValueError("guidance needs the encoding of empty prompts")
        self.denoiser, self.network = denoiser, network
        self.condition, self.null, self.guidance = condition, null, guidance

    def __call__(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Predict for noisy latents [N, ...] at times [N]."""
        if self.guidance == 1 or not self.condition:
            return self.denoiser.predict(self.network, noisy, time, self.condition)
        assert self.null is not None
        both = {name: torch.cat([each, self.null[name]]) for name, each in self.condition.items()}
        found = self.denoiser.predict(self.network, torch.cat([noisy, noisy]), torch.cat([time, time]), both)
        prompted, without = found.chunk(2)
        return without + self.guidance * (prompted - without)


@torch.no_grad()
def sample_latents(process: NoiseProcess, predict: Any, noise: Tensor, steps: int) -> Tensor:
    """Go from noise [N, ...] to clean latents without noise in the steps: DDIM with eta 0, or Euler steps of a flow.

    Args:
        process: the noise process.
        predict: predicts for noisy latents and times, such as `Prompted`.
        noise: standard normal numbers; the start.
        steps: number of steps.
    """
    times, latents = process.times(steps).to(noise.device), noise
    for time, to in zip(times[:-1], times[1:], strict=True):
        now, then = (each.expand(len(noise)) for each in (time, to))
        latents = process.move(latents, predict(latents, now), now, then)
    return latents
