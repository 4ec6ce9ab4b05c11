"""Truncated diffusion fine-tuning: what a network makes of noise in a few large steps, as its own training target."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from prl.diffusion.base import NoiseProcess, Reduction, as_rows, reduced
from prl.diffusion.sampling import Predict


@dataclass(frozen=True)
class Truncation:
    """Settings of truncated diffusion (Self-NPO, 2505.11777, and its authors' code). Raises ValueError out of range."""

    grid: int = 25
    """Steps that a whole way from noise to a picture would have."""
    steps: int = 5
    """Most of them that are taken; each row takes 1 to so many."""
    guidance: float = 0.0
    """Scale g of classifier-free guidance while the teacher takes them, as that of `sampling.guidance`: 0 leaves the
    prompt out. The authors' code writes it as w = g - 1, and has w = -1."""
    loss: Literal["squared", "huber"] = "squared"
    """Error d of a clean estimate: d², or sqrt(d² + c²) - c of each number, as in the authors' scripts."""
    huber_c: float = 1e-3
    """The c of `loss: huber`."""
    reduction: Reduction = "mean"
    """Whether an error is the mean over the dimensions of a latent or their sum."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps < self.grid:
            raise ValueError(f"truncation.steps is {self.steps}; expected 1 to {self.grid - 1}, below truncation.grid")
        if not self.guidance >= 0:
            raise ValueError(f"truncation.guidance is {self.guidance}; expected 0 or more")
        if self.loss not in ("squared", "huber"):
            raise ValueError(f"truncation.loss is {self.loss!r}; expected squared or huber")
        if not self.huber_c > 0:
            raise ValueError(f"truncation.huber_c is {self.huber_c}; expected a number above 0")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"truncation.reduction is {self.reduction!r}; expected mean or sum")

    def error(self, clean: Tensor, target: Tensor) -> Tensor:
        """Compute the error of clean estimates [N, ...]: [N]."""
        squares = (clean - target).square()
        if self.loss == "huber":
            squares = (squares + self.huber_c**2).sqrt() - self.huber_c
        return reduced(squares, self.reduction)


class Truncated(NamedTuple):
    """Where a few steps from noise have led."""

    latents: Tensor
    """[N, ...] noisy latents x_t."""
    time: Tensor
    """[N] their times t."""
    clean: Tensor
    """[N, ...] the clean estimate E[x_0 | x_t] of the network there."""


@torch.no_grad()
def truncate(process: NoiseProcess, predict: Predict, noise: Tensor, counts: Tensor, settings: Truncation) -> Truncated:
    """Take the first steps of a deterministic sampler, and estimate the clean picture where they end.

    All rows call the network equally often, so that processes with weights in shards stay in step.

    Args:
        process: the noise process.
        predict: predicts for noisy latents and times, such as `Prompted`.
        noise: [N, ...] standard normal numbers; the start.
        counts: [N] steps of each row, from 1 to `settings.steps`.
        settings: the grid and the most steps.
    """
    times, latents = process.times(settings.grid).to(noise.device), noise
    for number in range(settings.steps):
        now, then = (each.expand(len(noise)) for each in times[number : number + 2])
        moved = process.move(latents, predict(latents, now), now, then)
        latents = torch.where(as_rows(number < counts, latents).bool(), moved, latents)
    time = times[counts]
    return Truncated(latents, time, process.split(latents, predict(latents, time), time)[0])


def learnt_error(
    process: NoiseProcess, predict: Predict, found: Truncated, later: Tensor, noise: Tensor, settings: Truncation
) -> Tensor:
    """Compute |x̂ - x_0(x_s, s)|² of a network's clean estimate at later times s, renoised from x_t, not from x̂: [N].

    Args:
        process: the noise process.
        predict: the network that learns.
        found: of `truncate`, by its teacher.
        later: [N] times s, not before those of `found`.
        noise: [N, ...] standard normal numbers.
        settings: the loss.
    """
    noisy = process.renoise(found.latents, noise, found.time, later)
    clean, _ = process.split(noisy, predict(noisy, later), later)
    return settings.error(clean, found.clean)
